"""The whole ranking net against a plain, unfused reference, and its export."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace as replace_struct
from torch import Tensor
from toy_world import FEATURES, Rules, Toy, toy_world

from tamis.data.samples import Samples
from tamis.errors import ArtifactError, ConfigError
from tamis.features.batch import NetBatch
from tamis.nets.batch import tensors
from tamis.nets.embed import Standardize, Table
from tamis.nets.heads import HeadPlan, loss, starts
from tamis.nets.multitask import INPUTS, MultitaskNet, Scales, export_multitask, fit_multitask, predict
from tamis.nets.plans import MultitaskShape, TrainingPlan
from tamis.nets.session import Session

SHAPE = MultitaskShape(
    embedding_size=8, attention_hidden=8, experts=3, expert_hidden=(16, 8), tower_hidden=(8,), gate_dropout=0.0
)
PLAN = TrainingPlan(epochs=1, batch_size=256, threads=1, patience=0)
HEADS = HeadPlan(("click", "like"), frozenset(("like",)), {}, "ratio")
ATTENTIONS = ("din", "dot", "mean")


def some(toy: Toy, requests: int = 40) -> NetBatch:
    return toy.inputs.batch(toy.inputs.train, np.arange(300, 300 + requests))


def net_for(toy: Toy, shape: MultitaskShape = SHAPE, seed: int = 1) -> MultitaskNet:
    batch = some(toy)
    scales = Scales(batch.user_dense, batch.item_dense, batch.item_dynamic)
    random = torch.Generator().manual_seed(seed)
    net = MultitaskNet(shape, toy.inputs.layout, HEADS.heads, scales, random)
    net.first_order.weight.detach()[1:].normal_(generator=random)  # as if trained; new ones are all zero
    return net


def doubled(batch: NetBatch) -> tuple[tuple[Tensor, ...], Tensor]:
    whole = tensors(batch)
    parts = tuple(part.double() if part.is_floating_point() else part for part in whole[:6])
    return parts, whole.row_of


def reference(net: MultitaskNet, weight: Tensor, line: Tensor, batch: NetBatch, toy: Toy) -> Tensor:
    """Logits [heads, n] one candidate at a time, with nothing shared, split, fused or factored."""
    layout = toy.inputs.layout

    def fields(codes: np.ndarray, all_fields: tuple, weight: Tensor = weight) -> Tensor:
        out = []
        for field in all_fields:
            there = [int(code) for code in codes[field.start : field.start + field.width] if code]
            out.append(weight[there].mean(0) if there else torch.zeros(weight.shape[1]).double())
        return torch.cat(out)

    def dense(scale: torch.nn.Module, values: np.ndarray) -> Tensor:
        return scale(torch.from_numpy(values).double())

    users, items, of_codes = [], [], []
    for n, r in enumerate(batch.row_of):
        user = [fields(batch.user_codes[r], layout.user_fields), dense(net.user_scale, batch.user_dense[r])]
        item = [fields(batch.item_codes[n], layout.item_fields), dense(net.item_scale, batch.item_dense[n])]
        item.append(dense(net.dynamic_scale, batch.item_dynamic[n]))
        of_codes.append(fields(batch.item_codes[n], layout.item_fields, line).view(-1, line.shape[1]).sum(0))
        past = [torch.cat([weight[int(code)] for code in entry]) for entry in batch.history_codes[r] if entry[0]]
        width = layout.history_codes * weight.shape[1]
        query = torch.cat([weight[int(batch.item_codes[n, column])] for column in layout.history_columns])
        pooled = torch.zeros(width).double()
        if past and net.attention is None:
            pooled = torch.stack(past).mean(0)
        elif past and SHAPE.attention_hidden and hasattr(net.attention, "product"):
            for x in past:
                attention = net.attention
                hidden = attention.query(query) + attention.key(x) + attention.product @ (query * x[: len(query)])
                pooled = pooled + (attention.output[:-1] @ torch.relu(hidden) + attention.output[-1]) * x
        elif past:
            scores = [net.attention.query(query) @ net.attention.key(x) * net.attention.scale for x in past]
            pooled = (torch.softmax(torch.stack(scores), 0).unsqueeze(1) * torch.stack(past)).sum(0)
        (user if net.attention is None else item).append(pooled)
        users.append(torch.cat(user))
        items.append(torch.cat(item))
    whole = torch.cat([torch.stack(users), torch.stack(items)], 1)
    experts = net.experts
    first = whole @ torch.cat([experts.user_first.weight, experts.item_first.weight], 1).t() + experts.user_first.bias
    gates = whole @ torch.cat([experts.user_gate.weight, experts.item_gate.weight], 1).t() + experts.user_gate.bias
    outputs = [
        torch.relu(torch.relu(part) @ experts.deeper[0][e] + experts.biases[0][e])
        for e, part in enumerate(first.split(experts.hidden[0], 1))
    ]
    logits = []
    for task in range(len(net.heads)):
        gate = torch.softmax(gates[:, task * 3 : task * 3 + 3], 1)
        x = sum(gate[:, e : e + 1] * outputs[e] for e in range(3))
        towers = net.towers
        x = torch.relu(x @ towers.weights[0][task] + towers.biases[0][task])
        straight = whole @ torch.cat([half.weight[task] for half in net.wide]) + torch.stack(of_codes)[:, task]
        logits.append((x @ towers.weights[1][task] + towers.biases[1][task]).squeeze(1) + straight)
    return torch.stack(logits)


def slopes_of(table: Table) -> Tensor:
    """The gradient of a table's weights, from what its gathered rows were given."""
    whole = torch.zeros_like(table.weight)
    for codes, widths, leaf in table.taken:
        slopes = leaf.grad.view(len(codes), -1, table.size)
        for field, part in enumerate(codes.long().split(widths, 1)):
            there = (part != 0).double()
            share = there / there.sum(1, keepdim=True).clamp(min=1)
            whole.index_add_(0, part.flatten(), (share.unsqueeze(2) * slopes[:, field, None]).flatten(0, 1))
    return whole


@pytest.fixture(scope="module")
def bare() -> Toy:
    """The toy world without actions and ages in the entries of histories."""
    history = replace_struct(FEATURES.history, with_action=False, with_age=False)
    return toy_world(rules=Rules(features=replace_struct(FEATURES, history=history)))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("world", ["toy", "bare"])
def test_values_and_all_gradients_are_those_of_the_plain_net(
    attention: str, world: str, request: pytest.FixtureRequest
) -> None:
    toy = request.getfixturevalue(world)
    net = net_for(toy, replace(SHAPE, attention=attention)).double()
    batch = some(toy, 5)
    weight = net.table.weight.detach().clone().requires_grad_()
    line = net.first_order.weight.detach().clone().requires_grad_()
    want = reference(net, weight, line, batch, toy)
    net.train()
    parts, row_of = doubled(batch)
    got = net(parts, row_of)
    torch.testing.assert_close(got, want)
    leaves = [*net.parameters()]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    wanted = torch.autograd.grad(want.square().sum(), [weight, line, *leaves])
    got.square().sum().backward()
    for leaf, other in zip(leaves, wanted[2:], strict=True):
        torch.testing.assert_close(leaf.grad, other)
    torch.testing.assert_close(slopes_of(net.table), wanted[0])
    torch.testing.assert_close(slopes_of(net.first_order), wanted[1])


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_row_order_company_and_batching_do_not_change_a_score(toy: Toy, attention: str) -> None:
    net = net_for(toy, replace(SHAPE, attention=attention)).eval()
    batch = tensors(some(toy, 6))
    with torch.no_grad():
        whole = net(batch[:6], batch.row_of)
        flip = torch.cat([torch.flip(torch.nonzero(batch.row_of == r).squeeze(1), [0]) for r in range(6)])
        flipped = net([*batch[:3], *(part[flip] for part in batch[3:6])], batch.row_of)
        torch.testing.assert_close(flipped, whole[:, flip], rtol=0, atol=1e-6)
        for r in range(6):
            mine = batch.row_of == r
            own = [*(part[r : r + 1] for part in batch[:3]), *(part[mine] for part in batch[3:6])]
            torch.testing.assert_close(net(own, None), whole[:, mine], rtol=0, atol=1e-6)


def answers(
    net: MultitaskNet, session: Session, batch: NetBatch, repeat: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the exported net and the net itself say of one request whose candidates come `repeat` times each."""
    items = {name: np.repeat(getattr(batch, name), repeat, 0) for name in INPUTS[3:]}
    arrays = {**{name: getattr(batch, name) for name in INPUTS[:3]}, **items}
    with torch.no_grad():
        feed = [torch.from_numpy(arrays[name]) for name in INPUTS]
        want = net(feed, torch.zeros(len(items["item_codes"]), dtype=torch.int64)).numpy()
    return session.run(**arrays), want


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("experts", [1, 3])
def test_the_exported_net_gives_the_same_logits_for_any_number_of_candidates(
    toy: Toy, tmp_path: Path, attention: str, experts: int
) -> None:
    net = net_for(toy, replace(SHAPE, attention=attention, experts=experts))
    export_multitask(net, toy.inputs.layout, tmp_path / "net.onnx")
    session = Session.open(tmp_path / "net.onnx")
    assert session.outputs == HEADS.heads
    for requests, repeat in ((slice(0, 1), 1), (slice(7, 8), 17)):
        batch = toy.inputs.batch(toy.inputs.train, np.arange(400, 420)[requests])
        got, want = answers(net, session, batch, repeat)
        for at, head in enumerate(HEADS.heads):
            np.testing.assert_allclose(got[head], want[at], rtol=0, atol=1e-5)
    assert answers(net, session, batch, 0)[0]["click"].shape == (0,)


def test_an_exported_file_names_no_folder_of_the_machine_that_trained(toy: Toy, tmp_path: Path) -> None:
    export_multitask(net_for(toy, replace(SHAPE, embedding_size=64)), toy.inputs.layout, tmp_path / "net.onnx")
    graph = (tmp_path / "net.onnx").read_bytes()
    assert b".py" not in graph
    table = toy.inputs.layout.table_size * 64 * 4
    assert (tmp_path / "net.weights").stat().st_size >= table > len(graph)  # apart, so that it can be mapped


def test_a_session_names_the_input_that_is_wrong(toy: Toy, tmp_path: Path) -> None:
    export_multitask(net_for(toy), toy.inputs.layout, tmp_path / "net.onnx")
    session = Session.open(tmp_path / "net.onnx")
    batch = toy.inputs.batch(toy.inputs.train, np.array([400]))
    arrays = {name: getattr(batch, name) for name in session.inputs}
    with pytest.raises(ValueError, match="user_codes"):
        session.run(**{name: array for name, array in arrays.items() if name != "user_codes"})
    with pytest.raises(ValueError, match="weather"):
        session.run(**arrays, weather=np.zeros(1))
    with pytest.raises(ValueError, match="shape"):
        session.run(**{**arrays, "user_codes": np.zeros((1, 1), np.int32)})
    with pytest.raises(ArtifactError, match=r"absent\.onnx"):
        Session.open(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no net")
    with pytest.raises(ArtifactError, match=r"broken\.onnx"):
        Session.open(tmp_path / "broken.onnx")


def test_the_same_seed_gives_the_same_net_and_another_seed_another(toy: Toy) -> None:
    shape = replace(SHAPE, gate_dropout=0.1)
    nets = [fit_multitask(shape, PLAN, HEADS, toy.inputs, seed).net for seed in (1, 1, 2)]
    bytes_of = [b"".join(value.numpy().tobytes() for value in net.state_dict().values()) for net in nets]
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]


def test_training_lowers_the_loss_and_reports_a_score_per_epoch(toy: Toy) -> None:
    plan = replace(PLAN, epochs=4, learning_rate=3e-3, embedding_learning_rate=1e-2)
    trained = fit_multitask(SHAPE, plan, HEADS, toy.inputs, 1)
    assert len(trained.report.scores) == 4
    assert trained.report.scores[-1] > max(0.7, trained.report.scores[0])
    assert trained.gates is not None
    assert len(trained.gates.largest) == 2
    valid = toy.inputs.valid
    targets = HEADS.targets({name: torch.from_numpy(label) for name, label in valid.labels.items()})

    def of(net: MultitaskNet) -> float:
        logits = predict(net, toy.inputs, valid)
        return float(loss(torch.from_numpy(np.stack([logits[head] for head in HEADS.heads])), targets))

    assert of(trained.net) < of(net_for(toy)) * 0.8


def test_training_starts_at_the_rates_of_the_log() -> None:
    """100 impressions, 10 clicks, then 2 likes, 1 collect and 1 share: 0.1, 0.2, 0.1, 0.1."""
    labels = {name: np.zeros(100, np.float32) for name in ("click", "like", "collect", "share")}
    for name, count in (("click", 10), ("like", 2), ("collect", 1), ("share", 1)):
        labels[name][:count] = 1
    plan = HeadPlan(tuple(labels), frozenset(("like", "collect", "share")), {}, "ratio")
    samples = object.__new__(Samples)
    object.__setattr__(samples, "labels", labels)
    assert torch.sigmoid(torch.tensor(starts(plan, samples))).tolist() == pytest.approx([0.1, 0.2, 0.1, 0.1])


def test_powers_are_squares_and_roots_of_the_share_below_each_number() -> None:
    values = np.array([[-1.0, 5.0], [0.0, 5.0], [1.0, 5.0]], np.float32)
    scale = Standardize(values, powers=True)
    assert scale.width == 6
    numbers = scale(torch.tensor([[0.0, 5.0], [1e9, 7.0], [-1e9, 3.0]]))
    assert numbers[0].tolist() == pytest.approx([0, 0, 0.25, 0.25, 0.5**0.5, 0.5**0.5])
    assert numbers[1:, 0].tolist() == [8.0, -8.0]
    assert numbers[1:, 2].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert numbers[1:, 4].tolist() == pytest.approx([1.0, 0.0], abs=2e-3)
    inputs = torch.tensor([[-1e9, 5.0]], requires_grad=True)
    scale(inputs).sum().backward()
    assert torch.isfinite(inputs.grad).all()


def test_a_net_with_powers_trains_and_is_exported(toy: Toy, tmp_path: Path) -> None:
    net = fit_multitask(replace(SHAPE, powers=True), PLAN, HEADS, toy.inputs, 1).net
    export_multitask(net, toy.inputs.layout, tmp_path / "net.onnx")
    batch = toy.inputs.batch(toy.inputs.train, np.array([400]))
    arrays = {name: getattr(batch, name) for name in INPUTS}
    with torch.no_grad():
        want = net([torch.from_numpy(arrays[name]) for name in INPUTS], None)[0].numpy()
    got = Session.open(tmp_path / "net.onnx").run(**arrays)["click"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_widths_that_the_kernels_cannot_take_are_a_clear_error(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="multiples of 4"):
        fit_multitask(replace(SHAPE, embedding_size=6), PLAN, HEADS, toy.inputs, 1)


def test_a_training_that_diverges_says_so(toy: Toy) -> None:
    wild = replace(PLAN, epochs=2, learning_rate=1e30, embedding_learning_rate=1e30)
    with pytest.raises(ConfigError, match=r"multitask: after \d+ of \d+ rows the loss is nan"):
        fit_multitask(SHAPE, wild, HEADS, toy.inputs, 1)


def test_what_calibrators_learn_from_is_computed_with_the_threads_of_the_plan(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def watched(*given: Any) -> Any:
        used.append(torch.get_num_threads())
        return predict(*given)

    monkeypatch.setattr("tamis.nets.multitask.predict", watched)
    threads = torch.get_num_threads() + 1  # another number than whatever this machine starts with
    fit_multitask(SHAPE, replace(PLAN, epochs=1, threads=threads), HEADS, toy.inputs, 1)
    assert set(used) == {threads}
