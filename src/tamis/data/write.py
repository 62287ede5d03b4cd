"""Importing: checked rows appended to a data folder, all or nothing.

Part files are written first, under names that no earlier import used; nobody reads them until one atomic rename
replaces dataset.json. A crash or Ctrl-C before that leaves the data set as it was, and the next import removes what
was left behind. One import at a time: a second one is refused.
"""

import fcntl
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Final

import msgspec
import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from tamis.artifact import folder_durably, replace_durably, sync
from tamis.data.dataset import DAY_SECONDS, FORMAT, MANIFEST, Dataset, Manifest, Part, read_manifest
from tamis.data.numbering import Additions, additions
from tamis.data.tables import REJECTED, TABLES, RawTables, check, harmless
from tamis.errors import DataError
from tamis.types import ACTIONS, Progress, silent

REJECTED_FILE: Final = "rejected.parquet"
_LOCK: Final = ".import.lock"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. added, totals: rows by table, of this import and of the data set after it.

    changed: known users and items of which it said something new.   repeats: rows that were there already.
    rejected: rows by reason, all of them also in rejected.parquet.   actions: new events by action name.
    span: times of the first and the last new event, (0, 0) when there is none.
    """

    added: Mapping[str, int]
    totals: Mapping[str, int]
    changed: Mapping[str, int]
    repeats: Mapping[str, int]
    rejected: Mapping[str, int]
    actions: Mapping[str, int]
    span: tuple[float, float]
    seconds: float


def import_tables(
    raw: RawTables, into: Path, max_rejected_share: float = 0.01, progress: Progress = silent
) -> ImportReport:
    """Appends raw tables to the data folder `into`, which is made if need be.

    max_rejected_share: most bad rows there may be, as a share of all rows; repeats and rows that a stated rule leaves
    out are not bad.   progress: told (what, done, total).
    Raises DataError when there are more bad rows, and then imports nothing but leaves `rejected.parquet` to look at;
    also when a table lacks a column, a column changes its type, or another import is running.
    """
    began = perf_counter()
    into.mkdir(parents=True, exist_ok=True)
    with _alone(into):
        manifest = _prepared(into)
        progress("check", 0, 1)
        plan = additions(check(raw), Dataset(into, manifest))
        progress("check", 1, 1)
        _append_rejected(into, plan.rejected)
        rejected = Counter(plan.rejected["reason"].to_list())
        _refuse_bad(rejected, len(raw) + raw.rejected.height, max_rejected_share, into)
        after = _write(plan, into, manifest, progress)
    return _report(plan, after, rejected, perf_counter() - began)


def _report(plan: Additions, after: Manifest, rejected: Counter[str], seconds: float) -> ImportReport:
    times = plan.frames["events"]["time"]
    return ImportReport(
        added={table: plan.frames[table].height - plan.changed.get(table, 0) for table in TABLES},
        totals=after.counts,
        changed=plan.changed,
        repeats=plan.repeats,
        rejected=dict(rejected.most_common()),
        actions=_actions(plan.frames["events"]),
        span=(times[0], times[-1]) if len(times) else (0.0, 0.0),
        seconds=seconds,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which the system drops when the process ends however it ends."""
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"{folder}: another import is running; wait for it to end") from None
        yield


def _prepared(folder: Path) -> Manifest:
    """The folder's manifest, written if it is the first import; files of interrupted imports are removed."""
    manifest = read_manifest(folder)
    if not (folder / MANIFEST).exists():
        replace_durably(folder / MANIFEST, msgspec.json.encode(manifest))
    listed = {part.path for parts in manifest.parts.values() for part in parts}
    for table in TABLES:
        for file in (folder / table).rglob("part-*.parquet"):
            if file.relative_to(folder).as_posix() not in listed:
                file.unlink()
    return manifest


def _refuse_bad(rejected: Counter[str], rows: int, most: float, folder: Path) -> None:
    bad = Counter({reason: count for reason, count in rejected.items() if not harmless(reason)})
    if bad.total() > most * rows:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in bad.most_common(3))
        raise DataError(
            f"{bad.total():,} of {rows:,} rows ({bad.total() / rows:.1%}) are bad, most allowed {most:.1%}: {reasons}. "
            f"Nothing was imported; the rows are in {folder / REJECTED_FILE}"
        )


def _append_rejected(folder: Path, rejected: pl.DataFrame) -> None:
    """Adds rows to rejected.parquet, each once however often it was rejected."""
    if not rejected.height:
        return
    file = folder / REJECTED_FILE
    rows = pl.concat([*_rejected_before(file), rejected.select(list(REJECTED))]).unique(maintain_order=True)
    replace_durably(file, lambda pending: rows.write_parquet(pending, compression="zstd"))


def _rejected_before(file: Path) -> list[pl.DataFrame]:
    """What is in rejected.parquet. One that cannot be read is put aside: it is for people, and no import needs it."""
    try:
        return [pl.read_parquet(file).select(list(REJECTED))] if file.exists() else []
    except (PolarsError, OSError):
        file.replace(file.with_suffix(".damaged"))
        return []


@dataclass(slots=True)
class _PartFiles:
    """Writes the part files of one import and remembers them, so that they can be removed again."""

    folder: Path
    name: str
    progress: Progress
    written: list[Path] = field(default_factory=list)

    def write(self, table: str, frame: pl.DataFrame) -> list[Part]:
        """One file per UTC day for a table with times, one file for another; none without rows."""
        pieces = _days(frame) if "time" in frame.columns else [("", frame)] if frame.height else []
        parts = []
        for done, (day, rows) in enumerate(pieces, start=1):
            file = self.folder / table / day / self.name
            folder_durably(file.parent, self.folder)
            self.written.append(file)
            rows.write_parquet(file, compression="zstd", statistics=False)
            sync(file)
            sync(file.parent)
            first, last = (float(rows["time"][0]), float(rows["time"][-1])) if day else (0.0, 0.0)
            parts.append(Part(path=file.relative_to(self.folder).as_posix(), rows=rows.height, first=first, last=last))
            self.progress(f"write {table}", done, len(pieces))
        return parts


def _write(plan: Additions, folder: Path, manifest: Manifest, progress: Progress) -> Manifest:
    """Writes the part files and then the manifest; removes what it wrote when it cannot finish."""
    number = manifest.imports + 1
    files = _PartFiles(folder, f"part-{number:06d}.parquet", progress)
    try:
        parts = {table: (*manifest.parts[table], *files.write(table, plan.frames[table])) for table in TABLES}
        after = Manifest(
            format=FORMAT,
            imports=number,
            counts=dict(plan.counts),
            actions=dict(Counter(manifest.actions) + Counter(_actions(plan.frames["events"]))),
            columns={table: dict(kinds) for table, kinds in plan.columns.items()},
            parts=parts,
        )
        replace_durably(folder / MANIFEST, msgspec.json.encode(after))
    except BaseException:  # Ctrl-C too
        for file in files.written:
            file.unlink(missing_ok=True)
        raise
    return after


def _days(frame: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """The frame cut into UTC days: (Hive folder name, rows sorted by time)."""
    frame = frame.sort("time", maintain_order=True)
    days = np.floor(frame["time"].to_numpy() / DAY_SECONDS).astype(np.int64)
    first = np.flatnonzero(np.diff(days, prepend=-1, append=-1))
    names = [f"day={np.datetime64(int(days[start]), 'D')}" for start in first[:-1]]
    bounds = pairwise(first.tolist())
    return [(name, frame.slice(start, end - start)) for name, (start, end) in zip(names, bounds, strict=True)]


def _actions(events: pl.DataFrame) -> dict[str, int]:
    counts = np.bincount(events["action"].to_numpy(), minlength=len(ACTIONS))
    return {name: int(count) for name, count in zip(ACTIONS, counts, strict=True) if count}
