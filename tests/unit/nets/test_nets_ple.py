"""Progressive layered extraction against plain loops over levels, groups and experts."""

import pytest
import torch
from torch import Tensor

from tamis.nets.experts import drawn
from tamis.nets.ple import Ple
from tamis.nets.spread import Rows

TASKS, SHARED, OWN = 2, 2, 1
OWNER = (0, 1, 2, 2)  # group of each expert; group 2 is the shared one


def ple(levels: int, hidden: tuple[int, ...] = (8, 4)) -> Ple:
    return Ple((6, 10), TASKS, (SHARED, OWN), hidden, levels, torch.Generator().manual_seed(1)).eval()


def sides(requests: int = 3, each: int = 4) -> tuple[Tensor, Tensor, Rows]:
    random = torch.Generator().manual_seed(2)
    rows = Rows.of(torch.repeat_interleave(torch.arange(requests), each), requests)
    return torch.randn(requests, 6, generator=random), torch.randn(requests * each, 10, generator=random), rows


def reference(net: Ple, user: Tensor, item: Tensor, rows: Rows) -> list[Tensor]:
    """What each head is given, one group and one expert at a time."""
    first, hidden = net.first, net.first.hidden
    whole = torch.cat([user[rows.row_of], item], 1)
    layer = torch.cat([first.user_first.weight, first.item_first.weight], 1)
    gate = torch.cat([first.user_gate.weight, first.item_gate.weight], 1)
    begun = (whole @ layer.t() + first.user_first.bias).split(hidden[0], 1)
    outputs = []
    for e in range(4):
        out = torch.relu(begun[e])
        for weight, bias in zip(first.deeper, first.biases, strict=True):
            out = torch.relu(out @ weight[e] + bias[e])
        outputs.append(out)
    raw = (whole @ gate.t() + first.user_gate.bias).split(4, 1)
    groups = [mixed(raw[g], outputs, g) for g in range(len(raw))]
    for level in net.deeper:
        outputs = []
        for e, owner in enumerate(OWNER):
            out = groups[owner]
            for weight, bias in zip(level.weights, level.biases, strict=True):
                out = torch.relu(out @ weight[e] + bias[e])
            outputs.append(out)
        raw = [groups[g] @ level.gate[g] + level.gate_bias[g] for g in range(len(level.gate))]
        groups = [mixed(raw[g], outputs, g) for g in range(len(raw))]
    return groups


def mixed(raw: Tensor, outputs: list[Tensor], group: int) -> Tensor:
    seen = [e for e, owner in enumerate(OWNER) if group == TASKS or owner in (group, TASKS)]
    gates = torch.softmax(raw[:, seen], 1)
    return sum(gates[:, at : at + 1] * outputs[e] for at, e in enumerate(seen))


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("hidden", [(8,), (8, 4), (8, 6, 4)])
def test_values_and_gradients_are_those_of_the_plain_loops(levels: int, hidden: tuple[int, ...]) -> None:
    net, (user, item, rows) = ple(levels, hidden).double(), sides()
    user, item = user.double().requires_grad_(), item.double().requires_grad_()
    want = torch.stack(reference(net, user, item, rows))
    got = net(user, item, rows)
    assert got.shape == (TASKS, 12, hidden[-1])
    torch.testing.assert_close(got, want)
    leaves = [user, item, *net.parameters()]
    wanted = torch.autograd.grad(want.square().sum(), leaves)
    for own, other in zip(torch.autograd.grad(got.square().sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(own, other)
    torch.testing.assert_close(net(user[:1], item[:4], None), got[:, :4])


@pytest.mark.parametrize("levels", [1, 2])
def test_a_head_weighs_the_shared_experts_and_its_own_only(levels: int) -> None:
    net, (user, item, rows) = ple(levels), sides()
    gates = net.gates(user, item, rows)
    assert gates.shape == (12, TASKS, 4)
    assert (gates >= 0).all()
    torch.testing.assert_close(gates.sum(2), torch.ones(12, TASKS))
    assert not gates[:, 0, 1].any()
    assert not gates[:, 1, 0].any()
    assert gates[:, :, 2:].all()


def test_in_one_level_the_experts_of_another_head_change_nothing() -> None:
    net, (user, item, rows) = ple(1), sides()
    before = net(user, item, rows)
    with torch.no_grad():
        net.first.deeper[0][1] += 1.0  # the expert of head 1
    after = net(user, item, rows)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_dropped_gates_never_let_another_heads_expert_in() -> None:
    raw, reach = torch.zeros(20_000, 2, 3), torch.tensor([[True, False, True], [False, True, True]])
    keep = drawn(raw, 0.4, reach, torch.Generator().manual_seed(3))
    assert not (keep & ~reach).any()
    assert keep.any(2).all()
    share = keep.float().mean(0)
    assert share[0, 0].item() == pytest.approx(0.6 + 0.16, abs=0.02)  # kept, or both dropped and so both kept
    assert torch.equal(drawn(raw[:4], 0.0, reach, torch.Generator()), reach.expand(4, 2, 3))
    assert len(drawn(raw, 0.0, None, torch.Generator())) == 0


def test_training_masks_gates_in_every_level_and_evaluation_none() -> None:
    net, (user, item, rows) = ple(2), sides()
    net.drop(0.5, 0.0)
    assert torch.equal(net(user, item, rows), net(user, item, rows))
    net.train()
    assert not torch.equal(net(user, item, rows), net(user, item, rows))
    net.drop(0.0, 0.0)
    assert torch.equal(net(user, item, rows), net(user, item, rows))


def test_personal_gates_reach_the_layers_of_all_levels() -> None:
    net, (user, item, rows) = ple(2), sides()
    assert net.layers == ((4, 8), (4, 4)) * 2
    ones = [torch.ones(3, *layer) for layer in net.layers]
    plain = net(user, item, rows)
    assert torch.equal(net(user, item, rows, ones), plain)
    for at in range(4):
        other = [gate * (0.5 if here == at else 1.0) for here, gate in enumerate(ones)]
        assert not torch.equal(net(user, item, rows, other), plain)
        torch.testing.assert_close(
            net(user[:1], item[:4], None, [gate[:1] for gate in other]), net(user, item, rows, other)[:, :4]
        )


def test_dropout_reaches_every_level_in_training_alone() -> None:
    net, (user, item, rows) = ple(2), sides()
    plain = net(user, item, rows)
    net.drop(gates=0.0, units=0.5)
    torch.testing.assert_close(net(user, item, rows), plain)
    net.train()
    one = net(user, item, rows)
    net.first.dropout = 0.0
    assert not torch.allclose(one, plain)
    assert not torch.allclose(net(user, item, rows), plain)  # the second level's own share
