"""Anybody's CSV or Parquet files, by a mapping in TOML.

    [[users]]
    file = "users.csv"
    columns = { user_id = "uid" }
    rest = true                                        # the other columns become the profile

    [[items]]
    file = "videos.parquet"
    columns = { item_id = "vid", author = "uploader", keywords = "tags", duration_seconds = "length_ms" }
    lists = { keywords = "|" }
    scales = { duration_seconds = 0.001 }
    times = { publish_time = { column = "uploaded", format = "%Y-%m-%d" } }

    [[events]]
    file = "log-*.csv"
    columns = { user_id = "uid", item_id = "vid", request_id = ["uid", "time_ms"], scene = "tab" }
    times = { time = { column = "time_ms", unit = "ms" } }
    emit = [
      { action = "impression" },
      { action = "click", when = { column = "clicked", equals = "1" } },
      { action = "play", when = { column = "play_ms", above = 0 }, value = "play_ms", scale = 0.001 },
    ]

A log with the action in a column says `action_column = "event"` and `actions = { view = "click" }` instead of `emit`,
and may name its `value` among the columns.
"""

from pathlib import Path
from typing import Final

from tamis.config import read as read_config
from tamis.data.sources.mapping import TableConfig, read_mapping
from tamis.data.tables import RawTables
from tamis.errors import DataError

MAPPING: Final = "mapping.toml"


def read(path: Path, config: TableConfig) -> RawTables:
    """The tables that a mapping makes of files.

    path: the folder of the files, with the mapping in `config` or, when that is empty, in `mapping.toml` in the folder;
    or the mapping file itself, which then lies beside its files.
    Raises ConfigError for a wrong mapping, DataError for a file or a column that is missing or damaged.
    """
    folder, file = (path.parent, path) if path.suffix == ".toml" else (path, path / MAPPING)
    if config == TableConfig():
        if not file.is_file():
            raise DataError(f"{file}: no such file; it says which file and which column fills which table")
        config = read_config(file, TableConfig)
    if config == TableConfig():
        raise DataError(f"{file}: the mapping names no file; it wants [[users]], [[items]], [[requests]] or [[events]]")
    return read_mapping(folder, config)
