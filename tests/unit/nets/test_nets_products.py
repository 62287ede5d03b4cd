"""Products in 16 bits: near the exact ones where the processor is made for them, the exact ones everywhere else."""

import pytest
import torch
from torch import Tensor

from tamis.nets import products
from tamis.nets.experts import Experts
from tamis.nets.layers import Affine
from tamis.nets.products import cast, precision, product
from tamis.nets.spread import Rows


@pytest.fixture(params=[True, False])
def capable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A processor that has, and one that lacks, the instructions."""
    monkeypatch.setattr(products, "native", lambda device: request.param)
    return bool(request.param)


def gradients(wanted: products.Precision) -> list[Tensor]:
    """Output and gradients of all weights of a mixture of experts on fixed rows."""
    random = torch.Generator().manual_seed(3)
    net = Experts((24, 40), 2, 3, (32, 16), random)
    net.gate_dropout = 0.0
    rows = Rows.of(torch.repeat_interleave(torch.arange(6), 5), 6)
    user, item = torch.randn(6, 24, generator=random), torch.randn(30, 40, generator=random)
    with precision(wanted):
        out = net(user, item, rows)
        out.square().mean().backward()
    return [out.detach(), *(weight.grad for weight in net.parameters() if weight.grad is not None)]


def test_mixed_precision_is_near_the_full_one_and_equal_to_it_where_it_would_be_slow(capable: bool) -> None:
    full, mixed = gradients("float32"), gradients("mixed")
    assert len(full) == len(mixed)
    assert all(value.dtype == torch.float32 for value in mixed)
    for exact, near in zip(full, mixed, strict=True):
        if capable:
            assert torch.nn.functional.cosine_similarity(exact.flatten(), near.flatten(), dim=0) > 0.999
        else:
            assert torch.equal(exact, near)
    assert capable != all(torch.equal(a, b) for a, b in zip(full, mixed, strict=True))


def test_only_the_block_is_rounded_and_only_float32(capable: bool) -> None:
    third = torch.full((1, 1), 1 / 3)
    with precision("mixed"):
        assert cast(third).dtype == (torch.bfloat16 if capable else torch.float32)
        assert cast(third.double()).dtype == torch.float64
        with precision("float32"):
            assert cast(third) is third
        assert cast(third).dtype == (torch.bfloat16 if capable else torch.float32)
    assert cast(third) is third


def test_a_bias_is_added_without_rounding(capable: bool) -> None:
    bias = torch.full((2, 1, 1), 1 / 3)
    with precision("mixed"):
        out = product(cast(torch.ones(2, 4, 3)), cast(torch.ones(2, 3, 1)), bias)
    assert torch.equal(out, torch.full((2, 4, 1), 3.0) + bias)


def test_a_layer_of_a_cross_is_rounded_inside_the_block_and_keeps_full_slopes(capable: bool) -> None:
    random = torch.Generator().manual_seed(4)
    layer, x = Affine(40, 24, random), torch.randn(30, 40, generator=random).requires_grad_()
    found = []
    for wanted in ("float32", "mixed"):
        with precision(wanted):
            out = layer(x)
            found.append([out, *torch.autograd.grad(out.square().mean(), [x, *layer.parameters()])])
    torch.testing.assert_close(found[0][0], x @ layer.weight.t() + layer.bias)
    for exact, near in zip(*found, strict=True):
        assert near.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(exact.flatten(), near.flatten(), dim=0) > 0.999
        assert torch.equal(exact, near) != capable
