"""Personal gates: the spec's numbers and promises."""

import math

import pytest
import torch
from torch import Tensor, nn

from tamis.nets.experts import Experts
from tamis.nets.heads import Towers
from tamis.nets.personal import PersonalGates, gated
from tamis.nets.spread import Rows

LAYERS = ((3, 8), (3, 4))


def gates_for(layers: tuple[tuple[int, int], ...] = LAYERS, apart: bool = False, trained: bool = True) -> PersonalGates:
    random = torch.Generator().manual_seed(1)
    gates = PersonalGates(6, layers, 5, apart, random)
    with torch.no_grad():
        for layer in gates.last if trained else ():
            for weight in layer.parameters():
                weight.copy_(torch.randn(weight.shape, generator=random))
    return gates


def experts(hidden: tuple[int, ...] = (8, 4), count: int = 3) -> Experts:
    return Experts((6, 10), 2, count, hidden, torch.Generator().manual_seed(2)).eval()


def sides(requests: int = 3, each: int = 4) -> tuple[Tensor, Tensor, Rows]:
    random = torch.Generator().manual_seed(3)
    rows = Rows.of(torch.repeat_interleave(torch.arange(requests), each), requests)
    return torch.randn(requests, 6, generator=random), torch.randn(requests * each, 10, generator=random), rows


def test_lhuc_1_the_worked_example() -> None:
    gates = gates_for(((1, 3),), trained=False)
    with torch.no_grad():
        gates.last[0].bias.copy_(torch.tensor([0.0, math.log(3), -math.log(3)]))
    (gate,) = gates(torch.zeros(1, 6))
    assert gate.flatten().tolist() == pytest.approx([1.0, 1.5, 0.5])
    h = torch.tensor([[[1.0, -2.0, 0.5]]])
    want = pytest.approx([1.0, -3.0, 0.25])
    assert gated(h, gate, None).flatten().tolist() == want
    assert gated(h, gate, Rows.of(torch.tensor([0]), 1)).flatten().tolist() == want


@pytest.mark.parametrize("hidden", [(8,), (8, 4), (8, 6, 4)])
@pytest.mark.parametrize("count", [1, 3])
def test_lhuc_2_new_gates_are_1_and_change_nothing(hidden: tuple[int, ...], count: int) -> None:
    net, (user, item, rows) = experts(hidden, count), sides()
    gates = gates_for(net.layers, trained=False)
    assert torch.equal(net(user, item, rows, gates(user)), net(user, item, rows))
    towers = Towers(2, hidden[-1], (5,), torch.Generator().manual_seed(4))
    of_towers = gates_for(((2, hidden[-1]), (2, 5)), trained=False)
    x = net(user, item, rows)
    assert torch.equal(towers(x, of_towers(user), rows), towers(x))


def test_lhuc_3_gates_are_inside_0_and_2_and_can_amplify() -> None:
    for gate in gates_for()(torch.randn(50, 6, generator=torch.Generator().manual_seed(5))):
        assert ((gate > 0) & (gate < 2)).all()
        assert (gate > 1).any()
        assert (gate < 1).any()


def test_lhuc_4_every_layer_has_a_gate_net_of_its_own_that_reads_the_user() -> None:
    gates = gates_for()
    user = torch.randn(1, 6, generator=torch.Generator().manual_seed(6), requires_grad=True)
    first, second = gates(user)
    for gate in (first, second):
        assert torch.autograd.grad(gate.sum(), user, retain_graph=True)[0].any()
    leaves = [gates.last[0].weight, gates.last[1].weight, gates.first.weight]
    of_first, of_second, of_hidden = torch.autograd.grad(second.sum(), leaves, allow_unused=True)
    assert of_first is None
    assert of_second.any()
    assert not of_hidden[:5].any()  # the hidden layer of the first gate net
    assert of_hidden[5:].any()


def test_lhuc_5_one_gate_per_layer_and_request_however_many_candidates() -> None:
    net, gates, (user, item, rows) = experts(), gates_for(), sides()
    made = gates(user)
    assert [gate.shape for gate in made] == [(3, 3, 8), (3, 3, 4)]
    whole = net(user, item, rows, made)
    assert torch.equal(whole, net(user, item, rows, gates(user)))
    again = torch.cat([torch.arange(4).repeat(r + 2) + 4 * r for r in range(3)])  # more candidates, the same users
    many = Rows.of(torch.repeat_interleave(torch.arange(3), torch.tensor([8, 12, 16])), 3)
    torch.testing.assert_close(net(user, item[again], many, made), whole[:, again], rtol=1e-5, atol=1e-6)
    for r in range(3):
        own = [gate[r : r + 1] for gate in made]
        mine = rows.row_of == r
        torch.testing.assert_close(net(user[r : r + 1], item[mine], None, own), whole[:, mine], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("hidden", [(8,), (8, 4), (8, 6, 4)])
def test_gated_experts_are_plain_layers_times_their_gates(count: int, hidden: tuple[int, ...]) -> None:
    net, (user, item, rows) = experts(hidden, count), sides()
    made = [gate.detach().requires_grad_() for gate in gates_for(net.layers)(user)]
    whole = torch.cat([user[rows.row_of], item], 1)
    first = whole @ torch.cat([net.user_first.weight, net.item_first.weight], 1).t() + net.user_first.bias
    out = torch.relu(first.view(-1, count, hidden[0]).transpose(0, 1)) * made[0][rows.row_of].transpose(0, 1)
    for gate, weight, bias in zip(made[1:], net.deeper, net.biases, strict=True):
        out = torch.relu(torch.bmm(out, weight) + bias) * gate[rows.row_of].transpose(0, 1)
    got = net.outputs(user, item, rows, made)
    torch.testing.assert_close(got, out, rtol=1e-4, atol=1e-5)
    leaves = [*made, net.item_first.weight, net.user_first.weight]
    wanted = torch.autograd.grad(out.square().sum(), leaves)
    for own, other in zip(torch.autograd.grad(got.square().sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_gated_towers_are_plain_layers_that_read_what_their_gates_let_through() -> None:
    user, _, rows = sides()
    towers = Towers(2, 4, (5,), torch.Generator().manual_seed(4))
    x = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(7))
    first, second = (gate[rows.row_of].transpose(0, 1) for gate in gates_for(((2, 4), (2, 5)))(user))
    hidden = torch.relu(torch.bmm(x * first, towers.weights[0]) + towers.biases[0])
    want = (torch.bmm(hidden * second, towers.weights[1]) + towers.biases[1]).squeeze(2)
    got = towers(x, gates_for(((2, 4), (2, 5)))(user), rows)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_gates_apart_send_nothing_back_to_what_they_read() -> None:
    for apart in (False, True):
        user = torch.randn(2, 6, generator=torch.Generator().manual_seed(8), requires_grad=True)
        gates = gates_for(apart=apart)
        sum(gate.sum() for gate in gates(user)).backward()
        assert (user.grad is None) == apart
        assert all(weight.grad is not None and weight.grad.any() for weight in gates.parameters())


def test_the_gates_learn_from_their_start() -> None:
    """Last layers that begin at 0 still get a slope, and after one step so do the first ones."""
    user, _, rows = sides()
    gates = gates_for(((1, 4),), trained=False)
    x = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(9))
    for step in range(2):
        gates.zero_grad()
        gated(x, gates(user)[0], rows).square().sum().backward()
        assert gates.last[0].weight.grad.any()
        assert gates.first.weight.grad.any() == (step == 1)
        with torch.no_grad():
            for weight in gates.parameters():
                weight -= 0.1 * weight.grad
    assert isinstance(gates.last[0], nn.Linear)
