from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from toy_world import CLICK, IMPRESSION, Toy

from tamis.recall.matrix_completion import MatrixCompletion, MatrixCompletionConfig, complete, observed

CONFIG = MatrixCompletionConfig(limit=40, vector_size=12)

CELLS = """
1:1 5:0 10:1 15:0 19:0 22:0 24:2 · 3:0 5:4 14:0 15:1 · 2:4 5:1 9:1 11:1 16:2 18:0 20:1 21:1 24:1 · 2:0 8:0 14:1 ·
3:0 6:0 11:0 17:0 21:0 24:4 · 5:0 8:0 13:1 19:0 · 3:1 9:1 13:0 16:0 22:0 · 1:1 4:0 10:4 16:0 19:0 ·
8:0 13:0 18:1 24:3 · 2:2 4:0 6:2 11:1 15:1 21:0 · 1:0 7:1 13:4 19:0 23:1 · 1:3 5:2 10:1 17:2 24:0
"""


def fixture() -> csr_matrix:
    """T-7.1: 12 users × 24 items, 63 known cells."""
    rows = [[tuple(map(int, cell.split(":"))) for cell in user.replace("\n", " ").split()] for user in CELLS.split("·")]
    users = np.repeat(np.arange(12), [len(row) for row in rows])
    items = np.array([item - 1 for row in rows for item, _ in row])
    scores = np.array([score for row in rows for _, score in row], np.float32)
    return csr_matrix((scores, (users, items)), shape=(12, 24))


def loss(cells: csr_matrix, users: np.ndarray, items: np.ndarray) -> float:
    owner = np.repeat(np.arange(cells.shape[0]), np.diff(cells.indptr))
    return float(np.sum((cells.data - np.sum(users[owner] * items[cells.indices], axis=1)) ** 2))


def test_the_fixture_is_what_the_specification_counts() -> None:
    cells = fixture()
    assert cells.nnz == 63
    assert np.bincount(cells.data.astype(int)).tolist() == [30, 20, 6, 2, 5]
    assert cells.data.sum() == 58
    assert loss(cells, np.zeros((12, 1)), np.zeros((24, 1))) == 142
    assert loss(cells, np.full((12, 1), 58 / 63), np.ones((24, 1))) == pytest.approx(88.6, abs=0.05)


def test_training_goes_far_below_the_best_constant_and_to_zero_with_enough_numbers() -> None:
    cells = fixture()
    narrow = MatrixCompletionConfig(vector_size=3, ridge=0.0, rounds=200)
    wide = MatrixCompletionConfig(vector_size=12, ridge=0.0, rounds=300, steps=12)
    assert loss(cells, *complete(cells, narrow)) < 20
    assert loss(cells, *complete(cells, wide)) < 1e-3


def test_cells_that_are_not_known_change_nothing_and_zeros_that_are_known_do() -> None:
    """T-7.2."""
    cells, config = fixture(), MatrixCompletionConfig(vector_size=4)
    dense = cells.toarray()
    known = np.zeros(cells.shape, np.bool_)
    known[np.repeat(np.arange(12), np.diff(cells.indptr)), cells.indices] = True
    dense[~known] = 99
    rows, columns = np.nonzero(known)
    same = csr_matrix((dense[rows, columns], (rows, columns)), shape=cells.shape)
    for one, other in zip(complete(cells, config), complete(same, config), strict=True):
        assert np.array_equal(one, other)
    positive = cells.copy()
    positive.eliminate_zeros()
    assert not np.array_equal(complete(cells, config)[0], complete(positive, config)[0])


def test_shown_without_interest_is_a_zero_here_if_the_setting_says_so(toy: Toy) -> None:
    cells, positives = observed(toy.inputs, True), observed(toy.inputs, False)
    events = toy.inputs.events
    shown = {
        (int(u), int(i)) for u, i, a in zip(events.user, events.item, events.action, strict=True) if a == IMPRESSION
    }
    owner = np.repeat(np.arange(cells.shape[0]), np.diff(cells.indptr))
    assert set(zip(owner.tolist(), cells.indices.tolist(), strict=True)) == shown
    assert positives.nnz < cells.nnz
    assert cells.sum() == positives.sum()
    assert (cells != positives).nnz == 0
    assert positives.data.min() > 0


def test_interest_without_an_impression_is_known_too(toy: Toy) -> None:
    events = toy.inputs.events
    clicks = replace(toy.inputs, events=events.take(np.flatnonzero(events.action == CLICK)))
    cells = observed(clicks, True)
    assert cells.nnz == observed(clicks, False).nnz > 0
    assert cells.data.min() == 1


@pytest.fixture(scope="module")
def part(toy: Toy) -> MatrixCompletion:
    return MatrixCompletion.fit(CONFIG, toy.inputs, 1)


def test_most_of_what_comes_back_is_of_the_users_cluster(toy: Toy, part: MatrixCompletion) -> None:
    shares = []
    for user in range(0, 120, 7):
        ids = part.recall(toy.query(user, [])).ids[:20]
        shares.append((toy.item_cluster[ids] == toy.user_cluster[user]).mean())
    assert np.mean(shares) > 0.6  # at random: 1/6


def test_strangers_get_nothing_and_own_items_are_left_out(toy: Toy, part: MatrixCompletion) -> None:
    assert len(part.recall(toy.query(-1, [1, 2]))) == 0
    first = part.recall(toy.query(4, [])).ids
    again = part.recall(toy.query(4, first[:5].tolist())).ids
    assert len(first) == len(again) == 40
    assert not np.isin(first[:5], again).any()


def test_without_events_of_its_kind_it_finds_nothing(toy: Toy, tmp_path: Path) -> None:
    nothing = replace(toy.inputs, events=toy.inputs.events.take(np.empty(0, np.int64)))
    part = MatrixCompletion.fit(CONFIG, nothing, 1)
    part.save(tmp_path)
    for each in (part, MatrixCompletion.load(CONFIG, tmp_path)):
        assert len(each.recall(toy.query(3, [1]))) == 0
        assert len(each.similar(3, 5)[0]) == 0


def test_one_user_and_one_item_are_enough_and_what_is_no_number_is_refused() -> None:
    users, items = complete(csr_matrix(np.array([[3.0]])), MatrixCompletionConfig(ridge=0.0, rounds=30))
    assert float(users[0] @ items[0]) == pytest.approx(3, abs=1e-3)
    with pytest.raises(ValueError, match="cells"):
        complete(csr_matrix(np.array([[np.nan]])), CONFIG)


def test_similar_items_are_of_the_same_cluster(toy: Toy, part: MatrixCompletion) -> None:
    shares = [
        (toy.item_cluster[part.similar(item, 8)[0]] == toy.item_cluster[item]).mean() for item in range(0, 240, 9)
    ]
    assert np.mean(shares) > 0.5
