"""The four tables as they come in: external string ids, one frame per table, and the check of every row.

    users      user_id, any profile columns
    items      item_id, author, category, keywords, text, vector, city, latitude, longitude, duration_seconds,
               publish_time, quality, any further columns
    requests   request_id, user_id, time, scene, any context columns          one row per page that was served
    events     user_id, item_id, action, time, value, request_id, event_id, position, scene

Times are seconds since the epoch (or date columns), actions are names of `types.ACTIONS`. A column that is not known
yet may be absent, except the ids, the time and the action. Frames may carry `_source` and `_row`: the file and the
data row (1 = first) a row was read from; they name the place in `rejected.parquet` and are not stored.

No row is dropped in silence: `check` gives the rows that may be imported and, with a reason, those that may not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from tamis.errors import DataError
from tamis.types import ACTIONS

TABLES: Final = ("users", "items", "requests", "events")
EARLIEST: Final = 631_152_000.0  # 1990-01-01
LATEST: Final = 4_102_444_800.0  # 2100-01-01
MOST_ID_BYTES: Final = 256  # an embedded key-value store takes keys up to 511 bytes, and the keys have prefixes
MOST_POSITION: Final = 32_767
REPEAT: Final = "exact repeat"
LEFT_OUT: Final = "left out: "
PLACE: Final = ("_source", "_row")
RESERVED: Final = ("number", "user", "item", "request", "day")

SCHEMAS: Final[Mapping[str, Mapping[str, pl.DataType]]] = {
    "users": {"user_id": pl.String()},
    "items": {
        "item_id": pl.String(),
        "author": pl.String(),
        "category": pl.String(),
        "keywords": pl.List(pl.String()),
        "text": pl.String(),
        "vector": pl.List(pl.Float32()),
        "city": pl.String(),
        "latitude": pl.Float64(),
        "longitude": pl.Float64(),
        "duration_seconds": pl.Float64(),
        "publish_time": pl.Float64(),
        "quality": pl.Float64(),
    },
    "requests": {"request_id": pl.String(), "user_id": pl.String(), "time": pl.Float64(), "scene": pl.String()},
    "events": {
        "user_id": pl.String(),
        "item_id": pl.String(),
        "action": pl.Enum(ACTIONS),
        "time": pl.Float64(),
        "value": pl.Float64(),
        "request_id": pl.String(),
        "event_id": pl.String(),
        "position": pl.Int64(),
        "scene": pl.String(),
    },
}
REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "users": ("user_id",),
    "items": ("item_id",),
    "requests": ("request_id", "user_id", "time"),
    "events": ("user_id", "item_id", "action", "time"),
}
REJECTED: Final[Mapping[str, pl.DataType]] = {
    "source": pl.String(),
    "row": pl.Int64(),
    "reason": pl.String(),
    "json": pl.String(),
}

_Rule = tuple[str, pl.Expr]  # reason, true where the row breaks it


@dataclass(frozen=True, slots=True)
class RawTables:
    """Four frames as a source gives them. rejected: rows that the source itself could not use (schema REJECTED)."""

    users: pl.DataFrame
    items: pl.DataFrame
    requests: pl.DataFrame
    events: pl.DataFrame
    rejected: pl.DataFrame

    @staticmethod
    def of(
        users: pl.DataFrame | None = None,
        items: pl.DataFrame | None = None,
        requests: pl.DataFrame | None = None,
        events: pl.DataFrame | None = None,
        rejected: pl.DataFrame | None = None,
    ) -> "RawTables":
        """Tables from those that there are; an absent one is empty."""
        given = zip(TABLES, (users, items, requests, events), strict=True)
        frames = [empty(name) if frame is None else frame for name, frame in given]
        bad = nothing_rejected() if rejected is None else rejected
        return RawTables(frames[0], frames[1], frames[2], frames[3], bad)

    def __len__(self) -> int:
        return sum(getattr(self, name).height for name in TABLES)


def empty(table: str) -> pl.DataFrame:
    """A table without rows, with all its well-known columns."""
    return pl.DataFrame(schema=dict(SCHEMAS[table]))


def nothing_rejected() -> pl.DataFrame:
    """A frame of rejected rows without rows."""
    return pl.DataFrame(schema=dict(REJECTED))


def harmless(reason: str) -> bool:
    """True for a reason that says nothing bad about the data: a repeat, or a row that a stated rule leaves out."""
    return reason == REPEAT or reason.startswith(LEFT_OUT)


def reject(frame: pl.DataFrame, reasons: pl.Series | str, source: str) -> pl.DataFrame:
    """Rows of a frame as rejected rows.

    reasons: one for each row, or one for all.   source: where the rows come from, if they have no `_source`.
    """
    reason = reasons if isinstance(reasons, pl.Series) else pl.Series([reasons]).new_from_index(0, frame.height)
    own = [name for name in frame.columns if name not in PLACE]
    place = pl.col("_source").cast(pl.String) if "_source" in frame.columns else pl.lit(source)
    row = pl.col("_row") if "_row" in frame.columns else pl.int_range(1, pl.len() + 1)
    content = pl.struct(own).struct.json_encode()
    columns = [place.alias("source"), row.cast(pl.Int64).alias("row"), reason.alias("reason"), content.alias("json")]
    return frame.select(columns) if frame.height else nothing_rejected()


def check(raw: RawTables) -> RawTables:
    """The same tables with all their columns, typed, and `_row`; every bad row moved to `rejected`; order kept.

    Raises DataError when a table lacks a column it cannot do without, or a column has a type that cannot be stored.
    """
    frames, rejected = [], [raw.rejected.select(pl.col(name).cast(kind) for name, kind in REJECTED.items())]
    for table in TABLES:
        good, bad = _check_table(table, getattr(raw, table))
        frames.append(good)
        rejected.append(bad)
    return RawTables(frames[0], frames[1], frames[2], frames[3], pl.concat(rejected))


def _check_table(table: str, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    _check_columns(table, frame.columns)
    schema = SCHEMAS[table]
    if "_row" not in frame.columns:
        frame = frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).alias("_row"))
    frame = frame.drop(name for name, kind in frame.schema.items() if kind == pl.Null() and name not in schema)
    casts = {name: _typed(table, name, frame.schema[name], schema.get(name)) for name in frame.columns}
    known = [name for name in schema if name in frame.columns]
    lost = [
        (f"{name} is not {_kind(schema[name])}", pl.col(name).is_not_null() & casts[name].is_null()) for name in known
    ]
    typed = frame.with_columns(cast.alias(name) for name, cast in casts.items())
    typed = typed.with_columns(pl.lit(None, kind).alias(name) for name, kind in schema.items() if name not in casts)
    if table == "items":  # NaN and an empty vector say the same as null: not known
        some = pl.when(pl.col("vector").list.len() > 0).then(pl.col("vector"))
        typed = typed.with_columns(pl.col(pl.Float64).fill_nan(None), some.alias("vector"))
    if table == "events":
        filled = (pl.when(pl.col(name) != "").then(pl.col(name)).alias(name) for name in ("request_id", "event_id"))
        typed = typed.with_columns(pl.col("value").fill_null(0.0), pl.col("position").fill_null(-1), *filled)
    uncast, broken = frame.select(_first(lost)).to_series(), typed.select(_first(_RULES[table])).to_series()
    reason = uncast.zip_with(uncast.is_not_null(), broken).alias("reason")
    bad = reason.is_not_null()
    if not bad.any():
        return typed, nothing_rejected()
    return typed.filter(~bad), reject(frame.filter(bad), reason.filter(bad), table)


def _check_columns(table: str, columns: Sequence[str]) -> None:
    for column in REQUIRED[table]:
        if column not in columns:
            raise DataError(f"{table}: column {column!r} is missing; it has {list(columns)}")
    for column in RESERVED:
        if column in columns:
            raise DataError(f"{table}: column {column!r} has a name that the data set keeps for itself; rename it")


def _typed(table: str, name: str, found: pl.DataType, wanted: pl.DataType | None) -> pl.Expr:
    """The column cast to its type; a value that cannot be cast becomes null."""
    column = pl.col(name)
    if name in PLACE or found == wanted == pl.String():
        return column
    if isinstance(found, pl.Date | pl.Datetime) and (wanted is None or wanted == pl.Float64()):
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if wanted is None:
        return column.cast(_stored(table, name, found))
    if isinstance(wanted, pl.List) != isinstance(found, pl.List | pl.Array) and found != pl.Null():
        raise DataError(f"{table}: column {name!r} is {found}, wanted {wanted}")
    return column.cast(wanted, strict=False)


def _stored(table: str, name: str, found: pl.DataType) -> pl.DataType:
    """The type that a further column is stored with."""
    inner = found.inner if isinstance(found, pl.List | pl.Array) else found
    if inner == pl.Boolean() or inner == pl.Null():
        kind: pl.DataType = pl.Boolean()
    elif isinstance(inner, pl.String | pl.Categorical | pl.Enum | pl.UInt64 | pl.UInt128 | pl.Int128):
        kind = pl.String()  # whole numbers of such a size are hashes: a real number would mix them up
    elif inner.is_integer():
        kind = pl.Int64()
    elif inner.is_numeric():
        kind = pl.Float64()
    else:
        raise DataError(
            f"{table}: column {name!r} is {found}; a column holds numbers, text, truth values, times or lists"
        )
    return kind if inner is found else pl.List(kind)


def _kind(wanted: pl.DataType) -> str:
    if isinstance(wanted, pl.Enum):
        return "a known action"
    return "a number" if wanted.is_numeric() else "a text" if wanted == pl.String() else f"a {wanted}"


def _first(rules: Sequence[_Rule]) -> pl.Expr:
    """The reason of the first rule that a row breaks, null where it breaks none."""
    broken = [pl.when(test).then(pl.lit(reason)) for reason, test in rules]
    return pl.coalesce(broken) if broken else pl.lit(None, pl.String)


def _id_rules(*names: str) -> list[_Rule]:
    rules: list[_Rule] = []
    for name in names:
        column = pl.col(name)
        rules.append((f"{name} is empty", column.is_null() | (column.str.strip_chars() == "")))
        rules.append((f"{name} is longer than {MOST_ID_BYTES} bytes", column.str.len_bytes() > MOST_ID_BYTES))
    return rules


def _unique(name: str) -> _Rule:
    return f"{name} appears twice", ~pl.col(name).is_first_distinct()


def _outside(name: str, low: float, high: float, reason: str) -> _Rule:
    return f"{name} {reason}", (pl.col(name) < low) | (pl.col(name) > high) | ~pl.col(name).is_finite()


_TIME: Final[list[_Rule]] = [
    ("time is missing or not finite", ~pl.col("time").is_finite().fill_null(False)),
    (
        'time is in milliseconds, wanted seconds since the epoch (a mapping says unit = "ms")',
        pl.col("time").is_between(EARLIEST * 1000, LATEST * 1000),
    ),
    ("time is before 1990 or after 2100", (pl.col("time") < EARLIEST) | (pl.col("time") >= LATEST)),
]
_VECTOR: Final[list[_Rule]] = [
    ("vector has a number that is missing or not finite", ~pl.col("vector").list.eval(
        pl.element().is_finite().fill_null(False)).list.all()),
    ("vector differs in length from the first one", pl.col("vector").list.len()
     != pl.col("vector").drop_nulls().first().list.len()),
]  # fmt: skip
_RULES: Final[Mapping[str, list[_Rule]]] = {
    "users": [*_id_rules("user_id"), _unique("user_id")],
    "items": [
        *_id_rules("item_id"),
        _unique("item_id"),
        _outside("latitude", -90, 90, "is outside −90…90"),
        _outside("longitude", -180, 180, "is outside −180…180"),
        _outside("duration_seconds", 0, float("inf"), "is negative or not finite"),
        (
            'publish_time is in milliseconds, wanted seconds since the epoch (a mapping says unit = "ms")',
            pl.col("publish_time").is_between(EARLIEST * 1000, LATEST * 1000),
        ),
        _outside("publish_time", -float("inf"), LATEST, "is after 2100 or not finite"),
        _outside("quality", -float("inf"), float("inf"), "is not finite"),
        *_VECTOR,
    ],
    "requests": [*_id_rules("request_id", "user_id"), *_TIME, _unique("request_id")],
    "events": [
        *_id_rules("user_id", "item_id"),
        ("action is missing", pl.col("action").is_null()),
        *_TIME,
        ("value is not finite", ~pl.col("value").is_finite()),
        ("seconds played are negative", (pl.col("action") == "play") & (pl.col("value") < 0)),
        ("stars are negative", (pl.col("action") == "rate") & (pl.col("value") < 0)),
        ("position is below −1", pl.col("position") < -1),
        (f"position is above {MOST_POSITION}", pl.col("position") > MOST_POSITION),
        (f"request_id is longer than {MOST_ID_BYTES} bytes", pl.col("request_id").str.len_bytes() > MOST_ID_BYTES),
        (f"event_id is longer than {MOST_ID_BYTES} bytes", pl.col("event_id").str.len_bytes() > MOST_ID_BYTES),
    ],
}
