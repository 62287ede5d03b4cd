"""Event counts of users and items while a log is gone through in the order of time.

`Statistics` answers for any moment and holds every event for that. Who goes through a log from its begin to its end
needs few moments at a time: the last refresh, the begins of the windows that end there, and now. Each of these is a
table that moves on with the reader, so that memory grows with users and items, not with events.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.data.dataset import Dataset, Events
from tamis.features.statistics import SUMS, VALUED, Counts, Statistics, units_of, width_of
from tamis.types import ACTIONS

Columns = Mapping[str, NDArray[Any]]


class Who(NamedTuple):
    """What is counted for. entities: how many there are.   of: columns of events → each one's number, −1 = none.

    names: of the columns that it reads, besides "time".
    """

    entities: int
    of: Callable[[Columns], NDArray[Any]]
    names: tuple[str, ...]


class Table(NamedTuple):
    """What happened before a moment. counts: [entities, columns] events.   sums: [entities, valued columns] units."""

    counts: NDArray[np.int32]
    sums: NDArray[np.int64]


class Running:
    """Events of each entity before a moment, which only moves forward."""

    def __init__(self, dataset: Dataset, who: Mapping[str, Who], actions: Sequence[int], piece: int) -> None:
        """actions: codes that are counted, as in `Statistics.counts`.   piece: events read at once."""
        self.dataset, self.who, self.piece = dataset, who, piece
        self.column = np.full(SUMS, -1, np.int64)
        self.column[list(actions)] = np.arange(len(actions))
        self.valued = sorted(code for code in actions if code >= VALUED)
        names = [name for each in who.values() for name in each.names]
        self.names = list(dict.fromkeys(["action", *(["value"] if self.valued else []), *names]))
        kinds = ((len(actions), np.int32), (len(self.valued), np.int64))
        self.tables = {
            name: Table(*(np.zeros((each.entities, width), kind) for width, kind in kinds))
            for name, each in who.items()
        }
        self.moment = -np.inf

    def advance(self, moment: float) -> None:
        """Counts the events up to `moment`. Raises ValueError for one that lies behind."""
        if moment < self.moment:
            raise ValueError(f"moment: {moment}, but events up to {self.moment} are counted already")
        for events in self.dataset.pieces(self.names, self.moment, moment, rows=self.piece):
            action = events["action"].astype(np.int64)
            for name, each in self.who.items():
                entity, table = each.of(events).astype(np.int64), self.tables[name]
                _add(table.counts, entity, self.column[action])
                if self.valued:
                    there = np.flatnonzero(events["value"] > 0)
                    self._add_values(table, entity[there], action[there], units_of(events["value"][there]))
        self.moment = moment

    def _add_values(
        self, table: Table, entity: NDArray[np.int64], action: NDArray[np.int64], units: NDArray[np.int64]
    ) -> None:
        _add(table.counts, entity, self.column[VALUED + action])
        for place, code in enumerate(self.valued):
            chosen = np.flatnonzero((entity >= 0) & (action == code - VALUED))
            np.add.at(table.sums[:, place], entity[chosen], units[chosen])

    def totals(self, name: str) -> dict[int, int]:
        """See `Statistics.totals`: of all events so far that are of some entity."""
        counts, sums = (table.sum(axis=0, dtype=np.int64) for table in self.tables[name])
        of_events = {code: int(counts[self.column[code]]) for code in np.flatnonzero(self.column >= 0).tolist()}
        of_values = {SUMS - VALUED + code: int(total) for code, total in zip(self.valued, sums, strict=True)}
        return {code: total for code, total in (of_events | of_values).items() if total}


def _add(table: NDArray[np.int32], entity: NDArray[np.int64], column: NDArray[np.int64]) -> None:
    chosen = np.flatnonzero((entity >= 0) & (column >= 0))
    np.add.at(table.reshape(-1), entity[chosen] * table.shape[1] + column[chosen], 1)


@dataclass(frozen=True, slots=True)
class AsOf:
    """The counts of one kind of entity at a few moments, and from `begin` on at any; in place of `Statistics`.

    tables: moment → what happened before it.   column: [2 · len(ACTIONS)] the column of a code, −1 = none.
    valued: codes that have sums, by column.   begin: one of the moments.   later: the events from `begin` on.
    first: the log's first moment; before it, nothing.   all_of: `totals` of the whole log.
    """

    tables: Mapping[float, Table]
    column: NDArray[np.int64]
    valued: Sequence[int]
    begin: float
    later: Statistics
    first: float
    all_of: Mapping[int, int]

    @property
    def entities(self) -> int:
        return len(self.tables[self.begin].counts)

    def counts(
        self,
        entity: NDArray[Any],
        time: NDArray[np.float64] | float,
        actions: Sequence[int] = range(len(ACTIONS)),
        windows: Sequence[float] = (0.0,),
    ) -> Counts:
        """See `Statistics.counts`. Raises ValueError for a moment that is not at hand."""
        times = np.broadcast_to(np.asarray(time, np.float64), (len(entity),))
        until = self._until(entity, times, actions)
        out = {}
        for hours in windows:
            before = self._until(entity, times - hours * 3600, actions) if hours else 0
            out[hours] = (until - before).astype(np.float32)  # whole numbers until here: sums may be large
        return out

    def before(
        self, entity: NDArray[Any], time: NDArray[np.float64] | float, actions: Sequence[int] = range(len(ACTIONS))
    ) -> NDArray[np.float32]:
        """See `Statistics.before`."""
        return self.counts(entity, time, actions)[0.0]

    def totals(self) -> dict[int, int]:
        """See `Statistics.totals`; of the whole log."""
        return dict(self.all_of)

    def _until(self, entity: NDArray[Any], times: NDArray[np.float64], actions: Sequence[int]) -> NDArray[np.int64]:
        out = np.zeros((len(entity), width_of(actions)), np.int64)
        codes = [code for code in actions if self.column[code] >= 0]
        known = (entity >= 0) & (times > self.first)
        for moment in np.unique(times[known & (times < self.begin)]).tolist():
            if moment not in self.tables:
                raise ValueError(f"moment: {moment}, but only {sorted(self.tables)} and later ones are at hand")
            self._add(moment, np.flatnonzero(known & (times == moment)), entity, codes, out)
        late = np.flatnonzero(known & (times >= self.begin))
        self._add(self.begin, late, entity, codes, out)
        later = self.later.exact(entity[late], times[late], codes)
        out[late, : later.shape[1]] += later
        return out

    def _add(
        self,
        moment: float,
        rows: NDArray[np.int64],
        entity: NDArray[Any],
        codes: Sequence[int],
        out: NDArray[np.int64],
    ) -> None:
        counts, sums = self.tables[moment]
        for code in codes:
            out[rows, code] = counts[entity[rows], self.column[code]]
            if code in self.valued:
                out[rows, SUMS - VALUED + code] = sums[entity[rows], self.valued.index(code)]


class Counting:
    """All that a reader takes along: tables as of the last refresh, of the begin of each window there, and of now."""

    def __init__(self, running: Callable[[], Running], windows: Sequence[float], first: float) -> None:
        """windows: their hours, 0 among them.   first: `AsOf.first`."""
        self._windows = {hours: running() for hours in windows}
        self._now, self._first = running(), first

    def advance(self, refreshed: float, now: float) -> None:
        """Moves on to these moments."""
        for hours, running in self._windows.items():
            running.advance(refreshed - hours * 3600)
        self._now.advance(now)

    def totals(self, name: str) -> dict[int, int]:
        """`Running.totals` as of now."""
        return self._now.totals(name)

    def as_of(self, name: str, later: Events, totals: Mapping[int, int]) -> AsOf:
        """The counts of a kind of entity until the next `advance`. later: events from now on. totals: `AsOf.all_of`."""
        now = self._now
        tables = {each.moment: each.tables[name] for each in (*self._windows.values(), now)}
        entity = now.who[name].of(later.columns())
        known = np.flatnonzero(entity >= 0)
        value = later.value[known] if now.valued else None
        events = Statistics.of(entity[known], later.action[known], later.time[known], now.who[name].entities, value)
        return AsOf(tables, now.column, now.valued, now.moment, events, self._first, totals)


def of_log(dataset: Dataset) -> dict[str, Who]:
    """Users and items of a data set."""
    return {
        "user": Who(len(dataset.users), lambda events: events["user"], ("user",)),
        "item": Who(len(dataset.items), lambda events: events["item"], ("item",)),
    }
