"""A project's data: four tables as Parquet, read as typed columns of dense numbers.

    data/
      dataset.json                          which part files there are; replaced by one atomic rename at each import
      users/part-000001.parquet             number, user_id and profile columns                      append-only
      items/part-000001.parquet             number, item_id and item columns                         append-only
      requests/day=2026-01-31/part-….parquet    request, request_id, user, time, scene, context columns
      events/day=2026-01-31/part-….parquet      user, item, action, value, time, request, position, event_id
      rejected.parquet                      rows that an import refused, with the reason

Users, items and requests are numbered in the order they first appeared; numbers never change. Days are UTC. A part
file that dataset.json does not list is what an interrupted import left behind: it is never read.

A later import may say more about a known user or item: it adds a row with the same number, and reading takes, column
by column, the last value that is not null. So an attribute can be changed or added by an import, never erased. A column
whose type differs between imports has the wider type for all: truth value, whole number, number, text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.artifact import Format
from tamis.config import Config
from tamis.data.ids import Ids
from tamis.data.on_disk import OnDisk
from tamis.data.tables import SCHEMAS, TABLES
from tamis.errors import DataError

FORMAT: Final = 1
MANIFEST: Final = "dataset.json"
DAY_SECONDS: Final = 86_400.0
EVENT_COLUMNS: Final = {
    "user": pl.Int32,
    "item": pl.Int32,
    "action": pl.UInt8,
    "value": pl.Float32,
    "time": pl.Float64,
    "request": pl.Int64,
    "position": pl.Int16,
    "event_id": pl.String,
}
REQUEST_COLUMNS: Final = {
    "request": pl.Int64,
    "request_id": pl.String,
    "user": pl.Int32,
    "time": pl.Float64,
    "scene": pl.String,
}


@dataclass(frozen=True, slots=True)
class Events:
    """Events as columns, sorted by time (ties in the order of the log)."""

    user: NDArray[np.int32]  # [e]
    item: NDArray[np.int32]  # [e]
    action: NDArray[np.uint8]  # [e] Action codes
    value: NDArray[np.float32]  # [e] seconds for PLAY, stars for RATE (0 = unknown), else 0
    time: NDArray[np.float64]  # [e] seconds since the epoch
    request: NDArray[np.int64]  # [e] request number, −1 = none
    position: NDArray[np.int16]  # [e] 0-based place on the page, −1 = unknown

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[Any]) -> "Events":
        """The given rows (positions or a mask)."""
        return Events(*(getattr(self, name)[rows] for name in self.__slots__))

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def pieces(self) -> Iterator["Events"]:
        """Them all, window by window where they lie on disk, else at once."""
        user: Any = self.user
        ends = user.windows.tolist() if isinstance(user, OnDisk) else [0, len(self)]
        for begin, end in pairwise(ends):
            yield Events(*(getattr(self, name)[begin:end] for name in self.__slots__))

    @staticmethod
    def joined(pieces: Sequence[Mapping[str, NDArray[Any]]]) -> "Events":
        """Pieces of columns (`Dataset.pieces`) as one, sorted by time, ties in the order of the pieces."""
        none = {name: np.empty(0, kind) for name, kind in _KINDS.items()}
        columns = {name: np.concatenate([piece[name] for piece in pieces or (none,)]) for name in _KINDS}
        if len(columns["time"]) and np.any(columns["time"][1:] < columns["time"][:-1]):
            order = np.argsort(columns["time"], kind="stable")
            columns = {name: column[order] for name, column in columns.items()}
        return Events(**columns)


_KINDS: Final = {
    "user": np.int32,
    "item": np.int32,
    "action": np.uint8,
    "value": np.float32,
    "time": np.float64,
    "request": np.int64,
    "position": np.int16,
}


@dataclass(frozen=True, slots=True)
class Requests:
    """Served pages as columns, sorted by request number."""

    number: NDArray[np.int64]  # [r] request number
    user: NDArray[np.int32]  # [r]
    time: NDArray[np.float64]  # [r]
    scene: pl.Series  # [r] text, "" = not said
    context: pl.DataFrame  # [r] further columns, may have none

    def __len__(self) -> int:
        return len(self.number)

    @staticmethod
    def none() -> "Requests":
        """No page at all."""
        empty = pl.Series("scene", [], pl.String)
        return Requests(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0), empty, pl.DataFrame())


class Part(Config, frozen=True):
    """One part file. path: relative to the data folder.  first, last: times of its rows, 0 for users and items."""

    path: str
    rows: int
    first: float = 0.0
    last: float = 0.0

    @property
    def imported(self) -> int:
        """The number of the import that wrote it, from 1."""
        return int(Path(self.path).stem.removeprefix("part-"))


class Manifest(Config, frozen=True):
    """What the data set holds. imports: how many there were.  counts: rows by table.  actions: events by action name.

    columns: table → further column → its Polars type as text.   parts: table → its part files.
    """

    format: int = FORMAT
    imports: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(TABLES, 0))
    actions: dict[str, int] = {}
    columns: dict[str, dict[str, str]] = {}
    parts: dict[str, tuple[Part, ...]] = msgspec.field(default_factory=lambda: dict.fromkeys(TABLES, ()))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a data folder, an empty one when nothing was imported yet.

    Raises DataError when the folder does not exist, or the manifest is damaged or of another format.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `tamis import SOURCE PATH --into DIR` fills one")
    try:
        raw = (folder / MANIFEST).read_bytes()
        found = msgspec.json.decode(raw, type=Format).format
        if found != FORMAT:
            raise DataError(f"{folder}: data format {found}, this version reads {FORMAT}; import again")
        return msgspec.json.decode(raw, type=Manifest)
    except FileNotFoundError:
        if any(folder.glob("users/part-*.parquet")):
            raise DataError(f"{folder / MANIFEST}: missing although there are part files; import again") from None
        return Manifest()
    except msgspec.DecodeError as error:
        raise DataError(f"{folder / MANIFEST}: {error}") from None


@dataclass(frozen=True)
class Dataset:
    """An opened data folder, as it was when it was opened. Frames and ids are read when first asked for, then kept."""

    folder: Path
    manifest: Manifest

    @staticmethod
    def open(folder: Path) -> "Dataset":
        """The data set in a data folder; an existing folder without imports is an empty data set."""
        return Dataset(folder, read_manifest(folder))

    @cached_property
    def users(self) -> pl.DataFrame:
        """Row = user number: user_id and the profile columns there are."""
        return self._numbered("users")

    @cached_property
    def items(self) -> pl.DataFrame:
        """Row = item number: all well-known item columns (null = unknown) and further ones there are."""
        return self._numbered("items")

    @cached_property
    def user_ids(self) -> Ids:
        """External user ids ↔ user numbers."""
        return Ids.of(self.users["user_id"].to_list())

    @cached_property
    def item_ids(self) -> Ids:
        """External item ids ↔ item numbers."""
        return Ids.of(self.items["item_id"].to_list())

    def counts(self) -> dict[str, int]:
        """Rows by table: users, items, requests, events."""
        return dict(self.manifest.counts)

    def actions(self) -> dict[str, int]:
        """Events by action name, only actions that occur."""
        return dict(self.manifest.actions)

    def span(self) -> tuple[float, float]:
        """Times of the first and the last event, (0, 0) when there is none."""
        parts = self.manifest.parts["events"]
        return (min(p.first for p in parts), max(p.last for p in parts)) if parts else (0.0, 0.0)

    def scan_events(
        self, since: float | None = None, until: float | None = None, actions: Sequence[int] | None = None
    ) -> pl.LazyFrame:
        """The stored event columns with since ≤ time < until, lazily; day by day, within a day import by import.

        actions: codes to keep, None = all. Part files that cannot hold such a time are not opened.
        """
        if not (parts := self._parts("events", since, until)):
            return pl.LazyFrame(schema=dict(EVENT_COLUMNS))
        rows = _inside(self._scan(parts), parts, since, until)
        return rows if actions is None else rows.filter(pl.col("action").is_in([int(code) for code in actions]))

    def events(
        self, since: float | None = None, until: float | None = None, actions: Sequence[int] | None = None
    ) -> Events:
        """Events with since ≤ time < until, of the given action codes (None = all), sorted by time."""
        frame = self.scan_events(since, until, actions).select(Events.__slots__).collect()
        if not frame["time"].is_sorted():
            frame = frame.sort("time", maintain_order=True)
        return Events(*(frame[name].to_numpy() for name in Events.__slots__))

    def pieces(
        self, names: Sequence[str], since: float | None = None, until: float | None = None, *, rows: int
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Columns of the events with since ≤ time < until, at most `rows` stored ones at a time; "time" is among them.

        Day by day, within a day import by import, so sorted by time only inside of a piece.
        """
        low, high = _bounds(since, until)
        columns = list(dict.fromkeys([*names, "time"]))
        for part in self._parts("events", since, until):
            whole = low <= part.first and part.last < high
            for start in range(0, part.rows, rows):
                frame = self._scan([part]).slice(start, min(rows, part.rows)).select(columns).collect()
                if not whole:
                    frame = frame.filter(pl.col("time") >= low, pl.col("time") < high)
                if frame.height:
                    yield {name: frame[name].to_numpy() for name in columns}

    def some(
        self,
        chosen: Callable[[Mapping[str, NDArray[Any]]], NDArray[np.bool_]],
        since: float | None = None,
        until: float | None = None,
        *,
        rows: int,
    ) -> Events:
        """The events with since ≤ time < until that are chosen, sorted by time; `rows` stored ones are read at a time.

        chosen: columns of events as `pieces` gives them → [n] True for those that are kept.
        """
        kept = []
        for events in self.pieces(Events.__slots__, since, until, rows=rows):
            mask = chosen(events)
            kept.append({name: column[mask] for name, column in events.items()})
        return Events.joined(kept)

    def requests(self, since: float | None = None, until: float | None = None) -> Requests:
        """Requests with since ≤ time < until, sorted by number."""
        imports: dict[str, list[Part]] = {}
        for part in self._parts("requests", since, until):
            imports.setdefault(Path(part.path).name, []).append(part)
        # One import has one set of context columns, another may have others.
        frames = [_inside(self._scan(parts), parts, since, until).collect() for parts in imports.values()]
        empty = pl.DataFrame(schema=dict(REQUEST_COLUMNS))
        frame = pl.concat([empty, *frames], how="diagonal_relaxed").sort("request")
        number, user, time = (frame[name].to_numpy() for name in ("request", "user", "time"))
        return Requests(number, user, time, frame["scene"], frame.drop(REQUEST_COLUMNS))

    def scan_requests(self) -> pl.LazyFrame:
        """The columns that every request has, of all requests, lazily and in no promised order."""
        if not (parts := self._parts("requests", None, None)):
            return pl.LazyFrame(schema=dict(REQUEST_COLUMNS))
        files = [self.folder / part.path for part in parts]
        schema = dict(REQUEST_COLUMNS)
        return pl.scan_parquet(files, glob=False, hive_partitioning=False, schema=schema, extra_columns="ignore")

    def _parts(self, table: str, since: float | None, until: float | None) -> list[Part]:
        low, high = _bounds(since, until)
        parts = [part for part in self.manifest.parts[table] if part.last >= low and part.first < high]
        return sorted(parts, key=lambda part: part.path)

    def _scan(self, parts: Sequence[Part]) -> pl.LazyFrame:
        return pl.scan_parquet([self.folder / part.path for part in parts], glob=False, hive_partitioning=False)

    def _numbered(self, table: str) -> pl.DataFrame:
        return merged(self.folder, self.manifest, table).drop("number")


def _bounds(since: float | None, until: float | None) -> tuple[float, float]:
    return -np.inf if since is None else since, np.inf if until is None else until


def _inside(rows: pl.LazyFrame, parts: Sequence[Part], since: float | None, until: float | None) -> pl.LazyFrame:
    """The rows with since ≤ time < until; without a filter when the parts say that all are."""
    low, high = _bounds(since, until)
    if all(low <= part.first and part.last < high for part in parts):
        return rows
    return rows.filter(pl.col("time") >= low, pl.col("time") < high)


def merged(folder: Path, manifest: Manifest, table: str) -> pl.DataFrame:
    """Users or items as one frame, row = number, column `number` first; the last value that is not null counts."""
    frames = [pl.read_parquet(folder / part.path, hive_partitioning=False) for part in manifest.parts[table]]
    empty = pl.DataFrame(schema={"number": pl.Int32(), **SCHEMAS[table]})
    frame = pl.concat([empty, *frames], how="diagonal_relaxed")
    if frame.height == manifest.counts[table]:
        return frame.sort("number")
    return frame.group_by("number").agg(pl.all().drop_nulls().last()).sort("number")
