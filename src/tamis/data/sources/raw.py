"""Raw tables on disk: users, items, requests and events.parquet, with the columns that `data/tables.py` lists."""

from pathlib import Path

import polars as pl

from tamis.config import Config
from tamis.data.sources.files import TextFormat, read_files
from tamis.data.tables import TABLES, RawTables
from tamis.errors import DataError


class RawConfig(Config, frozen=True):
    """There is nothing to choose."""


def read(path: Path, config: RawConfig) -> RawTables:
    """The tables in a folder; any of the four files may be absent, not all."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    there = [table for table in TABLES if (path / f"{table}.parquet").is_file()]
    if not there:
        raise DataError(f"{path}: none of {', '.join(f'{table}.parquet' for table in TABLES)} is there")
    return RawTables.of(**{table: read_files(path, f"{table}.parquet", TextFormat())[0] for table in there})


def write(raw: RawTables, folder: Path) -> None:
    """Writes the tables so that `read` gives them back; tables without rows too."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        frame: pl.DataFrame = getattr(raw, table)
        frame.write_parquet(folder / f"{table}.parquet", compression="zstd")
