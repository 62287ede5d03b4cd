"""MMR against the worked example and the properties of the course specification (section 5.6 and 4.6)."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import convert
from tamis.errors import ConfigError
from tamis.rerank.greedy import Likeness, _like, unit
from tamis.rerank.mmr import Mmr, MmrConfig, mmr, mmr_of_matrix, scaled
from tamis.rerank.rules import RunConfig
from tamis.types import Candidates, Catalog, Features, History, Query

REWARD = np.array([0.9, 0.85, 0.8, 0.6, 0.5])  # A … E
PAIRS = {"AB": 0.9, "AC": 0.2, "AD": 0.1, "AE": 0.8, "BC": 0.3, "BD": 0.1, "BE": 0.1, "CD": 0.7, "CE": 0.1, "DE": 0.3}
NEAR = np.eye(5)
for pair, value in PAIRS.items():
    a, b = ("ABCDE".index(letter) for letter in pair)
    NEAR[a, b] = NEAR[b, a] = value


def likenesses(likeness: Likeness, n: int) -> np.ndarray:
    """[n, n] all of it at once; the loop computes only the rows of what it picks."""
    out = np.empty((n, n))
    for row in range(n):
        _like(likeness, row, out[row])
    return out


def letters(trade_off: float, window: int | None = None, size: int = 5) -> str:
    return "".join("ABCDE"[i] for i in mmr_of_matrix(REWARD, NEAR, size, trade_off=trade_off, window=window))


def brute(score: np.ndarray, near: np.ndarray, size: int, trade_off: float, window: int | None) -> list[int]:
    """MMR recomputed from the formula in every round."""
    picks: list[int] = []
    while len(picks) < min(size, len(score)):
        recent = picks[-window:] if window else picks
        left = [i for i in range(len(score)) if i not in picks]
        worth = {i: trade_off * score[i] - (1 - trade_off) * max((near[i, j] for j in recent), default=0) for i in left}
        picks.append(max(left, key=lambda i: (worth[i], score[i], -i)))
    return picks


def cosines(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    rows = np.divide(wide, norm, out=np.zeros_like(wide), where=norm > 0)
    return np.maximum(rows @ rows.T, 0)


def world(seed: int, n: int, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.random(n), generator.normal(size=(n, d)).astype(np.float32)


def query(columns: dict[str, Any], size: int = 3) -> Query:
    n = len(next(iter(columns.values())))
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    catalog = Catalog.of(np.arange(n, dtype=np.uint64), columns)
    return Query(0, 0.0, size, "", 1, History.empty(), features, catalog)


def test_the_worked_example_comes_out_for_every_window() -> None:
    assert letters(0.5) == "ACBDE"
    assert letters(0.5, window=2) == "ACBED"
    assert letters(0.5, window=1) == "ACBDE"
    assert letters(1.0) == "ABCDE"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.floats(0, 1), st.sampled_from([None, 1, 3]))
def test_the_first_pick_is_the_best_score(seed: int, n: int, trade_off: float, window: int | None) -> None:
    score, vectors = world(seed, n)
    if trade_off > 1e-6:
        assert mmr(score, vectors, 1, trade_off=trade_off, window=window).tolist() == [int(score.argmax())]


def test_with_only_the_score_it_sorts() -> None:
    score, vectors = world(1, 30)
    assert mmr(score, vectors, 30, trade_off=1.0).tolist() == np.argsort(-score).tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, 1, 2, 4]))
def test_with_only_diversity_each_pick_is_the_least_like_the_window(seed: int, window: int | None) -> None:
    score, vectors = world(seed, 12)
    near = cosines(vectors)
    picks = mmr(score, vectors, 12, trade_off=0.0, window=window).tolist()
    assert picks[0] == int(score.argmax())
    for at in range(1, 12):
        recent = picks[:at][-window:] if window else picks[:at]
        likeness = {i: near[i, recent].max() for i in range(12) if i not in picks[:at]}
        assert likeness[picks[at]] <= min(likeness.values()) + 1e-6


def test_a_window_as_long_as_the_list_is_no_window() -> None:
    score, vectors = world(2, 25)
    whole = mmr(score, vectors, 10, trade_off=0.4)
    for window in (10, 11, 500):
        np.testing.assert_array_equal(mmr(score, vectors, 10, trade_off=0.4, window=window), whole)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 15), st.integers(0, 20), st.integers(0, 5))
def test_it_gives_as_many_distinct_rows_as_there_are(seed: int, n: int, size: int, d: int) -> None:
    score, vectors = world(seed, n, d)
    picks = mmr(score, vectors, size, trade_off=0.5, window=3)
    assert len(picks) == min(n, size)
    assert len(set(picks.tolist())) == len(picks)
    assert set(picks.tolist()) <= set(range(n))


def test_without_a_window_it_degenerates_to_the_order_of_scores_once_everything_is_alike() -> None:
    """Two picks cover all directions; from then on the penalty is 1 for all, and only the window brings it to life."""
    generator = np.random.default_rng(3)
    axes = np.eye(12)[np.r_[np.arange(12), generator.integers(0, 12, 28)]]
    score = np.r_[np.linspace(1.0, 0.99, 12), np.sort(generator.random(28) * 0.5)[::-1]]
    picks = mmr(score, axes, 40, trade_off=0.3).tolist()
    assert sorted(picks[:12]) == list(range(12))
    assert picks[12:] == sorted(picks[12:])
    assert mmr(score, axes, 40, trade_off=0.3, window=10).tolist()[12:] != picks[12:]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(0, 25), st.integers(0, 25), st.floats(0, 1), st.sampled_from([None, 1, 2, 7])
)
def test_the_incremental_form_equals_recomputing_every_round(
    seed: int, n: int, size: int, trade_off: float, window: int | None
) -> None:
    score, vectors = world(seed, n)
    near = cosines(vectors)
    assert mmr_of_matrix(score, near, size, trade_off=trade_off, window=window).tolist() == brute(
        score, near, size, trade_off, window
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, 3]))
def test_vectors_give_what_their_cosines_give(seed: int, window: int | None) -> None:
    score, vectors = world(seed, 20, 5)
    near = likenesses(Likeness.of_vectors(vectors), 20)
    np.testing.assert_allclose(near, cosines(vectors), atol=1e-6)
    got = mmr(score, vectors * 3, 8, trade_off=0.5, window=window)
    np.testing.assert_array_equal(got, mmr_of_matrix(score, near, 8, trade_off=0.5, window=window))


def test_pages_get_more_diverse_as_the_trade_off_falls() -> None:
    def spread(trade_off: float) -> float:
        values = []
        for seed in range(40):
            score, vectors = world(seed, 60)
            picks = mmr(score, vectors, 10, trade_off=trade_off, window=5)
            near = cosines(vectors)[np.ix_(picks, picks)]
            values.append(1 - (near.sum() - np.trace(near)) / 90)
        return float(np.mean(values))

    curve = [spread(trade_off) for trade_off in (1.0, 0.7, 0.4, 0.1)]
    assert curve == sorted(curve)


def test_ties_go_to_the_better_score_then_to_the_row_that_comes_first() -> None:
    assert mmr_of_matrix(np.array([0.5, 0.5, 0.5]), np.eye(3), 3, trade_off=0.5).tolist() == [0, 1, 2]
    near = np.array([[1, 0.5, 0.25], [0.5, 1, 0], [0.25, 0, 1]])
    assert mmr_of_matrix(np.array([1.0, 0.75, 0.5]), near, 3, trade_off=0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    score, vectors = world(4, 4)
    with pytest.raises(ValueError, match="score"):
        mmr(np.where(np.arange(4) == 2, bad, score), vectors, 2, trade_off=0.5)
    vectors[1, 1] = bad
    with pytest.raises(ValueError, match="vectors"):
        mmr(score, vectors, 2, trade_off=0.5)
    with pytest.raises(ValueError, match="near"):
        mmr_of_matrix(score, np.full((4, 4), bad), 2, trade_off=0.5)


def test_impossible_settings_are_refused_by_name() -> None:
    score, vectors = world(5, 4)
    for size, trade_off, window in ((-1, 0.5, None), (2, 1.5, None), (2, 0.5, 0)):
        with pytest.raises(ValueError, match="trade_off"):
            mmr(score, vectors, size, trade_off=trade_off, window=window)
    with pytest.raises(ValueError, match="vectors"):
        mmr(score, vectors[:3], 2, trade_off=0.5)
    with pytest.raises(ValueError, match="near"):
        mmr_of_matrix(score, np.eye(3), 2, trade_off=0.5)
    with pytest.raises(ConfigError, match="trade_off"):
        convert({"kind": "mmr", "trade_off": 2.0}, MmrConfig)


def test_attributes_are_alike_by_their_weighted_share() -> None:
    """4.6: (beauty, make-up, Chanel) and (beauty, perfume, Chanel): 1, 0, 1, so 2/3 with equal weights."""
    attributes = np.array([[1, 1, 2, 0], [1, 2, 3, 0], [5, 5, 6, 0]])
    likeness = Likeness(np.empty((0, 4), np.float32), attributes, np.array([0, 1, 1, 1]) / 3, np.empty((0, 0)))
    near = likenesses(likeness, 4)
    assert near[0, 1] == pytest.approx(2 / 3)
    assert near[0, 2] == 0
    np.testing.assert_allclose(near, near.T)
    np.testing.assert_allclose(near.diagonal(), [1, 1, 1, 0])  # no attribute at all is like nothing, itself included
    assert ((near >= 0) & (near <= 1 + 1e-12)).all()


def test_vectors_are_brought_to_length_one() -> None:
    columns = unit(np.array([[3, 4], [0, 0], [1e-3, 0]]))
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), [1, 0, 1], atol=1e-6)


def test_the_part_mixes_vectors_and_attributes_of_the_catalogue() -> None:
    columns = {
        "vector": np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32),
        "author": np.array([1, 2, 3, 3]),
        "category": np.array([1, 1, 2, 2]),
    }
    items = Candidates.of([0, 1, 2, 3], score=np.array([4.0, 3.9, 3.0, 0.0]))
    assert Mmr(MmrConfig(trade_off=0.5)).pick(query(columns), items).tolist() == [0, 2, 1]
    assert Mmr(MmrConfig(trade_off=1.0)).pick(query(columns), items).tolist() == [0, 1, 2]


def test_without_vectors_author_and_category_stand_in() -> None:
    columns = {"vector": np.empty((3, 0), np.float32), "author": np.array([7, 7, 8]), "category": np.array([4, 4, 0])}
    items = Candidates.of([0, 1, 2], score=np.array([1.0, 0.9, 0.5]))
    assert Mmr(MmrConfig(trade_off=0.5)).pick(query(columns), items).tolist() == [0, 2, 1]
    bare = {"publish_time": np.zeros(3)}
    assert Mmr(MmrConfig(trade_off=0.5)).pick(query(bare), items).tolist() == [0, 1, 2]


def test_an_item_without_interactions_is_compared_by_its_content() -> None:
    """4.6: nothing but content goes into the likeness, so a new item (number ≥ base) has one."""
    catalog = query({"vector": np.eye(2, dtype=np.float32)}).catalog
    fresh = Catalog(
        (catalog.keys[0], np.array([9], np.uint64)),
        {"vector": (np.eye(2, dtype=np.float32), np.array([[1, 0]], np.float32))},
        np.zeros(3, np.bool_),
        np.arange(3),
    )
    asked = query({"vector": np.eye(2, dtype=np.float32)})
    asked = Query(0, 0.0, 3, "", 1, asked.history, asked.features, fresh)
    items = Candidates.of([0, 2, 1], score=np.array([1.0, 0.9, 0.5]))
    assert Mmr(MmrConfig(trade_off=0.5)).pick(asked, items).tolist() == [0, 2, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 12), st.floats(0.1, 1000), st.floats(-100, 100))
def test_the_scale_of_the_scores_does_not_change_a_page(seed: int, n: int, factor: float, shift: float) -> None:
    generator = np.random.default_rng(seed)
    columns = {"vector": generator.normal(size=(12, 3)).astype(np.float32)}
    score = np.sort(generator.integers(0, 64, n) / 64.0)[::-1]
    part, asked = Mmr(MmrConfig(trade_off=0.6)), query(columns, size=5)
    plain = part.pick(asked, Candidates.of(np.arange(n), score=score))
    moved = part.pick(asked, Candidates.of(np.arange(n), score=score * factor + shift))
    assert len(plain) == min(5, n)
    np.testing.assert_allclose(scaled(score * factor + shift), scaled(score), atol=1e-9)
    if np.array_equal(scaled(score * factor + shift), scaled(score)):
        np.testing.assert_array_equal(plain, moved)


def test_rules_that_never_bind_leave_mmr_as_it_is() -> None:
    """6.6.6."""
    generator = np.random.default_rng(8)
    columns = {"vector": generator.normal(size=(30, 4)).astype(np.float32), "author": np.arange(1, 31)}
    items = Candidates.of(np.arange(30), score=np.sort(generator.random(30))[::-1].copy())
    ruled = MmrConfig(rules={"author": RunConfig(column="author", at_most=1)})
    part = Mmr(ruled)
    picks, relaxed = part.pick_ruled(query(columns, 20), items)
    np.testing.assert_array_equal(picks, Mmr(MmrConfig()).pick(query(columns, 20), items))
    assert not relaxed
