"""Counts that move on with a reader are those of `Statistics`, for the moments that the reader needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.data.dataset import Events
from tamis.features.as_of import AsOf, Counting, Running, of_log
from tamis.features.statistics import SUMS, VALUED, Statistics

HOUR = 3600.0
SIDES = {"user": 3, "item": 4}
WINDOWS = [0.0, 2.0]


class Log:
    """What `Running` asks of a data set: events by the hour, users and items."""

    def __init__(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        """rows: hour, user, item and action of each event. Some have values, of which float32 cannot hold the sum."""
        hour, user, item, action = np.array(sorted(rows), np.int64).reshape(-1, 4).T
        kinds = {"time": hour * HOUR, "user": user.astype(np.int32), "item": item.astype(np.int32)}
        self.events = Events.joined(
            [
                {
                    **kinds,
                    "action": action.astype(np.uint8),
                    "value": np.where(item % 2, 20_000.3 * (1 + item + hour), 0).astype(np.float32),
                    "request": np.full(len(hour), -1),
                    "position": np.full(len(hour), -1, np.int16),
                }
            ]
        )
        self.users, self.items = range(SIDES["user"]), range(SIDES["item"])

    def pieces(self, names: Sequence[str], since: float, until: float, rows: int) -> Any:
        inside = self.events.take((self.events.time >= since) & (self.events.time < until))
        for start in range(0, len(inside), rows):
            yield {name: getattr(inside, name)[start : start + rows] for name in names}

    def counting(self, actions: Sequence[int]) -> Counting:
        made: Any = self
        first = float(self.events.time.min(initial=np.inf))
        return Counting(lambda: Running(made, of_log(made), actions, 2), WINDOWS, first)

    def after(self, moment: float) -> Events:
        return self.events.take(self.events.time >= moment)


EVENT = st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 3), st.integers(0, 2))


@given(st.lists(EVENT, max_size=40), st.lists(st.integers(0, 6), min_size=1, max_size=4), st.sampled_from([*SIDES]))
@settings(max_examples=100, deadline=None)
def test_counts_as_of_the_refresh_and_as_of_now_are_those_of_statistics(
    rows: list[tuple[int, int, int, int]], steps: list[int], side: str
) -> None:
    log, actions = Log(rows), [0, 2, VALUED, VALUED + 2]
    events = log.events
    whole = Statistics.of(getattr(events, side), events.action, events.time, SIDES[side], events.value)
    counting, entity = log.counting(actions), np.arange(-1, SIDES[side])
    for now in np.cumsum(steps) * HOUR:
        refreshed = now - now % (3 * HOUR)
        counting.advance(refreshed, now)
        made = counting.as_of(side, log.after(now), {})
        assert made.entities == SIDES[side]
        times = np.full(len(entity), refreshed)
        for hours, wanted in whole.counts(entity, times, actions, WINDOWS).items():
            np.testing.assert_array_equal(made.counts(entity, times, actions, WINDOWS)[hours], wanted)
        for later in (now, now + HOUR, np.inf):
            times = np.full(len(entity), later)
            np.testing.assert_array_equal(made.before(entity, times, actions), whole.before(entity, times, actions))


def test_totals_are_those_of_statistics_of_what_is_counted() -> None:
    log = Log([(hour, hour % 3, hour % 4, hour % 3) for hour in range(12)])
    events = log.events
    counting = log.counting([0, 1, 2, VALUED, VALUED + 1, VALUED + 2])
    counting.advance(np.inf, np.inf)
    wanted = Statistics.of(events.user, events.action, events.time, 3, events.value).totals()
    assert counting.totals("user") == counting.totals("item") == wanted
    assert max(wanted) >= SUMS


def test_a_moment_that_is_not_at_hand_and_one_that_is_past_are_errors() -> None:
    log = Log([(0, 0, 0, 0), (5, 0, 0, 0)])
    counting = log.counting([0])
    counting.advance(6 * HOUR, 7 * HOUR)
    made: AsOf = counting.as_of("user", log.after(7 * HOUR), {0: 2})
    assert made.totals() == {0: 2}
    assert made.counts(np.array([0]), np.array([6 * HOUR]), [0])[0.0][0, 0] == 2
    with pytest.raises(ValueError, match=r"moment: 18000\.0, but only"):
        made.counts(np.array([0]), np.array([5 * HOUR]), [0])
    with pytest.raises(ValueError, match=r"moment: 0\.0, but events up to"):
        counting.advance(0.0, 8 * HOUR)
