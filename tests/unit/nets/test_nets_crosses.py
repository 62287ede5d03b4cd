"""Feature crosses: the spec's numbers, plain loops over rows and pairs, gradients, and the exported form."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tamis.metrics import auc
from tamis.nets.crosses.bilinear import Bilinear
from tamis.nets.crosses.chosen import AnyCross, Crosses
from tamis.nets.crosses.dcn import Dcn
from tamis.nets.crosses.dcn_v2 import DcnV2
from tamis.nets.crosses.fields import Fields, met
from tamis.nets.crosses.fm import pooled
from tamis.nets.crosses.gdcn import Gdcn
from tamis.nets.crosses.layers_of_dcn import bits, cross
from tamis.nets.crosses.pair_products import _plainly, pair_products
from tamis.nets.crosses.senet import Senet
from tamis.nets.embed import Table
from tamis.nets.export import export
from tamis.nets.plans import Cross, MultitaskShape
from tamis.nets.products import native, precision
from tamis.nets.session import Session
from tamis.nets.spread import Rows

FIELDS = Fields(user=2, item=3, size=4, user_numbers=2, item_numbers=1)  # 5 fields, 23 numbers in a row
SHAPE = MultitaskShape(stream_hidden=(6, 4), stream_heads=2, senet_reduction=2)
VARIANTS: dict[str, tuple[Cross, dict[str, Any]]] = {
    **{name: (name, {}) for name in get_args(Cross)},
    "dcn_v2 of low rank": ("dcn_v2", {"cross_rank": 3}),
    "dcn_v2 of mixed low ranks": ("dcn_v2", {"cross_rank": 3, "cross_experts": 2}),
    "gdcn of low rank": ("gdcn", {"cross_rank": 3, "cross_depth": 3}),
    "bilinear all": ("bilinear", {"bilinear_weights": "all"}),
    "bilinear interaction": ("bilinear", {"bilinear_weights": "interaction"}),
    "bilinear all hadamard": ("bilinear", {"bilinear_weights": "all", "bilinear_form": "hadamard"}),
    "bilinear each hadamard": ("bilinear", {"bilinear_form": "hadamard"}),
    "bilinear interaction hadamard": ("bilinear", {"bilinear_weights": "interaction", "bilinear_form": "hadamard"}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def block_of(variant: str, fields: Fields = FIELDS) -> AnyCross:
    name, changes = VARIANTS[variant]
    random = torch.Generator().manual_seed(1)
    block = Crosses(fields, replace(SHAPE, crosses=(name,), **changes), random).blocks[0]
    with torch.no_grad():
        for weight in block.parameters():  # as if trained; some are 0 when new
            weight.copy_(torch.randn(weight.shape, generator=random) * 0.3)
    return block  # type: ignore[return-value]


def some_rows(count: int = 7, fields: Fields = FIELDS, seed: int = 2) -> Tensor:
    return torch.randn(count, fields.width, generator=torch.Generator().manual_seed(seed))


# every block against plain loops


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def weights_of(block: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in block.state_dict().items()}


def affine(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def low_rank(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    down, up = weights[f"{name}.down"], weights[f"{name}.up"]
    if f"{name}.core" not in weights:
        return up.T @ (down.T @ x) + weights[f"{name}.bias"]
    core = weights[f"{name}.core"]
    experts, rank = core.shape[:2]
    raw = affine(weights, f"{name}.gate", x)
    gates, out = np.exp(raw) / np.exp(raw).sum(), weights[f"{name}.bias"].copy()
    for e in range(experts):
        columns = slice(e * rank, (e + 1) * rank)
        inner = np.tanh(core[e].T @ np.tanh(down[:, columns].T @ x))
        out += gates[e] * (up[columns].T @ inner)
    return out


def mapped(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return (low_rank if f"{name}.down" in weights else affine)(weights, name, x)


def plain_fm(weights: dict[str, np.ndarray], x: np.ndarray, e: np.ndarray) -> np.ndarray:
    return sum(e[i] * e[j] for i, j in combinations(range(len(e)), 2))


def plain_dcn(weights: dict[str, np.ndarray], x: np.ndarray, e: np.ndarray) -> np.ndarray:
    out = x
    for weight, bias in zip(weights["weights"], weights["biases"], strict=True):
        out = np.outer(x, out) @ weight + bias + out
    return out


def plain_dcn_v2(weights: dict[str, np.ndarray], x: np.ndarray, e: np.ndarray) -> np.ndarray:
    out = x
    for layer in range(2):
        out = x * mapped(weights, f"maps.{layer}", out) + out
    return out


def plain_gdcn(weights: dict[str, np.ndarray], x: np.ndarray, e: np.ndarray) -> np.ndarray:
    out = x
    for layer in range(3 if "maps.2.down" in weights else 2):
        out = x * mapped(weights, f"maps.{layer}", out) * sigmoid(mapped(weights, f"gates.{layer}", out)) + out
    return out


def plain_senet(weights: dict[str, np.ndarray], x: np.ndarray, e: np.ndarray) -> np.ndarray:
    z = np.array([field.mean() for field in e])
    s = sigmoid(affine(weights, "excite", np.maximum(affine(weights, "squeeze", z), 0)))
    return np.concatenate([weight * field for weight, field in zip(s, e, strict=True)])


def plain_bilinear(weights: dict[str, np.ndarray], x: np.ndarray, e: np.ndarray, hadamard: bool = False) -> np.ndarray:
    out, matrices = [], weights["weights"]
    for at, (i, j) in enumerate(combinations(range(len(e)), 2)):
        matrix = matrices[{1: 0, len(e) - 1: j - 1}.get(len(matrices), at)]
        out.append(e[i] * (matrix @ e[j]) if hadamard else [e[i] @ matrix @ e[j]])
    return np.concatenate(out)


def plain_senet_bilinear(weights: dict[str, np.ndarray], x: np.ndarray, e: np.ndarray) -> np.ndarray:
    def below(name: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}

    weighted = plain_senet(below("senet"), x, e).reshape(e.shape)
    return np.concatenate([plain_bilinear(below("plain"), x, e), plain_bilinear(below("weighted"), x, weighted)])


def plain_final_mlp(weights: dict[str, np.ndarray], x: np.ndarray, e: np.ndarray) -> np.ndarray:
    halves = {"user": np.r_[x[:8], x[20:22]], "item": np.r_[x[8:20], x[22:]]}
    streams = []
    for name, half in halves.items():
        gate = affine(weights, f"{name}.gate", np.maximum(affine(weights, f"{name}.first", half), 0))
        out = x * 2 * sigmoid(gate)
        for layer in range(2):
            out = np.maximum(affine(weights, f"{name}.layers.{layer}", out), 0)
        streams.append(out)
    user, item = streams
    heads = [user[2 * k : 2 * k + 2] @ weights["weights"][k] @ item[2 * k : 2 * k + 2] for k in range(2)]
    return np.concatenate([user, item, heads])


@every_variant
def test_a_block_is_what_its_formula_says_row_by_row(variant: str) -> None:
    block, x = block_of(variant), some_rows()
    plain: Callable[..., np.ndarray] = globals()[f"plain_{VARIANTS[variant][0]}"]
    more = {"hadamard": True} if "hadamard" in variant else {}
    rows = x.double().numpy()
    want = [plain(weights_of(block), row, row[: FIELDS.embedded].reshape(5, 4), **more) for row in rows]
    got = block(x)
    assert got.shape == (7, block.width)
    np.testing.assert_allclose(got.detach().numpy(), np.stack(want), rtol=1e-4, atol=1e-5)


@every_variant
def test_every_weight_and_every_input_that_is_read_gets_a_gradient(variant: str) -> None:
    block, x = block_of(variant), some_rows(50).requires_grad_()
    block(x).square().sum().backward()
    for name, weight in block.named_parameters():
        assert weight.grad is not None
        assert weight.grad.any(), name
    slope = x.grad
    assert slope is not None
    assert slope[:, : FIELDS.embedded].any(0).all()
    over_the_whole_row = VARIANTS[variant][0] in ("dcn", "dcn_v2", "gdcn", "final_mlp")
    assert slope[:, FIELDS.embedded :].any() == over_the_whole_row  # numbers never enter a cross of fields


@every_variant
def test_the_exported_block_gives_the_same_for_any_number_of_rows(variant: str, tmp_path: Path) -> None:
    block = block_of(variant).eval()
    export(block, {"x": some_rows(3)}, ("y",), tmp_path / "block.onnx", {"x": {0: "n"}, "y": {0: "n"}})
    session = Session.open(tmp_path / "block.onnx")
    for count in (0, 1, 17):
        x = some_rows(count, seed=3)
        with torch.no_grad():
            want = block(x).numpy()
        np.testing.assert_allclose(session.run(x=x.numpy())["y"], want, rtol=1e-5, atol=1e-5)


@every_variant
@settings(max_examples=10, deadline=None)
@given(count=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_row_gives_the_same_alone_and_in_any_company(variant: str, count: int, seed: int) -> None:
    block, x = block_of(variant), some_rows(count, seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        whole = block(x)
        torch.testing.assert_close(block(x[order]), whole[order], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(block(x[:1]), whole[:1], rtol=1e-5, atol=1e-5)


def test_several_crosses_stand_side_by_side_and_none_is_the_same_without_the_others() -> None:
    shape = replace(SHAPE, crosses=("fm", "senet_bilinear", "dcn"))
    both = Crosses(FIELDS, shape, torch.Generator().manual_seed(1))
    x = some_rows()
    torch.testing.assert_close(both(x), torch.cat([block(x) for block in both.blocks], 1))
    assert both.width == 4 + 20 + 23


# rows of fields


def test_rows_are_the_fields_of_both_sides_and_then_the_numbers_of_both() -> None:
    random = torch.Generator().manual_seed(1)
    user = torch.randn(2, 8, generator=random), torch.randn(2, 2, generator=random)
    item = torch.randn(5, 12, generator=random), torch.randn(5, 1, generator=random)
    row_of = torch.tensor([0, 0, 0, 1, 1])
    x = met(user, item, Rows.of(row_of, 2), 5)
    assert torch.equal(x, torch.cat([user[0][row_of], item[0], user[1][row_of], item[1]], 1))
    assert torch.equal(FIELDS.of(x)[:, 0], user[0][row_of, :4])
    assert torch.equal(FIELDS.of(x)[:, 2], item[0][:, :4])
    of_user, of_item = FIELDS.halves(x)
    assert torch.equal(of_user, torch.cat(user, 1)[row_of])
    assert torch.equal(of_item, torch.cat(item, 1))
    only = user[0][:1], user[1][:1]
    assert torch.equal(met(only, (item[0][:3], item[1][:3]), None, 3), x[:3])


# factorization machine


def fm(x: Tensor, bias: float, line: Tensor, vectors: Tensor) -> Tensor:
    """The machine of the spec: x [n, d], line [d], vectors [d, k] → [n]."""
    return bias + x @ line + pooled(x.unsqueeze(2) * vectors).sum(1)


def test_fm_1_the_worked_example() -> None:
    x = torch.tensor([[1.0, 0, 2, 1]])
    line = torch.tensor([0.2, -0.3, 0.5, 0.1])
    vectors = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 2]])
    assert float(fm(x, 0.1, line, 0 * vectors)) == pytest.approx(1.4)
    assert float(pooled(x.unsqueeze(2) * vectors).sum()) == pytest.approx(3.0)
    p = fm(x, 0.1, line, vectors)
    assert float(p) == pytest.approx(4.4)
    assert float(torch.sigmoid(p)) == pytest.approx(0.987872, abs=1e-6)


def test_fm_2_the_fast_form_is_the_sum_over_pairs_in_value_and_slope() -> None:
    e = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    slow = sum(e[:, i] * e[:, j] for i, j in combinations(range(5), 2))
    torch.testing.assert_close(pooled(e), slow)
    assert torch.autograd.gradcheck(pooled, (e,))


def test_fm_3_without_vectors_it_is_the_line_and_it_has_no_weights_beside_them() -> None:
    random = torch.Generator().manual_seed(5)
    x, line = torch.randn(9, 8, generator=random), torch.randn(8, generator=random)
    assert torch.equal(fm(x, 0.5, line, torch.zeros(8, 3)), 0.5 + x @ line)
    assert sum(weight.numel() for weight in block_of("fm").parameters()) == 0
    table, of_codes = Table(9, 3, random), Table(9, 1, random, 0.0)  # 8 codes and the padding
    assert 1 + sum((len(each.weight) - 1) * each.size for each in (table, of_codes)) == 33


def test_fm_4_it_learns_what_only_a_pair_says() -> None:
    random = torch.Generator().manual_seed(6)
    x = torch.randint(0, 2, (4000, 2), generator=random)
    label = (x[:, 0] != x[:, 1]).float()
    hot = nn.functional.one_hot(x, 2).flatten(1).float()
    scores = {}
    for rank in (0, 3):
        line = torch.zeros(4, requires_grad=True)
        vectors = torch.randn(4, max(rank, 1), generator=random).mul_(0.3 if rank else 0.0).requires_grad_()
        adam = torch.optim.Adam([line, vectors] if rank else [line], lr=0.1)
        for _ in range(60):
            adam.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(fm(hot, 0.0, line, vectors), label).backward()
            adam.step()
        scores[rank] = auc(label.numpy(), fm(hot, 0.0, line, vectors).detach().numpy())
    assert scores[0] == pytest.approx(0.5, abs=0.03)
    assert scores[3] > 0.95


def test_fm_5_turning_all_vectors_alike_changes_nothing() -> None:
    random = torch.Generator().manual_seed(7)
    x, line, vectors = (torch.randn(*size, generator=random).double() for size in ((9, 8), (8,), (8, 3)))
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=random).double())
    torch.testing.assert_close(fm(x, 0.0, line, vectors @ turn), fm(x, 0.0, line, vectors))


# deep and cross network


def fill(block: nn.Module, **values: Any) -> None:
    """Sets the weights with these names ("maps.0.weight" as maps_0_weight)."""
    given = {name.replace(".", "_"): weight for name, weight in block.named_parameters()}
    with torch.no_grad():
        for name, value in values.items():
            given[name].copy_(torch.as_tensor(value, dtype=torch.float32))


def dcn_v2(width: int, depth: int) -> DcnV2:
    return DcnV2(Fields(0, 0, 1, width), depth, 0, 1, torch.Generator().manual_seed(1))


def test_dcn_1_the_worked_example() -> None:
    x, first = torch.tensor([[1.0, 2]]), {"maps_0_weight": [[1, 0], [1, 1]], "maps_0_bias": [1, -1]}
    one, two = dcn_v2(2, 1), dcn_v2(2, 2)
    fill(one, **first)
    fill(two, **first, maps_1_weight=[[0, 1], [1, 0]], maps_1_bias=[0, 1])
    assert one(x).tolist() == [[3.0, 6.0]]
    assert two(x).tolist() == [[9.0, 14.0]]


def test_dcn_2_the_first_version_is_the_second_with_equal_rows() -> None:
    x = torch.tensor([[1.0, 2]])
    old = Dcn(Fields(0, 0, 1, 2), 1, torch.Generator().manual_seed(1))
    fill(old, weights=[[1, 1]], biases=[[1, -1]])
    assert old(x).tolist() == [[5.0, 7.0]]
    fill(old, biases=[[0, 0]])
    new = dcn_v2(2, 1)
    fill(new, maps_0_weight=[[1, 1], [1, 1]], maps_0_bias=[0, 0])
    assert new(x).tolist() == old(x).tolist() == [[4.0, 8.0]]


@pytest.mark.parametrize("variant", ["dcn", "dcn_v2", "gdcn", "dcn_v2 of low rank", "dcn_v2 of mixed low ranks"])
def test_dcn_3_without_weights_a_layer_hands_its_input_on(variant: str) -> None:
    block, x = block_of(variant), some_rows()
    with torch.no_grad():
        for weight in block.parameters():
            weight.zero_()
    assert torch.equal(block(x), x)


def test_dcn_4_each_layer_raises_the_degree_by_one() -> None:
    x = torch.linspace(-2, 2, 9).unsqueeze(1)
    for depth, want in ((1, 2 * x**2 + 2 * x), (2, 4 * x**3 + 6 * x**2 + 3 * x)):
        net = dcn_v2(1, depth)
        for weight in net.parameters():
            nn.init.constant_(weight, 2.0 if weight.ndim == 2 else 1.0)
        torch.testing.assert_close(net(x), want)
    net = dcn_v2(1, 3)
    for weight in net.parameters():
        nn.init.constant_(weight, 2.0 if weight.ndim == 2 else 1.0)
    torch.testing.assert_close(net(x), 8 * x**4 + 16 * x**3 + 12 * x**2 + 4 * x)


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda random: DcnV2(FIELDS, 3, 0, 1, random), 3 * (23 * 23 + 23)),
        (lambda random: DcnV2(FIELDS, 3, 4, 1, random), 3 * (2 * 23 * 4 + 23)),
        (lambda random: DcnV2(FIELDS, 3, 4, 2, random), 3 * (2 * 23 * 8 + 23 + 2 * 16 + 23 * 2 + 2)),
        (lambda random: Dcn(FIELDS, 3, random), 3 * 2 * 23),
        (lambda random: Gdcn(FIELDS, 3, 0, 1, random), 3 * 2 * (23 * 23 + 23)),
        (lambda random: Bilinear(FIELDS, "all", "inner", random), 16),
        (lambda random: Bilinear(FIELDS, "each", "inner", random), 4 * 16),
        (lambda random: Bilinear(FIELDS, "interaction", "hadamard", random), 10 * 16),
        (lambda random: Senet(FIELDS, 2, random), 5 * 2 + 2 + 2 * 5 + 5),
        (lambda random: Senet(FIELDS, 9, random), 5 + 1 + 5 + 5),
    ],
)
def test_dcn_5_the_number_of_weights(make: Callable[[torch.Generator], nn.Module], want: int) -> None:
    assert sum(weight.numel() for weight in make(torch.Generator().manual_seed(1)).parameters()) == want


def test_a_gated_layer_with_open_gates_is_a_layer_of_dcn_v2() -> None:
    gated, plain = block_of("gdcn"), block_of("dcn_v2")
    with torch.no_grad():
        for layer in range(2):
            gated.maps[layer].load_state_dict(plain.maps[layer].state_dict())
            gated.gates[layer].weight.zero_()
            gated.gates[layer].bias.fill_(100.0)
    torch.testing.assert_close(gated(some_rows()), plain(some_rows()))


# SENet and bilinear crosses


def test_se_1_the_worked_example() -> None:
    fields = Fields(2, 2, 2)
    net = Senet(fields, 2, torch.Generator().manual_seed(1))
    fill(net, squeeze_weight=[[1, 0, 0, -1], [0, 1, 1, 0]], squeeze_bias=[0, 0])
    fill(net, excite_weight=[[1, 0], [0, 1], [1, 1], [-1, 0]], excite_bias=[0, 0, 0, 0])
    x = torch.tensor([[1.0, 3, 2, -2, 4, 0, 0, 6]])
    assert net.weights(x)[0].tolist() == pytest.approx([0.5, 0.880797, 0.880797, 0.5], abs=1e-6)
    assert net(x)[0].tolist() == pytest.approx([0.5, 1.5, 1.761594, -1.761594, 3.523188, 0, 0, 3], abs=1e-6)


def test_se_2_one_weight_per_field_inside_0_and_1() -> None:
    net, x = block_of("senet"), some_rows()
    weights = net.weights(x)
    assert weights.shape == (7, 5)
    assert ((weights > 0) & (weights < 1)).all()
    share = FIELDS.of(net(x)) / FIELDS.of(x)
    torch.testing.assert_close(share, weights.unsqueeze(2).expand(-1, -1, 4))
    for weight in net.parameters():
        nn.init.zeros_(weight)
    assert (net.weights(x) == 0.5).all()


@pytest.mark.parametrize("weights", ["all", "each", "interaction"])
def test_bi_1_the_worked_example(weights: Any) -> None:
    fields, x = Fields(1, 1, 2), torch.tensor([[1.0, 2, 3, -1]])
    random = torch.Generator().manual_seed(1)
    for form, plain, crossed in (("inner", [1.0], [10.0]), ("hadamard", [3.0, -2.0], [6.0, 4.0])):
        block = Bilinear(fields, weights, form, random)  # type: ignore[arg-type]
        fill(block, weights=torch.eye(2).unsqueeze(0))
        assert block(x)[0].tolist() == plain
        fill(block, weights=[[[2, 0], [1, 1]]])
        assert block(x)[0].tolist() == crossed


def test_bi_2_the_two_forms_and_the_two_directions_agree() -> None:
    x = some_rows()
    inner, hadamard = block_of("bilinear interaction"), block_of("bilinear interaction hadamard")
    torch.testing.assert_close(hadamard(x).unflatten(1, (10, 4)).sum(2), inner(x))
    pair = Bilinear(Fields(1, 1, 4), "interaction", "inner", torch.Generator().manual_seed(1))
    one, other = x[:, :4], x[:, 4:8]
    want = pair(torch.cat([one, other], 1))
    fill(pair, weights=pair.weights.detach().transpose(1, 2).clone())
    torch.testing.assert_close(pair(torch.cat([other, one], 1)), want)


@pytest.mark.parametrize(("count", "pairs"), [(3, 3), (10, 45), (50, 1225)])
def test_bi_3_the_number_of_pairs(count: int, pairs: int) -> None:
    fields = Fields(1, count - 1, 4)
    block = Bilinear(fields, "all", "inner", torch.Generator().manual_seed(1))
    assert block.width == fields.pairs == pairs
    assert block(some_rows(2, fields)).shape == (2, pairs)


def test_fibi_1_width_and_the_branches_alone() -> None:
    both, x = block_of("senet_bilinear"), some_rows()
    assert both.width == 2 * 10
    alone = block_of("bilinear")
    alone.load_state_dict(both.plain.state_dict())
    torch.testing.assert_close(both(x)[:, :10], alone(x))
    alone.load_state_dict(both.weighted.state_dict())
    torch.testing.assert_close(both(x)[:, 10:], alone(both.senet(x)))
    assert both.plain.weights is not both.weighted.weights
    moved = x.clone()
    moved[:, FIELDS.embedded :] += 9.0
    assert torch.equal(both(moved), both(x))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_compiled_products_are_the_plain_ones_in_value_and_slope(count: int) -> None:
    random = torch.Generator().manual_seed(8)
    x = torch.randn(count, 23, generator=random).requires_grad_()
    right = torch.randn(4, count, 4, generator=random).requires_grad_()
    slope = torch.randn(count, 10, generator=random)
    want, got = _plainly(x, right), pair_products(x, right)
    torch.testing.assert_close(got, want)
    for own, other in zip(
        torch.autograd.grad(got, (x, right), slope), torch.autograd.grad(want, (x, right), slope), strict=True
    ):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


# the compiled layers of DCN V2


def split(fields: Fields, counts: list[int], seed: int = 8) -> tuple[Tensor, Tensor, Rows]:
    """Users [r, …] and items [n, …] as `Fields.halves` gives them, and whose rows are whose."""
    random = torch.Generator().manual_seed(seed)
    row_of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    own = fields.user * fields.size + fields.user_numbers
    user = torch.randn(len(counts), own, generator=random).double()
    item = torch.randn(len(row_of), fields.width - own, generator=random).double()
    return user, item, Rows.of(row_of, len(counts))


@pytest.mark.parametrize("counts", [[3, 4, 2], [5, 0, 1], [1, 1, 1], [9]])
@pytest.mark.parametrize("numbers", [0, 2])
def test_the_request_s_half_computed_once_gives_the_same_values_and_slopes(counts: list[int], numbers: int) -> None:
    fields = replace(FIELDS, user_numbers=numbers, item_numbers=numbers // 2)
    block = DcnV2(fields, 3, 0, 1, torch.Generator().manual_seed(1)).double()
    user, item, rows = split(fields, counts)
    weights = list(block.parameters())
    found = []
    for how in ("once", "every row", "plainly"):
        given, other = user.clone().requires_grad_(), item.clone().requires_grad_()
        x = fields.joined(given.index_select(0, rows.row_of), other)
        if how == "once":
            out = block(x, given, rows)
        elif how == "every row":
            out = block(x)
        else:
            out = x
            for layer in block.maps:
                out = x * (out @ layer.weight.t() + layer.bias) + out
        found.append((out, *torch.autograd.grad(out.sin().sum(), (given, other, *weights))))
    for one, two, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three)
        torch.testing.assert_close(two, three)


def test_one_request_s_rows_are_the_same_with_its_half_apart() -> None:
    block = dcn_v2(23, 2)
    block.fields = FIELDS
    x = some_rows(6)
    x[:, :8], x[:, 20:22] = x[:1, :8].clone(), x[:1, 20:22].clone()
    torch.testing.assert_close(block(x, FIELDS.halves(x[:1])[0], None), block(x))


def test_rows_of_sixteen_bits_are_read_and_rounded_as_torch_does() -> None:
    random = torch.Generator().manual_seed(9)
    x, before, maps = (torch.randn(5, 8, generator=random) for _ in range(3))
    slim, made = maps.bfloat16(), (torch.empty(5, 8), torch.empty(5, 8, dtype=torch.bfloat16))
    half, first = torch.randn(1, 8, generator=random), np.arange(6)
    cross((bits(x), bits(before), bits(slim), bits(half)), (bits(made[0]), bits(made[1])), first, (0, 5))
    torch.testing.assert_close(made[0], x * (slim.float() + half) + before)
    assert torch.equal(made[1], made[0].bfloat16())


def test_the_compiled_walk_over_the_rows_gives_what_its_plain_form_gives() -> None:
    generator = torch.Generator().manual_seed(2)
    x, before, maps = (torch.randn(6, 8, generator=generator) for _ in range(3))
    half, first = torch.randn(2, 8, generator=generator), np.array([0, 4, 6])
    for kind in (torch.float32, torch.bfloat16):
        found = []
        for walk in (cross, cross.py_func):
            made = torch.empty(6, 8), torch.empty(6, 8, dtype=kind)
            walk(
                (bits(x), bits(before), bits(maps.to(kind)), bits(half)), (bits(made[0]), bits(made[1])), first, (0, 2)
            )
            found.append(made)
        torch.testing.assert_close(found[0], found[1])


@pytest.mark.skipif(not native(), reason="bfloat16 products are made only where the processor is made for them")
def test_mixed_precision_moves_values_and_slopes_by_its_rounding_only() -> None:
    block = DcnV2(FIELDS, 2, 0, 1, torch.Generator().manual_seed(1))
    user, item, rows = split(FIELDS, [4, 7, 5])
    slopes = []
    for numbers in ("float32", "mixed"):
        given, other = user.float().requires_grad_(), item.float().requires_grad_()
        with precision(numbers):
            out = block(FIELDS.joined(given.index_select(0, rows.row_of), other), given, rows)
            slopes.append((out, *torch.autograd.grad(out.sin().sum(), (given, other, *block.parameters()))))
    for exact, rounded in zip(*slopes, strict=True):
        assert not torch.equal(exact, rounded)
        assert float(((exact - rounded).norm() / exact.norm()).detach()) < 0.02
