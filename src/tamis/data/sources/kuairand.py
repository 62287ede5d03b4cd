"""KuaiRand: the publishers' CSV files, or the Parquet folder with logs of six days and lists of what was before.

A row of the log is an impression, and for each thing the user did one event more; rows of one user at one time_ms are
one page (request), the tab is its scene. Rows that repeat an earlier (user, video, time_ms) are exact repeats.

The history lists have an order but no times but the last one. Their times are *interpolated*: one second apart, the
newest at `last_time_ms`. A watched video becomes a `play` of 0 seconds (0 = unknown), its newest occurrence a
`long_view` and a `like` too where the other lists name it. What those name and the watch list no longer has is older:
it is put one second apart before the oldest watched video. Events of the history have no request.
"""

from pathlib import Path
from typing import Final

import polars as pl

from tamis.config import Config
from tamis.data.sources.files import TextFormat, read_file, read_files, require
from tamis.data.sources.mapping import Emit, EventsFile, Rule, TableFile, Time, events_of, rows_of, sources
from tamis.data.tables import RawTables
from tamis.types import ACTIONS

_FLAGS: Final = {
    "click": "is_click",
    "like": "is_like",
    "comment": "is_comment",
    "share": "is_forward",
    "follow": "is_follow",
    "hide": "is_hate",
    "long_view": "long_view",
    "profile_enter": "is_profile_enter",
}


class KuaiRandConfig(Config, frozen=True):
    """What to read. history: the history lists.   random: also log_random_*, videos shown at random."""

    history: bool = True
    random: bool = False


def read(path: Path, config: KuaiRandConfig) -> RawTables:
    """The tables of a KuaiRand folder, files in it or in its `data`. Raises DataError for a missing or damaged one."""
    folder = path / "data" if (path / "data").is_dir() else path
    patterns = ["log_standard_*", *(["log_random_*"] if config.random else [])]
    logs = [_log(folder, pattern) for pattern in patterns]
    users, bad_users = _users(folder)
    items, bad_items = _items(folder)
    events = [log for log, _ in logs]
    history = folder / "history_0409_0424.parquet"
    if config.history and history.is_file():
        events.insert(0, _history(history))
    rejected = [bad_users, bad_items, *(bad for _, bad in logs)]
    return RawTables.of(users, items, None, pl.concat(events, how="diagonal_relaxed"), pl.concat(rejected))


def _log(folder: Path, pattern: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    plays = Emit(action="play", when=Rule(column="play_time_ms", above=0), value="play_time_ms", scale=1e-3)
    file = EventsFile(
        file=pattern,
        columns={"user_id": "user_id", "item_id": "video_id", "request_id": ("user_id", "time_ms"), "scene": "_scene"},
        times={"time": Time(column="time_ms", unit="ms")},
        repeats=("user_id", "video_id", "time_ms"),
        emit=(
            Emit(action="impression"),
            *(Emit(action=action, when=Rule(column=flag, at_least=1)) for action, flag in _FLAGS.items()),
            plays,
        ),
    )
    rows, lost = read_files(folder, pattern, TextFormat())
    require(rows, [*(name for name in sources(file) if name != "_scene"), "tab"], folder / pattern)
    scene = pl.format("tab{}", pl.col("tab").cast(pl.String)).alias("_scene")
    events, rejected = events_of(rows.with_columns(scene), file)
    return events, pl.concat([lost, rejected])


def _users(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows, lost = read_files(folder, "user_features*", TextFormat())
    require(rows, ["user_id"], folder / "user_features*")
    users, rejected = rows_of(
        rows, TableFile(file="user_features*", columns={"user_id": "user_id"}, rest=True), "users"
    )
    return users, pl.concat([lost, rejected])


def _items(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    file = TableFile(
        file="video_features_basic*",
        columns={"item_id": "video_id", "author": "author_id", "keywords": "tag", "duration_seconds": "video_duration"},
        lists={"keywords": ","},
        scales={"duration_seconds": 1e-3},
        times={"publish_time": Time(column="upload_dt", format="%Y-%m-%d")},
        rest=True,
    )
    rows, lost = read_files(folder, file.file, TextFormat())
    require(rows, sources(file), folder / file.file)
    items, rejected = rows_of(rows, file, "items")
    return items.with_columns(pl.col("keywords").list.first().alias("category")), pl.concat([lost, rejected])


def _history(file: Path) -> pl.DataFrame:
    rows, _ = read_file(file, TextFormat())
    require(rows, ["user_id", "last_time_ms", "watch_seq", "like_seq", "long_watch_seq"], file)
    rows = rows.select(
        pl.col("user_id").cast(pl.String),
        (pl.col("last_time_ms") / 1000).alias("last"),
        pl.col("watch_seq").list.len().cast(pl.Int64).alias("watched"),
        pl.col("watch_seq", "long_watch_seq", "like_seq").cast(pl.List(pl.String)),
    )
    watched = _listed(rows, "watch_seq").with_columns(pl.col("last") - (pl.col("watched") - 1 - pl.col("place")))
    newest = watched.group_by("user_id", "item_id").agg(pl.col("last").max().alias("time"))
    long_views, likes = _marked(rows, "long_watch_seq", newest), _marked(rows, "like_seq", newest)
    acted = [("play", watched.rename({"last": "time"})), ("long_view", long_views), ("like", likes)]
    events = [
        frame.select(
            "user_id", "item_id", "time", pl.lit(action, pl.Enum(ACTIONS)).alias("action"), pl.lit(0.0).alias("value")
        )
        for action, frame in acted
    ]
    place = [pl.lit(file.name, pl.Categorical()).alias("_source"), pl.int_range(1, pl.len() + 1, dtype=pl.UInt32)]
    return pl.concat(events).sort("time", maintain_order=True).with_columns(place[0], place[1].alias("_row"))


def _listed(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """One row per entry of the lists: user_id, item_id, place (0 = oldest), last, watched."""
    place = pl.int_ranges(0, pl.col(name).list.len(), dtype=pl.Int64).alias("place")
    listed = rows.select("user_id", "last", "watched", pl.col(name).alias("item_id"), place)
    return listed.filter(pl.col("item_id").list.len() > 0).explode("item_id", "place")


def _marked(rows: pl.DataFrame, name: str, newest: pl.DataFrame) -> pl.DataFrame:
    """The videos of a list, each once: at the time it was last watched, older ones before the oldest watched."""
    video = ["user_id", "item_id"]
    listed = _listed(rows, name).unique(video, keep="last", maintain_order=True)
    at_watch = listed.join(newest, on=video, how="inner", maintain_order="left")
    older = listed.join(newest, on=video, how="anti", maintain_order="left")
    back = (pl.len() - 1 - pl.int_range(pl.len())).over("user_id")
    older = older.with_columns((pl.col("last") - pl.col("watched") - back).alias("time"))
    return pl.concat([at_watch, older.select(at_watch.columns)])
