"""Data sets that tamis can import: one closed table, name → configuration and reader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tamis.config import Config, convert
from tamis.data.sources import kuairand, movielens, public_sets, raw, table
from tamis.data.sources.mapping import TableConfig
from tamis.data.tables import RawTables
from tamis.errors import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """One data set. read: (path, a config of this kind) → raw tables."""

    config: type[Config]
    read: Callable[[Path, Any], RawTables]


SOURCES: Final[Mapping[str, Source]] = {
    "movielens": Source(movielens.MovieLensConfig, movielens.read),
    "kuairand": Source(kuairand.KuaiRandConfig, kuairand.read),
    "table": Source(TableConfig, table.read),
    "tamis": Source(raw.RawConfig, raw.read),
    **{name: Source(public_sets.PublicSetConfig, public_sets.read_set(name)) for name in public_sets.MAPPINGS},
}


def read_source(name: str, path: Path, options: Mapping[str, Any] | None = None) -> RawTables:
    """The raw tables of a data set on disk.

    name: a key of SOURCES.   options: fields of its config.
    Raises DataError for an unknown name, a missing or damaged file or column, ConfigError for a wrong option.
    """
    if name not in SOURCES:
        raise DataError(f"unknown source {name!r}; there are {', '.join(SOURCES)}")
    source = SOURCES[name]
    return source.read(path, convert(options or {}, source.config, where=name))
