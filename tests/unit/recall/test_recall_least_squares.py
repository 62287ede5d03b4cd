from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from tamis.recall.least_squares import Entries, alternate, both_sides, drawn, entry_scores, gram, quadratic, solve


def problem(seed: int, rows: int = 40, columns: int = 30, density: float = 0.2) -> tuple[csr_matrix, np.ndarray]:
    """(weights, pulls) of random entries."""
    random = np.random.default_rng(seed)
    weights = csr_matrix(random_array((rows, columns), density=density, rng=random, dtype=np.float64))
    weights.data = (weights.data + 0.2).astype(np.float32)
    weights.sort_indices()
    return weights, random.normal(1, 0.5, weights.nnz).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), everywhere=st.sampled_from([0.0, 0.3]), width=st.sampled_from([1, 3, 8]))
def test_enough_steps_give_the_exact_solution_of_each_row(seed: int, everywhere: float, width: int) -> None:
    weights, pulls = problem(seed)
    entries = Entries.of(weights, pulls)
    x, y = drawn(weights.shape, width, seed)
    y *= 10
    ridge = np.linspace(0.1, 2, len(x)).astype(np.float32)
    solve(entries, y, x, ridge, (everywhere, 4 * width))
    for row in range(len(x)):
        span = slice(weights.indptr[row], weights.indptr[row + 1])
        own = y[weights.indices[span]].astype(np.float64)
        left = everywhere * y.T.astype(np.float64) @ y + own.T @ (weights.data[span, None] * own)
        exact = np.linalg.solve(left + ridge[row] * np.eye(width), own.T @ pulls[span])
        if weights.indptr[row] == weights.indptr[row + 1]:
            exact = np.zeros(width)
        np.testing.assert_allclose(x[row], exact, rtol=2e-3, atol=2e-3)


def test_what_is_made_small_is_the_sum_over_all_pairs_and_its_slope_is_zero_at_the_solution() -> None:
    """T-7.3: the gradient against finite differences, at the solution and away from it."""
    weights, pulls = problem(3, 12, 9)
    sides = both_sides(weights, pulls)
    ridges = (np.full(12, 0.3, np.float32), np.full(9, 0.2, np.float32))

    def value(x: np.ndarray, y: np.ndarray) -> float:
        scores = x.astype(np.float64) @ y.T.astype(np.float64)
        rows, columns = weights.nonzero()
        own = scores[rows, columns]
        total = np.sum(weights.data * own**2 - 2 * pulls * own) + 0.25 * np.sum(scores**2)
        return float(total + 0.3 * np.sum(x.astype(np.float64) ** 2) + 0.2 * np.sum(y.astype(np.float64) ** 2))

    x, y = drawn((12, 9), 4, 1)
    assert quadratic(sides[0], x, y, ridges, 0.25) == pytest.approx(value(x, y), rel=1e-5)
    for settled in (False, True):
        if settled:
            x, y = alternate(sides, ridges, (x, y), (0.25, 400, 8), lambda rounds: None)
        for row, column in ((0, 0), (5, 3), (11, 2)):
            if weights.indptr[row] == weights.indptr[row + 1]:
                continue
            up, down = x.astype(np.float64), x.astype(np.float64)
            up[row, column] += 1e-4
            down[row, column] -= 1e-4
            slope = (value(up, y) - value(down, y)) / 2e-4
            span = slice(weights.indptr[row], weights.indptr[row + 1])
            own = y[weights.indices[span]].astype(np.float64)
            pull = own.T @ (weights.data[span] * (own @ x[row]) - pulls[span]) + 0.25 * gram(y) @ x[row]
            assert slope == pytest.approx(2 * (pull + 0.3 * x[row])[column], abs=1e-3)
            assert not settled or slope == pytest.approx(0, abs=2e-2)


def test_every_round_makes_it_smaller() -> None:
    weights, pulls = problem(5)
    sides = both_sides(weights, pulls)
    ridges = (np.full(40, 0.1, np.float32), np.full(30, 0.1, np.float32))
    start = drawn((40, 30), 6, 2)
    values = []
    for rounds in range(1, 8):
        x, y = alternate(sides, ridges, start, (0.1, rounds, 3), lambda rounds: None)
        values.append(quadratic(sides[0], x, y, ridges, 0.1))
    assert all(after <= before + 1e-4 for before, after in pairwise(values))
    assert values[-1] < values[0]


def test_both_sides_hold_the_same_entries() -> None:
    weights, pulls = problem(6)
    rows, columns = both_sides(weights, pulls)
    x, y = drawn(weights.shape, 5, 1)
    assert sorted(entry_scores(rows, x, y).tolist()) == sorted(entry_scores(columns, y, x).tolist())
    assert sorted(zip(rows.weights, rows.pulls, strict=True)) == sorted(
        zip(columns.weights, columns.pulls, strict=True)
    )


def test_the_bytes_do_not_depend_on_the_number_of_threads() -> None:
    weights, pulls = problem(7, 3000, 1500, 0.01)
    sides = both_sides(weights, pulls)
    ridges = (np.ones(3000, np.float32), np.ones(1500, np.float32))
    answers = []
    before = numba.get_num_threads()
    for threads in (1, before):
        numba.set_num_threads(threads)
        x, y = alternate(sides, ridges, drawn(weights.shape, 20, 1), (0.1, 2, 3), lambda rounds: None)
        answers.append((x.tobytes(), y.tobytes()))
    numba.set_num_threads(before)
    assert answers[0] == answers[1]


def test_nothing_at_all_can_be_solved() -> None:
    sides = both_sides(csr_matrix((0, 0), dtype=np.float32), np.empty(0, np.float32))
    none = np.empty(0, np.float32)
    x, y = alternate(sides, (none, none), drawn((0, 0), 4, 1), (0.1, 2, 3), lambda rounds: None)
    assert x.shape == y.shape == (0, 4)
