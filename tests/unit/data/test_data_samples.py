from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tamis.config import convert
from tamis.data.dataset import Events, Requests
from tamis.data.negatives import there_since
from tamis.data.samples import Log, Reach, SampleConfig, Samples, Timeline, build_samples, thinned
from tamis.errors import ConfigError
from tamis.types import Action

HOUR = 3600.0
NONE = np.empty(0)
Row = tuple[int, int, int, float, float, int, int]  # user, item, action, value, time, request, position


def events(*rows: Row) -> Events:
    """Events sorted by time, ties in the order given."""
    kinds = (np.int32, np.int32, np.uint8, np.float32, np.float64, np.int64, np.int16)
    columns = list(zip(*sorted(rows, key=lambda row: row[4]), strict=True)) if rows else [()] * 7
    return Events(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def requests(*rows: tuple[int, int, float, str], **context: list[Any]) -> Requests:
    number, user, time, scene = zip(*rows, strict=True) if rows else ((),) * 4
    return Requests(
        np.array(number, np.int64),
        np.array(user, np.int32),
        np.array(time, np.float64),
        pl.Series(scene, dtype=pl.String),
        pl.DataFrame(context) if context else pl.DataFrame(height=len(rows)),
    )


def log(
    logged: Events, pages: Requests | None = None, actions: tuple[int, ...] = (Action.CLICK,), users: int = 9
) -> Log:
    return Log(logged, pages or requests(), Timeline.of(logged, users, actions), NONE)


def shown(user: int, item: int, time: float, request: int = -1, position: int = -1) -> Row:
    return (user, item, Action.IMPRESSION, 0, time, request, position)


def did(action: Action, user: int, item: int, time: float, request: int = -1, value: float = 0) -> Row:
    return (user, item, action, value, time, request, -1)


def label_of(samples: Samples, name: str) -> dict[int, float]:
    """Item → label; for samples in which each item is shown once."""
    return dict(zip(samples.item.tolist(), samples.labels[name].tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 500), st.floats(0.01, 0.99))
def test_thinning_takes_only_rows_without_a_label_and_keeps_the_rest_in_order(seed: int, keep: float) -> None:
    random = np.random.default_rng(seed)
    rows = [shown(u, i, 10.0 * t, request=t, position=i) for t in range(6) for u in [t % 3] for i in range(t)]
    acts = [
        did(Action.CLICK, u, i, t + 1, request=q) for u, i, _, _, t, q, _ in rows if random.random() < 0.3 or not u + i
    ]
    pages = requests(*((t, t % 3, 10.0 * t, "feed") for t in range(6)))
    whole = build_samples(log(events(*rows, *acts), pages), -np.inf, np.inf, SampleConfig(labels=("click",)))
    few = thinned(whole, keep)
    assert few.labels["click"].sum() == whole.labels["click"].sum()
    pairs = [
        [
            (int(samples.user[r]), int(samples.item[n]), float(samples.time[r]))
            for r in range(len(samples))
            for n in range(samples.first[r], samples.first[r + 1])
        ]
        for samples in (whole, few)
    ]
    left = iter(pairs[0])
    assert all(pair in left for pair in pairs[1])  # a part of them in the same order
    gone = sorted((user, item) for user, item, _ in set(pairs[0]) - set(pairs[1]))
    assert sorted(zip(few.before[0].tolist(), few.before[1].tolist(), strict=True)) == gone
    assert few.spared is not None
    assert not (few.spared & (few.labels["click"] == 0)).any()
    assert few.keep_negatives == keep


def test_thinning_keeps_the_share_that_was_asked_for_and_1_keeps_all() -> None:
    logged = events(*(shown(u, i, 100.0 * u, request=u) for u in range(9) for i in range(300)))
    whole = build_samples(
        log(logged, requests(*((u, u, 100.0 * u, "") for u in range(9)))), -np.inf, np.inf, SampleConfig()
    )
    assert thinned(whole, 1.0) is whole
    assert len(thinned(whole, 0.25).item) / len(whole.item) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_of_negatives_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ConfigError, match="keep_negatives"):
        convert({"keep_negatives": share}, SampleConfig)


def test_a_timeline_has_each_users_entries_in_order() -> None:
    logged = events(
        did(Action.CLICK, 2, 7, 5), did(Action.CLICK, 0, 8, 1), did(Action.HIDE, 0, 9, 2), did(Action.CLICK, 2, 6, 3)
    )
    timeline = Timeline.of(logged, 4, [Action.CLICK])
    assert timeline.starts.tolist() == [0, 1, 1, 3, 3]
    assert timeline.item.tolist() == [8, 6, 7]
    assert timeline.time.tolist() == [1, 3, 5]


def test_a_timeline_for_too_few_users_is_refused() -> None:
    with pytest.raises(ValueError, match="users"):
        Timeline.of(events(did(Action.CLICK, 5, 1, 1)), 5, [Action.CLICK])


def test_before_needs_times_that_are_numbers() -> None:
    with pytest.raises(ValueError, match="times"):
        Timeline.of(events(), 1, [1]).before(np.array([0]), np.array([np.nan]))


click_log = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(clicks=click_log, asked=st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 10)), max_size=10))
def test_a_slice_holds_exactly_what_the_user_did_strictly_before(
    clicks: list[tuple[int, int, int]], asked: list[tuple[int, int]]
) -> None:
    timeline = Timeline.of(events(*(did(Action.CLICK, u, i, t) for u, i, t in clicks)), 4, [Action.CLICK])
    users = np.array([user for user, _ in asked], np.int32)
    times = np.array([time for _, time in asked], np.float64)
    start, end = timeline.start(users), timeline.before(users, times)
    for place, (user, time) in enumerate(asked):
        found = list(
            zip(timeline.item[start[place] : end[place]], timeline.time[start[place] : end[place]], strict=True)
        )
        earlier = [(i, t) for u, i, t in sorted(clicks, key=lambda row: row[2]) if u == user and t < time]
        assert found == earlier


def test_what_happens_at_or_after_the_request_is_not_in_its_history() -> None:
    logged = events(
        did(Action.CLICK, 1, 50, 99.5),
        shown(1, 7, 100, request=0),
        did(Action.CLICK, 1, 7, 100, request=0),
        did(Action.CLICK, 1, 51, 100.5),
    )
    samples = build_samples(log(logged, requests((0, 1, 100, "feed"))), 0, 1e9, SampleConfig())
    timeline = samples.timeline
    assert timeline.item[samples.history_start[0] : samples.history_end[0]].tolist() == [50]
    assert timeline.item.tolist() == [50, 7, 51]
    assert label_of(samples, "click") == {7: 1.0}


def test_history_is_cut_at_the_time_of_the_request_not_of_the_impression() -> None:
    logged = events(did(Action.CLICK, 1, 50, 101), shown(1, 7, 105, request=3))
    samples = build_samples(log(logged, requests((3, 1, 100, "feed"))), 0, 1e9, SampleConfig())
    assert samples.time.tolist() == [100]
    assert samples.history_end[0] == samples.history_start[0]


def test_rows_are_grouped_by_request_and_ordered_by_position_then_item() -> None:
    logged = events(
        shown(1, 9, 200, 5, 1), shown(1, 8, 200, 5, 0), shown(0, 3, 100, 4), shown(0, 2, 100, 4), shown(1, 8, 200, 5, 2)
    )
    samples = build_samples(log(logged, requests((4, 0, 100, "a"), (5, 1, 200, "b"))), 0, 1e9, SampleConfig())
    assert samples.user.tolist() == [0, 1]
    assert samples.first.tolist() == [0, 2, 4]
    assert samples.item.tolist() == [2, 3, 8, 9]
    assert samples.position.tolist() == [-1, -1, 0, 1]
    assert [samples.scenes[code] for code in samples.scene] == ["a", "b"]


def test_impressions_without_a_request_form_a_page_for_each_user_and_moment() -> None:
    logged = events(shown(0, 1, 100), shown(0, 2, 100), shown(1, 3, 100), shown(0, 4, 101))
    samples = build_samples(log(logged), 0, 1e9, SampleConfig())
    assert samples.first.tolist() == [0, 2, 3, 4]
    assert samples.user.tolist() == [0, 1, 0]
    assert samples.scenes == ("",)


def test_context_follows_its_request() -> None:
    logged = events(shown(0, 1, 200, 1), shown(1, 2, 100, 0), shown(2, 3, 150))
    pages = requests((0, 1, 100, "feed"), (1, 0, 200, "feed"), device=["phone", "tv"])
    samples = build_samples(log(logged, pages), 0, 1e9, SampleConfig())
    assert samples.user.tolist() == [1, 2, 0]
    assert samples.context["device"].to_list() == ["phone", None, "tv"]


def test_an_event_labels_the_row_of_its_own_request_only() -> None:
    logged = events(
        shown(0, 1, 100, 0), shown(0, 2, 100, 0), shown(0, 1, 200, 1),
        did(Action.CLICK, 0, 1, 250, request=0), did(Action.LIKE, 0, 1, 260, request=1),
    )  # fmt: skip
    samples = build_samples(log(logged, requests((0, 0, 100, ""), (1, 0, 200, ""))), 0, 1e9, SampleConfig())
    assert samples.item.tolist() == [1, 2, 1]
    assert samples.labels["click"].tolist() == [1, 0, 0]
    assert samples.labels["like"].tolist() == [0, 0, 1]


def test_an_event_without_a_request_labels_the_latest_impression_in_the_window() -> None:
    logged = events(
        shown(0, 1, 0, 0), shown(0, 2, 0, 0), shown(0, 1, 10 * HOUR, 1), shown(1, 1, 11 * HOUR, 2),
        did(Action.CLICK, 0, 1, 12 * HOUR), did(Action.CLICK, 0, 2, 25 * HOUR),
    )  # fmt: skip
    pages = requests((0, 0, 0, ""), (1, 0, 10 * HOUR, ""), (2, 1, 11 * HOUR, ""))
    samples = build_samples(log(logged, pages), -1, 1e9, SampleConfig())
    assert samples.labels["click"].tolist() == [0, 0, 1, 0]
    wider = build_samples(log(logged, pages), -1, 1e9, SampleConfig(label_window_hours=25))
    assert wider.labels["click"].tolist() == [0, 1, 1, 0]


def test_an_event_of_an_item_that_its_request_did_not_show_falls_back_to_the_latest_impression() -> None:
    logged = events(shown(0, 1, 100, 0), shown(0, 2, 200, 1), did(Action.CLICK, 0, 1, 250, request=1))
    samples = build_samples(log(logged, requests((0, 0, 100, ""), (1, 0, 200, ""))), 0, 1e9, SampleConfig())
    assert label_of(samples, "click") == {1: 1.0, 2: 0.0}


def test_an_event_whose_impression_lies_in_a_later_window_does_not_label_an_earlier_one() -> None:
    logged = events(shown(0, 1, 100), shown(0, 1, 200), did(Action.CLICK, 0, 1, 250))
    assert build_samples(log(logged), 0, 150, SampleConfig()).labels["click"].tolist() == [0]
    assert build_samples(log(logged), 150, 300, SampleConfig()).labels["click"].tolist() == [1]


def test_the_play_label_is_the_longest_play_in_seconds() -> None:
    logged = events(
        shown(0, 1, 100), shown(0, 2, 100), did(Action.PLAY, 0, 1, 110, value=7), did(Action.PLAY, 0, 1, 120, value=3)
    )
    assert build_samples(log(logged), 0, 1e9, SampleConfig()).labels["play"].tolist() == [7, 0]


def test_labels_are_the_actions_that_occur_or_those_asked_for() -> None:
    logged = events(shown(0, 1, 100), did(Action.CLICK, 0, 1, 101), did(Action.SHARE, 0, 1, 102))
    assert list(build_samples(log(logged), 0, 1e9, SampleConfig()).labels) == ["click", "share"]
    assert list(build_samples(log(logged), 0, 1e9, SampleConfig(labels=("share", "like"))).labels) == ["share"]


def test_unknown_actions_and_negative_numbers_are_refused() -> None:
    for wrong in ({"labels": ["jump"]}, {"positives": ["jump"]}, {"negatives": -1}, {"label_window_hours": -1}):
        with pytest.raises(ConfigError):
            convert(wrong, SampleConfig)


def test_an_empty_log_gives_empty_samples() -> None:
    samples = build_samples(log(events()), 0, 1e9, SampleConfig())
    assert (len(samples), len(samples.item), samples.first.tolist(), samples.labels) == (0, 0, [0], {})


actions = st.sampled_from([Action.IMPRESSION, Action.IMPRESSION, Action.CLICK, Action.LIKE, Action.PLAY])
full_log = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), actions, st.integers(0, 40), st.integers(-1, 3)), max_size=40
)


Cell = tuple[float, int, int, int]  # time of the page, request, user, item


def shown_cells(logged: Events) -> dict[Cell, float]:
    """Cell → time of its impression, by a plain loop; request r has the time 10 · r."""
    cells: dict[Cell, float] = {}
    for row in np.flatnonzero(logged.action == Action.IMPRESSION):
        request, time = int(logged.request[row]), float(logged.time[row])
        page_time = 10.0 * request if request >= 0 else time
        cells.setdefault((page_time, request, int(logged.user[row]), int(logged.item[row])), time)
    return cells


def answered(logged: Events, row: int, cells: dict[Cell, float], window: float) -> list[Cell]:
    """The cells that an event may answer; several only when pages showed the item at the same moment."""
    user, item, time, request = logged.user[row], logged.item[row], logged.time[row], logged.request[row]
    if own := [cell for cell in cells if request >= 0 and cell[1] == request and cell[3] == item]:
        return own
    earlier = {cell: at for cell, at in cells.items() if cell[2:] == (user, item) and time - window <= at <= time}
    return [cell for cell, at in earlier.items() if at == max(earlier.values())]


@settings(max_examples=80, deadline=None)
@given(rows=full_log, since=st.integers(0, 40), length=st.integers(1, 40))
def test_samples_agree_with_a_plain_loop_over_the_log(
    rows: list[tuple[int, int, Action, int, int]], since: int, length: int
) -> None:
    logged = events(*((u if r < 0 else r % 3, i, a, 2.0 * t, t, r, -1) for u, i, a, t, r in rows))
    cells, window = shown_cells(logged), 15.0
    answers = {row: answered(logged, row, cells, window) for row in np.flatnonzero(logged.action)}
    assume(cells and all(len(found) < 2 for found in answers.values()))
    pages = requests(*((r, r % 3, 10.0 * r, "s") for r in range(4)))
    whole = log(logged, pages, (Action.CLICK, Action.LIKE), 3)
    samples = build_samples(whole, since, since + length, SampleConfig(label_window_hours=window / HOUR))

    wanted: dict[Cell, dict[str, float]] = {cell: {} for cell in cells if since <= cell[0] < since + length}
    for row, found in answers.items():
        name = Action(logged.action[row]).name.lower()
        worth = float(logged.value[row]) if name == "play" else 1.0
        for cell in set(found) & set(wanted):
            wanted[cell][name] = max(wanted[cell].get(name, 0.0), worth)
    page = np.repeat(np.arange(len(samples)), np.diff(samples.first))
    got = [
        (
            samples.time[j],
            samples.user[j],
            item,
            {a: float(label[n]) for a, label in samples.labels.items() if label[n]},
        )
        for n, (j, item) in enumerate(zip(page, samples.item, strict=True))
    ]
    expected = [(c[0], c[2], c[3], {a: v for a, v in marks.items() if v}) for c, marks in wanted.items()]
    assert sorted(got, key=str) == sorted(
        ((np.float64(t), np.int32(u), np.int32(i), m) for t, u, i, m in expected), key=str
    )
    for j in range(len(samples)):
        history = samples.timeline.time[samples.history_start[j] : samples.history_end[j]].tolist()
        liked = np.isin(logged.action, [Action.CLICK, Action.LIKE]) & (logged.user == samples.user[j])
        assert history == logged.time[liked & (logged.time < samples.time[j])].tolist()


def clicks(count: int = 60, users: int = 5, items: int = 30) -> Events:
    generator = np.random.default_rng(0)
    rows = generator.integers(0, (users, items, 1000), (count, 3)).tolist()
    return events(*(did(Action.CLICK, user, item, float(time)) for user, item, time in rows))


def test_without_impressions_each_positive_gets_distinct_negatives_the_user_never_met() -> None:
    logged = clicks()
    samples = build_samples(log(logged), 0, 1e9, SampleConfig(negatives=3), seed=1)
    met = set(zip(logged.user.tolist(), logged.item.tolist(), strict=True))
    first_seen = dict(zip(logged.item[::-1].tolist(), logged.time[::-1].tolist(), strict=True))
    assert len(samples) == len({*zip(logged.user, logged.item, logged.time, strict=True)})
    assert (np.diff(samples.time) >= 0).all()
    counts = np.diff(samples.first)
    assert counts.max() == 4
    for j in range(len(samples)):
        rows = slice(samples.first[j], samples.first[j + 1])
        page, label = samples.item[rows].tolist(), samples.labels["click"][rows].tolist()
        assert sorted(set(page)) == page
        assert label.count(1.0) == 1
        negatives = [item for item, clicked in zip(page, label, strict=True) if not clicked]
        assert all((samples.user[j], item) not in met for item in negatives)
        assert all(first_seen[item] <= samples.time[j] for item in negatives)
        assert (samples.timeline.time[samples.history_start[j] : samples.history_end[j]] < samples.time[j]).all()


def test_the_same_seed_draws_the_same_negatives() -> None:
    one, two, other = (build_samples(log(clicks()), 0, 1e9, SampleConfig(), seed=seed) for seed in (3, 3, 4))
    assert one.item.tobytes() == two.item.tobytes()
    assert one.item.tobytes() != other.item.tobytes()


def test_an_item_published_before_its_first_event_can_be_drawn_and_one_never_there_cannot() -> None:
    logged = events(did(Action.CLICK, 0, 0, 100), did(Action.CLICK, 1, 1, 200))
    published = np.array([np.nan, np.nan, 50.0, 150.0, np.nan])
    samples = build_samples(
        Log(logged, requests(), Timeline.of(logged, 2, [1]), published), 0, 1e9, SampleConfig(negatives=9)
    )
    assert samples.item[samples.first[0] : samples.first[1]].tolist() == [0, 2]
    assert samples.item[samples.first[1] : samples.first[2]].tolist() == [0, 1, 2, 3]


def test_an_item_is_there_from_its_publication_or_its_first_event_whichever_is_known_and_earlier() -> None:
    logged = events(did(Action.CLICK, 0, 0, 100), did(Action.CLICK, 1, 1, 200), did(Action.CLICK, 1, 2, 300))
    published = np.array([np.nan, 150.0, 350.0, 400.0, np.nan])
    assert there_since(logged, published).tolist() == [100, 150, 300, 400, np.inf]


def test_negatives_are_drawn_by_popularity_to_the_power() -> None:
    often = [did(Action.CLICK, 1, item, float(k)) for item, count in ((1, 15), (2, 0)) for k in range(count)]
    rows = [*often, *(did(Action.CLICK, user, 0, 1000.0 + user) for user in range(2, 4002))]
    logged = events(*rows)
    published = np.zeros(3)
    samples = build_samples(
        Log(logged, requests(), Timeline.of(logged, 4002, [1]), published), 999, 1e9, SampleConfig(negatives=1)
    )
    drawn = np.bincount(samples.item[samples.labels["click"] == 0], minlength=3)
    assert drawn[0] == 0
    assert drawn[1] / drawn[2] == pytest.approx(16**0.75, rel=0.2)


def test_a_repeated_purchase_keeps_its_own_label_and_no_negatives_means_only_positives() -> None:
    logged = events(did(Action.CLICK, 0, 1, 100), did(Action.CLICK, 0, 1, 200), did(Action.LIKE, 0, 1, 250))
    samples = build_samples(log(logged), 0, 1e9, SampleConfig(negatives=0))
    assert samples.labels["click"].tolist() == [1, 1]
    assert samples.labels["like"].tolist() == [0, 1]


def test_requests_since_a_moment_keep_their_rows_and_everything_that_rows_have() -> None:
    logged = clicks()
    whole = build_samples(log(logged), 0.0, np.inf, SampleConfig(negatives=3))
    assert whole.log_odds is not None
    moment = float(whole.time[len(whole) // 2])
    late = whole.since(moment)
    begin = int(np.searchsorted(whole.time, moment))
    row = whole.first[begin]
    assert 0 < begin < len(whole)
    assert late.time.tolist() == whole.time[begin:].tolist()
    assert late.first.tolist() == (whole.first[begin:] - row).tolist()
    for name in ("item", "position", "log_odds"):
        assert getattr(late, name).tolist() == getattr(whole, name)[row:].tolist()
    assert late.labels["click"].tolist() == whole.labels["click"][row:].tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([1, 2, 11]), st.integers(0, 9)), max_size=30),
    st.integers(1, 6),
)
def test_a_history_is_what_a_timeline_of_limited_length_still_holds(rows: list[Any], limit: int) -> None:
    """Ratings (11) take places of the live timeline, but are no entries of a history; likes (2) are in neither."""
    logged = events(*((user, at, action, 1.0, float(time), -1, -1) for at, (user, action, time) in enumerate(rows)))
    reach = Reach.of(logged, 3, [1, 11], [1], limit)
    timeline = Timeline.of(logged, 3, [1])
    users, times = np.repeat(np.arange(4) - 1, 11), np.tile(np.arange(11.0), 4)
    start, end = reach.start(users, times), timeline.before(users, times)
    for user, time, first, last in zip(users.tolist(), times.tolist(), start.tolist(), end.tolist(), strict=True):
        mine = (logged.user == user) & (logged.time < time) & np.isin(logged.action, [1, 11])
        kept = np.flatnonzero(mine)[-limit:]
        assert timeline.item[first:last].tolist() == logged.item[kept[logged.action[kept] == 1]].tolist()
