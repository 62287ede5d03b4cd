"""Event counts of users and items while a log is gone through in the order of time.

`Statistics` answers for any moment and holds every event for that. Who goes through a log from its begin to its end
needs few moments at a time: the last refresh, the begins of the windows that end there, and now. Each of these is a
table that moves on with the reader, so that memory grows with users and items, not with events.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.data.dataset import Dataset, Events
from tamis.features.statistics import Counts, Statistics
from tamis.types import ACTIONS


class Running:
    """Events of each user and item before a moment, which only moves forward."""

    def __init__(self, dataset: Dataset, actions: Sequence[int], piece: int) -> None:
        """actions: codes that are counted.   piece: events read at once."""
        self.dataset, self.piece = dataset, piece
        self.column = np.full(len(ACTIONS), -1, np.int64)
        self.column[list(actions)] = np.arange(len(actions))
        entities = {"user": len(dataset.users), "item": len(dataset.items)}
        self.tables = {side: np.zeros((count, len(actions)), np.int32) for side, count in entities.items()}
        self.moment = -np.inf

    def advance(self, moment: float) -> None:
        """Counts the events up to `moment`. Raises ValueError for one that lies behind."""
        if moment < self.moment:
            raise ValueError(f"moment: {moment}, but events up to {self.moment} are counted already")
        names = ("user", "item", "action")
        for events in self.dataset.pieces(names, self.moment, moment, rows=self.piece):
            column = self.column[events["action"]]
            there = column >= 0
            for side, table in self.tables.items():
                np.add.at(table.reshape(-1), events[side][there].astype(np.int64) * table.shape[1] + column[there], 1)
        self.moment = moment


@dataclass(frozen=True, slots=True)
class AsOf:
    """The counts of one side at a few moments, and from `begin` on at any; in place of `Statistics`.

    tables: moment → [entities, columns] events before it.   column: [len(ACTIONS)] an action's column, −1 = none.
    begin: one of the moments.   later: the events from `begin` on.
    first: the log's first moment; before it, nothing.   all_of: events by action code.
    """

    tables: Mapping[float, NDArray[np.int32]]
    column: NDArray[np.int64]
    begin: float
    later: Statistics
    first: float
    all_of: Mapping[int, int]

    @property
    def entities(self) -> int:
        return len(self.tables[self.begin])

    def counts(
        self,
        entity: NDArray[Any],
        time: NDArray[np.float64] | float,
        actions: Sequence[int] = range(len(ACTIONS)),
        windows: Sequence[float] = (0.0,),
    ) -> Counts:
        """See `Statistics.counts`. Raises ValueError for a moment that is not at hand."""
        times = np.broadcast_to(np.asarray(time, np.float64), (len(entity),))
        codes = [code for code in actions if self.column[code] >= 0]
        until = self._until(entity, times, codes)
        return {
            hours: until - self._until(entity, times - hours * 3600, codes) if hours else until for hours in windows
        }

    def before(
        self, entity: NDArray[Any], time: NDArray[np.float64] | float, actions: Sequence[int] = range(len(ACTIONS))
    ) -> NDArray[np.float32]:
        """See `Statistics.before`."""
        return self.counts(entity, time, actions)[0.0]

    def totals(self) -> dict[int, int]:
        """Events per action code, of the whole log."""
        return dict(self.all_of)

    def _until(self, entity: NDArray[Any], times: NDArray[np.float64], codes: Sequence[int]) -> NDArray[np.float32]:
        out = np.zeros((len(entity), len(ACTIONS)), np.float32)
        known = (entity >= 0) & (times > self.first)
        for moment in np.unique(times[known & (times < self.begin)]).tolist():
            if moment not in self.tables:
                raise ValueError(f"moment: {moment}, but only {sorted(self.tables)} and later ones are at hand")
            self._add(moment, np.flatnonzero(known & (times == moment)), entity, codes, out)
        late = np.flatnonzero(known & (times >= self.begin))
        self._add(self.begin, late, entity, codes, out)
        out[late] += self.later.before(entity[late], times[late], codes)
        return out

    def _add(
        self,
        moment: float,
        rows: NDArray[np.int64],
        entity: NDArray[Any],
        codes: Sequence[int],
        out: NDArray[np.float32],
    ) -> None:
        table = self.tables[moment]
        for code in codes:
            out[rows, code] = table[entity[rows], self.column[code]]


class Counting:
    """All that a reader takes along: tables as of the last refresh, of the begin of each window there, and of now."""

    def __init__(
        self, running: Callable[[], Running], windows: Sequence[float], whole: tuple[float, Mapping[int, int]]
    ) -> None:
        """windows: their hours, 0 among them.   whole: `AsOf.first` and `AsOf.all_of`."""
        self._windows = {hours: running() for hours in windows}
        self._now, self._whole = running(), whole

    def advance(self, refreshed: float, now: float) -> None:
        """Moves on to these moments."""
        for hours, running in self._windows.items():
            running.advance(refreshed - hours * 3600)
        self._now.advance(now)

    def as_of(self, side: str, later: Events) -> AsOf:
        """The counts of a side, "user" or "item", until the next `advance`. later: events from now on."""
        tables = {each.moment: each.tables[side] for each in (*self._windows.values(), self._now)}
        now = self._now.tables[side]
        events = Statistics.of(getattr(later, side), later.action, later.time, len(now))
        return AsOf(tables, self._now.column, self._now.moment, events, *self._whole)
