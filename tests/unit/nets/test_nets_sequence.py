"""Attention over the last actions: the course's numbers, and the compiled form against a plain one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tamis.nets.sequence import DinAttention, DotAttention, dot_attention, dot_weights, mean_pool
from tamis.nets.spread import Rows, spread

PAST = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)
LIKE = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def close(got: Tensor, want: list[float], tolerance: float = 1e-5) -> None:
    assert got.flatten().tolist() == pytest.approx(want, abs=tolerance)


def test_the_numbers_of_the_course() -> None:
    scores = LIKE @ PAST.t()
    close(scores, [1.0, 0.0, 0.6])
    close(dot_weights(scores, ALL), [0.49063, 0.18049, 0.32888])
    close(dot_attention(LIKE, PAST[None], PAST[None], ALL), [0.68796, 0.44360])
    close(dot_weights(scores / 2**0.5, ALL), [0.44510, 0.21946, 0.33544])
    close(dot_attention(LIKE, PAST[None], PAST[None], ALL, 2**-0.5), [0.64636, 0.48782])
    close(mean_pool(PAST, ALL[0]), [0.53333, 0.6])


def test_weights_sum_to_1_over_what_is_there_and_are_exactly_0_elsewhere() -> None:
    scores = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)) * 10
    there = torch.rand(50, 7, generator=torch.Generator().manual_seed(2)) < 0.5
    there[0] = False
    weights = dot_weights(scores, there)
    assert (weights >= 0).all()
    assert not weights[~there].any()
    sums = weights.sum(1)
    assert sums[there.any(1)].tolist() == pytest.approx([1.0] * int(there.any(1).sum()), abs=1e-6)
    assert sums[0] == 0


def test_equal_entries_give_that_entry_whatever_the_query() -> None:
    entry = torch.tensor([2.0, -3.0], dtype=torch.float64)
    past = entry.expand(1, 5, 2)
    out = dot_attention(torch.randn(4, 2, dtype=torch.float64), past, past, torch.ones(1, 5, dtype=torch.bool))
    for row in out:
        close(row, [2.0, -3.0])


def test_a_candidate_of_one_interest_pulls_the_average_into_it() -> None:
    past = torch.tensor([[-2.0, 1.5]] * 6 + [[2.0, 1.5]] * 4 + [[-2.5, -1.0]] * 7, dtype=torch.float64)
    there = torch.ones(1, 17, dtype=torch.bool)
    food = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    close(mean_pool(past, there[0]), [-1.26471, 0.47059])
    weights = dot_weights(food @ past.t(), there)
    assert float(weights[0, 6:10].sum()) == pytest.approx(0.99948, abs=1e-5)
    pulled = dot_attention(food, past[None], past[None], there)
    close(pulled, [1.99791, 1.49996])
    assert float((pulled - past[6]).norm()) < 0.01
    assert float((mean_pool(past, there[0]) - past[6]).norm()) > 3


@pytest.mark.parametrize("kind", [DinAttention, DotAttention])
def test_order_does_not_matter_padding_does_not_matter_and_no_history_gives_zeros(kind: type) -> None:
    random = torch.Generator().manual_seed(3)
    net = kind(8, 12, 8, random)
    entries, query = torch.randn(1, 5, 12, generator=random), torch.randn(3, 8, generator=random)
    there, rows = torch.ones(1, 5, dtype=torch.bool), Rows.of(torch.zeros(3, dtype=torch.int64), 1)
    want = net(query, entries, there, rows)
    shuffled = net(query, entries[:, [3, 1, 4, 0, 2]], there, rows)
    torch.testing.assert_close(shuffled, want)
    padded = torch.cat([entries, torch.randn(1, 9, 12, generator=random)], 1)
    torch.testing.assert_close(net(query, padded, torch.arange(14)[None] < 5, rows), want)
    assert not net(query, entries, torch.zeros(1, 5, dtype=torch.bool), rows).any()
    assert (want[0] - want[1]).abs().max() > 1e-3  # two candidates see two histories
    torch.testing.assert_close(net(query, entries, there, None), want)


def test_one_entry_is_the_answer_of_dot_attention() -> None:
    random = torch.Generator().manual_seed(4)
    net, entry = DotAttention(4, 8, 8, random), torch.randn(1, 1, 8, generator=random)
    rows = Rows.of(torch.zeros(2, dtype=torch.int64), 1)
    out = net(torch.randn(2, 4, generator=random), entry, torch.ones(1, 1, dtype=torch.bool), rows)
    torch.testing.assert_close(out, entry[0].expand(2, 8))


def plain_din(net: DinAttention, query: Tensor, entries: Tensor, there: Tensor, row_of: Tensor) -> Tensor:
    """The activation unit as the paper writes it: one layer over [q, k, q − k, q∘k] for every pair.

    From the three learnt factors, W₁ = query − 1, W₃ = 1, W₂ = key + 1, so that W₁ + W₃ and W₂ − W₃ are those factors.
    """
    depth = query.shape[1]
    third = torch.ones_like(net.product)
    first, second = net.query.weight - third, net.key.weight[:, :depth] + third
    whole = torch.cat([first, second, third, net.product, net.key.weight[:, depth:]], 1)
    out = []
    for n, request in enumerate(row_of.tolist()):
        total = 0.0 * query[n].sum() * entries[request, 0]  # zeros that ask for a gradient
        for entry in entries[request][there[request]]:
            q, k = query[n], entry[:depth]
            hidden = torch.relu(whole @ torch.cat([q, k, q - k, q * k, entry[depth:]]) + net.query.bias)
            total = total + (net.output[:-1] @ hidden + net.output[-1]) * entry
        out.append(total)
    return torch.stack(out) if out else torch.zeros(0, entries.shape[2], dtype=query.dtype)


@given(st.integers(0, 2**31), st.lists(st.integers(0, 19), min_size=1, max_size=5), st.integers(1, 11))
@settings(max_examples=15, deadline=None)
def test_factored_din_is_the_papers_din_in_value_and_gradient(seed: int, counts: list[int], length: int) -> None:
    random = torch.Generator().manual_seed(seed)
    net = DinAttention(8, 12, 8, random).double()
    row_of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    query = torch.randn(len(row_of), 8, generator=random, dtype=torch.float64).requires_grad_()
    entries = torch.randn(len(counts), length, 12, generator=random, dtype=torch.float64).requires_grad_()
    there = torch.rand(len(counts), length, generator=random) < 0.7
    slope = torch.randn(len(row_of), 12, generator=random, dtype=torch.float64)
    leaves = [query, entries, *net.parameters()]
    got = net(query, entries, there, Rows.of(row_of, len(counts)))
    slopes = torch.autograd.grad(got, leaves, slope)
    want = plain_din(net, query, entries, there, row_of)
    torch.testing.assert_close(got, want)
    if len(row_of):
        wanted = torch.autograd.grad(want, leaves, slope, allow_unused=True)
        for own, other in zip(slopes, wanted, strict=True):
            torch.testing.assert_close(own, torch.zeros_like(own) if other is None else other)


@given(st.integers(0, 2**31), st.lists(st.integers(0, 5), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_spreading_is_indexing_and_its_gradient_a_sum(seed: int, counts: list[int]) -> None:
    random = torch.Generator().manual_seed(seed)
    row_of = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    side = torch.randn(len(counts), 3, generator=random).requires_grad_()
    out = spread(side, Rows.of(row_of, len(counts)))
    torch.testing.assert_close(out, side[row_of])
    slope = torch.randn(out.shape, generator=random)
    (own,) = torch.autograd.grad(out, side, slope)
    (want,) = torch.autograd.grad(side[row_of], side, slope)
    torch.testing.assert_close(own, want)


@pytest.mark.parametrize("row_of", [[1, 0], [0, 2], [-1, 0]])
def test_rows_that_do_not_ascend_inside_the_requests_are_refused(row_of: list[int]) -> None:
    with pytest.raises(ValueError, match="row_of"):
        Rows.of(torch.tensor(row_of), 2)


def test_blocks_of_work_do_not_change_a_bit() -> None:
    random = torch.Generator().manual_seed(5)
    row_of = torch.repeat_interleave(torch.arange(40), 3)
    query, entries = torch.randn(120, 8, generator=random), torch.randn(40, 6, 12, generator=random)
    net, there, results = DinAttention(8, 12, 8, random), torch.ones(40, 6, dtype=torch.bool), []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            net.zero_grad()
            net(query, entries, there, Rows.of(row_of, 40)).square().sum().backward()
        finally:
            torch.set_num_threads(before)
        results.append(np.concatenate([w.grad.numpy().ravel() for w in (net.product, net.output)]).tobytes())
    assert results[0] == results[1]
