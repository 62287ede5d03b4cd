from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from toy_world import Toy

from tamis.data.samples import Samples, Timeline
from tamis.data.unshown import with_unshown
from tamis.errors import ConfigError
from tamis.features.earlier import Dropped
from tamis.nets.draws import Draw, Drawer, acted_rows, draw_probabilities
from tamis.nets.hard import HardDraws
from tamis.nets.negatives import NONE, log_weights


def samples_of(rows: list[tuple[int, list[int], list[int]]], users: int, past: list[tuple[int, int]] = ()) -> Samples:
    """Requests (user, items shown, items clicked) at times 1, 2, …; past: (user, item) clicked at time 0."""
    item = np.array([i for _, shown, _ in rows for i in shown], np.int32)
    click = np.array([float(i in clicked) for _, shown, clicked in rows for i in shown], np.float32)
    owners = np.array([user for user, _ in sorted(past)], np.int64)
    timeline = Timeline(
        np.array([i for _, i in sorted(past)], np.int32),
        np.ones(len(past), np.uint8),
        np.zeros(len(past)),
        np.searchsorted(owners, np.arange(users + 1)),
    )
    count = len(rows)
    return Samples(
        user=np.array([user for user, _, _ in rows], np.int32),
        time=1.0 + np.arange(count),
        scene=np.zeros(count, np.int32),
        scenes=("feed",),
        context=pl.DataFrame({"row": np.arange(count)}),
        history_start=np.zeros(count, np.int64),
        history_end=np.zeros(count, np.int64),
        first=np.concatenate([[0], np.cumsum([len(shown) for _, shown, _ in rows])]).astype(np.int64),
        item=item,
        position=np.full(len(item), -1, np.int16),
        labels={"click": click},
        timeline=timeline,
    )


def drawer_of(samples: Samples, items: int, extra: int = 0, exponent: float = 0.75, seed: int = 0) -> Drawer:
    return Drawer(samples, acted_rows(samples, ["click"]), np.zeros(items), (extra, exponent), seed)


def test_the_power_of_the_counts_lifts_rare_items() -> None:
    clicks = np.array([1000, 100, 10])  # the slide has no "+ 1", hence the "− 1" here
    np.testing.assert_allclose(draw_probabilities(clicks - 1, 0.75), [0.82682, 0.14703, 0.02615], atol=1e-5)
    np.testing.assert_allclose(draw_probabilities(clicks - 1, 1.0), [0.90090, 0.09009, 0.00901], atol=1e-5)
    np.testing.assert_allclose(draw_probabilities(clicks, 0.0), 1 / 3)
    assert draw_probabilities(np.array([5, 0]), 0.75)[1] > 0
    assert draw_probabilities(np.array([], np.int64), 0.75).shape == (0,)


def test_extra_items_come_up_as_often_as_they_should() -> None:
    rows = [(0, [0], [0])] * 30 + [(0, [1], [1])] * 3
    draw = drawer_of(samples_of(rows, 1), items=3, extra=200_000).draw(np.array([0]))
    share = np.exp(draw.log_times) / 200_001
    np.testing.assert_allclose(share, draw_probabilities(np.array([30, 3, 0]), 0.75), atol=4e-3)


def test_a_batch_of_n_different_pairs_has_n_times_n_minus_one_negatives() -> None:
    samples = samples_of([(user, [user], [user]) for user in range(7)], 7)
    draw = drawer_of(samples, items=9).draw(np.arange(7))
    assert draw.known.shape == (7, 7)
    assert int((~draw.known).sum()) == 7 * 6
    assert (~draw.known).sum(axis=1).tolist() == [6] * 7
    assert draw.items[draw.column_of].tolist() == list(range(7))


def test_nothing_that_the_user_was_shown_or_did_before_is_a_negative() -> None:
    # The slide: five of eighty browsed, one and five clicked. Another user brings 2 to 5, 9 and 70 into the batch.
    samples = samples_of([(0, [1, 2, 3, 4, 5], [1, 5]), (1, [2, 3, 4, 9, 70], [2, 3, 4, 9, 70])], 2, past=[(0, 9)])
    draw = drawer_of(samples, items=80).draw(np.array([0, 1]))
    assert draw.items[draw.column_of][draw.request_of == 0].tolist() == [1, 5]
    assert draw.items[~draw.known[0]].tolist() == [70]
    assert draw.items[~draw.known[1]].tolist() == [1, 5]


def test_what_happened_after_the_last_request_masks_nothing() -> None:
    samples = samples_of([(0, [1], [1]), (1, [2], [2])], 2, past=[(0, 2)])
    later = replace(samples.timeline, time=np.array([99.0]))
    assert drawer_of(samples, items=3).draw(np.array([0, 1])).known[0].tolist() == [True, True]
    after = drawer_of(replace(samples, timeline=later), items=3).draw(np.array([0, 1]))
    assert after.known[0].tolist() == [True, False]


def test_what_was_not_there_yet_at_the_time_of_a_request_is_no_negative_of_it() -> None:
    samples = samples_of([(0, [0], [0]), (1, [1], [1]), (2, [2], [2])], 3)  # at the times 1, 2 and 3
    since = np.array([0.0, 1.5, 3.0, 2.5, 3.5, np.inf])
    drawer = Drawer(samples, acted_rows(samples, ["click"]), since, (2000, 0.75), 0)
    draw = drawer.draw(np.arange(3))
    assert draw.items.tolist() == [0, 1, 2, 3]  # 4 came after the last request, and nothing says that 5 ever came
    assert [draw.items[~row].tolist() for row in draw.known] == [[], [0], [0, 1, 3]]


def test_items_of_the_future_change_no_batch(toy: Toy) -> None:
    samples, since = toy.inputs.train, toy.inputs.since
    more = np.concatenate([since, [np.inf, toy.inputs.until + 5.0]])
    draws = [Drawer(samples, acted_rows(samples, ["click"]), each, (50, 0.75), 1) for each in (since, more)]
    for _ in range(3):
        one, other = (drawer.draw(np.arange(40)) for drawer in draws)
        for name in Draw.__slots__:
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name
    plain, planted = (with_unshown(samples, each, 3, seed=1) for each in (since, more))
    assert plain.item.tobytes() == planted.item.tobytes()


def test_hard_negatives_are_columns_of_their_own_request_and_never_known() -> None:
    samples = samples_of([(0, [1, 2, 3], [1]), (1, [4], [4])], 2, past=[(1, 9)])
    hard = np.array([[7, 2, -1], [7, 9, 8]])  # 2 was shown to user 0, 9 was clicked by user 1
    draw = drawer_of(samples, items=12).draw(np.array([0, 1]), hard)
    assert draw.items.tolist() == [1, 2, 4, 7, 8, 9]
    there = [draw.items[row[row >= 0]].tolist() for row in draw.hard]
    assert there == [[7], [7, 8]]
    assert np.isneginf(draw.log_times[np.isin(draw.items, [2, 7, 8, 9])]).all()
    easy = log_weights(draw, 1.0)
    assert (easy[:, np.isin(draw.items, [2, 7, 8, 9])] == NONE).all()  # nobody's easy negatives


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_hard_negatives_weigh_the_share_that_is_told(toy: Toy, share: float) -> None:  # T-9.7
    samples = toy.inputs.train
    drawer = drawer_of(samples, 240, extra=50)
    requests = np.flatnonzero(drawer.per_request)[:40]
    hard = np.sort(np.random.default_rng(1).permuted(np.tile(np.arange(240), (40, 1)), axis=1)[:, :20], axis=1)
    draw = drawer.draw(requests, hard)
    assert (draw.hard >= 0).any(axis=1).all()
    mixed, easy = np.exp(log_weights(draw, 1.0, share)), np.exp(log_weights(draw, 1.0))
    added = mixed - easy
    np.testing.assert_allclose(added.sum(1) / mixed.sum(1), share, rtol=1e-3)
    columns = np.zeros(added.shape, np.bool_)
    columns[np.arange(40)[:, None].repeat(20, 1)[draw.hard >= 0], draw.hard[draw.hard >= 0]] = True
    assert (added[~columns & ~draw.known] == 0).all()
    assert (mixed[draw.known] == 0).all()  # shown or done before: never a negative, hard or easy


def test_without_hard_negatives_a_request_keeps_its_easy_ones() -> None:
    samples = samples_of([(0, [1], [1]), (1, [2], [2])], 2)
    drawer = drawer_of(samples, items=5)
    plain = log_weights(drawer.draw(np.array([0, 1])), 1.0)
    none = log_weights(drawer.draw(np.array([0, 1]), np.full((2, 3), -1)), 1.0, 0.5)
    np.testing.assert_array_equal(plain, none)
    alone = drawer_of(samples_of([(0, [1], [1])], 1), items=5).draw(np.array([0]), np.array([[3, 4]]))
    assert log_weights(alone, 1.0, 0.5)[0].tolist() == [NONE, 0.0, 0.0]  # a batch of one: no easy one at all


def test_hard_items_are_drawn_from_both_stages_and_only_from_the_users_own() -> None:  # T-9.7
    dropped = Dropped(np.array([0, 6, 6, 8]), np.array([1, 2, 3, 11, 12, 13, 5, 6]), np.array([0, 0, 0, 1, 1, 1, 0, 0]))
    made = HardDraws(dropped, 4, 1).draw(np.array([0] * 500 + [1, 2], np.int32))
    first = made[:500][made[:500] >= 0]
    counts = np.bincount(first, minlength=14)
    assert np.flatnonzero(counts).tolist() == [1, 2, 3, 11, 12, 13]
    assert counts[:4].sum() / len(first) == pytest.approx(0.5, abs=0.04)
    for row in made:
        assert len(np.unique(row[row >= 0])) == (row >= 0).sum()
    assert (made[500] == -1).all()
    assert set(made[501][made[501] >= 0].tolist()) <= {5, 6}
    again = HardDraws(dropped, 4, 1).draw(np.array([0] * 500 + [1, 2], np.int32))
    np.testing.assert_array_equal(made, again)


def test_what_was_shown_before_the_cut_is_still_no_negative() -> None:
    samples = samples_of([(0, [1, 2], [1]), (0, [3], [3]), (1, [2], [2])], 2)  # at the times 1, 2 and 3
    draw = drawer_of(samples.since(1.5), items=5).draw(np.array([0, 1]))
    assert draw.items.tolist() == [2, 3]
    assert draw.known.tolist() == [[True, True], [True, False]]
    twice = samples.since(1.5).since(2.5)
    assert sorted(zip(twice.before[0].tolist(), twice.before[1].tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3)]


def test_the_frequency_is_that_of_positives_and_extra_draws_together(toy: Toy) -> None:
    samples = toy.inputs.train
    positive = acted_rows(samples, ["click"])
    counts = np.bincount(samples.item[positive], minlength=240)
    requests = np.arange(200)
    plain = drawer_of(samples, 240).draw(requests)
    np.testing.assert_allclose(np.exp(plain.log_frequency), counts[plain.items] / counts.sum(), rtol=1e-5)
    mixed = drawer_of(samples, 240, extra=100).draw(requests)
    own = len(mixed.column_of)
    wanted = own * counts / counts.sum() + 100 * draw_probabilities(counts, 0.75)
    np.testing.assert_allclose(np.exp(mixed.log_frequency), (wanted / (own + 100))[mixed.items], rtol=1e-5)
    assert np.exp(mixed.log_times).sum() == pytest.approx(own + 100, rel=1e-5)


def test_all_positives_of_all_requests_come_once_an_epoch(toy: Toy) -> None:
    samples = toy.inputs.train
    drawer = drawer_of(samples, 240)
    rows = acted_rows(samples, ["click"])
    assert drawer.per_request.sum() == len(rows)
    got = [
        item
        for at in range(len(samples))
        for draw in (drawer.draw(np.array([at])),)
        for item in draw.items[draw.column_of]
    ]
    assert sorted(got) == sorted(samples.item[rows].tolist())


def test_the_same_seed_draws_the_same_items(toy: Toy) -> None:
    one, same, other = (drawer_of(toy.inputs.train, 240, 50, seed=seed).draw(np.arange(5)).items for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert len(one) != len(other) or (one != other).any()


def test_actions_that_the_data_does_not_know_are_an_error(toy: Toy) -> None:
    with pytest.raises(ConfigError, match=r"positives \['purchase'\].*click"):
        acted_rows(toy.inputs.train, ["purchase"])
    both = acted_rows(toy.inputs.train, ["purchase", "like"])
    assert len(both) == toy.inputs.train.labels["like"].sum()


def test_unshown_rows_are_added_to_every_request_and_labelled_as_such() -> None:
    samples = samples_of([(0, [1, 2, 3], [2]), (1, [4], [4])], 2)
    made = with_unshown(samples, np.zeros(50), 3, seed=1)
    assert made.first.tolist() == [0, 6, 10]
    shown = made.labels["shown"] == 1
    assert shown.tolist() == [True] * 3 + [False] * 3 + [True] + [False] * 3
    np.testing.assert_array_equal(made.item[shown], samples.item)
    np.testing.assert_array_equal(made.labels["click"][shown], samples.labels["click"])
    assert made.labels["click"][~shown].sum() == 0
    assert (made.position[~shown] == -1).all()
    assert made.timeline is samples.timeline
    again = with_unshown(samples, np.zeros(50), 3, seed=1)
    np.testing.assert_array_equal(made.item, again.item)


def test_unshown_rows_are_drawn_evenly_among_what_was_published_by_then() -> None:
    samples = samples_of([(0, [1], [1]), (1, [1], [1])], 2)  # at the times 1 and 2
    since = np.array([0.5, -np.inf, 1.0, 1.5, np.inf])
    made = with_unshown(samples, since, 3000, seed=1)
    for request, there in ((0, [0, 2]), (1, [0, 2, 3])):  # 1 was shown
        rows = slice(int(made.first[request]) + 1, int(made.first[request + 1]))
        counts = np.bincount(made.item[rows], minlength=5)
        assert np.flatnonzero(counts).tolist() == there
        np.testing.assert_allclose(counts[there] / 3000, 1 / len(there), atol=0.04)
    none_at_first = with_unshown(samples, np.array([1.5, 9.0, 9.0]), 30, seed=1)
    assert set(none_at_first.item.tolist()) == {0, 1}  # 1 was shown, 0 is the only one there by the last request
    nothing_ever = with_unshown(samples, np.full(5, 9.0), 4, seed=1)
    assert (nothing_ever.item < 5).all()


def test_what_a_request_showed_is_never_drawn_for_it_and_none_is_left_when_it_showed_all() -> None:
    shown = [[0, 1, 2], [0, 1, 2, 3, 4, 5], [3]]
    samples = samples_of([(0, items, items[:1]) for items in shown], 2)
    made = with_unshown(samples, np.zeros(6), 20, seed=1)
    assert np.diff(made.first).tolist() == [23, 6, 21]
    for request, items in enumerate(shown):
        rows = slice(int(made.first[request]), int(made.first[request + 1]))
        assert made.item[rows][: len(items)].tolist() == items
        assert not set(made.item[rows][len(items) :].tolist()) & set(items)
        assert made.labels["shown"][rows].tolist() == [1] * len(items) + [0] * (rows.stop - rows.start - len(items))


def test_corrections_for_popular_negatives_stay_with_their_rows() -> None:
    samples = replace(samples_of([(0, [1, 2], [1]), (1, [4], [4])], 2), log_odds=np.array([0.5, -1.0, 2.0], np.float32))
    made = with_unshown(samples, np.zeros(50), 2, seed=1)
    assert made.log_odds is not None
    assert made.log_odds.tolist() == [0.5, -1.0, 0, 0, 2.0, 0, 0]


def test_samples_without_requests_stay_empty() -> None:
    made = with_unshown(samples_of([], 2), np.zeros(5), 4, seed=1)
    assert len(made) == len(made.item) == 0
