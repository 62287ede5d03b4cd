"""Other public sets, in the Parquet form they are shared in. None of them has impressions.

Some have no times at all. Theirs are invented: each user's rows are put one second apart in their order, from a stated
day on; only the order inside a user means something.

    gowalla-ngcf        check-ins as clicks; the public split stays: train on 2010-01-01, test on 2010-01-02
    foursquare-nyc      check-ins as clicks with true minutes (they count from 2012-04-03 18:00), places of venues
    citeulike-t         articles in a library as clicks; an article's words, most frequent first, as keywords
    hetrec-lastfm       artists listened to as clicks, their value the number of plays; friends in the profile
    retailrocket-core   view → click, add_to_cart → like, purchase → collect
    steam-200k          purchase → click (2010-01-01), hours played → play seconds (2010-01-02)
    uci-online-retail   lines of invoices as clicks, value = pieces; returns and lines without a customer are left out
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from tamis.config import Config
from tamis.data.sources.files import TextFormat, read_files, require
from tamis.data.sources.mapping import Emit, EventsFile, Rule, TableConfig, TableFile, Time, read_mapping
from tamis.data.tables import RawTables

_FIRST_DAY: Final = "2010-01-01"
_SECOND_DAY: Final = "2010-01-02"
_WORDS: Final = 50  # keywords kept of an article
_CLICK: Final = (Emit(action="click"),)


class PublicSetConfig(Config, frozen=True):
    """There is nothing to choose."""


def _pairs(file: str, user: str, item: str, since: str = _FIRST_DAY, emit: tuple[Emit, ...] = _CLICK) -> EventsFile:
    """A file of user and item pairs without times."""
    columns: dict[str, str | tuple[str, ...]] = {"user_id": user, "item_id": item}
    return EventsFile(file=file, columns=columns, times={"time": Time(since=since)}, emit=emit)


MAPPINGS: Final[Mapping[str, TableConfig]] = {
    "gowalla-ngcf": TableConfig(
        events=(
            _pairs("train.parquet", "user_id", "item_id"),
            _pairs("test.parquet", "user_id", "item_id", _SECOND_DAY),
        )
    ),
    "foursquare-nyc": TableConfig(
        items=(
            TableFile(file="venues.parquet", columns={"item_id": "venue_id", "latitude": "lat", "longitude": "lon"}),
        ),
        events=(
            EventsFile(
                file="checkins.parquet",
                columns={"user_id": "user_id", "item_id": "venue_id"},
                times={"time": Time(column="minute", unit="minute", since="2012-04-03T18:00")},
                emit=_CLICK,
            ),
        ),
    ),
    "citeulike-t": TableConfig(
        items=(
            TableFile(
                file="item_bow.parquet",
                columns={"item_id": "item_id", "keywords": "word_counts"},
                lists={"keywords": " "},
            ),
        ),
        events=(_pairs("interactions.parquet", "user_id", "item_id"),),
    ),
    "hetrec-lastfm": TableConfig(
        items=(TableFile(file="artists.parquet", columns={"item_id": "id", "text": "name"}),),
        events=(_pairs("user_artists.parquet", "userID", "artistID", emit=(Emit(action="click", value="weight"),)),),
    ),
    "retailrocket-core": TableConfig(
        events=(
            EventsFile(
                file="events.parquet",
                columns={"user_id": "visitorid", "item_id": "itemid"},
                times={"time": Time(since=_FIRST_DAY)},
                action_column="event",
                actions={"view": "click", "add_to_cart": "like", "purchase": "collect"},
            ),
        )
    ),
    "steam-200k": TableConfig(
        items=(TableFile(file="games.parquet", columns={"item_id": "Game_ID", "text": "Game Name"}),),
        events=(
            _pairs("purchases.parquet", "User_ID", "Game_ID"),
            _pairs(
                "play_hours.parquet",
                "User_ID",
                "Game_ID",
                _SECOND_DAY,
                (Emit(action="play", value="Hours", scale=3600),),
            ),
        ),
    ),
    "uci-online-retail": TableConfig(
        events=(
            EventsFile(
                file="retail_*.parquet",
                columns={"user_id": "CustomerID", "item_id": "StockCode"},
                times={"time": Time(column="InvoiceDate")},
                keep=(Rule(column="CustomerID", known=True), Rule(column="Quantity", above=0)),
                emit=(Emit(action="click", value="Quantity"),),
            ),
        )
    ),
}


def read_set(name: str) -> Callable[[Path, PublicSetConfig], RawTables]:
    """The reader of one of MAPPINGS. It raises DataError when a file or a column is missing or a file is damaged."""

    def read(path: Path, config: PublicSetConfig) -> RawTables:
        raw = read_mapping(path, MAPPINGS[name])
        return _FINISH[name](path, raw) if name in _FINISH else raw

    return read


def _most_frequent_words(path: Path, raw: RawTables) -> RawTables:
    """Keywords "word:count" cut to the words, the most frequent first."""
    words = raw.items.select("item_id", "keywords").explode("keywords").drop_nulls()
    parts = pl.col("keywords").str.split_exact(":", 1).struct
    words = words.with_columns(parts[0].alias("word"), parts[1].cast(pl.Int64, strict=False).alias("count"))
    words = words.sort("count", descending=True, nulls_last=True, maintain_order=True)
    top = words.group_by("item_id", maintain_order=True).agg(pl.col("word").head(_WORDS).alias("keywords"))
    items = raw.items.drop("keywords").join(top, on="item_id", how="left", maintain_order="left")
    return RawTables.of(raw.users, items, raw.requests, raw.events, raw.rejected)


def _friends(path: Path, raw: RawTables) -> RawTables:
    rows, lost = read_files(path, "user_friends.parquet", TextFormat())
    require(rows, ["userID", "friendID"], path / "user_friends.parquet")
    friends = pl.col("friendID").cast(pl.String).alias("friends")
    users = rows.group_by(pl.col("userID").cast(pl.String).alias("user_id"), maintain_order=True).agg(friends)
    return RawTables.of(users, raw.items, raw.requests, raw.events, pl.concat([raw.rejected, lost]))


def _goods(path: Path, raw: RawTables) -> RawTables:
    """Customers with their country, and goods with their first description and middle price, out of the lines."""
    rows, _ = read_files(path, "retail_*.parquet", TextFormat())
    require(rows, ["StockCode", "Description", "Price", "CustomerID", "Country"], path / "retail_*.parquet")
    described = [
        pl.col("Description").drop_nulls().first().str.strip_chars().alias("text"),
        pl.col("Price").median().alias("price"),
    ]
    items = rows.group_by(pl.col("StockCode").alias("item_id"), maintain_order=True).agg(described)
    customer = pl.col("CustomerID").cast(pl.String).alias("user_id")
    customers = rows.drop_nulls("CustomerID").group_by(customer, maintain_order=True)
    users = customers.agg(pl.col("Country").first().alias("country"))
    return RawTables.of(users, items, raw.requests, raw.events, raw.rejected)


_FINISH: Final[Mapping[str, Callable[[Path, RawTables], RawTables]]] = {
    "citeulike-t": _most_frequent_words,
    "hetrec-lastfm": _friends,
    "uci-online-retail": _goods,
}
