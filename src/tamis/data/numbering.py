"""From external ids to numbers: what an import adds to a data set, worked out before anything is written.

Rules. Ids that are mentioned anywhere get a number, whether or not a row describes them. A request id that no request
row explains becomes a bare request of its first event's user at its earliest time. A request that is known already,
and an event that is (same event id, or without one the same user, item, action, time and request), is a repeat: it is
counted and not added. Only the first of several exact repeats inside one import is kept; the rest are rejected rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from tamis.data.dataset import EVENT_COLUMNS, REQUEST_COLUMNS, Dataset
from tamis.data.ids import Ids
from tamis.data.tables import PLACE, REPEAT, SCHEMAS, RawTables, reject
from tamis.errors import DataError

OWNER: Final = {"users": "user_id", "items": "item_id"}
_KEY: Final = ("user", "item", "action", "time", "request")
_WIDER: Final = (pl.Boolean(), pl.Int64(), pl.Float64(), pl.String())
_BY_NAME: Final[Mapping[str, pl.DataType]] = {str(kind): kind for kind in (*_WIDER, *map(pl.List, _WIDER))}


@dataclass(frozen=True, slots=True)
class Additions:
    """Rows to append, by table, with numbers instead of ids.

    changed: rows of users and items that were known already.   repeats: rows that the data set holds already.
    columns: further columns of each table, old and new, with their types.
    """

    frames: Mapping[str, pl.DataFrame]
    counts: Mapping[str, int]
    changed: Mapping[str, int]
    repeats: Mapping[str, int]
    rejected: pl.DataFrame
    columns: Mapping[str, Mapping[str, str]]


def additions(tables: RawTables, dataset: Dataset) -> Additions:
    """What checked tables add to a data set.

    Raises DataError when a column turns from a value into a list or back, vectors change their length, or two ids have
    one key.
    """
    _check_vectors(tables.items["vector"], dataset)
    columns = {table: _columns(table, getattr(tables, table), dataset) for table in ("users", "items", "requests")}
    requests, known, bad_requests = _requests(tables, dataset)
    events, foreign = _own_requests(tables.events, pl.concat([known, requests], how="diagonal_relaxed"))
    users = _numbered(dataset.users["user_id"], tables.users, requests, events)
    items = _numbered(dataset.items["item_id"], tables.items, events)
    user_rows, users_changed = _described(tables.users, users, dataset.users)
    item_rows, items_changed = _described(tables.items, items, dataset.items)
    rows, repeated, there = _events(events, users, items, dataset)
    requests = requests.join(users, on="user_id", how="left", maintain_order="left").rename({"number": "user"})
    context = [name for name in requests.columns if name not in (*REQUEST_COLUMNS, *PLACE, "user_id", "_given")]
    return Additions(
        {
            "users": user_rows,
            "items": item_rows,
            "requests": requests.select(*REQUEST_COLUMNS, *context),
            "events": rows,
        },
        {
            "users": users.height,
            "items": items.height,
            "requests": dataset.counts()["requests"] + requests.height,
            "events": dataset.counts()["events"] + rows.height,
        },
        {"users": users_changed, "items": items_changed},
        {"requests": tables.requests.height - bad_requests.height - _given(requests), "events": there},
        pl.concat([tables.rejected, bad_requests, foreign, repeated]),
        columns,
    )


def _given(requests: pl.DataFrame) -> int:
    """How many of the new requests came as request rows."""
    return int(requests["_given"].sum())


def _columns(table: str, frame: pl.DataFrame, dataset: Dataset) -> dict[str, str]:
    """Further columns of a table after the import, each with the wider of its types: truth, whole, real, text."""
    stored = dict(dataset.manifest.columns.get(table, {}))
    for name, kind in frame.schema.items():
        if name in SCHEMAS[table] or name in PLACE:
            continue
        before = _BY_NAME[stored.get(name, str(kind))]
        if isinstance(before, pl.List) != isinstance(kind, pl.List):
            raise DataError(f"{table}: column {name!r} holds {kind}, earlier imports had {before}")
        stored[name] = str(max(before, kind, key=list(_BY_NAME.values()).index))
    return stored


def _check_vectors(vectors: pl.Series, dataset: Dataset) -> None:
    lengths = [found.drop_nulls().head(1).list.len().to_list() for found in (vectors, dataset.items["vector"])]
    if all(lengths) and lengths[0] != lengths[1]:
        raise DataError(f"items: vectors of {lengths[0][0]} numbers, earlier imports had {lengths[1][0]}")


def _requests(tables: RawTables, dataset: Dataset) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """New requests with their numbers, known ones that the import mentions, rejected ones.

    The first two have request, request_id and user_id; new ones also time, scene, context columns and `_given`, which
    is false for those made from events.
    """
    mentioned = pl.concat([tables.requests["request_id"], tables.events["request_id"]]).drop_nulls().unique()
    known = _known_requests(mentioned, dataset)
    owner = known.select("request_id", pl.col("user_id").alias("_owner"))
    rows = tables.requests.join(owner, on="request_id", how="left", maintain_order="left")
    stolen = rows.filter(pl.col("_owner") != pl.col("user_id")).drop("_owner")
    fresh = rows.filter(pl.col("_owner").is_null()).drop("_owner").with_columns(pl.lit(True).alias("_given"))
    explained = pl.concat([known["request_id"], fresh["request_id"]])
    bare = (
        tables.events.filter(pl.col("request_id").is_not_null())
        .filter(~pl.col("request_id").is_in(explained.implode()))
        .group_by("request_id", maintain_order=True)
        .agg(pl.col("user_id").first(), pl.col("time").min(), pl.col("scene").drop_nulls().first())
        .with_columns(pl.lit(False).alias("_given"))
    )
    new = pl.concat([fresh, bare], how="diagonal_relaxed").with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("request") + dataset.counts()["requests"],
        pl.col("scene").fill_null(""),
    )
    return new, known, reject(stolen, "request_id is known for another user", "requests")


def _known_requests(mentioned: pl.Series, dataset: Dataset) -> pl.DataFrame:
    wanted = pl.LazyFrame({"request_id": mentioned})
    found = dataset.scan_requests().join(wanted, on="request_id", how="semi").collect()
    owner = dataset.users["user_id"].gather(found["user"])
    return found.select("request", "request_id", owner.alias("user_id"))


def _own_requests(events: pl.DataFrame, requests: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events with their request numbers (−1 = none), and as rejected rows those whose request is another user's."""
    owner = requests.select("request_id", "request", pl.col("user_id").alias("_owner"))
    joined = events.join(owner, on="request_id", how="left", maintain_order="left")
    foreign = (pl.col("_owner") != pl.col("user_id")).fill_null(False)
    mine = joined.filter(~foreign).drop("_owner").with_columns(pl.col("request").fill_null(-1))
    bad = joined.filter(foreign).drop("_owner", "request")
    return mine, reject(bad, "request belongs to another user", "events")


def _numbered(known: pl.Series, *mentions: pl.DataFrame) -> pl.DataFrame:
    """All ids, known ones first, then in the order of mention: columns `known.name` and number (Int32)."""
    ids = pl.concat([known, *(frame[known.name] for frame in mentions)]).unique(maintain_order=True)
    if len(ids) > len(known):
        Ids.of(ids.to_list())  # refuses two ids with one key
    return pl.DataFrame({known.name: ids}).with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("number"))


def _described(given: pl.DataFrame, ids: pl.DataFrame, known: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Rows to append: new ids, then known ones of which the import says something else, and how many of those."""
    name = ids.columns[0]
    given = given.drop(*PLACE, strict=False)
    new = ids.slice(known.height).join(given, on=name, how="left", maintain_order="left")
    old = given.join(ids.head(known.height), on=name, how="inner", maintain_order="left")
    before = known.select(pl.all().gather(old["number"]))
    differs = [_differs(old[column], before) for column in given.columns if column != name]
    changed = old.filter(pl.any_horizontal(differs)) if differs else old.head(0)
    return pl.concat([new, changed.select(new.columns)]).select("number", pl.all().exclude("number")), changed.height


def _differs(now: pl.Series, before: pl.DataFrame) -> pl.Series:
    """[n] True where there is a value and it is another than before."""
    if now.name not in before.columns:
        return now.is_not_null()
    both = pl.concat([before.select(now.name), now.to_frame()], how="vertical_relaxed").to_series()  # the wider type
    return now.is_not_null() & both.tail(len(now)).ne_missing(both.head(len(now)))


def _events(
    events: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame, dataset: Dataset
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """New events sorted by time, exact repeats inside the import as rejected rows, the number of known ones."""
    user, item = users.rename({"number": "user"}), items.rename({"number": "item"})
    rows = events.join(user, on="user_id", how="left", maintain_order="left")
    rows = rows.join(item, on="item_id", how="left", maintain_order="left")
    codes = pl.col("action").to_physical().cast(pl.UInt8).alias("_code")
    first_id, first_key = pl.col("event_id").is_first_distinct(), pl.struct(_KEY).is_first_distinct()
    again = rows.select(pl.when(pl.col("event_id").is_not_null()).then(~first_id).otherwise(~first_key)).to_series()
    repeated = reject(rows.filter(again).drop("user", "item", "request"), REPEAT, "events")
    rows = rows.filter(~again).with_columns(codes).drop("action").rename({"_code": "action"})
    rows = rows.select(pl.col(name).cast(kind) for name, kind in EVENT_COLUMNS.items()).sort(
        "time", maintain_order=True
    )
    fresh = _unknown(rows, dataset)
    return fresh, repeated, rows.height - fresh.height


def _unknown(rows: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """The rows, in their order, that the data set does not hold yet."""
    if not rows.height or not dataset.counts()["events"]:
        return rows
    named = pl.col("event_id").is_not_null()
    ids = dataset.scan_events().select("event_id")
    ids = ids.join(rows.lazy().filter(named).select("event_id"), on="event_id", how="semi").unique()
    since, until = rows["time"][0], rows["time"][-1]
    keys = dataset.scan_events(since=since).filter(pl.col("time") <= until).select(_KEY).unique()
    seen = rows.lazy().join(
        ids.with_columns(pl.lit(True).alias("_id")), on="event_id", how="left", maintain_order="left"
    )
    seen = seen.join(keys.with_columns(pl.lit(True).alias("_key")), on=_KEY, how="left", maintain_order="left")
    there = pl.when(named).then(pl.col("_id")).otherwise(pl.col("_key")).fill_null(False)
    return seen.filter(~there).drop("_id", "_key").collect()
