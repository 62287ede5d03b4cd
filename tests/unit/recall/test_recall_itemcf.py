"""ItemCF: the table against brute force, and the channel against the course's examples (T-3.1 … T-3.7)."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from tamis.config import convert
from tamis.errors import ConfigError
from tamis.recall import cosine
from tamis.recall.cosine import nearest_columns
from tamis.recall.item_table import ItemTable
from tamis.recall.itemcf import ItemCF, ItemCFConfig, similar_items
from tamis.recall.neighbours import Neighbours, liked
from tamis.recall.top import scratch, top
from tamis.types import Action, Catalog, Features, History, Query

CLICK, LIKE, COLLECT, SHARE = Action.CLICK, Action.LIKE, Action.COLLECT, Action.SHARE
KINDS = (CLICK, LIKE, COLLECT, SHARE)
INTEREST = np.array(KINDS, np.uint8)


def brute(matrix: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The table by the formula, in float64, with the same order of ties."""
    x = matrix.toarray().astype(np.float64)
    norm = np.sqrt((x * x).sum(axis=0))
    near = (x.T @ x) / np.maximum(np.outer(norm, norm), 1e-300)
    np.fill_diagonal(near, 0)
    near = near.astype(np.float32)
    ids = np.full((x.shape[1], k), -1, np.int32)
    weights = np.zeros((x.shape[1], k), np.float32)
    for item, row in enumerate(near):
        order = np.lexsort((np.arange(len(row)), -row))[:k]
        order = order[row[order] > 0]
        ids[item, : len(order)], weights[item, : len(order)] = order, row[order]
    return ids, weights


def assert_same_table(got: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> None:
    """Equal weights, and equal neighbours wherever weights are not within rounding of each other."""
    np.testing.assert_allclose(got[1], wanted[1], rtol=0, atol=1e-6)
    for ids, other, weights in zip(got[0], wanted[0], wanted[1], strict=True):
        clear = weights > (weights[-1] + 1e-6 if len(weights) else 0)
        assert set(ids[clear]) == set(other[clear])


def random_interest(seed: int, users: int, items: int, density: float, values: tuple[float, ...]) -> csr_matrix:
    generator = np.random.default_rng(seed)
    dense = np.where(generator.random((users, items)) < density, generator.choice(values, (users, items)), 0)
    return csr_matrix(dense.astype(np.float32))


def query(history: History, items: int = 50, **other: Any) -> Query:
    catalog = Catalog.of(np.arange(items, dtype=np.uint64), {})
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    return Query(
        user=0, now=0.0, size=10, scene="", seed=1, history=history, features=features, catalog=catalog, **other
    )


def acted(interest: dict[int, int]) -> History:
    """A history, newest first, with that many kinds of action on each item."""
    entries = [(item, kind) for item, points in interest.items() for kind in KINDS[:points]]
    items = np.array([item for item, _ in entries], np.int64)
    return History(items, np.array([kind for _, kind in entries], np.uint8), np.arange(len(entries), 0.0, -1))


def table(rows: dict[int, list[tuple[int, float]]], items: int = 50, k: int = 2) -> ItemCF:
    ids, weights = np.full((items, k), -1, np.int32), np.zeros((items, k), np.float32)
    for item, neighbours in rows.items():
        for place, (other, weight) in enumerate(neighbours):
            ids[item, place], weights[item, place] = other, weight
    return ItemCF(ItemCFConfig(limit=100, neighbours=k), ItemTable(Neighbours(ids, weights), INTEREST))


def test_a_candidate_reached_from_several_items_gets_the_sum() -> None:
    """T-3.1: 2·0.1 + 1·0.4 + 4·0.2 + 3·0.6 = 3.2."""
    part = table({0: [(9, 0.1)], 1: [(9, 0.4)], 2: [(9, 0.2)], 3: [(9, 0.6)]})
    found = part.recall(query(acted({0: 2, 1: 1, 2: 4, 3: 3})))
    assert found.ids.tolist() == [9]
    assert found.column("score")[0] == pytest.approx(3.2, abs=1e-6)


def test_audiences_of_five_with_four_in_common_are_alike_by_four_fifths() -> None:
    """T-3.2: 4/√25 = 0.8; two audiences of three without a common user are no neighbours."""
    x = np.zeros((12, 4), np.float32)
    x[0:5, 0] = x[1:6, 1] = x[6:9, 2] = x[9:12, 3] = 1
    ids, weights = similar_items(csr_matrix(x), 3)
    assert ids[0].tolist() == [1, -1, -1]
    assert weights[0, 0] == pytest.approx(0.8, abs=1e-7)
    assert ids[2].tolist() == [-1, -1, -1]
    assert not weights[2].any()


def test_strength_of_interest_counts() -> None:
    """T-3.3: 10/√(21·14) = 0.58321 with strengths, 2/3 without."""
    x = np.array([[1, 0], [2, 3], [4, 1], [0, 2]], np.float32)
    assert similar_items(csr_matrix(x), 1)[1][0, 0] == pytest.approx(10 / np.sqrt(21 * 14), abs=1e-7)
    assert similar_items(csr_matrix((x > 0).astype(np.float32)), 1)[1][0, 0] == pytest.approx(2 / 3, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 25), st.sampled_from([0.05, 0.3, 0.9]), st.booleans())
def test_the_table_is_symmetric_and_between_zero_and_one(
    seed: int, users: int, items: int, density: float, strong: bool
) -> None:
    """T-3.4: symmetric, inside [0, 1], no item is its own neighbour, scale does not matter."""
    x = random_interest(seed, users, items, density, (1, 2, 3, 4) if strong else (1,))
    ids, weights = similar_items(x, items)
    assert ((weights >= 0) & (weights <= 1 + 1e-6)).all()
    near = np.zeros((items, items), np.float32)
    rows, places = np.nonzero(ids >= 0)
    near[rows, ids[rows, places]] = weights[rows, places]
    np.testing.assert_array_equal(near, near.T)
    assert not near.diagonal().any()
    np.testing.assert_array_equal(similar_items(x * 2, items)[0], ids)


def test_equal_strengths_give_the_unweighted_table() -> None:
    """T-3.4."""
    x = random_interest(3, 40, 30, 0.2, (1,))
    ids, weights = similar_items(x, 10)
    for scaled in (similar_items(x * 3, 10), similar_items(x * 0.37, 10)):
        np.testing.assert_array_equal(scaled[0], ids)
        np.testing.assert_array_equal(scaled[1], weights)


def test_the_course_fixture_gives_its_eight_scores() -> None:
    """T-3.5: 2·0.7, 2·0.6 | 1·0.8, 1·0.5 | 4·0.6, 4·0.6 | 3·0.9, 3·0.4; best 2.7."""
    rows = {
        0: [(10, 0.7), (11, 0.6)],
        1: [(12, 0.8), (13, 0.5)],
        2: [(14, 0.6), (15, 0.6)],
        3: [(16, 0.9), (17, 0.4)],
    }
    found = table(rows).recall(query(acted({0: 2, 1: 1, 2: 4, 3: 3})))
    got = dict(zip(found.ids.tolist(), found.column("score").tolist(), strict=True))
    wanted = {10: 1.4, 11: 1.2, 12: 0.8, 13: 0.5, 14: 2.4, 15: 2.4, 16: 2.7, 17: 1.2}
    assert got == pytest.approx(wanted, abs=1e-6)
    assert found.ids.tolist() == [16, 14, 15, 10, 11, 17, 12, 13]


def test_the_table_is_sorted_and_the_channel_returns_at_most_its_limit_of_new_items() -> None:
    """T-3.6."""
    x = random_interest(5, 80, 60, 0.15, (1, 2, 4))
    ids, weights = similar_items(x, 10)
    assert ids.shape == (60, 10)
    assert (np.diff(weights, axis=1) <= 0).all()
    part = ItemCF(ItemCFConfig(limit=7, neighbours=10), ItemTable(Neighbours(ids, weights), INTEREST))
    history = acted(dict.fromkeys(range(20), 1))
    found = part.recall(query(history, 60))
    assert len(found) == 7
    assert len(np.unique(found.ids)) == 7
    assert not set(found.ids) & set(history.items)
    assert (np.diff(found.column("score")) <= 0).all()
    unlimited = ItemCF(ItemCFConfig(limit=0, neighbours=10), ItemTable(Neighbours(ids, weights), INTEREST)).recall(
        query(history, 60)
    )
    assert len(unlimited) <= 20 * 10
    np.testing.assert_array_equal(unlimited.ids[:7], found.ids)


def test_with_all_neighbours_kept_the_channel_equals_brute_force() -> None:
    """T-3.7."""
    x = random_interest(7, 60, 30, 0.2, (1, 2, 3))
    ids, weights = similar_items(x, 30)
    interest = {3: 2, 8: 1, 21: 4}
    found = ItemCF(ItemCFConfig(limit=0), ItemTable(Neighbours(ids, weights), INTEREST)).recall(
        query(acted(interest), 30)
    )
    dense = x.toarray().astype(np.float64)
    norm = np.sqrt((dense**2).sum(axis=0))
    near = dense.T @ dense / np.outer(norm, norm)
    scores = sum(points * near[item] for item, points in interest.items())
    scores[list(interest)] = 0
    assert set(found.ids.tolist()) == set(np.flatnonzero(scores > 0).tolist())
    np.testing.assert_allclose(found.column("score"), scores[found.ids], atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 8),
    st.sampled_from([(1.0,), (1.0, 2.0, 3.0, 4.0), (0.5, 1.25)]),
)
def test_the_table_equals_brute_force(seed: int, users: int, items: int, k: int, values: tuple[float, ...]) -> None:
    x = random_interest(seed, users, items, 0.3, values)
    assert_same_table(similar_items(x, k), brute(x, k))


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0, 3.0, 4.0), (1.0, 7.0), (1.0, 1.5)])
def test_long_lists_counted_as_bits_give_what_sums_give(
    values: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random_interest(11, 500, 300, 0.4, values)
    assert (np.diff(x.indptr) > cosine._LONG_LEAST).all()
    as_bits = nearest_columns(x, 20)
    assert_same_table(as_bits, brute(x, 20))
    monkeypatch.setattr(cosine, "_LONG_LEAST", 1000)
    for bits, sums in zip(as_bits, nearest_columns(x, 20), strict=True):
        np.testing.assert_array_equal(bits, sums)


def test_rows_of_few_additions_give_what_whole_rows_give() -> None:
    x = random_interest(12, 300, 2000, 0.002, (1.0, 3.0))
    assert_same_table(nearest_columns(x, 5), brute(x, 5))


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0), (0.3, 0.7, 1.1)])
def test_threads_blocks_and_shards_do_not_change_a_byte(
    values: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random_interest(13, 200, 150, 0.5, values)
    ids, weights = nearest_columns(x, 12, threads=1)
    for threads, block in ((2, 7), (4, 64), (3, 1000)):
        monkeypatch.setattr(cosine, "_BLOCK", block)
        other = nearest_columns(x, 12, threads=threads)
        assert other[0].tobytes() == ids.tobytes()
        assert other[1].tobytes() == weights.tobytes()
    shards = [similar_items(x, 12, rows=range(begin, begin + 37)) for begin in range(0, 150, 37)]
    assert np.concatenate([shard[0] for shard in shards]).tobytes() == ids.tobytes()
    assert np.concatenate([shard[1] for shard in shards]).tobytes() == weights.tobytes()
    assert similar_items(x, 12, rows=range(150, 160))[0].shape == (0, 12)


@pytest.mark.parametrize("values", [(1.0,), (1.0, 2.0, 3.0)])
def test_users_may_weigh_and_norms_may_be_given(values: tuple[float, ...]) -> None:
    """near(a, b) = Σ_u weight(u) · x(u, a) · x(u, b) / (norm(a) · norm(b))."""
    x = random_interest(14, 120, 90, 0.5, values)
    generator = np.random.default_rng(1)
    weight, norm = generator.uniform(0.1, 2, 120), generator.uniform(1, 5, 90)
    ids, weights = nearest_columns(x, 90, user_weights=weight, norms=norm)
    dense = x.toarray().astype(np.float64)
    wanted = (dense.T * weight) @ dense / np.outer(norm, norm)
    np.fill_diagonal(wanted, 0)
    got = np.zeros_like(wanted)
    rows, places = np.nonzero(ids >= 0)
    got[rows, ids[rows, places]] = weights[rows, places]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    scaled = csr_matrix(x.multiply(np.sqrt(weight)[:, None]))
    np.testing.assert_allclose(nearest_columns(x, 9, user_weights=weight)[1], brute(scaled, 9)[1], atol=1e-6)


def test_given_norms_meet_the_strength_of_entries_that_are_all_alike() -> None:
    x = csr_matrix(np.array([[2, 2, 0], [2, 0, 2], [2, 2, 2]], np.float32))
    ids, weights = nearest_columns(x, 2, norms=np.array([1.0, 2.0, 4.0]))
    assert ids.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert weights.tolist() == [[4.0, 2.0], [4.0, 0.5], [2.0, 0.5]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 900), st.integers(1, 60), st.booleans())
def test_the_best_of_a_row_are_those_that_sorting_finds(seed: int, size: int, k: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.random(size).astype(np.float32)
    scores = np.round(scores * 3) if ties else scores  # zeros too, which are never given
    names = generator.permutation(size).astype(np.int32)
    ids, weights = np.full(k, -1, np.int32), np.zeros(k, np.float32)
    top(scores, names, scratch(size, k), ids, weights.view(np.uint32))
    order = np.lexsort((names, -scores))[:k]
    order = order[scores[order] > 0]
    assert ids[: len(order)].tolist() == names[order].tolist()
    assert weights[: len(order)].tolist() == scores[order].tolist()
    assert (ids[len(order) :] == -1).all()


def test_equal_weights_are_ordered_by_the_lower_id() -> None:
    x = csr_matrix(np.ones((3, 6), np.float32))
    assert similar_items(x, 4)[0].tolist() == [
        [1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3], [0, 1, 2, 3]
    ]  # fmt: skip


def test_inverse_user_frequency_trusts_short_lists_more() -> None:
    x = np.zeros((2, 12), np.float32)
    x[0, [0, 1]] = 1  # a short list has items 0 and 1
    x[1, [0, *range(2, 12)]] = 1  # a long one has item 0 and many others
    plain, iuf = similar_items(csr_matrix(x), 11), similar_items(csr_matrix(x), 11, iuf=True)
    assert plain[1][0, 0] == pytest.approx(plain[1][0, 1])
    w0, w1 = 1 / np.log(3), 1 / np.log(12)
    assert iuf[0][0, 0] == 1
    assert iuf[1][0, 0] == pytest.approx(w0 / np.sqrt((w0 + w1) * w0), abs=1e-6)


def test_a_capped_user_keeps_his_strongest_then_rarest_items() -> None:
    x = np.array([[1, 1, 4, 1], [1, 0, 0, 1], [1, 0, 0, 0]], np.float32)
    ids, _ = similar_items(csr_matrix(x), 3, user_limit=2)
    assert ids[2].tolist() == [1, -1, -1]  # of user 0 remain item 2, the strongest, and item 1, the rarest
    assert ids[0].tolist() == [3, -1, -1]


def test_empty_and_oversized_requests_are_padded() -> None:
    ids, weights = similar_items(csr_matrix((5, 4), dtype=np.float32), 3)
    assert ids.tolist() == [[-1] * 3] * 4
    assert not weights.any()
    assert similar_items(csr_matrix((0, 0), dtype=np.float32), 3)[0].shape == (0, 3)
    assert similar_items(csr_matrix(np.ones((2, 2), np.float32)), 5)[0].tolist() == [
        [1, -1, -1, -1, -1],
        [0, *[-1] * 4],
    ]
    assert similar_items(csr_matrix(np.ones((2, 2), np.float32)), 0)[0].shape == (2, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_interest_that_is_no_strength_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="interactions"):
        similar_items(csr_matrix(np.array([[1.0, bad]])), 1)


def test_duplicates_add_up_zeros_vanish_and_the_callers_matrix_stays() -> None:
    doubled = csr_matrix((np.array([1.0, 1.0, 0.0, 2.0]), np.array([0, 0, 1, 2]), np.array([0, 4])), shape=(1, 3))
    ids, _ = similar_items(doubled, 2)
    assert ids.tolist() == [[2, -1], [-1, -1], [0, -1]]
    assert doubled.nnz == 4


def test_interest_counts_each_kind_of_the_interest_actions_once() -> None:
    items = np.array([5, 5, 5, 2, -1, 3, 5, 5, 5, 4, 60], np.int64)
    actions = [CLICK, CLICK, LIKE, CLICK, CLICK, Action.HIDE, COLLECT, SHARE, Action.FOLLOW, Action.PLAY, CLICK]
    history = History(items, np.array(actions, np.uint8), np.zeros(len(items)))
    distinct, points = liked(history, 50, INTEREST)
    assert distinct.tolist() == [5, 2]
    assert points.tolist() == [4, 1]
    assert liked(history, 50, np.array([Action.PLAY], np.uint8))[0].tolist() == [4]


def test_only_the_newest_items_of_the_history_are_looked_up() -> None:
    part = table({0: [(10, 0.5)], 1: [(11, 0.5)], 2: [(12, 0.5)]})
    short = ItemCF(ItemCFConfig(history=2, neighbours=2), part.items)
    assert short.recall(query(acted({2: 1, 0: 1, 1: 1}))).ids.tolist() == [10, 12]


def test_an_unknown_user_or_a_foreign_history_gets_nothing() -> None:
    part = table({0: [(10, 0.5)]})
    assert len(part.recall(query(History.empty()))) == 0
    foreign = History(np.array([-1, 70]), np.array([CLICK, CLICK], np.uint8), np.zeros(2))
    assert len(part.recall(query(foreign))) == 0


def test_similar_lists_neighbours_and_is_empty_for_fresh_items() -> None:
    part = table({0: [(10, 0.5), (11, 0.25)], 1: [(3, 0.5)]})
    assert part.similar(0, 1)[0].tolist() == [10]
    assert part.similar(1, 5)[0].tolist() == [3]
    assert part.similar(1, 5)[1].tolist() == [0.5]
    assert len(part.similar(999, 5)[0]) == 0
    assert len(part.similar(-1, 5)[0]) == 0


def test_fit_reads_the_interest_of_the_inputs_and_survives_the_disk(tmp_path: Any) -> None:
    x = random_interest(21, 30, 20, 0.3, (1, 2))
    told: list[tuple[str, int, int]] = []
    inputs: Any = SimpleNamespace(
        interest=lambda: x, interest_actions=("click", "long_view"), progress=lambda *told_: told.append(told_)
    )
    config = ItemCFConfig(neighbours=4)
    part = ItemCF.fit(config, inputs, seed=1)
    assert told[-1] == ("itemcf", 20, 20)
    part.save(tmp_path)
    again = ItemCF.load(config, tmp_path)
    np.testing.assert_array_equal(again.items.table.ids, similar_items(x, 4)[0])
    history = acted({1: 2, 2: 1})
    np.testing.assert_array_equal(again.recall(query(history, 20)).ids, part.recall(query(history, 20)).ids)
    assert again.items.actions.tolist() == [CLICK, Action.LONG_VIEW]  # what was counted in training counts online


def test_an_action_that_is_no_interest_in_training_is_none_online() -> None:
    """A play that started by itself: the table was not counted from it."""
    part = table({0: [(10, 0.5)], 1: [(11, 0.4)]})
    history = History(np.array([0, 1]), np.array([Action.PLAY, CLICK], np.uint8), np.zeros(2))
    assert part.recall(query(history)).ids.tolist() == [11]


@pytest.mark.parametrize("value", [1e200, 1e-200])
def test_interest_whose_squares_leave_the_range_of_floats_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"interactions has values .* wanted 1e-140 to 1e\+140"):
        similar_items(csr_matrix(np.array([[1.0, value], [value, 1.0]])), 1)
    ids, weights = similar_items(csr_matrix(np.full((3, 2), 1e139)), 1)
    assert ids.tolist() == [[1], [0]]
    assert weights.ravel().tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"history": 0}, {"user_limit": -1}])
def test_settings_outside_their_bounds_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        convert({"kind": "itemcf", **wrong}, ItemCFConfig)
