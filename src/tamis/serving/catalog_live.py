"""The catalogue as of now: the bundle's items plus what was put, changed and taken down since.

    LiveCatalog.view() → View      one frozen snapshot per version of the state's item table and moment of publication

An item whose publish time lies ahead is closed until then, to every part alike, and in no list of the newest.

A snapshot is never changed. Fresh rows live in buffers that only grow, so a new snapshot is a longer look at the same
memory and an item that is put costs its own row, not the catalogue. An item of the *bundle* that is put again keeps its
learned features until the next bundle; its publish time and whether it is closed count at once. A *fresh* item that is
put again gets a new row and its old row is closed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from tamis.errors import StepError
from tamis.serving.model import Ids, Model
from tamis.serving.newest import NewestItems, Times, published_at
from tamis.state.protocol import ItemRow, State
from tamis.types import Catalog, item_key

NEWEST: Final = 2000  # items in Catalog.newest
_COMPACT_FROM: Final = 1024  # dead fresh rows before it pays to copy the living ones
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class View:
    """A snapshot and the way from external ids and keys to its item numbers, and back.

    fresh_numbers, fresh_ids: key → number and external ids by number − base. They are shared with newer views: a number
    that is not in this view's catalogue yet counts as unknown.
    """

    catalog: Catalog
    ids: Ids
    fresh_numbers: Mapping[int, int]
    fresh_ids: Sequence[str]

    def number(self, item_id: str) -> int:
        """The item's number, −1 when it is unknown. A closed item has one too."""
        number = self.ids.number(item_id)
        if number < 0 and self.fresh_numbers:
            number = self._fresh(item_key(item_id))
        return number

    def numbers(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """[n] `number` of each id."""
        found = self.ids.numbers(item_ids)
        if self.fresh_numbers:
            for row in np.flatnonzero(found < 0).tolist():
                found[row] = self._fresh(item_key(item_ids[row]))
        return found

    def numbers_of(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """[n] item numbers of stable keys, −1 for those that are unknown."""
        found = self.ids.numbers_of_keys(keys)
        if self.fresh_numbers:
            for row in np.flatnonzero(found < 0).tolist():
                found[row] = self._fresh(int(keys[row]))
        return found

    def external(self, number: int) -> str:
        """The external id of an item number."""
        base = self.catalog.base
        return self.ids.external(number) if number < base else self.fresh_ids[number - base]

    def _fresh(self, key: int) -> int:
        number = self.fresh_numbers.get(key, -1)
        return number if number < len(self.catalog) else -1


class _Rows:
    """Rows that are only ever appended: a look at the first n never changes."""

    def __init__(self, like: NDArray[Any]) -> None:
        self.data: NDArray[Any] = np.empty((0, *like.shape[1:]), like.dtype)
        self.count = 0

    def append(self, rows: NDArray[Any]) -> None:
        end = self.count + len(rows)
        if end > len(self.data):
            grown = np.empty((max(64, end, 2 * len(self.data)), *self.data.shape[1:]), self.data.dtype)
            grown[: self.count] = self.data[: self.count]
            self.data = grown
        self.data[self.count : end] = rows
        self.count = end

    def view(self) -> NDArray[Any]:
        seen = self.data[: self.count]
        seen.flags.writeable = False
        return seen


class LiveCatalog:
    """Follows the state's item table and the clock; the snapshots it gives are frozen."""

    def __init__(self, model: Model, state: State, clock: Callable[[], float] = time.time) -> None:
        base = model.catalog
        self._model: Final = model
        self._state: Final = state
        self._clock: Final = clock
        self._lock: Final = Lock()
        self._published = np.asarray(base.columns["publish_time"][0], np.float64)
        self._touched: set[int] = set()  # items of the bundle that were ever put
        self._clear()
        self._down = base.closed  # [n] taken down, or replaced by a newer row
        self._ahead = self._scheduled(np.arange(len(self._published)), base.closed)  # numbers of items not out yet
        out = np.delete(base.newest, np.flatnonzero(np.isin(base.newest, self._ahead)))
        self._newest: Final = NewestItems(out, NEWEST, self._published)
        self._view = self._snapshot(version=0)
        self._next_out = self._soonest()

    def view(self) -> View:
        """The newest snapshot. Costs one look at version and clock unless an item was put or came out since."""
        if self._is_current():
            return self._view
        with self._lock:
            if not self._is_current():
                version, rows = self._state.items_since(self._view.catalog.version)
                self._apply(version, rows)
        return self._view

    def _is_current(self) -> bool:
        return self._state.item_version() == self._view.catalog.version and self._clock() < self._next_out

    def _times(self) -> Times:
        return self._published, self._columns["publish_time"].view()

    def _scheduled(self, items: NDArray[np.int64], down: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Those of the items that are not published yet. A look at the few that may be, not at the catalogue."""
        ahead = items[(published_at(items, self._times()) > self._clock()) & ~down[items]]
        self._touched.update(ahead[ahead < len(self._published)].tolist())
        return ahead

    def _soonest(self) -> float:
        """When the next scheduled item comes out; infinity when there is none."""
        return float(published_at(self._ahead, self._times()).min(initial=np.inf))

    def _clear(self) -> None:
        """Empty buffers of its own for a new row of snapshots."""
        base = self._model.catalog
        self._keys = _Rows(base.keys[0])
        self._columns = {name: _Rows(pair[0]) for name, pair in base.columns.items()}
        self._numbers: dict[int, int] = {}
        self._ids: list[str] = []

    def _apply(self, version: int, rows: Sequence[ItemRow]) -> None:
        base, down = self._view.catalog.base, self._down.copy()
        numbers = self._view.numbers([row.item_id for row in rows])
        down[numbers[numbers >= base]] = True  # replaced by a new row below, or taken down
        numbered = list(zip(numbers.tolist(), rows, strict=True))
        changed = [(number, row) for number, row in numbered if 0 <= number < base]
        down[[number for number, _ in changed]] = [row.closed for _, row in changed]
        self._publish(changed)
        added = self._append([row for number, row in numbered if not (0 <= number < base or row.closed)])
        down = np.concatenate([down, np.zeros(added, np.bool_)])
        compact = int(down[base:].sum()) > max(_COMPACT_FROM, self._keys.count // 2)
        if compact:
            down = self._compact(down)
        first_new = base if compact else len(down) - added
        if compact:  # the fresh rows have other numbers now
            self._ahead = self._ahead[self._ahead < base]
        moved = np.array([number for number, _ in changed] + list(range(first_new, len(down))), np.int64)
        moved = np.union1d(moved, self._ahead)
        self._down, self._ahead = down, self._scheduled(moved, down)
        closed = self._closed()
        if compact or not self._newest.changed(moved, self._times(), closed):
            self._newest.renew(np.array(sorted(self._touched), np.int64), self._times(), closed)
        self._view = self._snapshot(version)
        self._next_out = self._soonest()  # last: whoever sees it sees the new snapshot too

    def _closed(self) -> NDArray[np.bool_]:
        closed = self._down.copy()
        closed[self._ahead] = True
        return closed

    def _publish(self, changed: Sequence[tuple[int, ItemRow]]) -> None:
        """Takes over the publish times of items of the bundle that were put again."""
        self._touched.update(number for number, _ in changed)
        times = {n: row.publish_time for n, row in changed if row.publish_time not in (None, self._published[n])}
        if times:
            self._published = self._published.copy()  # older snapshots keep theirs
            self._published[list(times)] = list(times.values())

    def _append(self, rows: Sequence[ItemRow]) -> int:
        """Encodes fresh items into the buffers; one that cannot be encoded is logged and left out. → rows appended"""
        if not rows:
            return 0
        try:
            columns = self._encoded(rows)
        except Exception as error:
            if len(rows) == 1:
                log.error("item not encoded", item_id=rows[0].item_id, error=f"{type(error).__name__}: {error}")
                return 0
            return sum(self._append([row]) for row in rows)
        for name, buffer in self._columns.items():
            buffer.append(columns[name])
        base, first = self._model.catalog.base, self._keys.count
        keys = [item_key(row.item_id) for row in rows]
        self._keys.append(np.array(keys, np.uint64))
        self._ids.extend(row.item_id for row in rows)
        self._numbers.update({key: base + first + place for place, key in enumerate(keys)})
        return len(rows)

    def _encoded(self, rows: Sequence[ItemRow]) -> Mapping[str, NDArray[Any]]:
        """The columns of fresh items, all there and all of the right shape, before a buffer grows by any of them."""
        columns = self._model.item_rows(rows)
        for name, buffer in self._columns.items():
            wanted = (len(rows), *buffer.data.shape[1:])
            if name not in columns or np.shape(columns[name]) != wanted:
                got = np.shape(columns[name]) if name in columns else "nothing"
                raise StepError(f"column {name!r} of fresh items: wanted {wanted}, the encoder gives {got}")
        return columns

    def _compact(self, closed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Copies the open fresh rows into new buffers, so that older snapshots keep theirs. → the new `closed`"""
        base = self._model.catalog.base
        living = np.flatnonzero(~closed[base:])
        keys, columns, ids = self._keys.view(), {n: c.view() for n, c in self._columns.items()}, self._ids
        self._clear()
        self._keys.append(keys[living])
        for name, column in columns.items():
            self._columns[name].append(column[living])
        self._ids = [ids[place] for place in living.tolist()]
        self._numbers = {key: base + place for place, key in enumerate(keys[living].tolist())}
        return np.concatenate([closed[:base], np.zeros(len(living), np.bool_)])

    def _snapshot(self, version: int) -> View:
        base = self._model.catalog
        columns = {name: (pair[0], self._columns[name].view()) for name, pair in base.columns.items()}
        columns["publish_time"] = (self._published, columns["publish_time"][1])
        keys = (base.keys[0], self._keys.view())
        catalog = Catalog(keys, columns, self._closed(), self._newest.first(), version)
        return View(catalog, self._model.item_ids, self._numbers, self._ids)
