import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.evaluate.protocols import (
    HeldOut,
    Interactions,
    Split,
    best_unseen,
    given_split,
    judge,
    leave_one_out,
    random_split,
    ranking_metrics,
    time_split,
)
from tamis.metrics import Relevant


def drawn(seed: int, rows: int = 300, users: int = 20, items: int = 30, times: int = 50) -> Interactions:
    """Random interactions with repeats and many tied times."""
    rng = np.random.default_rng(seed)
    return Interactions.of(
        rng.integers(0, users, rows),
        rng.integers(0, items, rows),
        rng.integers(0, times, rows),
        shape=(users, items),
    )


def pairs(split: Split, rows: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(split.data.user[rows].tolist(), split.data.item[rows].tolist(), strict=True))


def answers(held_out: HeldOut) -> dict[int, list[int]]:
    starts, items = held_out.relevant.starts, held_out.relevant.items
    lists = np.split(items, starts[1:-1]) if len(held_out.users) else []
    return {int(user): sorted(one.tolist()) for user, one in zip(held_out.users, lists, strict=True)}


@pytest.mark.parametrize(
    "split",
    [leave_one_out, random_split, lambda data: time_split(data, 0.2, 0.1, cold="keep")],
    ids=["loo", "rs", "to"],
)
def test_every_row_is_in_exactly_one_part_and_parts_go_user_by_user_in_order_of_time(split) -> None:
    data = drawn(1)
    made = split(data)
    rows = np.concatenate([made.train, made.valid, made.test])
    assert sorted(rows.tolist()) == list(range(len(data)))
    for part in (made.train, made.valid, made.test):
        assert (np.diff(data.user[part]) >= 0).all()
        same = np.diff(data.user[part]) == 0
        assert (np.diff(data.time[part])[same] >= 0).all()


def test_leave_one_out_takes_the_last_two_of_each_user_and_none_of_short_lists() -> None:
    data = Interactions.of([0, 0, 0, 0, 1, 1, 2], [5, 1, 2, 3, 1, 2, 4], [40, 10, 20, 30, 1, 2, 9], shape=(3, 6))
    split = leave_one_out(data)
    assert data.item[split.test].tolist() == [5]
    assert data.item[split.valid].tolist() == [3]
    assert data.item[split.train].tolist() == [1, 2, 1, 2, 4]


def test_tied_times_are_in_the_stated_order() -> None:
    data = Interactions.of([0] * 4, [9, 1, 8, 3], [5, 5, 5, 5], shape=(1, 10))
    assert data.item[leave_one_out(data, ties="row").test].tolist() == [3]
    assert data.item[leave_one_out(data, ties="item").test].tolist() == [9]
    last = {int(data.item[leave_one_out(data, ties="random", seed=seed).test][0]) for seed in range(30)}
    assert last == {1, 3, 8, 9}
    first, again = (leave_one_out(data, ties="random", seed=4) for _ in range(2))
    assert np.array_equal(first.train, again.train)


def test_random_split_gives_each_user_the_stated_numbers() -> None:
    lengths = {1: (1, 0, 0), 2: (1, 0, 1), 3: (1, 1, 1), 9: (7, 1, 1), 10: (8, 1, 1), 19: (17, 1, 1), 20: (16, 2, 2)}
    user = np.repeat(np.arange(len(lengths)), list(lengths))
    data = Interactions.of(user, np.arange(len(user)), shape=(len(lengths), len(user)))
    split = random_split(data, seed=3)
    counts = [np.bincount(data.user[part], minlength=len(lengths)) for part in (split.train, split.valid, split.test)]
    assert list(zip(*(c.tolist() for c in counts), strict=True)) == list(lengths.values())


def test_random_split_is_the_seeds_alone_and_a_share_of_zero_is_an_empty_part() -> None:
    data = drawn(2)
    one, same, other = (random_split(data, (0.75, 0.0, 0.25), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.test, same.test)
    assert not np.array_equal(one.test, other.test)
    assert not len(one.valid)


def test_random_split_shuffles_evenly() -> None:
    data = Interactions.of(np.zeros(10, int), np.arange(10), shape=(1, 10))
    counts = np.bincount([int(data.item[random_split(data, seed=seed).test][0]) for seed in range(2000)], minlength=10)
    assert counts.min() > 140  # 200 expected, 13 the standard deviation
    assert counts.max() < 260


def test_time_split_cuts_once_for_all_and_never_inside_a_tie() -> None:
    data = drawn(3)
    split = time_split(data, 0.2, 0.1, cold="keep")
    assert data.time[split.train].max() < data.time[split.valid].min()
    assert data.time[split.valid].max() < data.time[split.test].min()
    assert 0.2 <= len(split.test) / len(data) < 0.2 + 0.05  # a tie of 300/50 rows on average
    assert len(split.valid) >= 0.1 * (len(data) - len(split.test))


def test_cold_users_and_items_are_dropped_or_kept() -> None:
    data = Interactions.of([0, 0, 1, 0, 1, 0], [0, 1, 0, 2, 1, 1], [1, 2, 9, 9, 9, 9], shape=(2, 3))
    dropped, kept = time_split(data, 0.5), time_split(data, 0.5, cold="keep")
    assert pairs(dropped, dropped.test) == {(0, 1)}
    assert pairs(kept, kept.test) == {(1, 0), (0, 2), (1, 1), (0, 1)}
    assert answers(kept.held_out()) == {0: [2], 1: [0, 1]}
    assert answers(dropped.held_out()) == {}  # user 0 has item 1 already


def test_a_given_split_stays_as_it_is() -> None:
    train = Interactions.of([0, 1, 1], [0, 1, 2], shape=(2, 4))
    test = Interactions.of([1, 0, 1], [3, 2, 0], shape=(2, 4))
    split = given_split(train, test)
    assert pairs(split, split.train) == {(0, 0), (1, 1), (1, 2)}
    assert answers(split.held_out()) == {0: [2], 1: [0, 3]}
    assert split.held_out().known.toarray().tolist() == [[1, 0, 0, 0], [0, 1, 1, 0]]
    with_valid = given_split(train, test, Interactions.of([0], [3], shape=(2, 4)))
    assert answers(with_valid.held_out("valid")) == {0: [3]}
    assert with_valid.held_out("valid").known.nnz == 3
    assert with_valid.held_out().known.nnz == 4


def test_the_matrix_sums_values_of_repeats() -> None:
    data = Interactions.of([0, 0, 0], [1, 1, 0], value=[2.0, 3.0, 1.0], shape=(1, 2))
    split = given_split(data, data)
    assert split.matrix().toarray().tolist() == [[1, 5]]
    assert split.matrix("train", "test").toarray().tolist() == [[2, 10]]
    assert answers(split.held_out()) == {}


def test_ids_of_any_kind_are_numbered_in_sorted_order() -> None:
    data = Interactions.of(["u9", "u1", "u9"], [70, 5, 5])
    assert data.user.tolist() == [1, 0, 1]
    assert data.item.tolist() == [1, 0, 0]
    assert (data.users, data.items) == (2, 2)


def test_columns_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="item has shape"):
        Interactions.of([1, 2], [1])
    with pytest.raises(ValueError, match=r"user has a number outside 0 … 1"):
        Interactions.of([2], [0], shape=(2, 1))
    with pytest.raises(ValueError, match="time or value"):
        Interactions.of([0], [0], [math.nan])
    with pytest.raises(ValueError, match="shares"):
        random_split(drawn(1), (0.5, 0.1, 0.1))
    with pytest.raises(ValueError, match="test_share"):
        time_split(drawn(1), 1.0)


def test_nothing_at_all_can_be_split_and_judged() -> None:
    none = Interactions.of(np.empty(0, int), np.empty(0, int), shape=(0, 0))
    for split in (leave_one_out(none), random_split(none), time_split(none), given_split(none, none)):
        assert math.isnan(judge(lambda users: np.empty((len(users), 0)), split.held_out())["recall@10"])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 40), levels=st.integers(1, 30))
def test_best_unseen_is_what_sorting_gives(seed: int, k: int, levels: int) -> None:
    held_out = random_split(drawn(seed), (0.5, 0.0, 0.5), seed).held_out()
    scores = np.random.default_rng(seed).integers(-levels, levels, held_out.known.shape).astype(np.float32)
    scores[:, 7] = -np.inf
    ranked = best_unseen(lambda users: scores[users], held_out, k)
    for user, row in zip(held_out.users, ranked, strict=True):
        known = set(held_out.known[user].indices.tolist()) | {7}
        wanted = sorted((i for i in range(30) if i not in known), key=lambda i: (-scores[user, i], i))[:k]
        assert row.tolist() == wanted + [-1] * (k - len(wanted))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_metrics_are_what_the_formulas_say(seed: int) -> None:
    held_out = leave_one_out(drawn(seed)).held_out() if seed % 2 else time_split(drawn(seed), 0.4).held_out()
    scores = np.random.default_rng(seed).random(held_out.known.shape)
    got = judge(lambda users: scores[users], held_out, (3, 10))
    ranked = best_unseen(lambda users: scores[users], held_out, 10)
    for k in (3, 10):
        recall, ndcg, hit, mrr = [], [], [], []
        for row, right in zip(ranked, answers(held_out).values(), strict=True):
            places = [place for place, item in enumerate(row[:k].tolist(), 1) if item in right]
            recall.append(len(places) / len(right))
            ideal = sum(1 / math.log2(1 + place) for place in range(1, min(k, len(right)) + 1))
            ndcg.append(sum(1 / math.log2(1 + place) for place in places) / ideal)
            hit.append(float(bool(places)))
            mrr.append(1 / places[0] if places else 0.0)
        for name, values in (("recall", recall), ("ndcg", ndcg), ("hit", hit), ("mrr", mrr)):
            assert got[f"{name}@{k}"] == pytest.approx(np.mean(values))


def test_scores_come_in_blocks_and_the_callers_array_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tamis.evaluate.protocols._SCORES_AT_ONCE", 70)
    held_out = random_split(drawn(5), (0.5, 0.0, 0.5)).held_out()
    scores = np.random.default_rng(1).random(held_out.known.shape, np.float32)
    before, asked = scores.copy(), []

    def score(users: np.ndarray) -> np.ndarray:
        asked.append(len(users))
        return scores[users]

    whole = best_unseen(lambda users: scores[users], held_out, 5)
    assert np.array_equal(best_unseen(score, held_out, 5), whole)
    assert max(asked) == 2
    assert np.array_equal(scores, before)


def test_scores_of_another_shape_or_without_a_number_are_refused() -> None:
    held_out = random_split(drawn(5)).held_out()
    with pytest.raises(ValueError, match="score gave"):
        best_unseen(lambda users: np.zeros((len(users), 3)), held_out, 5)
    with pytest.raises(ValueError, match="not a number"):
        best_unseen(lambda users: np.full((len(users), 30), np.nan), held_out, 5)
    with pytest.raises(ValueError, match="wanted at least 10 places"):
        ranking_metrics(np.zeros((1, 5), np.int64), Relevant.of([[1]]), (10,))
    with pytest.raises(ValueError, match="k 0"):
        best_unseen(lambda users: np.zeros((len(users), 30)), held_out, 0)
