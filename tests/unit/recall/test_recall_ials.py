from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array
from toy_world import CLUSTERS, Toy

from tamis.features.inputs import Inputs
from tamis.recall.ials import IALS, IALSConfig, factorise
from tamis.types import Catalog

CONFIG = IALSConfig(limit=40, vector_size=16, rounds=8)


@pytest.fixture(scope="module")
def part(toy: Toy) -> IALS:
    return IALS.fit(CONFIG, toy.inputs, 1)


def share_of_cluster(toy: Toy, part: IALS, user: int, cluster: int) -> float:
    found = part.recall(toy.query(user, toy.likes(cluster)[:4].tolist()))
    return float((toy.item_cluster[found.ids[:20]] == cluster).mean())


def test_what_comes_back_is_of_the_cluster_of_the_history_and_not_of_the_user(toy: Toy, part: IALS) -> None:
    assert np.mean([share_of_cluster(toy, part, 3, cluster) for cluster in range(CLUSTERS)]) > 0.8


def test_an_unknown_user_with_a_history_is_served_like_anybody(toy: Toy, part: IALS) -> None:
    history = toy.likes(2)[:5].tolist()
    known, stranger = part.recall(toy.query(2, history)), part.recall(toy.query(-1, history))
    assert np.array_equal(known.ids, stranger.ids)
    assert len(known) == 40


def test_a_click_changes_the_next_answer(toy: Toy, part: IALS) -> None:
    before = toy.likes(0)[:2].tolist()
    after = [int(toy.likes(1)[0]), *before]
    assert part.recall(toy.query(3, before)).ids.tolist() != part.recall(toy.query(3, after)).ids.tolist()


def test_an_empty_history_and_unknown_items_find_nothing(toy: Toy, part: IALS) -> None:
    assert len(part.recall(toy.query(3, []))) == 0
    assert len(part.recall(toy.query(3, [-1, -1]))) == 0
    assert len(part.recall(toy.query(-1, [240], toy.with_fresh([1])))) == 0


def test_own_items_are_left_out_and_scores_fall(toy: Toy, part: IALS) -> None:
    history = toy.likes(1)[:30].tolist()
    found = part.recall(toy.query(1, history))
    assert not np.isin(found.ids, history).any()
    assert (np.diff(found.column("score")) <= 0).all()
    everything = replace(part, config=IALSConfig(limit=0, vector_size=16)).recall(toy.query(1, history))
    assert len(everything) == len(part.factors.items) - len(np.intersect1d(history, part.factors.items))
    all_seen = part.recall(toy.query(1, list(range(240))))
    assert len(all_seen) == 0


def test_the_answer_stays_inside_a_smaller_catalogue(toy: Toy, part: IALS) -> None:
    old, rows = toy.inputs.catalog, np.arange(50)
    small = Catalog.of(old.keys[0][:50], {name: old.column(name, rows) for name in old.columns})
    assert (part.recall(toy.query(5, [1, 2], small)).ids < 50).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), power=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_loss_is_the_written_one_and_the_vectors_of_users_are_its_minimum(seed: int, power: float) -> None:
    random = np.random.default_rng(seed)
    matrix = csr_matrix(random_array((25, 20), density=0.3, rng=random, dtype=np.float64))
    matrix.data = random.integers(1, 4, matrix.nnz).astype(np.float64)
    config = IALSConfig(vector_size=4, rounds=1, steps=12, ridge=0.02, frequency_power=power, unseen_weight=0.2)
    users, items = factorise(matrix, config, seed)
    dense, seen = matrix.toarray(), matrix.toarray() > 0
    there = int(seen.any(axis=1).sum()), int(seen.any(axis=0).sum())

    def loss(x: np.ndarray, y: np.ndarray) -> float:
        scores = x @ y.T
        total = np.sum(np.where(seen, dense * (1 - scores) ** 2, 0)) + 0.2 * np.sum(scores**2)
        for vectors, counts, others in ((x, seen.sum(axis=1), there[1]), (y, seen.sum(axis=0), there[0])):
            total += np.sum(0.02 * (counts + 0.2 * others) ** power * np.sum(vectors**2, axis=1))
        return float(total)

    x, y = users.astype(np.float64), items.astype(np.float64)
    for item in np.flatnonzero(seen.any(axis=0))[:3]:  # items were solved last
        for bump in (np.eye(4)[0], np.eye(4)[3], -np.ones(4)):
            moved = y.copy()
            moved[item] += 0.02 * bump
            assert loss(x, y) <= loss(x, moved) + 1e-5


def test_the_users_vector_online_is_the_minimum_of_his_part_of_the_loss(toy: Toy, part: IALS) -> None:
    rows, interest = np.array([0, 5, 9]), np.array([1.0, 2.0, 1.0])
    vector = part.user_vector(rows, interest).astype(np.float64)
    items = part.factors.vectors(np.arange(len(part.factors.items))).astype(np.float64)
    ridge = CONFIG.ridge * (3 + CONFIG.unseen_weight * len(items)) ** CONFIG.frequency_power

    def loss(x: np.ndarray) -> float:
        own = items[rows] @ x
        return float(interest @ (1 - own) ** 2 + CONFIG.unseen_weight * np.sum((items @ x) ** 2) + ridge * x @ x)

    for bump in 0.01 * np.random.default_rng(1).normal(size=(20, 16)):
        assert loss(vector) < loss(vector + bump)


def test_similar_items_are_of_the_same_cluster(toy: Toy, part: IALS) -> None:
    shares = []
    for item in range(0, 240, 11):
        ids, cosines = part.similar(item, 10)
        assert item not in ids
        assert (np.diff(cosines) <= 0).all()
        shares.append((toy.item_cluster[ids] == toy.item_cluster[item]).mean())
    assert np.mean(shares) > 0.7
    assert len(part.similar(240, 5)[0]) == len(part.similar(-1, 5)[0]) == 0


def without_events(toy: Toy) -> Inputs:
    return replace(toy.inputs, events=toy.inputs.events.take(np.empty(0, np.int64)))


def test_without_events_of_its_kind_it_finds_nothing(toy: Toy, tmp_path: Path) -> None:
    part = IALS.fit(CONFIG, without_events(toy), 1)
    assert len(part.recall(toy.query(3, [1, 2]))) == 0
    assert len(part.similar(1, 5)[0]) == 0
    part.save(tmp_path)
    assert len(IALS.load(CONFIG, tmp_path).recall(toy.query(3, [1, 2]))) == 0


def test_a_catalogue_of_one_item_is_enough() -> None:
    users, items = factorise(csr_matrix(np.ones((3, 1))), CONFIG)
    assert np.isfinite(users).all()
    assert (users @ items.T > 0).all()


def test_interest_that_is_none_is_refused() -> None:
    for wrong in (np.nan, -1.0, np.inf):
        with pytest.raises(ValueError, match="interactions"):
            factorise(csr_matrix(np.array([[1.0, wrong]])), CONFIG)


def test_saved_and_loaded_answers_the_same(toy: Toy, part: IALS, tmp_path: Path) -> None:
    part.save(tmp_path)
    again = IALS.load(CONFIG, tmp_path)
    query = toy.query(7, [4, 9, 30])
    np.testing.assert_array_equal(again.recall(query).ids, part.recall(query).ids)
    np.testing.assert_array_equal(again.recall(query).column("score"), part.recall(query).column("score"))


def test_without_a_ridge_fewer_items_than_numbers_still_give_an_answer(toy: Toy) -> None:
    few = np.arange(3)
    catalog = Catalog.of(
        toy.inputs.catalog.keys[0][:3],
        {name: toy.inputs.catalog.column(name, few) for name in toy.inputs.catalog.columns},
    )
    events = toy.inputs.events
    known = replace(toy.inputs, catalog=catalog, events=events.take(np.flatnonzero(events.item < 3)))
    part = IALS.fit(IALSConfig(ridge=0.0, vector_size=16), known, 1)
    answer = part.recall(toy.query(0, [0, 1], catalog))
    assert answer.ids.tolist() == [2]
    assert np.isfinite(answer.column("score")).all()
