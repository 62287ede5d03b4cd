"""From the columns of anybody's files to the four tables: the mapping, and the one engine that applies it.

All importers but the interpolated history of KuaiRand are mappings. `table` reads one from a TOML file.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import polars as pl

from tamis.config import Config
from tamis.data.sources.files import TextFormat, find, read_files, require, with_numbers
from tamis.data.tables import LEFT_OUT, PLACE, REPEAT, SCHEMAS, RawTables, nothing_rejected, reject
from tamis.types import ACTION_CODE, ACTIONS

SECONDS: Final[Mapping[str, float]] = {
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "ns": 1e-9,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86_400.0,
}
OWNER: Final = {"users": "user_id", "items": "item_id", "requests": "request_id"}


class Time(Config, frozen=True):
    """Where a time comes from.

    column: the file's column; "" = the file has no times, and each user's rows are put one second apart in their order
    from `since` on.   unit: of a number.   format: of a text, such as "%Y-%m-%d %H:%M:%S"; "" = it is a number.
    since: what a number counts from, an ISO date or time.   offset_hours: local time minus UTC of a text.
    """

    column: str = ""
    unit: Literal["s", "ms", "us", "ns", "minute", "hour", "day"] = "s"
    format: str = ""
    since: str = "1970-01-01"
    offset_hours: float = 0.0

    def __post_init__(self) -> None:
        _epoch(self.since)
        if not self.column and self.since == "1970-01-01":
            raise ValueError("a time without a column wants `since`, the day to count from")


class Rule(Config, frozen=True):
    """A test of one column, met where all that is said holds; an empty value meets none.

    known: only asks that there is a value.
    """

    column: str
    known: bool = False
    equals: str | None = None
    at_least: float | None = None
    above: float | None = None
    below: float | None = None


class Emit(Config, frozen=True):
    """One event for each row that meets `when` (None = each row).

    action: a name of types.ACTIONS.   value: a column, "" = none; an empty value is 0.   scale: multiplies the value.
    """

    action: str
    when: Rule | None = None
    value: str = ""
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.action not in ACTION_CODE:
            raise ValueError(f"unknown action {self.action!r}; there are {', '.join(ACTIONS)}")


class TableFile(Config, frozen=True):
    """One file, or several of one layout, that fill one table.

    file: name or glob pattern, relative to the folder.   columns: our column → the file's; several are joined by "-".
    times: our column → where its time comes from.   scales: our column → what the file's number is multiplied by.
    lists: our column → what separates its values in the file.   keep: rows that do not meet all of these are left out.
    repeats: columns of the file; a row equal in all of them to an earlier one is an exact repeat.
    distinct: the first row of each id counts and the others say nothing, for a table that is read out of a log.
    rest: take the file's other columns along under their own names.
    """

    file: str
    columns: dict[str, str | tuple[str, ...]]
    text: TextFormat = TextFormat()
    times: dict[str, Time] = {}
    scales: dict[str, float] = {}
    lists: dict[str, str] = {}
    keep: tuple[Rule, ...] = ()
    repeats: tuple[str, ...] = ()
    distinct: bool = False
    rest: bool = False

    def __post_init__(self) -> None:
        for name, time in self.times.items():
            if name in self.columns:
                raise ValueError(f"{name} is among both columns and times; wanted one of them")
            if not time.column and (name != "time" or "user_id" not in self.columns):
                raise ValueError(f"times.{name} wants a column")
        for key, named in (("scales", self.scales), ("lists", self.lists)):
            if unknown := [name for name in named if not isinstance(self.columns.get(name), str)]:
                raise ValueError(f"{key} names {unknown}, wanted names in columns, each of one column of the file")


class EventsFile(TableFile, frozen=True):
    """One file of which each row gives events: those of `emit`, and one whose action stands in a column.

    action_column: the column; `actions` turns its values into names of types.ACTIONS, others stay as they are. The
    value of such an event is that of `value` in columns, 0 where it is empty or there is none.
    """

    emit: tuple[Emit, ...] = ()
    action_column: str = ""
    actions: dict[str, str] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.emit and not self.action_column:
            raise ValueError("events want `emit` or `action_column`")
        if self.rest or self.distinct:
            raise ValueError("`rest` and `distinct` are not for events, which have fixed columns and keep all rows")
        known = [name for name in SCHEMAS["events"] if name != "action"]
        if unknown := [name for name in (*self.columns, *self.times) if name not in known]:
            raise ValueError(f"columns of events name {unknown}; there are {', '.join(known)}")
        if "value" in self.columns and not self.action_column:
            raise ValueError("columns.value is for `action_column`; each event of `emit` says its own `value`")


class TableConfig(Config, frozen=True):
    """A mapping: the files of each table."""

    users: tuple[TableFile, ...] = ()
    items: tuple[TableFile, ...] = ()
    requests: tuple[TableFile, ...] = ()
    events: tuple[EventsFile, ...] = ()


def read_mapping(folder: Path, mapping: TableConfig) -> RawTables:
    """The tables that a mapping makes of the files in a folder.

    Raises DataError when a file or a column is missing or a file is damaged.
    """
    rejected = [nothing_rejected()]
    tables: dict[str, pl.DataFrame | None] = {}
    for table in SCHEMAS:
        frames = []
        for file in getattr(mapping, table):
            rows, bad = read_files(folder, file.file, file.text)
            require(rows, sources(file), find(folder, file.file)[0])
            frame, worse = events_of(rows, file) if table == "events" else rows_of(rows, file, table)
            frames.append(frame)
            rejected += [bad, worse]
        tables[table] = pl.concat(frames, how="diagonal_relaxed") if frames else None
    return RawTables.of(tables["users"], tables["items"], tables["requests"], tables["events"], pl.concat(rejected))


def sources(file: TableFile) -> list[str]:
    """The columns that a file must have."""
    named = [name for source in file.columns.values() for name in ([source] if isinstance(source, str) else source)]
    named += [time.column for time in file.times.values() if time.column]
    named += [rule.column for rule in file.keep] + list(file.repeats)
    if isinstance(file, EventsFile):
        named += [rule.column for emit in file.emit if (rule := emit.when)]
        named += [emit.value for emit in file.emit if emit.value] + ([file.action_column] if file.action_column else [])
    return list(dict.fromkeys(named))


def rows_of(rows: pl.DataFrame, file: TableFile, table: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of a file as rows of users, items or requests, and the rejected ones."""
    rows, rejected = _usable(rows, file)
    taken = {*sources(file), *PLACE, *file.columns, *file.times} - {rule.column for rule in file.keep}
    rest = [name for name in rows.columns if name not in taken] if file.rest else []
    frame = with_numbers(rows, rest).select(*_columns(rows, file), *rest, *PLACE)
    return (frame.unique(OWNER[table], keep="first", maintain_order=True) if file.distinct else frame), rejected


def events_of(rows: pl.DataFrame, file: EventsFile) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The events of a file's rows in the order of the rows, those of one row in the order of `emit`; rejected rows."""
    rows, rejected = _usable(rows, file)
    base = rows.select(*_columns(rows, file), *PLACE, pl.int_range(pl.len(), dtype=pl.UInt32).alias("_order"))
    text = pl.String() if file.action_column else pl.Enum(ACTIONS)
    frames = []
    for emit in file.emit:
        value = _number(emit.value).fill_null(0.0) * emit.scale if emit.value else pl.repeat(0.0, pl.len())
        met = rows.select(_met(emit.when) if emit.when else pl.repeat(True, pl.len())).to_series()
        worth = rows.select(value.alias("value")).filter(met).to_series()
        frames.append(base.filter(met).with_columns(pl.lit(emit.action, text).alias("action"), worth))
    if file.action_column:
        action = rows.select(pl.col(file.action_column).cast(pl.String).replace(file.actions).alias("action"))
        value = _number("value").fill_null(0.0) if "value" in base.columns else pl.lit(0.0)
        frames.append(base.with_columns(action.to_series(), value.alias("value")))
    return pl.concat(frames).sort("_order", maintain_order=True).drop("_order"), rejected


def _usable(rows: pl.DataFrame, file: TableFile) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows that can be read, and as rejected rows: unreadable values, rows a rule leaves out, exact repeats."""
    tests = [(reason, test) for reason, test in _faults(rows, file)]
    tests += [(f"{LEFT_OUT}{_said(rule)}", ~_met(rule)) for rule in file.keep]
    if file.repeats:
        tests.append((REPEAT, ~pl.struct(file.repeats).is_first_distinct()))
    if not tests:
        return rows, nothing_rejected()
    reason = rows.select(pl.coalesce(pl.when(test).then(pl.lit(text)) for text, test in tests)).to_series()
    bad = reason.is_not_null()
    return rows.filter(~bad), reject(rows.filter(bad), reason.filter(bad), file.file)


def _faults(rows: pl.DataFrame, file: TableFile) -> list[tuple[str, pl.Expr]]:
    """Tests for values that are there but cannot be read as what they should be."""
    numbers = [source for name, source in file.columns.items() if name in file.scales and isinstance(source, str)]
    numbers += [rule.column for rule in _rules(file) if not rule.known and rule.equals is None]
    numbers += [emit.value for emit in getattr(file, "emit", ()) if emit.value]
    if isinstance(file, EventsFile) and isinstance(value := file.columns.get("value"), str):
        numbers.append(value)
    numbers += [time.column for time in file.times.values() if time.column and not time.format]
    faults = [
        (f"{name} is not a number", pl.col(name).is_not_null() & _number(name).is_null())
        for name in dict.fromkeys(numbers)
        if not rows.schema[name].is_temporal()
    ]
    for time in file.times.values():
        if time.format and rows.schema[time.column] == pl.String():
            unread = pl.col(time.column).is_not_null() & _time(rows, file, time).is_null()
            faults.append((f"{time.column} is not a time like {time.format}", unread))
    return faults


def _rules(file: TableFile) -> list[Rule]:
    return [*file.keep, *(emit.when for emit in getattr(file, "emit", ()) if emit.when)]


def _columns(rows: pl.DataFrame, file: TableFile) -> list[pl.Expr]:
    columns = []
    for name, source in file.columns.items():
        column = pl.col(source) if isinstance(source, str) else pl.concat_str(source, separator="-")
        if name in file.lists:
            parts = column.cast(pl.String).str.split(file.lists[name]).list.eval(pl.element().str.strip_chars())
            column = parts.list.filter(pl.element() != "")
        if name in file.scales and isinstance(source, str):
            column = _number(source) * file.scales[name]
        columns.append(column.alias(name))
    return [*columns, *(_time(rows, file, time).alias(name) for name, time in file.times.items())]


def _time(rows: pl.DataFrame, file: TableFile, time: Time) -> pl.Expr:
    """Seconds since the epoch."""
    since = _epoch(time.since)
    if not time.column:
        user = file.columns["user_id"]
        return since + pl.int_range(pl.len()).over(user).cast(pl.Float64)
    kind = rows.schema[time.column]
    if kind.is_temporal() or time.format:
        column = pl.col(time.column)
        moment = column if kind.is_temporal() else column.cast(pl.String).str.to_datetime(time.format, strict=False)
        return moment.cast(pl.Datetime("us")).dt.epoch("us") / 1e6 - time.offset_hours * 3600
    return _number(time.column) * SECONDS[time.unit] + since


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64, strict=False)


def _met(rule: Rule) -> pl.Expr:
    tests: list[pl.Expr] = [pl.col(rule.column).is_not_null()]
    if rule.equals is not None:
        tests.append(pl.col(rule.column).cast(pl.String) == rule.equals)
    if rule.at_least is not None:
        tests.append(_number(rule.column) >= rule.at_least)
    if rule.above is not None:
        tests.append(_number(rule.column) > rule.above)
    if rule.below is not None:
        tests.append(_number(rule.column) < rule.below)
    return pl.all_horizontal(tests).fill_null(False)


def _said(rule: Rule) -> str:
    bounds: Sequence[tuple[str, object]] = (
        ("is", rule.equals), ("is at least", rule.at_least), ("is above", rule.above), ("is below", rule.below),
    )  # fmt: skip
    said = [f"{rule.column} {word} {bound}" for word, bound in bounds if bound is not None]
    return "only where " + (" and ".join(said) or f"{rule.column} is known")
