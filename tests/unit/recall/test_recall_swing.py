"""Swing: the table against brute force and the course's examples (T-4.1 … T-4.5)."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from tamis.recall import itemcf, pair_sums
from tamis.recall.interest import sampled
from tamis.recall.pair_sums import nearest_by_pairs
from tamis.recall.swing import Swing, SwingConfig, similar_items
from tamis.types import Action, Catalog, Features, History, Query


def likes(lists: list[list[int]], items: int) -> csr_matrix:
    """Interest 1 of each user in his items."""
    x = np.zeros((len(lists), items), np.float32)
    for user, own in enumerate(lists):
        x[user, own] = 1
    return csr_matrix(x)


def dense(table: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """A table with all neighbours as a square matrix."""
    ids, weights = table
    near = np.zeros((len(ids), len(ids)), np.float32)
    rows, places = np.nonzero(ids >= 0)
    near[rows, ids[rows, places]] = weights[rows, places]
    return near


def brute(x: csr_matrix, alpha: float = 1.0, power: float = 0.0, diagonal: bool = False) -> np.ndarray:
    """The double sum of the definition, pair by pair."""
    has = x.toarray() > 0
    weight = np.maximum(has.sum(axis=1), 1.0) ** -power
    near = np.zeros((has.shape[1], has.shape[1]))
    for u in range(len(has)):
        for v in range(len(has)):
            if u < v or diagonal:
                common = has[u] & has[v]
                near[np.ix_(common, common)] += weight[u] * weight[v] / (alpha + common.sum())
    np.fill_diagonal(near, 0)
    return near


def random_likes(seed: int, users: int, items: int, density: float) -> csr_matrix:
    return csr_matrix((np.random.default_rng(seed).random((users, items)) < density).astype(np.float32))


DIVERSE = [[0, 1], [0, 1], [0, 1], [0, 1], [0, 2], [1, 3]]
CLIQUE = [[*range(20)]] * 4 + [[0, 20], [1, 21]]


@pytest.mark.parametrize(
    ("fans", "unordered", "literal"), [(DIVERSE, 2.0, 16 / 3), (CLIQUE, 6 / 21, 16 / 21)], ids=["diverse", "clique"]
)
def test_a_circle_is_worth_a_seventh_of_four_strangers(fans: list[list[int]], unordered: float, literal: float) -> None:
    """T-4.1: four common fans, alpha 1; pairs once, and all ordered pairs with the diagonal. Twice the first column
    is the course's middle one. ItemCF says 0.8 both times."""
    x = likes(fans, 22)
    assert dense(similar_items(x, 22))[0, 1] == pytest.approx(unordered, abs=1e-6)
    assert dense(similar_items(x, 22, diagonal=True))[0, 1] == pytest.approx(literal, abs=1e-6)
    assert dense(itemcf.similar_items(x, 22))[0, 1] == pytest.approx(0.8, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 40),
    st.integers(0, 30),
    st.sampled_from([0.05, 0.3, 0.9]),
    st.sampled_from([(1.0, 0.0, False), (0.3, 0.5, False), (2.0, 0.0, True), (1.0, 1.0, True)]),
)
def test_the_table_equals_the_double_sum(
    seed: int, users: int, items: int, density: float, options: tuple[float, float, bool]
) -> None:
    """T-4.2, the symmetric part, too."""
    x, (alpha, power, diagonal) = random_likes(seed, users, items, density), options
    got = dense(similar_items(x, items, alpha=alpha, user_power=power, diagonal=diagonal))
    np.testing.assert_allclose(got, brute(x, alpha, power, diagonal), rtol=1e-5)
    np.testing.assert_array_equal(got, got.T)


def test_more_overlap_lowers_and_one_more_fan_raises_the_similarity() -> None:
    """T-4.2."""
    base = similarity([[0, 1], [0, 1], [0, 1]])
    assert similarity([[0, 1, 2], [0, 1, 2], [0, 1]]) < base
    assert similarity([[0, 1], [0, 1], [0, 1], [0, 1, 2, 3]]) > base
    assert similarity([[0, 1]]) == 0  # a single common fan says nothing


def similarity(fans: list[list[int]]) -> float:
    """Of items 0 and 1."""
    return float(dense(similar_items(likes(fans, 4), 4))[0, 1])


def test_a_large_alpha_counts_pairs_of_common_fans() -> None:
    """T-4.3."""
    x = random_likes(3, 30, 12, 0.5)
    common = (x.T @ x).toarray()
    pairs = common * (common - 1) / 2
    np.fill_diagonal(pairs, 0)
    np.testing.assert_allclose(dense(similar_items(x, 12, alpha=1e7)) * 1e7, pairs, rtol=1e-4)


def test_a_clique_falls_and_a_true_likeness_stays() -> None:
    """T-4.4: six friends open items 0 and 1 among much else; fans of items 0 and 2 have nothing else in common."""
    generator = np.random.default_rng(5)
    fans = [[0, 1, *range(10, 40)] for _ in range(6)]
    fans += [[0, 2, *generator.choice(np.arange(40, 400), 3, replace=False).tolist()] for _ in range(12)]
    fans += [[1, *generator.choice(np.arange(40, 400), 3, replace=False).tolist()] for _ in range(2)]
    fans += [[0, 3] for _ in range(4)] + [[*range(10, 40)] for _ in range(60)]
    x = likes(fans, 400)
    by_cosine, by_swing = (rank(kernel(x, 400)[0][0]) for kernel in (itemcf.similar_items, similar_items))
    assert by_swing[1] > by_cosine[1]
    assert by_swing[2] == by_cosine[2] == 0


def rank(ids: np.ndarray) -> dict[int, int]:
    return {int(item): place for place, item in enumerate(ids)}


@pytest.mark.parametrize("options", [{}, {"diagonal": True}, {"user_power": 0.5}])
def test_threads_blocks_and_shards_do_not_change_a_byte(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = random_likes(13, 150, 90, 0.2)
    ids, weights = similar_items(x, 12, **options)
    shards = [similar_items(x, 12, rows=range(begin, begin + 25), **options) for begin in range(0, 90, 25)]
    assert np.concatenate([shard[0] for shard in shards]).tobytes() == ids.tobytes()
    assert np.concatenate([shard[1] for shard in shards]).tobytes() == weights.tobytes()
    user_weights = np.maximum(np.diff(x.indptr), 1.0) ** -options.get("user_power", 0.0)
    for threads, block_bytes in ((1, 1 << 26), (3, 8 * 90 * 4), (2, 1)):
        monkeypatch.setattr(pair_sums, "_BLOCK_BYTES", block_bytes)
        other = nearest_by_pairs(x, 12, (1.0, options.get("diagonal", False), user_weights), threads=threads)
        assert other[0].tobytes() == ids.tobytes()
        assert other[1].tobytes() == weights.tobytes()


def test_limits_keep_the_strongest_items_and_the_same_sample_of_users() -> None:
    x = csr_matrix(np.array([[3, 2, 1], [3, 2, 1], [0, 1, 1]], np.float32))
    assert dense(similar_items(x, 3, user_limit=2))[0].tolist() == [0, pytest.approx(1 / 3), 0]
    everybody = likes([[0, 1]] * 50, 2)
    kept = sampled(everybody, 10).toarray() > 0
    assert kept.sum(axis=0).tolist() == [10, 10]
    np.testing.assert_array_equal(kept[:, 0], kept[:, 1])  # what is kept of one item is kept of the other
    assert dense(similar_items(everybody, 2, item_limit=10))[0, 1] == pytest.approx(45 / 3)


def test_empty_and_oversized_requests_are_padded() -> None:
    assert similar_items(csr_matrix((5, 4), dtype=np.float32), 3)[0].tolist() == [[-1] * 3] * 4
    assert similar_items(csr_matrix((0, 0), dtype=np.float32), 3)[0].shape == (0, 3)
    assert similar_items(likes([[0], [0]], 1), 2)[0].tolist() == [[-1, -1]]
    assert similar_items(likes([[0, 1], [0, 1]], 2), 3)[0].tolist() == [[1, -1, -1], [0, -1, -1]]


@pytest.mark.parametrize("bad", [{"alpha": 0}, {"alpha": np.nan}, {"user_power": -1}, {"user_limit": -1}, {"k": -1}])
def test_settings_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        similar_items(likes([[0, 1]], 2), **{"k": 1, **bad})


def test_the_part_walks_its_table_as_itemcf_does(tmp_path: Any) -> None:
    """T-4.5: only the table differs; with ItemCF's table it answers what ItemCF answers."""
    x = random_likes(21, 40, 20, 0.4)
    inputs: Any = SimpleNamespace(interest=lambda: x, interest_actions=("click",), progress=lambda *told: None)
    part = Swing.fit(SwingConfig(neighbours=5), inputs, seed=1)
    part.save(tmp_path)
    again = Swing.load(part.config, tmp_path)
    np.testing.assert_array_equal(again.items.table.ids, similar_items(x, 5)[0])
    other = itemcf.ItemCF(itemcf.ItemCFConfig(), part.items)
    history = History(np.array([3, 7]), np.full(2, Action.CLICK, np.uint8), np.zeros(2))
    asked = query(history, 20)
    assert len(part.recall(asked)) > 0
    for found in (again.recall(asked), other.recall(asked)):
        np.testing.assert_array_equal(found.ids, part.recall(asked).ids)
        np.testing.assert_array_equal(found.column("score"), part.recall(asked).column("score"))
    assert part.similar(3, 4)[0].tolist() == other.similar(3, 4)[0].tolist()
    everything = History(np.arange(20), np.full(20, Action.CLICK, np.uint8), np.zeros(20))
    assert len(part.recall(query(everything, 20))) == 0
    assert len(part.recall(query(History.empty(), 20))) == 0


def query(history: History, items: int) -> Query:
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    catalog = Catalog.of(np.arange(items, dtype=np.uint64), {})
    return Query(user=0, now=0.0, size=10, scene="", seed=1, history=history, features=features, catalog=catalog)
