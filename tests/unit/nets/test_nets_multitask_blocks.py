"""Crosses, personal gates and PLE inside the ranking net: company, export, gradients, what they read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_nets_multitask import answers
from toy_world import Toy

from tamis.features.batch import NetBatch
from tamis.nets.batch import tensors
from tamis.nets.multitask import MultitaskNet, Scales, export_multitask
from tamis.nets.normalize import BatchNorm
from tamis.nets.plans import MultitaskShape
from tamis.nets.session import Session

SHAPE = MultitaskShape(
    embedding_size=8,
    embedding_spread=0.5,
    attention_hidden=8,
    experts=2,
    expert_hidden=(16, 8),
    tower_hidden=(8,),
    gate_dropout=0.0,
    stream_hidden=(12, 8),
)
BLOCKS: dict[str, dict[str, Any]] = {
    "fm and dcn": {"crosses": ("fm", "dcn"), "attention": "mean"},
    "dcn_v2 and senet_bilinear": {"crosses": ("dcn_v2", "senet_bilinear")},
    "gdcn, senet and bilinear": {"crosses": ("gdcn", "senet", "bilinear"), "cross_rank": 4, "cross_experts": 2},
    "final_mlp": {"crosses": ("final_mlp",), "attention": "dot"},
    "dcn_v2 and fm beside": {"crosses": ("dcn_v2", "fm"), "cross_place": "beside"},
    "lhuc": {"personal_gates": "lhuc"},
    "ppnet": {"personal_gates": "ppnet", "experts": 1},
    "ple": {"mixture": "ple", "experts": 1, "head_experts": 2},
    "normalised": {"normalization": "batch"},
    "normalised, one layer of one expert": {"normalization": "batch", "experts": 1, "expert_hidden": (16,)},
    "normalised, ppnet": {"normalization": "batch", "personal_gates": "ppnet", "expert_hidden": (16, 12, 8)},
    "all at once": {
        "crosses": ("fm", "dcn_v2"),
        "personal_gates": "lhuc",
        "mixture": "ple",
        "extraction_levels": 3,
        "normalization": "batch",
    },
}
every_block = pytest.mark.parametrize("block", BLOCKS)


def some(toy: Toy, requests: int = 6) -> NetBatch:
    return toy.inputs.batch(toy.inputs.train, np.arange(300, 300 + requests))


def net_for(toy: Toy, block: str = "", **changes: Any) -> MultitaskNet:
    batch = some(toy, 40)
    scales = Scales(batch.user_dense, batch.item_dense, batch.item_dynamic)
    random = torch.Generator().manual_seed(1)
    shape = replace(SHAPE, **{**BLOCKS.get(block, {}), **changes})
    net = MultitaskNet(shape, toy.inputs.layout, ("click", "like"), scales, random)
    for weight in net.personal.last.parameters() if net.personal else ():
        weight.detach().normal_(generator=random)  # as if trained; new ones are all zero
    for module in net.modules():
        if isinstance(module, BatchNorm):  # as if trained
            module.mean.normal_(generator=random)
            module.variance.uniform_(0.2, 3.0, generator=random)
            module.scale.detach().uniform_(0.5, 2.0, generator=random)
    return net


@every_block
def test_row_order_company_and_batching_do_not_change_a_score(toy: Toy, block: str) -> None:
    net, batch = net_for(toy, block).eval(), tensors(some(toy))
    with torch.no_grad():
        whole = net(batch[:6], batch.row_of)
        flip = torch.cat([torch.flip(torch.nonzero(batch.row_of == r).squeeze(1), [0]) for r in range(6)])
        flipped = net([*batch[:3], *(part[flip] for part in batch[3:6])], batch.row_of)
        torch.testing.assert_close(flipped, whole[:, flip], rtol=1e-5, atol=1e-5)
        for r in range(6):
            mine = batch.row_of == r
            own = [*(part[r : r + 1] for part in batch[:3]), *(part[mine] for part in batch[3:6])]
            torch.testing.assert_close(net(own, None), whole[:, mine], rtol=1e-5, atol=1e-5)
        if "normalization" not in BLOCKS[block]:  # in training rows are normalised by their company
            net.train()
            torch.testing.assert_close(net(batch[:6], batch.row_of), whole, rtol=1e-5, atol=1e-5)


@every_block
def test_the_exported_net_gives_the_same_logits_for_any_number_of_candidates(
    toy: Toy, tmp_path: Path, block: str
) -> None:
    net = net_for(toy, block)
    export_multitask(net, toy.inputs.layout, tmp_path / "net.onnx")
    session = Session.open(tmp_path / "net.onnx")
    batch = some(toy, 1)
    for repeat in (1, 17, 0):
        got, want = answers(net, session, batch, repeat)
        for at, head in enumerate(net.heads):
            np.testing.assert_allclose(got[head], want[at], rtol=1e-5, atol=1e-5)


@every_block
def test_every_layer_and_every_embedding_that_is_read_gets_a_gradient(toy: Toy, block: str) -> None:
    net, batch = net_for(toy, block), tensors(some(toy, 40))
    net.train()
    net(batch[:6], batch.row_of).square().sum().backward()
    for name, weight in net.named_parameters():
        if weight.requires_grad and not (net.experts.experts == 1 and "_gate" in name):  # one expert needs no gate
            assert weight.grad is not None, name
            assert weight.grad.any(), name
    assert all(leaf.grad is not None and leaf.grad.any() for _, _, leaf in net.table.taken)


@every_block
def test_rows_that_share_a_request_teach_what_they_would_each_with_a_request_of_its_own(toy: Toy, block: str) -> None:
    batch = tensors(some(toy))
    alone = [*(part[batch.row_of] for part in batch[:3]), *batch[3:6]]
    found = []
    for parts, row_of in ((batch[:6], batch.row_of), (alone, torch.arange(len(batch.row_of)))):
        net = net_for(toy, block)
        net.train()
        logits = net(parts, row_of)
        logits.square().mean().backward()
        slopes = [leaf.grad for _, _, leaf in net.table.taken]
        found.append((logits, [weight.grad for weight in net.parameters() if weight.grad is not None], slopes))
    (together, weights, leaves), (apart, other_weights, other_leaves) = found
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    for own, other in zip(weights, other_weights, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)
    for own, other in zip(leaves, other_leaves, strict=True):
        if len(own) != len(other):  # of the user's side, or of the histories
            each = other.view(len(batch.row_of), -1)
            summed = torch.zeros(len(batch.user_codes), each.shape[1])
            other = summed.index_add(0, batch.row_of, each).view(own.shape)
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_lhuc_teaches_the_users_embeddings_and_ppnet_does_not(toy: Toy) -> None:
    batch = tensors(some(toy))
    for gates, taught in (("lhuc", True), ("ppnet", False)):
        net = net_for(toy, personal_gates=gates, wide=False)
        for weight in (net.experts.user_first.weight, net.experts.user_gate.weight):
            torch.nn.init.zeros_(weight)  # so that only the gates read the user
        net.train()
        net(batch[:6], batch.row_of).square().sum().backward()
        slope = net.table.taken[0][2].grad
        assert bool(slope is not None and slope.any()) == taught


def test_dcn_6_columns_that_nobody_reads_leave_the_net_without_crosses(toy: Toy) -> None:
    plain, crossed = net_for(toy), net_for(toy, crosses=("dcn_v2",))
    width, batch = plain.experts.item_first.weight.shape[1], tensors(some(toy))
    assert crossed.crosses is not None
    assert crossed.experts.item_first.weight.shape[1] == width + crossed.crosses.width
    both = crossed.state_dict()
    with torch.no_grad():
        for name, value in plain.state_dict().items():
            if both[name].shape == value.shape:
                both[name].copy_(value)
            else:
                both[name][:, :width] = value
                both[name][:, width:] = 0
        want = plain(batch[:6], batch.row_of)
        torch.testing.assert_close(crossed(batch[:6], batch.row_of), want, rtol=1e-5, atol=1e-5)
        for name, value in both.items():
            if name in ("experts.item_first.weight", "wide.1.weight"):
                value[:, width:] = 0.1
        assert not torch.allclose(crossed(batch[:6], batch.row_of), want)


def test_crosses_beside_the_layers_add_a_straight_line_and_nothing_else(toy: Toy) -> None:
    plain, beside = net_for(toy), net_for(toy, crosses=("dcn_v2",), cross_place="beside")
    batch = tensors(some(toy))
    with torch.no_grad():
        states = plain.state_dict(), beside.state_dict()
        for name, value in states[0].items():
            states[1][name].copy_(value)
        user, item, _ = plain.sides(batch[:6], batch.row_of)
        mine, own, _, crossed = beside._sides(batch[:6], batch.row_of, None)
        torch.testing.assert_close((mine, own), (user, item), rtol=0, atol=0)
        assert crossed is not None
        assert beside.crosses is not None
        assert crossed.shape == (len(own), beside.crosses.width)
        line = crossed.double() @ states[1]["cross_line.weight"].double().t()
        got, want = beside(batch[:6], batch.row_of), plain(batch[:6], batch.row_of).double() + line.t()
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
        assert line.abs().max() > 1e-3


def test_a_cross_reads_the_pooled_history_too(toy: Toy) -> None:
    """As many fields as the layout has, and one for each part of an entry, on the side where the pooling is."""
    layout = toy.inputs.layout
    for attention, side in (("mean", "user"), ("din", "item")):
        fields = net_for(toy, crosses=("fm",), attention=attention).crosses.blocks[0].fields
        extra = {"user": 0, "item": 0, side: layout.history_codes}
        assert fields.user == len(layout.user_fields) + extra["user"]
        assert fields.item == len(layout.item_fields) + extra["item"]
        assert fields.item_numbers == len(layout.item_dense) + len(layout.item_dynamic)
