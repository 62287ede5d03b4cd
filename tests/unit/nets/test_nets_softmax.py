import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.nets import softmax
from tamis.nets.softmax import Draw, cross_entropy, ranks


def random_case(seed: int, rows: int, items: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(items, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    return hidden, vectors, torch.randint(items, (rows,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), rows=st.integers(1, 200), items=st.integers(1, 40))
def test_over_the_whole_catalogue_it_is_the_cross_entropy_with_its_gradient(seed: int, rows: int, items: int) -> None:
    hidden, vectors, target = random_case(seed, rows, items)
    loss = cross_entropy(hidden, vectors, target, torch.zeros(items, dtype=torch.float64))
    ours = torch.autograd.grad(loss, (hidden, vectors))
    plain = torch.nn.functional.cross_entropy(hidden @ vectors.T, target)
    theirs = torch.autograd.grad(plain, (hidden, vectors))
    assert torch.allclose(loss, plain)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other)


def test_blocks_of_rows_do_not_change_the_loss(monkeypatch) -> None:
    hidden, vectors, target = random_case(1, 100, 7)
    bias = torch.linspace(0, 3, 7, dtype=torch.float64)
    whole = cross_entropy(hidden, vectors, target, bias)
    monkeypatch.setattr(softmax, "_LOGITS_AT_ONCE", 1)
    assert torch.allclose(whole, cross_entropy(hidden, vectors, target, bias))


def test_the_correction_counts_for_all_but_the_positive() -> None:
    hidden, vectors, target = random_case(2, 20, 6)
    bias = torch.linspace(0, 2, 6, dtype=torch.float64)
    logits = hidden @ vectors.T + bias
    logits[torch.arange(20), target] -= bias[target]
    assert torch.allclose(
        cross_entropy(hidden, vectors, target, bias), torch.nn.functional.cross_entropy(logits, target)
    )
    assert torch.autograd.gradcheck(lambda h, v: cross_entropy(h, v, target, bias), (hidden, vectors))


def test_a_small_catalogue_is_drawn_whole_and_without_correction() -> None:
    items, column, bias = Draw(np.array([0, 1, 1]), 5, 5, seed=1).of(np.array([3, 1]))
    assert items.tolist() == [0, 1, 2, 3, 4]
    assert column.tolist() == [3, 1]
    assert not bias.any()


def test_a_draw_holds_the_positives_and_estimates_the_sum_over_all_items_without_bias() -> None:
    random = np.random.default_rng(0)
    share = np.array([0.5, 0.3, 0.1, 0.06, 0.04, 0.0, 0.0, 0.0])
    value = np.array([1.0, 5.0, 2.0, 0.5, 3.0, 4.0, 0.1, 2.0])
    seen = random.choice(8, 100_000, p=share)
    draw = Draw(seen, 8, 3, seed=1)
    estimates = []
    for start in range(0, 40_000, 4):
        items, column, bias = draw.of(seen[start : start + 4])
        assert np.array_equal(items[column], seen[start : start + 4])
        assert (np.diff(items) > 0).all()
        estimates.append((value[items] * np.exp(bias)).sum())
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - value.sum()) < 4 * error


def test_the_same_seed_draws_the_same() -> None:
    one, other = (Draw(np.arange(50), 50, 5, seed=3) for _ in range(2))
    for _ in range(3):
        np.testing.assert_array_equal(one.of(np.array([7]))[0], other.of(np.array([7]))[0])


def test_ranks_count_what_scores_above_and_leave_out_what_is_known() -> None:
    vectors = torch.eye(4)
    users = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    wanted, nothing = np.array([2, 2]), np.empty(0, np.int64)
    assert ranks(users, vectors, wanted, (nothing, nothing)).tolist() == [2, 1]
    assert ranks(users, vectors, wanted, (np.array([0, 1]), np.array([1, 3]))).tolist() == [1, 0]
