"""Mixture of experts: the course's numbers and promises."""

import pytest
import torch
from torch import Tensor

from tamis.nets.experts import Experts, GateUse, _Mix, dropped, mix
from tamis.nets.spread import Rows

EXPERTS = torch.tensor([[[1.0, 0, 2], [0, 1, -1], [3, 3, 0]]])  # [n = 1, e = 3, h = 3]


def drop_gates(gates: Tensor, keep: Tensor) -> Tensor:
    """Gates [n, t, e] without the experts that are not kept, the rest rescaled to sum 1.

    keep: [n, t, e] bool. Where no expert is kept the gates stay as they are.
    """
    kept = gates * keep
    total = kept.sum(-1, keepdim=True)
    alive = total > 0
    return torch.where(alive, kept / torch.where(alive, total, 1.0), gates)


def experts(count: int, tasks: int = 2, seed: int = 1) -> Experts:
    return Experts((6, 10), tasks, count, (8, 4), torch.Generator().manual_seed(seed))


def sides(requests: int = 3, each: int = 4) -> tuple[Tensor, Tensor, Rows]:
    random = torch.Generator().manual_seed(2)
    rows = Rows.of(torch.repeat_interleave(torch.arange(requests), each), requests)
    return torch.randn(requests, 6, generator=random), torch.randn(requests * each, 10, generator=random), rows


def test_a_task_reads_the_weighted_sum_of_the_experts() -> None:
    out = mix(torch.tensor([[[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]]]), EXPERTS)
    assert out[0, 0].tolist() == pytest.approx([1.7, 1.8, 0.1])
    assert out[1, 0].tolist() == pytest.approx([0.6, 0.4, 0.8])


def test_polarized_gates_give_their_expert_exactly_and_the_dead_one_no_gradient() -> None:
    own = EXPERTS.clone().requires_grad_()
    out = mix(torch.tensor([[[0.0, 0, 1], [0, 1, 0]]]), own)
    assert out[0, 0].tolist() == [3.0, 3.0, 0.0]
    assert out[1, 0].tolist() == [0.0, 1.0, -1.0]
    out.sum().backward()
    assert own.grad is not None
    assert not own.grad[0, 0].any()
    assert own.grad[0, 1].all()


def test_gates_are_weights_one_set_per_task() -> None:
    net, (user, item, rows) = experts(3), sides()
    gates = net.gates(user, item, rows)
    assert gates.shape == (12, 2, 3)
    assert (gates >= 0).all()
    assert gates.sum(-1).flatten().tolist() == pytest.approx([1.0] * 24, abs=1e-6)


def test_experts_and_gates_share_no_weight() -> None:
    net, (user, item, rows) = experts(3), sides()
    net.outputs(user, item, rows)[1].sum().backward()
    first = net.item_first.weight.grad.view(3, 8, 10)
    assert first[1].any()
    assert not first[0].any()
    assert not first[2].any()
    assert [bool(slope.any()) for slope in net.deeper[0].grad] == [False, True, False]
    assert net.item_gate.weight.grad is None
    net.gates(user, item, rows)[:, 1, 0].sum().backward()
    gate = net.item_gate.weight.grad.view(2, 3, 10)
    assert gate[1].any()
    assert not gate[0].any()


def test_each_gate_weight_is_dropped_alone_and_the_rest_rescaled() -> None:
    gates = torch.tensor([[[0.2, 0.3, 0.5]]])
    assert drop_gates(gates, torch.tensor([[[True, True, False]]]))[0, 0].tolist() == pytest.approx([0.4, 0.6, 0.0])
    assert drop_gates(gates, torch.zeros(1, 1, 3, dtype=torch.bool)).tolist() == gates.tolist()
    net = experts(3, tasks=1)
    net.hidden, count = (3,), 100_000
    net._before_relu = lambda user, item, *_: torch.eye(3).unsqueeze(1).repeat(1, len(item), 1)  # type: ignore[method-assign]
    net.train()
    weights = net(torch.zeros(1, 6), torch.zeros(count, 10), Rows.of(torch.zeros(count, dtype=torch.int64), 1))[0]
    dropped = weights == 0
    assert dropped.float().mean(0).tolist() == pytest.approx([0.1] * 3, abs=0.005)
    assert float((~dropped).all(1).float().mean()) == pytest.approx(0.729 + 0.001, abs=0.005)  # none masked, or all
    assert weights.sum(1).tolist() == pytest.approx([1.0] * count, abs=1e-5)


def test_the_fused_mixture_is_the_plain_one_in_value_and_gradient() -> None:
    random = torch.Generator().manual_seed(7)
    raw = torch.randn(9, 2, 3, generator=random, dtype=torch.float64).requires_grad_()
    before = torch.randn(3, 9, 4, generator=random, dtype=torch.float64).requires_grad_()
    slope = torch.randn(2, 9, 4, generator=random, dtype=torch.float64)
    for keep in (torch.rand(9, 2, 3, generator=random) < 0.5, torch.empty(0, 2, 3, dtype=torch.bool)):
        gates = torch.softmax(raw, -1)
        want = mix(drop_gates(gates, keep) if len(keep) else gates, before.relu().transpose(0, 1))
        got = _Mix.apply(raw, before, keep)
        torch.testing.assert_close(got, want)
        for own, other in zip(
            torch.autograd.grad(got, (raw, before), slope), torch.autograd.grad(want, (raw, before), slope), strict=True
        ):
            torch.testing.assert_close(own, other)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("hidden", [(8,), (8, 4), (8, 4, 4)])
def test_the_fused_layers_have_the_gradients_of_plain_ones(count: int, hidden: tuple[int, ...]) -> None:
    net = Experts((6, 10), 2, count, hidden, torch.Generator().manual_seed(8)).double()
    user, item, rows = sides()
    user, item = user.double().requires_grad_(), item.double().requires_grad_()
    whole = torch.cat([user[rows.row_of], item], 1)
    first = whole @ torch.cat([net.user_first.weight, net.item_first.weight], 1).t() + net.user_first.bias
    raw = whole @ torch.cat([net.user_gate.weight, net.item_gate.weight], 1).t() + net.user_gate.bias
    out = torch.relu(first.view(12, count, hidden[0])).transpose(0, 1)
    for weight, bias in zip(net.deeper, net.biases, strict=True):
        out = torch.relu(torch.bmm(out, weight) + bias)
    want = mix(torch.softmax(raw.view(12, 2, count), -1), out.transpose(0, 1))
    net.eval()
    got = net(user, item, rows)
    torch.testing.assert_close(got, want)
    leaves = [user, item, *net.parameters()]
    slopes = torch.autograd.grad(got.square().sum(), leaves, allow_unused=True)
    wanted = torch.autograd.grad(want.square().sum(), leaves, allow_unused=True)
    for own, other in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(
            torch.zeros(()).double() if own is None else own.sum(),
            torch.zeros(()).double() if other is None else other.sum(),
        )
        if own is not None and other is not None:
            torch.testing.assert_close(own, other)
    torch.testing.assert_close(net(user[:1], item[:4], None), got[:, :4])


def test_evaluation_masks_nothing_and_repeats_itself() -> None:
    net, (user, item, rows) = experts(3), sides()
    net.eval()
    assert torch.equal(net(user, item, rows), net(user, item, rows))
    net.train()
    assert not torch.equal(net(user, item, rows), net(user, item, rows))


def test_one_expert_is_a_shared_bottom_bit_for_bit() -> None:
    net, (user, item, rows) = experts(1, tasks=3), sides()
    net.train()
    out = net(user, item, rows)
    bottom = net.outputs(user, item, rows)[0]
    for task in range(3):
        assert torch.equal(out[task], bottom)
    gate_of_one = mix(torch.ones(12, 3, 1), bottom[:, None])
    assert torch.equal(gate_of_one[0], bottom)


def test_the_split_first_layer_is_one_layer_over_both_sides() -> None:
    net, (user, item, rows) = experts(3), sides()
    whole = torch.cat([user[rows.row_of], item], 1)
    weight = torch.cat([net.user_first.weight, net.item_first.weight], 1)
    hidden = torch.relu(whole @ weight.t() + net.user_first.bias).view(-1, 3, 8)
    want = [torch.relu(hidden[:, e] @ net.deeper[0][e] + net.biases[0][e]) for e in range(3)]
    torch.testing.assert_close(net.outputs(user, item, rows), torch.stack(want))


def test_the_monitor_flags_polarized_gates_and_dead_experts() -> None:
    use = GateUse.of(torch.tensor([[[0.0, 0, 1], [0, 1, 0]]]).expand(10, 2, 3))
    assert use.largest == (1.0, 1.0)
    assert use.polarized == (0, 1)
    assert use.dead == (0,)
    healthy = GateUse.of(torch.full((10, 2, 3), 1 / 3))
    assert healthy.polarized == ()
    assert healthy.dead == ()


@pytest.mark.parametrize("hidden", [(8,), (8, 4), (8, 6, 4)])
def test_dropout_leaves_out_its_share_of_hidden_units_in_training_alone(hidden: tuple[int, ...]) -> None:
    net = Experts((6, 10), 1, 2, hidden, torch.Generator().manual_seed(1))
    net.gate_dropout, (user, item, rows) = 0.0, sides(20, 20)
    plain = net.outputs(user, item, rows)
    net.dropout = 0.5
    left_out = net.outputs(user, item, rows)
    there = plain > 0
    assert 0.4 < float((left_out[there] == 0).float().mean()) < (0.6 if len(hidden) == 1 else 0.9)
    assert not torch.equal(left_out, net.outputs(user, item, rows))
    if len(hidden) == 1:
        kept = there & (left_out > 0)
        torch.testing.assert_close(left_out[kept], 2.0 * plain[kept])
    torch.testing.assert_close(net.eval().outputs(user, item, rows), plain)


def test_dropped_numbers_keep_their_mean_and_carry_no_gradient() -> None:
    x = torch.ones(200, 500, requires_grad=True)
    out = dropped(x, 0.25, torch.Generator().manual_seed(1))
    assert float(out.detach().mean()) == pytest.approx(1.0, abs=0.01)
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, out == 0)
    assert dropped(x, 0.0, torch.Generator()) is x
