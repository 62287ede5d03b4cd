"""The nouns of the system: actions, events, histories, the catalogue, a query, candidates, a page.

Letters of shapes: n candidates or rows, h history entries, i items of the catalogue, d vector width.
Inside tamis an item is a *number*, its row in the catalogue of the bundle at hand. Anything that outlives a bundle
(timelines, seen filters) stores the item's *key* instead, a 64-bit hash of its external id that no retraining changes.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tamis.errors import StepError

Columns = Mapping[str, NDArray[Any]]
Progress = Callable[[str, int, int], None]
"""(what, done, total): called now and then by long work."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


class Action(IntEnum):
    """What a user did with an item. The numbers are stored on disk: never change one, only append."""

    IMPRESSION = 0
    CLICK = 1
    LIKE = 2
    COLLECT = 3
    SHARE = 4
    COMMENT = 5
    FOLLOW = 6
    HIDE = 7
    PLAY = 8  # value = seconds
    LONG_VIEW = 9
    PROFILE_ENTER = 10
    RATE = 11  # value = stars


ACTIONS: Final[tuple[str, ...]] = tuple(action.name.lower() for action in Action)
ACTION_CODE: Final[Mapping[str, int]] = {name: code for code, name in enumerate(ACTIONS)}
WATCH_HEADS: Final = ("completion", "finished", "play_quantile")
"""Heads of the ranker that are no actions: made of the seconds played and the item's duration (rank/watch_time.py)."""


def item_key(external_id: str) -> int:
    """The stable 64-bit key of an item: the first eight bytes of BLAKE2b of its external id, little endian.

    Two of ten million items share a key with probability 3e-6; the importer refuses a collision.
    """
    return int.from_bytes(hashlib.blake2b(external_id.encode("utf-8"), digest_size=8).digest(), "little")


def item_keys(external_ids: Iterable[str]) -> NDArray[np.uint64]:
    """`item_key` of each id, [n]."""
    return np.fromiter((item_key(external_id) for external_id in external_ids), np.uint64)


TIMELINE: Final = np.dtype([("key", "<u8"), ("time", "<f8"), ("value", "<f4"), ("action", "u1"), ("pad", "V3")])
"""One entry of a user's timeline: item key, seconds since the epoch, value, action code. 24 bytes."""


LEFTOVER: Final = np.dtype([("key", "<u8"), ("time", "<f8"), ("recalls", "u1")])
"""An item that was ranked high and not shown: its key, when that was, how often it was recalled since. 17 bytes."""


@dataclass(frozen=True, slots=True)
class History:
    """What a user did before now, newest first. items −1: no longer in the catalogue."""

    items: NDArray[np.int64]  # [h]
    actions: NDArray[np.uint8]  # [h] Action codes
    times: NDArray[np.float64]  # [h] seconds since the epoch

    def __len__(self) -> int:
        return len(self.items)

    @staticmethod
    def empty() -> "History":
        return History(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.float64))


@dataclass(frozen=True, slots=True)
class Lookup:
    """Statistics by key: those of one request's user, hour … with each author, item …

    keys: [m] ascending.   values: [m, f].   absent: [f] of keys that are not there.
    """

    keys: NDArray[np.int32]
    values: NDArray[np.float32]
    absent: NDArray[np.float32]

    def find(self, keys: NDArray[Any]) -> NDArray[np.float32]:
        """[n, f] the values of any keys."""
        if not len(self.keys):
            return np.tile(self.absent, (len(keys), 1))
        asked = keys.astype(np.int32, copy=False)  # of the table's own type, or NumPy copies the table to search it
        place = np.minimum(np.searchsorted(self.keys, asked), len(self.keys) - 1)
        return np.where((self.keys[place] == asked)[:, None], self.values[place], self.absent)


@dataclass(frozen=True, slots=True)
class Features:
    """Encoded features: rows of `codes` index the fused embedding table, `dense` holds numbers.

    codes: [n, c] int32, 0 = padding.  dense: [n, d] float32, always finite.
    lookups: of a request, by name: the statistics that its candidates are looked up in; see features.tables.
    """

    codes: NDArray[np.int32]
    dense: NDArray[np.float32]
    lookups: Mapping[str, Lookup] = field(default_factory=dict)

    def take(self, rows: NDArray[Any]) -> "Features":
        return Features(self.codes[rows], self.dense[rows])


class Membership(Protocol):
    """A set of item keys that can be asked in bulk."""

    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[n] True where the key is (or, for a Bloom filter, seems to be) in the set."""
        ...


@dataclass(frozen=True, slots=True)
class Nothing:
    """The empty set."""

    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return np.zeros(len(keys), np.bool_)


@dataclass(frozen=True, slots=True)
class Exact:
    """A set of item keys held exactly; `sorted_keys` ascending."""

    sorted_keys: NDArray[np.uint64]

    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not len(self.sorted_keys):
            return np.zeros(len(keys), np.bool_)
        found = np.minimum(np.searchsorted(self.sorted_keys, keys), len(self.sorted_keys) - 1)
        return np.asarray(self.sorted_keys[found] == keys)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All items as of one moment, as columns; row = item number. Frozen: a change makes a new snapshot.

    The first `base` rows are those of the bundle (often memory-mapped), the rest were published since. A column is a
    tuple of one or two arrays, base and fresh, so that publishing an item never copies the base.
    """

    keys: tuple[NDArray[np.uint64], NDArray[np.uint64]]
    columns: Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
    closed: NDArray[np.bool_]  # [i] True: taken down or blocked, must not be shown
    newest: NDArray[np.int64]  # open items by publish time, newest first (bounded)
    version: int = 0

    @property
    def base(self) -> int:
        return len(self.keys[0])

    def __len__(self) -> int:
        return len(self.keys[0]) + len(self.keys[1])

    def keys_of(self, items: NDArray[Any]) -> NDArray[np.uint64]:
        """[n] the stable keys of item numbers."""
        return gather(self.keys, items)

    def column(self, name: str, items: NDArray[Any]) -> NDArray[Any]:
        """[n, …] values of one column for item numbers. Raises StepError for an unknown column."""
        try:
            return gather(self.columns[name], items)
        except KeyError:
            raise StepError(f"catalogue has no column {name!r}; it has {sorted(self.columns)}") from None

    def features(self, items: NDArray[Any]) -> Features:
        """Encoded item features (columns `codes` and `dense`) for item numbers."""
        return Features(self.column("codes", items), self.column("dense", items))

    @staticmethod
    def of(keys: NDArray[np.uint64], columns: Columns, newest: NDArray[np.int64] | None = None) -> "Catalog":
        """A catalogue of base rows only, all open. `newest` defaults to the order of column `publish_time`."""
        if newest is None:
            published = columns.get("publish_time", np.zeros(len(keys)))
            newest = np.argsort(-published, kind="stable").astype(np.int64)
        pairs = {name: (column, column[:0]) for name, column in columns.items()}
        return Catalog((keys, keys[:0]), pairs, np.zeros(len(keys), np.bool_), newest)


def gather(pair: tuple[NDArray[Any], NDArray[Any]], items: NDArray[Any]) -> NDArray[Any]:
    """[n, …] rows of a column in two arrays, base and fresh: row i is base[i], from len(base) on it is in fresh."""
    base, fresh = pair
    if not len(fresh) or not len(items) or int(items.max()) < len(base):
        return np.asarray(base.take(items, axis=0))  # twice as fast as base[items]
    if not len(base):
        return np.asarray(fresh.take(items, axis=0))
    out: NDArray[Any] = base.take(np.minimum(items, len(base) - 1), axis=0)
    new = np.flatnonzero(items >= len(base))
    out[new] = fresh[items[new] - len(base)]
    return out


@dataclass(frozen=True, slots=True)
class Query:
    """One request and all that is known about it. Steps read it and never change it.

    user: number of the user in the bundle, −1 unknown.   now: seconds since the epoch; no step asks the clock.
    size: items wanted.   seed: the only randomness.   features: user side, codes [1, c] and dense [1, d].
    exclude: item numbers the caller does not want.   context: what the caller said of the moment (lat, lon, city…).
    profile: what is known of the user by column.   cached: item numbers that fine ranking put high before and that were
    not shown, those that wait longest first; see recall.cached.
    """

    user: int
    now: float
    size: int
    scene: str
    seed: int
    history: History
    features: Features
    catalog: Catalog
    seen: Membership = field(default_factory=Nothing)
    exclude: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    context: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    cached: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Candidates:
    """A frozen table of items: `ids [n]` distinct item numbers and named columns `[n]` or `[n, d]`."""

    ids: NDArray[np.int64]
    columns: Columns = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[Any] | slice) -> "Candidates":
        """The given rows (positions, a mask or a slice), in the given order."""
        if isinstance(rows, slice) or rows.dtype == np.bool_:
            return Candidates(self.ids[rows], {name: column[rows] for name, column in self.columns.items()})
        columns = {name: column.take(rows, axis=0) for name, column in self.columns.items()}  # twice as fast as [rows]
        return Candidates(self.ids.take(rows), columns)

    def add(self, columns: Columns) -> "Candidates":
        """The same rows with more columns. Raises StepError when a column is not of the table's length."""
        for name, column in columns.items():
            if len(column) != len(self.ids):
                raise StepError(f"column {name!r} has {len(column)} rows, the table has {len(self.ids)}")
        return replace(self, columns={**self.columns, **columns})

    def column(self, name: str) -> NDArray[Any]:
        """One column. Raises StepError that lists what there is."""
        try:
            return self.columns[name]
        except KeyError:
            raise StepError(f"no column {name!r}; the table has {sorted(self.columns)}") from None

    @staticmethod
    def empty() -> "Candidates":
        return Candidates(np.empty(0, np.int64))

    @staticmethod
    def of(ids: Sequence[int] | NDArray[np.int64], **columns: NDArray[Any]) -> "Candidates":
        return Candidates(np.asarray(ids, np.int64)).add(columns)


@dataclass(frozen=True, slots=True)
class StepTrace:
    """What one step did. status: ok, failed, late or skipped; `error` says why when it is not ok.

    relaxed: rule → picks that had to break it, where no row was left that keeps all rules.
    """

    stage: str
    step: str
    kind: str
    rows_in: int
    rows_out: int
    milliseconds: float
    status: str = "ok"
    error: str = ""
    relaxed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """The answer of a funnel: the items in order with all their columns, and the trace of every step.

    degraded: some step failed, was late or was skipped.   channels: names that `found_by` bits and `channel` refer to.
    found: channel → all ids it found, best first, before any filter; one that failed or was late is missing.
    """

    items: Candidates
    trace: tuple[StepTrace, ...]
    degraded: bool
    channels: tuple[str, ...]
    found: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def ranks(self) -> NDArray[np.int32]:
        """[n, channels] the rank of each item in each channel, 0 = best, −1 = not found there.

        Made when asked for: no request carries a column that only those who look inside read.
        """
        out = np.full((len(self.items), len(self.channels)), -1, np.int32)
        for column, name in enumerate(self.channels):
            ids = self.found.get(name, self.items.ids[:0])
            _, row, rank = np.intersect1d(self.items.ids, ids, assume_unique=True, return_indices=True)
            out[row, column] = rank
        return out
