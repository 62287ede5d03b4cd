"""The fused table and its optimizer against plain torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tamis.nets.embed import Standardize, Table
from tamis.nets.optimizer import Optimizer
from tamis.nets.plans import TrainingPlan

WIDTHS = (1, 3, 1, 2)


class Net(nn.Module):
    """A table and one linear layer on top."""

    def __init__(self, rows: int, seed: int = 1) -> None:
        super().__init__()
        self.table = Table(rows, 4, torch.Generator().manual_seed(seed))
        self.layer = nn.Linear(len(WIDTHS) * 4, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, self.layer.weight.numel()).view_as(self.layer.weight))
        self.double()

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.layer(self.table(codes, WIDTHS)).squeeze(1)


def pooled(weight: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The mean of the present codes of each field, one at a time."""
    rows = []
    for row in codes.tolist():
        fields, start = [], 0
        for width in WIDTHS:
            there = [code for code in row[start : start + width] if code]
            fields.append(torch.stack([weight[code] for code in there]).mean(0) if there else torch.zeros(4).double())
            start += width
        rows.append(torch.cat(fields))
    return torch.stack(rows)


@given(st.integers(0, 2**31), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_a_field_is_the_mean_of_its_present_codes_and_gradients_go_back_to_each(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    codes = torch.from_numpy((random.integers(0, 9, (rows, sum(WIDTHS))) * random.integers(0, 2)).astype(np.int32))
    net = Net(9)
    weight = net.table.weight.detach().clone().requires_grad_()
    want = pooled(weight, codes)
    net.train()
    got = net.table(codes, WIDTHS)
    torch.testing.assert_close(got, want)
    slope = torch.from_numpy(random.normal(size=want.shape))
    if codes.any():
        want.backward(slope)
    got.backward(slope)
    optimizer = Optimizer(net, TrainingPlan())
    state = optimizer._tables[0]
    count = state._sum_gradients()
    dense = torch.zeros_like(weight)
    dense[state._distinct[:count].astype(np.int64)] = torch.from_numpy(state._sums[:count])
    torch.testing.assert_close(dense, torch.zeros_like(dense) if weight.grad is None else weight.grad)


def test_when_a_batch_holds_every_row_the_rows_move_as_adam_moves_them() -> None:
    net, plan = Net(5), TrainingPlan(learning_rate=0.01, embedding_learning_rate=0.01)
    weight = net.table.weight.detach().clone().requires_grad_()
    layer = nn.Linear(4 * len(WIDTHS), 1).double()
    layer.load_state_dict(net.layer.state_dict())
    reference = torch.optim.Adam([weight, *layer.parameters()], lr=0.01)
    optimizer = Optimizer(net, plan)
    codes = torch.tensor([[1, 2, 3, 4, 1, 2, 3], [4, 4, 0, 1, 3, 0, 2]], dtype=torch.int32)
    net.train()
    for _ in range(20):
        optimizer.clear()
        reference.zero_grad()
        net(codes).square().sum().backward()
        layer(pooled(weight, codes)).square().sum().backward()
        optimizer.step()
        reference.step()
        torch.testing.assert_close(net.table.weight[1:], weight.detach()[1:])
        torch.testing.assert_close(net.layer.weight, layer.weight)


def test_rows_that_no_batch_holds_and_the_padding_row_stand_still() -> None:
    net = Net(9)
    before = net.table.weight.detach().clone()
    optimizer = Optimizer(net, TrainingPlan(embedding_learning_rate=0.1, l2=0.1))
    net.train()
    optimizer.clear()
    net(torch.tensor([[1, 0, 0, 0, 2, 0, 3]], dtype=torch.int32)).sum().backward()
    optimizer.step()
    moved = (net.table.weight != before).any(1).tolist()
    assert moved == [False, True, True, True, False, False, False, False, False]
    assert not net.table.weight[0].any()


def test_when_all_embeddings_move_they_move_as_adam_with_a_penalty_on_the_whole_table() -> None:
    net = Net(9)
    net.table.weight.detach()[8] = 0.5  # no batch holds it
    weight = net.table.weight.detach().clone().requires_grad_()
    reference = torch.optim.Adam([weight], lr=0.01, weight_decay=0.1)
    optimizer = Optimizer(net, TrainingPlan(embedding_learning_rate=0.01, l2=0.1, embedding_steps="all"))
    random = np.random.default_rng(3)
    net.train()
    for _ in range(20):
        codes = torch.from_numpy(random.integers(0, 8, (2, sum(WIDTHS))).astype(np.int32))
        optimizer.clear()
        reference.zero_grad()
        layer = net.layer.weight.detach().clone(), net.layer.bias.detach().clone()
        net(codes).square().sum().backward()
        nn.functional.linear(pooled(weight, codes), *layer).square().sum().backward()
        optimizer.step()
        reference.step()
        torch.testing.assert_close(net.table.weight[1:], weight.detach()[1:])
    assert not net.table.weight[0].any()
    assert (net.table.weight[8] < 0.5).all()


def test_weights_of_a_linear_model_have_a_rate_of_their_own_and_are_not_pulled() -> None:
    nets = {line: Net(9) for line in (False, True)}
    for line, net in nets.items():
        net.table.first_order = line
        rates = (0.3, 0.1) if line else (0.1, 0.3)
        plan = TrainingPlan(embedding_learning_rate=rates[1], wide_learning_rate=rates[0], l2=5.0 if line else 0.0)
        optimizer = Optimizer(net, plan)
        net.train()
        optimizer.clear()
        net(torch.tensor([[1, 0, 0, 0, 2, 0, 3]], dtype=torch.int32)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(nets[True].table.weight, nets[False].table.weight, rtol=0, atol=0)


@pytest.mark.parametrize("line", [False, True])
def test_where_all_embeddings_move_the_weights_of_a_linear_model_still_wait_for_a_batch(line: bool) -> None:
    net = Net(9)
    net.table.first_order = line
    optimizer = Optimizer(net, TrainingPlan(embedding_steps="all"))
    net.train()
    rows = []
    for code in (1, 2):
        optimizer.clear()
        net(torch.full((1, sum(WIDTHS)), code, dtype=torch.int32)).sum().backward()
        optimizer.step()
        rows.append(net.table.weight[1].detach().clone())
    assert torch.equal(*rows) is line  # an embedding goes on as its moments say


def test_threads_do_not_change_a_single_bit_of_the_update() -> None:
    codes = torch.from_numpy(np.random.default_rng(2).integers(0, 3000, (500, sum(WIDTHS))).astype(np.int32))
    tables, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            net = Net(3000)
            optimizer = Optimizer(net, TrainingPlan())
            net.train()
            optimizer.clear()
            net(codes).sum().backward()
            optimizer.step()
        finally:
            torch.set_num_threads(before)
        tables.append(net.table.weight.detach().numpy().tobytes())
    assert tables[0] == tables[1]


def test_standardized_numbers_have_mean_0_and_spread_1_and_a_constant_gives_0() -> None:
    values = np.stack([np.arange(100), np.full(100, 7.0)], 1).astype(np.float32)
    scale = Standardize(values)
    out = scale(torch.from_numpy(values))
    assert float(out[:, 0].mean()) == pytest.approx(0, abs=1e-5)
    assert float(out[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert not out[:, 1].any()
    assert float(scale(torch.tensor([[1e9, 7.0]]))[0, 0]) == 8.0
    assert Standardize(np.empty((0, 2), np.float32))(torch.ones(1, 2)).tolist() == [[0.0, 0.0]]
