from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import Toy

from tamis.index.vectors import VectorsConfig
from tamis.recall.factors import Factors, KnownUsers

EXACT = VectorsConfig(kind="exact")
NOBODY = np.empty((0, 8), np.float32)


def uneven(seed: int, count: int, width: int = 8) -> np.ndarray:
    """Clustered vectors whose lengths differ by a factor of a hundred."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, width))
    vectors = centres[random.integers(0, 12, count)] + 0.4 * random.normal(size=(count, width))
    return (vectors * np.exp(random.uniform(-2.3, 2.3, (count, 1)))).astype(np.float32)


def some(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < 0.7


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 60), limit=st.integers(0, 70), end=st.integers(0, 60))
def test_nearest_is_what_sorting_all_inner_products_gives(seed: int, count: int, limit: int, end: int) -> None:
    vectors, learnt = uneven(seed, count), some(seed, count)
    factors = Factors.of(vectors, learnt, limit, NOBODY, (EXACT, 0))
    query = uneven(seed + 1, 1)[0]
    without = np.random.default_rng(seed).integers(-1, count, 5)
    found = factors.nearest(query, without, limit, end)
    allowed = [i for i in range(min(count, end)) if learnt[i] and i not in without]
    product = vectors @ query
    wanted = sorted(allowed, key=lambda i: (-product[i], i))[: limit or None]
    np.testing.assert_allclose(found.column("score"), product[found.ids], rtol=1e-4, atol=1e-4)
    if end >= count:
        np.testing.assert_allclose(product[found.ids], product[wanted], rtol=1e-4, atol=1e-4)
    assert set(found.ids.tolist()) <= set(allowed)


def test_inverted_lists_find_inner_products_of_any_length() -> None:
    vectors, queries = uneven(1, 4000), uneven(2, 60)
    everyone = np.ones(4000, np.bool_)
    factors = Factors.of(vectors, everyone, 50, queries[:30], (VectorsConfig(kind="ivf"), 0))
    assert factors.index.facts.kind == "ivf"
    shares = []
    for query in queries[30:]:
        wanted = np.argsort(-(vectors @ query))[:50]
        shares.append(len(np.intersect1d(factors.nearest(query, wanted[:0], 50, 4000).ids, wanted)) / 50)
    assert np.mean(shares) > 0.95


def test_similar_goes_by_direction_and_not_by_length() -> None:
    vectors = np.array([[1, 0], [100, 100], [2, 0.1], [0, 3], [0, 0]], np.float32)
    factors = Factors.of(vectors, np.array([True, True, True, True, False]), 0, NOBODY[:, :2], (EXACT, 0))
    ids, cosines = factors.similar(0, 10)
    assert ids.tolist() == [2, 1, 3]
    np.testing.assert_allclose(cosines, [2 / np.hypot(2, 0.1), np.sqrt(0.5), 0], atol=1e-6)
    assert factors.similar(0, 1)[0].tolist() == [2]
    for item, size in ((4, 5), (-1, 5), (9, 5), (0, 0)):
        assert len(factors.similar(item, size)[0]) == 0


def test_rows_of_items_without_a_vector_are_unknown() -> None:
    factors = Factors.of(uneven(1, 4), np.array([False, True, False, True]), 0, NOBODY, (EXACT, 0))
    assert factors.rows(np.array([0, 1, 2, 3, 4, -1])).tolist() == [-1, 0, -1, 1, -1, -1]
    nothing = Factors.of(uneven(1, 4), np.zeros(4, np.bool_), 0, NOBODY, (EXACT, 0))
    assert nothing.rows(np.array([0, 3])).tolist() == [-1, -1]
    assert len(nothing.nearest(uneven(2, 1)[0], np.empty(0, np.int64), 5, 4)) == 0
    assert len(nothing.similar(1, 5)[0]) == 0


@pytest.fixture
def known() -> KnownUsers:
    users = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    items = np.array([[10, 10], [1, 0], [-1, 5]], np.float32)
    return KnownUsers.of(users, items, np.ones(3, np.bool_), 0, (EXACT, 0))


def test_the_largest_inner_product_comes_first_and_not_the_largest_cosine(toy: Toy, known: KnownUsers) -> None:
    """T-7.4: (1, 0) prefers (10, 10) by inner product, 10 against 1, and (1, 0) by cosine."""
    found = known.recall(toy.query(0, []), 0)
    assert found.ids.tolist() == [0, 1, 2]
    assert found.column("score").tolist() == [10, 1, -1]
    assert known.recall(toy.query(0, [0]), 1).ids.tolist() == [1]


def test_a_user_without_a_vector_gets_nothing(toy: Toy, known: KnownUsers) -> None:
    """T-7.6: a miss is an empty answer, and other channels fill the page."""
    for user in (-1, 1, 3):
        assert len(known.recall(toy.query(user, [0, 1]), 0)) == 0


def test_saved_and_loaded_is_the_same(toy: Toy, known: KnownUsers, tmp_path: Path) -> None:
    known.save(tmp_path)
    again = KnownUsers.load(tmp_path)
    assert np.array_equal(again.recall(toy.query(2, []), 0).ids, known.recall(toy.query(2, []), 0).ids)
    assert again.factors.similar(0, 2)[0].tolist() == known.factors.similar(0, 2)[0].tolist()
