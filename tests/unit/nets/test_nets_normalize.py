"""Batch normalisation against torch's own, its means, its checkpoint, and that nothing of it is served."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nets_multitask_blocks import net_for, some
from toy_world import Toy

from tamis.nets import checkpoint, products
from tamis.nets.batch import tensors
from tamis.nets.experts import Experts
from tamis.nets.multitask import export_multitask
from tamis.nets.normalize import BatchNorm
from tamis.nets.optimizer import Optimizer
from tamis.nets.plans import TrainingPlan
from tamis.nets.ple import Ple
from tamis.nets.products import precision
from tamis.nets.spread import Rows


def layer(nets: int, units: int, seed: int = 1) -> tuple[BatchNorm, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    norm = BatchNorm(nets, units)
    norm.scale.detach().uniform_(0.5, 2.0, generator=random)
    return norm, torch.randn(nets, 1, units, generator=random).requires_grad_()


@pytest.mark.parametrize("nets", [1, 3])
def test_values_gradients_and_means_are_those_of_a_norm_for_each_net(nets: int) -> None:
    norm, bias = layer(nets, 5)
    z = torch.randn(nets, 40, 5, generator=torch.Generator().manual_seed(2)) * 3 + 1
    z.requires_grad_()
    out = norm(z, bias)
    peers = [torch.nn.BatchNorm1d(5, momentum=1.0) for _ in range(nets)]
    for peer, scale, shift in zip(peers, norm.scale, bias, strict=True):
        peer.weight.data, peer.bias.data = scale.detach()[0].clone(), shift.detach()[0].clone()
    want = torch.stack([peer(part) for peer, part in zip(peers, z, strict=True)])
    torch.testing.assert_close(out, want)
    slope = torch.randn(want.shape, generator=torch.Generator().manual_seed(3))
    own = torch.autograd.grad((out * slope).sum(), [z, norm.scale, bias])
    others = torch.autograd.grad((want * slope).sum(), [z, *(p.weight for p in peers), *(p.bias for p in peers)])
    torch.testing.assert_close(own[0], others[0])
    torch.testing.assert_close(own[1][:, 0], torch.stack(others[1 : nets + 1]))
    torch.testing.assert_close(own[2][:, 0], torch.stack(others[nets + 1 :]))
    torch.testing.assert_close(norm.mean[:, 0], torch.stack([peer.running_mean for peer in peers]))
    torch.testing.assert_close(norm.variance[:, 0], torch.stack([peer.running_var for peer in peers]))


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_every_row_counts_alike_in_the_kept_means(sizes: list[int]) -> None:
    """The mean of all rows, those of a batch k batches ago weighing 0.9 ** k each."""
    norm, bias = layer(1, 2)
    random = torch.Generator().manual_seed(4)
    batches = [torch.randn(1, rows, 2, generator=random) + at for at, rows in enumerate(sizes)]
    with torch.no_grad():
        for batch in batches:
            norm(batch, bias)
    weights = np.array([rows * 0.9 ** (len(sizes) - 1 - at) for at, rows in enumerate(sizes)])
    means = np.stack([batch[0].mean(0).numpy() for batch in batches])
    np.testing.assert_allclose(norm.mean[0, 0].numpy(), weights @ means / weights.sum(), rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_row_is_normalised_by_the_kept_means_and_leaves_them() -> None:
    norm, bias = layer(2, 3)
    norm(torch.randn(2, 50, 3) + 2, bias)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    z = torch.randn(2, 1, 3)
    factor, moved = norm.affine(bias)
    torch.testing.assert_close(norm(z, bias), z * factor + moved)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("hidden", [(8,), (8, 6), (8, 6, 4)])
@pytest.mark.parametrize("levels", [0, 2])
def test_evaluation_by_the_means_of_a_batch_is_what_training_said_of_it(hidden: tuple[int, ...], levels: int) -> None:
    """Of the whole layers, of requests of several rows; so every layer is folded where it stands."""
    random = torch.Generator().manual_seed(1)
    net: Experts | Ple
    if levels:
        net = Ple((6, 10), 2, (2, 1), hidden, levels, random)
        net.drop(0.0, 0.0)
        net.normalize()
    else:
        net = Experts((6, 10), 2, 3, hidden, random)
        net.gate_dropout = 0.0
        net.norms = torch.nn.ModuleList(BatchNorm(3, units) for units in hidden)
    rows = Rows.of(torch.repeat_interleave(torch.arange(20), 6), 20)
    user, item = torch.randn(20, 6, generator=random), torch.randn(120, 10, generator=random)
    with torch.no_grad():
        said = net.train()(user, item, rows)
        for norm in (module for module in net.modules() if isinstance(module, BatchNorm)):
            norm.variance.mul_(119 / 120)  # kept as that of all rows, of which these are a sample
        torch.testing.assert_close(net.eval()(user, item, rows), said, rtol=1e-4, atol=1e-5)


def test_an_exported_net_has_the_graph_of_one_without_normalisation(toy: Toy, tmp_path: Path) -> None:
    def operations(block: str, **changes: object) -> list[str]:
        export_multitask(net_for(toy, block, **changes), toy.inputs.layout, tmp_path / "net.onnx")
        return sorted(node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node)

    for changes in ({}, {"experts": 1}, {"mixture": "ple"}):
        with_norm, without = operations("normalised", **changes), operations("", **changes)
        assert with_norm == without


def test_the_kept_means_are_in_a_checkpoint(toy: Toy, tmp_path: Path) -> None:
    net, plan = net_for(toy, "normalised"), TrainingPlan()
    batch = tensors(some(toy))
    net.train()(batch[:6], batch.row_of)
    checkpoint.save(tmp_path / "course.npz", checkpoint.Place(), net, Optimizer(net, plan), None)
    again = net_for(toy, "normalised")
    before = again.experts.norms[0].mean.clone()
    checkpoint.load(tmp_path / "course.npz", again, Optimizer(again, plan))
    for norm, other in zip(net.experts.norms, again.experts.norms, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in norm.state_dict().items())
    assert not torch.equal(before, again.experts.norms[0].mean)


def test_mixed_precision_normalises_in_32_bits(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "native", lambda device: True)
    batch = tensors(some(toy, 40))
    said = []
    for numbers in ("float32", "mixed"):
        net = net_for(toy, "normalised").train()
        with precision(numbers):
            logits = net(batch[:6], batch.row_of)
            logits.square().mean().backward()
        assert all(norm.mean.dtype == norm.scale.grad.dtype == torch.float32 for norm in net.experts.norms)
        said.append(logits.detach())
    assert not torch.equal(*said)
    torch.testing.assert_close(*said, rtol=0.05, atol=0.1)
