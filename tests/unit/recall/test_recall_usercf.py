"""UserCF: the table against brute force, and the channel against the course's examples (T-5.1 … T-5.6)."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from tamis.data.dataset import Events
from tamis.features.inputs import Inputs
from tamis.recall.neighbours import Neighbours
from tamis.recall.usercf import UserCF, UserCFConfig, similar_users
from tamis.types import Action, Catalog, Features, History, Query

CLICK, LIKE, HIDE = Action.CLICK, Action.LIKE, Action.HIDE


def brute(x: csr_matrix, weighted: bool) -> np.ndarray:
    has = (x.toarray() > 0).astype(np.float64)
    weight = 1 / np.log1p(np.maximum(has.sum(axis=0), 1)) if weighted else np.ones(has.shape[1])
    lengths = np.maximum(has.sum(axis=1), 1)
    near = (has * weight) @ has.T / np.sqrt(np.outer(lengths, lengths))
    np.fill_diagonal(near, 0)
    return near


def dense(table: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    ids, weights = table
    near = np.zeros((len(ids), len(ids)), np.float32)
    rows, places = np.nonzero(ids >= 0)
    near[rows, ids[rows, places]] = weights[rows, places]
    return near


def random_likes(seed: int, users: int, items: int, density: float) -> csr_matrix:
    generator = np.random.default_rng(seed)
    return csr_matrix(((generator.random((users, items)) < density) * generator.integers(1, 5, (users, items))) * 1.0)


def part(
    similar: list[tuple[int, float]], last: dict[int, list[tuple[int, float]]], users: int = 8, **config: Any
) -> UserCF:
    """A channel in which user 0 has the similar users, and each user the last items with interest."""
    ids, weights = np.full((users, len(similar)), -1, np.int32), np.zeros((users, len(similar)), np.float32)
    ids[0], weights[0] = [user for user, _ in similar], [weight for _, weight in similar]
    width = max(len(items) for items in last.values())
    items, interest = np.full((users, width), -1, np.int32), np.zeros((users, width), np.float32)
    for user, own in last.items():
        items[user, : len(own)] = [item for item, _ in own]
        interest[user, : len(own)] = [points for _, points in own]
    return UserCF(UserCFConfig(**config), Neighbours(ids, weights), Neighbours(items, interest))


def query(user: int = 0, seen: tuple[int, ...] = (), items: int = 50) -> Query:
    history = History(np.array(seen, np.int64), np.full(len(seen), CLICK, np.uint8), np.zeros(len(seen)))
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    catalog = Catalog.of(np.arange(items, dtype=np.uint64), {})
    return Query(user=user, now=0.0, size=10, scene="", seed=1, history=history, features=features, catalog=catalog)


def test_an_item_gets_the_sum_over_similar_users() -> None:
    """T-5.1: 0.9·0 + 0.7·1 + 0.7·3 + 0.4·0 = 2.8."""
    channel = part([(1, 0.9), (2, 0.7), (3, 0.7), (4, 0.4)], {1: [(8, 1)], 2: [(9, 1)], 3: [(9, 3)], 4: [(7, 1)]})
    found = channel.recall(query())
    assert found.ids.tolist() == [9, 8, 7]
    assert found.column("score")[0] == pytest.approx(2.8, abs=1e-6)


def test_five_and_five_items_with_four_in_common_are_alike_by_four_fifths() -> None:
    """T-5.2: 4/√25 = 0.8 without weights; three and three without a common item are not alike."""
    x = np.zeros((4, 12))
    x[0, 0:5] = x[1, 1:6] = x[2, 6:9] = x[3, 9:12] = 1
    ids, weights = similar_users(csr_matrix(x), 3, weighted=False)
    assert ids[0].tolist() == [1, -1, -1]
    assert weights[0, 0] == pytest.approx(0.8, abs=1e-7)
    assert ids[2].tolist() == [-1, -1, -1]


@pytest.mark.parametrize(("readers", "wanted"), [(10, 0.104258), (100_000, 0.021715)])
def test_a_best_seller_says_little(readers: int, wanted: float) -> None:
    """T-5.3: four and four books, one of them shared and read by so many."""
    rows = [0] * 4 + [1] * 4 + list(range(2, readers))
    books = [0, 1, 2, 3, 0, 4, 5, 6] + [0] * (readers - 2)
    x = csr_matrix((np.ones(len(rows)), (rows, books)), shape=(readers, 7))
    others = [0] * 4 + [1] * 4
    pair = csr_matrix((np.ones(8), (others, books[:8])), shape=(2, 7))
    assert similar_users(pair, 1, weighted=False)[1][0, 0] == pytest.approx(0.25)
    ids, weights = similar_users(x, readers if readers < 100 else 1, rows=range(1))
    if readers < 100:
        assert dict(zip(ids[0].tolist(), weights[0].tolist(), strict=True))[1] == pytest.approx(wanted, abs=1e-6)
    else:  # among so many the nearest are those who read only this one book: √(4·1) below instead of √(4·4)
        assert weights[0, 0] == pytest.approx(2 * wanted, abs=1e-6)


def test_a_rare_common_item_beats_a_popular_one() -> None:
    """T-5.4: user 0 shares item 0 with user 1 and the more popular item 1 with user 2."""
    x = csr_matrix(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0]], np.float64))
    near = dense(similar_users(x, 4))
    assert near[0, 1] > near[0, 2]
    more = csr_matrix(np.vstack([x.toarray(), [[0, 1, 0]]]))
    assert dense(similar_users(more, 5))[0, 2] < near[0, 2]


def test_the_course_fixture_gives_its_ten_scores() -> None:
    """T-5.5."""
    sims = [0.7, 0.6, 0.6, 0.3, 0.3]
    points = [(1, 3), (4, 1), (3, 3), (1, 2), (4, 4)]
    last = {user + 1: [(10 + 2 * user, a), (11 + 2 * user, b)] for user, (a, b) in enumerate(points)}
    found = part([(user + 1, sim) for user, sim in enumerate(sims)], last).recall(query())
    got = dict(zip(found.ids.tolist(), found.column("score").tolist(), strict=True))
    wanted = [0.7, 2.1, 2.4, 0.6, 1.8, 1.8, 0.3, 0.6, 1.2, 1.2]
    assert got == pytest.approx(dict(zip(range(10, 20), wanted, strict=True)), abs=1e-6)


def test_the_channel_gives_at_most_its_limit_of_items_not_seen() -> None:
    """T-5.6."""
    last = {1: [(item, 1.0) for item in range(40)], 2: [(item, 2.0) for item in range(20, 45)]}
    found = part([(1, 0.5), (2, 0.4)], last, limit=10).recall(query(seen=(20, 21, 44)))
    assert len(found) == 10
    assert not set(found.ids.tolist()) & {20, 21, 44}
    assert (np.diff(found.column("score")) <= 0).all()
    assert len(part([(1, 0.5)], {1: [(3, 1.0)]}).recall(query(seen=(3,)))) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(0, 30), st.sampled_from([0.1, 0.5]), st.booleans())
def test_the_table_equals_brute_force(seed: int, users: int, items: int, density: float, weighted: bool) -> None:
    """T-5.6, no user is his own neighbour, too."""
    x = random_likes(seed, users, items, density)
    got = dense(similar_users(x, users, weighted=weighted))
    np.testing.assert_allclose(got, brute(x, weighted), atol=1e-6)
    assert not got.diagonal().any()


@pytest.mark.parametrize("weighted", [True, False])
def test_shards_joined_are_the_whole(weighted: bool) -> None:
    x = random_likes(3, 90, 60, 0.4)
    ids, weights = similar_users(x, 12, weighted=weighted)
    shards = [similar_users(x, 12, weighted=weighted, rows=range(begin, begin + 25)) for begin in range(0, 90, 25)]
    assert np.concatenate([shard[0] for shard in shards]).tobytes() == ids.tobytes()
    assert np.concatenate([shard[1] for shard in shards]).tobytes() == weights.tobytes()


def test_a_limit_of_users_per_item_changes_neither_popularity_nor_lengths() -> None:
    x = csr_matrix(np.ones((30, 2)))
    near = dense(similar_users(x, 30, item_limit=5))
    assert (near > 0).sum() == 5 * 4
    assert near.max() == pytest.approx(2 / np.log(31) / 2, abs=1e-6)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="k -1"):
        similar_users(csr_matrix((2, 2)), -1)
    with pytest.raises(ValueError, match="interactions"):
        similar_users(csr_matrix(np.array([[np.nan]])), 1)
    assert similar_users(csr_matrix((0, 3)), 2)[0].shape == (0, 2)


def test_fit_keeps_the_newest_items_of_each_user_and_survives_the_disk(tmp_path: Any) -> None:
    user = np.array([0, 1, 0, 1, 1, 2, 1, 0], np.int32)
    item = np.array([4, 4, 5, 5, 6, 5, 4, 7], np.int32)
    action = np.array([CLICK, CLICK, CLICK, CLICK, CLICK, CLICK, LIKE, HIDE], np.uint8)
    inputs = training(user, item, action, users=4, items=8)
    channel = UserCF.fit(UserCFConfig(last=2), inputs, seed=1)
    assert channel.last.ids.tolist() == [[5, 4], [4, 6], [5, -1], [-1, -1]]  # a hidden item is none of interest
    assert channel.last.weights[1].tolist() == [2, 1]
    assert channel.alike.of(0, 9)[0].tolist() == [1, 2]
    channel.save(tmp_path)
    again = UserCF.load(channel.config, tmp_path)
    for asked in (query(0, (4, 5)), query(2, (5,)), query(0)):
        np.testing.assert_array_equal(again.recall(asked).ids, channel.recall(asked).ids)
    assert channel.recall(query(0, (4, 5))).ids.tolist() == [6]


def test_users_without_a_row_or_without_likeness_get_nothing() -> None:
    inputs = training(np.array([0], np.int32), np.array([0], np.int32), np.array([CLICK], np.uint8), users=2, items=1)
    channel = UserCF.fit(UserCFConfig(), inputs, seed=1)
    for user in (-1, 0, 1, 2, 99):
        assert len(channel.recall(query(user, (0,), 1))) == 0
    nobody = training(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.uint8), users=2, items=1)
    assert len(UserCF.fit(UserCFConfig(), nobody, seed=1).recall(query(0, (), 1))) == 0


def training(user: np.ndarray, item: np.ndarray, action: np.ndarray, users: int, items: int) -> Any:
    """Inputs with these events, oldest first, and nothing else."""
    count = len(user)
    nothing = {"value": np.zeros(count, np.float32), "time": np.arange(count) * 1.0}
    events = Events(user, item, action, **nothing, request=np.full(count, -1), position=np.full(count, -1, np.int16))
    inputs: Any = SimpleNamespace(
        users=Features(np.zeros((users, 0), np.int32), np.zeros((users, 0), np.float32)),
        catalog=range(items),
        events=events,
        interest_actions=("click", "like"),
        progress=lambda *told: None,
    )
    inputs.interest = lambda: Inputs.interest(inputs)
    return inputs
