from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from toy_world import Toy

from tamis.errors import ConfigError
from tamis.recall.bpr import BPR, BPRConfig, rank_pairs

CONFIG = BPRConfig(limit=40, vector_size=12, epochs=60)


@pytest.fixture(scope="module")
def part(toy: Toy) -> BPR:
    return BPR.fit(CONFIG, toy.inputs, 1)


def test_most_of_what_comes_back_is_of_the_users_cluster(toy: Toy, part: BPR) -> None:
    shares = []
    for user in range(0, 120, 7):
        ids = part.recall(toy.query(user, [])).ids[:20]
        shares.append((toy.item_cluster[ids] == toy.user_cluster[user]).mean())
    assert np.mean(shares) > 0.7  # at random: 1/6


def test_liked_items_stand_above_others_for_nearly_every_pair(toy: Toy) -> None:
    interest = toy.inputs.interest()
    users, items = rank_pairs(interest, CONFIG, 1)
    scores, liked = users @ items.T, interest.toarray() > 0
    share = np.mean([(scores[u][liked[u]][:, None] > scores[u][~liked[u]]).mean() for u in range(120)])
    assert share > 0.85  # at random: 0.5


def test_one_step_goes_down_the_written_slope() -> None:
    """Two items, one liked: the only step there is, against the formula by finite differences."""
    matrix = csr_matrix(np.array([[1.0, 0.0], [0.0, 1.0]]))  # both items are known, so that both can be drawn
    config = BPRConfig(vector_size=3, epochs=1, learning_rate=1e-3, ridge=0.1)
    start = rank_pairs(matrix, BPRConfig(vector_size=3, epochs=0), 7)
    for seed in range(20):
        start = rank_pairs(matrix, BPRConfig(vector_size=3, epochs=0), seed)
        after = rank_pairs(matrix, config, seed)
        if np.array_equal(start[0][1], after[0][1]) and not np.array_equal(start[0][0], after[0][0]):
            break  # only the first user's pair met an item that he does not have
    users, items = (side.astype(np.float64) for side in start)

    def value(p: np.ndarray, q: np.ndarray) -> float:
        ahead = p @ (q[0] - q[1])
        reg = p[:3] @ p[:3] + np.sum(q[0] ** 2) + np.sum(q[1] ** 2)
        return float(np.log1p(np.exp(-ahead)) + 0.05 * reg)

    for t in range(3):
        bump = 1e-5 * np.eye(4)[t]
        slope = (value(users[0] + bump, items) - value(users[0] - bump, items)) / 2e-5
        assert after[0][0][t] - start[0][0][t] == pytest.approx(-1e-3 * slope, rel=1e-2, abs=1e-6)
    for item in range(2):
        for t in range(4):
            bump = np.zeros((2, 4))
            bump[item, t] = 1e-5
            slope = (value(users[0], items + bump) - value(users[0], items - bump)) / 2e-5
            assert after[1][item][t] - start[1][item][t] == pytest.approx(-1e-3 * slope, rel=2e-2, abs=1e-6)


def test_strangers_get_nothing_and_own_items_are_left_out(toy: Toy, part: BPR) -> None:
    assert len(part.recall(toy.query(-1, [1, 2]))) == 0
    first = part.recall(toy.query(4, [])).ids
    again = part.recall(toy.query(4, first[:5].tolist())).ids
    assert len(first) == len(again) == 40
    assert not np.isin(first[:5], again).any()


def test_without_events_of_its_kind_it_finds_nothing(toy: Toy, tmp_path: Path) -> None:
    nothing = replace(toy.inputs, events=toy.inputs.events.take(np.empty(0, np.int64)))
    part = BPR.fit(CONFIG, nothing, 1)
    part.save(tmp_path)
    for each in (part, BPR.load(CONFIG, tmp_path)):
        assert len(each.recall(toy.query(3, [1]))) == 0
        assert len(each.similar(3, 5)[0]) == 0


def test_one_item_has_nothing_to_stand_above_and_no_harm_is_done() -> None:
    users, items = rank_pairs(csr_matrix(np.ones((2, 1))), CONFIG)
    assert np.isfinite(users).all()
    assert np.isfinite(items).all()


def test_a_rate_that_diverges_is_an_error_that_says_what_to_lower(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="lower learning_rate"):
        rank_pairs(toy.inputs.interest(), BPRConfig(vector_size=4, learning_rate=50.0, ridge=1.0))


def test_the_seed_decides_and_the_number_of_threads_does_not(toy: Toy) -> None:
    interest, before = toy.inputs.interest(), numba.get_num_threads()
    one = rank_pairs(interest, CONFIG, 3)
    numba.set_num_threads(1)
    same = rank_pairs(interest, CONFIG, 3)
    numba.set_num_threads(before)
    other = rank_pairs(interest, CONFIG, 4)
    assert one[1].tobytes() == same[1].tobytes()
    assert one[1].tobytes() != other[1].tobytes()


def test_similar_items_are_of_the_same_cluster(toy: Toy, part: BPR) -> None:
    shares = [
        (toy.item_cluster[part.similar(item, 8)[0]] == toy.item_cluster[item]).mean() for item in range(0, 240, 9)
    ]
    assert np.mean(shares) > 0.5
