"""The two channels that keep the largest weights of a dense table: graph filter and EASE."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array
from toy_world import CLUSTERS, Toy

from tamis.errors import ConfigError
from tamis.recall.ease import EASE, EASEConfig, regressed
from tamis.recall.graph_filter import GraphFilter, GraphFilterConfig, filtered, smoothest
from tamis.recall.item_table import best_of_rows
from tamis.recall.neighbours import Neighbours

KINDS: list[Any] = [(GraphFilter, GraphFilterConfig(limit=40, components=16)), (EASE, EASEConfig(limit=40, ridge=20.0))]
BOTH = pytest.mark.parametrize(("kind", "config"), KINDS, ids=["graph_filter", "ease"])


def drawn(seed: int, users: int = 40, items: int = 25) -> csr_matrix:
    random = np.random.default_rng(seed)
    matrix = csr_matrix(random_array((users, items), density=0.2, rng=random, dtype=np.float64))
    matrix.data = random.integers(1, 4, matrix.nnz).astype(np.float64)
    return matrix


def dense(table: Neighbours, items: int) -> np.ndarray:
    out = np.zeros((items, items))
    for row in range(items):
        there = table.ids[row] >= 0
        assert not there[np.argmin(there) :].any() or there.all()
        out[row, table.ids[row][there]] = table.weights[row][there]
    return out


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 30), levels=st.integers(1, 20))
def test_the_best_of_a_row_are_what_sorting_gives(seed: int, k: int, levels: int) -> None:
    matrix = np.random.default_rng(seed).integers(-levels, levels, (23, 23)).astype(np.float32)
    table = best_of_rows(lambda first, stop: matrix[first:stop].copy(), 23, k, lambda rows: None)
    for row in range(23):
        wanted = sorted((j for j in range(23) if j != row and matrix[row, j] > 0), key=lambda j: (-matrix[row, j], j))[
            :k
        ]
        assert table.ids[row].tolist() == wanted + [-1] * (k - len(wanted))
        assert table.weights[row, : len(wanted)].tolist() == matrix[row, wanted].tolist()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), components=st.sampled_from([1, 5, 25]))
def test_the_filter_is_the_written_formula(seed: int, components: int) -> None:
    matrix, config = drawn(seed), GraphFilterConfig(neighbours=25, components=components)
    x = matrix.toarray()
    users, items = x.sum(axis=1), x.sum(axis=0)

    def power(sums: np.ndarray, exponent: float) -> np.ndarray:
        return np.array([value**exponent if value > 0 else 0.0 for value in sums])

    scaled = power(users, -config.user_power)[:, None] * x * power(items, -config.item_power)
    step = scaled.T @ scaled
    step /= np.linalg.eigvalsh(step)[-1]
    values, signals = np.linalg.eigh(step)
    keep = np.argsort(-values)[:components]
    keep = keep[values[keep] > 1e-6]
    gains = config.low_pass - config.sharpen * values[keep] ** 2
    weights = step + (signals[:, keep] * gains) @ signals[:, keep].T
    weights = power(items, -config.item_power)[:, None] * weights * power(items, config.output_power)
    np.fill_diagonal(weights, 0)
    got = dense(filtered(matrix, config, seed), 25)
    np.testing.assert_allclose(got, np.maximum(weights, 0), atol=2e-4)


def test_the_smoothest_signals_are_the_eigenvectors_of_the_largest_eigenvalues() -> None:
    matrix = csr_matrix(random_array((300, 200), density=0.05, rng=np.random.default_rng(1), dtype=np.float64))
    edges = matrix.astype(np.float32)
    values, signals = smoothest(edges, 8, 3)
    square = (matrix.T @ matrix).toarray()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(square)[::-1][:8], rtol=1e-2)
    np.testing.assert_allclose(signals.T @ signals, np.eye(8), atol=1e-4)
    np.testing.assert_allclose(square @ signals[:, 0], values[0] * signals[:, 0], atol=2e-2 * values[0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), ridge=st.sampled_from([1.0, 30.0]))
def test_the_table_of_ease_leaves_the_least_error(seed: int, ridge: float) -> None:
    matrix = drawn(seed)
    got = dense(regressed(matrix, EASEConfig(neighbours=25, ridge=ridge)), 25)
    x = matrix.toarray()
    for item in range(25):  # each column is a ridge regression on the other items
        others = np.arange(25) != item
        left = x[:, others].T @ x[:, others] + ridge * np.eye(24)
        exact = np.linalg.solve(left, x[:, others].T @ x[:, item])
        np.testing.assert_allclose(got[others, item], np.maximum(exact, 0), atol=1e-5)


@BOTH
def test_what_comes_back_is_of_the_cluster_of_the_history(toy: Toy, kind: Any, config: Any) -> None:
    part = kind.fit(config, toy.inputs, 1)
    shares = []
    for cluster in range(CLUSTERS):
        found = part.recall(toy.query(-1, toy.likes(cluster)[:4].tolist()))
        assert (np.diff(found.column("score")) <= 0).all()
        shares.append((toy.item_cluster[found.ids[:20]] == cluster).mean())
    assert np.mean(shares) > 0.7  # at random: 1/6


@BOTH
def test_a_click_changes_the_next_answer_and_own_items_are_left_out(toy: Toy, kind: Any, config: Any) -> None:
    part = kind.fit(config, toy.inputs, 1)
    before = toy.likes(0)[:2].tolist()
    after = [int(toy.likes(1)[0]), *before]
    one, two = part.recall(toy.query(3, before)).ids, part.recall(toy.query(3, after)).ids
    assert one.tolist() != two.tolist()
    assert not np.isin(two, after).any()
    assert len(part.recall(toy.query(3, list(range(240))))) == 0


@BOTH
def test_strangers_without_a_history_and_items_published_since_find_nothing(toy: Toy, kind: Any, config: Any) -> None:
    part = kind.fit(config, toy.inputs, 1)
    for history in ([], [-1], [240]):
        assert len(part.recall(toy.query(-1, history, toy.with_fresh([1])))) == 0
    assert len(part.similar(240, 5)[0]) == len(part.similar(-1, 5)[0]) == 0
    ids, weights = part.similar(3, 5)
    assert len(ids) == 5
    assert (np.diff(weights) <= 0).all()


@BOTH
def test_without_events_of_its_kind_it_finds_nothing(toy: Toy, kind: Any, config: Any, tmp_path: Path) -> None:
    nothing = replace(toy.inputs, events=toy.inputs.events.take(np.empty(0, np.int64)))
    kind.fit(config, nothing, 1).save(tmp_path)
    part = kind.load(config, tmp_path)
    assert len(part.recall(toy.query(3, [1, 2]))) == 0
    assert len(part.similar(1, 5)[0]) == 0


def test_a_catalogue_of_one_item_has_no_neighbours() -> None:
    one = csr_matrix(np.ones((3, 1)))
    for table in (filtered(one, GraphFilterConfig()), regressed(one, EASEConfig())):
        assert (table.ids == -1).all()


def test_the_bytes_do_not_depend_on_the_number_of_threads() -> None:
    matrix, before = drawn(1, 800, 700), numba.get_num_threads()
    answers = []
    for threads in (1, before):
        numba.set_num_threads(threads)
        tables = filtered(matrix, GraphFilterConfig(components=40), 2), regressed(matrix, EASEConfig())
        answers.append([table.weights.tobytes() + table.ids.tobytes() for table in tables])
    numba.set_num_threads(before)
    assert answers[0] == answers[1]


def test_ease_refuses_a_catalogue_that_is_too_large_and_says_what_to_do(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"ease: .* items had interest.*raise most_items \(50\).*graph_filter"):
        EASE.fit(EASEConfig(most_items=50), toy.inputs, 1)


def test_interest_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="interactions"):
        filtered(csr_matrix(np.array([[1.0, -1.0]])), GraphFilterConfig())
    with pytest.raises(ValueError, match="interactions"):
        regressed(csr_matrix(np.array([[1.0, np.nan]])), EASEConfig())
