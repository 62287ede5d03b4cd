"""Where the raw values of a feature come from: columns of the data, the position, the clock."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.errors import ConfigError
from tamis.features import geohash
from tamis.features.fields import numbers
from tamis.features.spec import Category, FeatureConfig, Geohash, Hour, Scene, Weekday

Raw = Mapping[str, Sequence[Any]]
"""Raw columns by name; a column that is not there is missing everywhere."""
TICKS: Final[Mapping[type[FeatureConfig], Sequence[str]]] = {
    Hour: tuple(str(hour) for hour in range(24)),
    Weekday: tuple(str(day) for day in range(7)),
}
"""Kinds that are read off a clock → their words, in the order of time; the week begins on Monday."""
_FIRST_WEEKDAY: Final = 3  # the epoch began on a Thursday


def tick_of(feature: Hour | Weekday, time: NDArray[np.float64]) -> NDArray[np.int64]:
    """[n] the index into its `TICKS` at each time, in seconds since the epoch."""
    hours = np.floor(time / 3600 + feature.offset_hours).astype(np.int64)
    return hours % 24 if isinstance(feature, Hour) else (hours // 24 + _FIRST_WEEKDAY) % 7


def raw_values(raw: Raw, feature: FeatureConfig, count: int) -> Sequence[Any]:
    """[count] the raw values of a feature; None throughout where there is no such column."""
    if isinstance(feature, Geohash):
        latitude, longitude = (numbers(raw.get(name, [None] * count)) for name in columns_of(feature))
        cells = geohash.encode(latitude, longitude, feature.length).tolist()
        return [geohash.to_text(cell) if cell else None for cell in cells]
    names = columns_of(feature)
    return raw.get(names[0], [None] * count) if names else [None] * count


def learnt_from(raw: Raw, feature: FeatureConfig, where: str) -> Sequence[Any]:
    """The raw values that a feature learns from. Raises ConfigError for a column that the data has not."""
    if type(feature) in TICKS:
        return TICKS[type(feature)]
    names = columns_of(feature)
    for name in names:
        if name not in raw:
            raise ConfigError(f"features.{where}: the data has no column {name!r}; it has {sorted(raw)}")
    return raw_values(raw, feature, len(raw[names[0]])) if names else ()


def vocabulary_of(feature: FeatureConfig) -> FeatureConfig:
    """Scenes, cells and what is read off a clock learn a vocabulary; everything else learns as it is declared."""
    if isinstance(feature, Geohash):
        return Category(column="", min_count=feature.min_count, most=feature.most)
    return Category(column="") if isinstance(feature, Scene | Hour | Weekday) else feature


def columns_of(feature: FeatureConfig) -> tuple[str, ...]:
    """The columns that a feature is made of."""
    if isinstance(feature, Geohash):
        return feature.latitude, feature.longitude
    name = "scene" if isinstance(feature, Scene) else str(getattr(feature, "column", ""))
    return (name,) if name else ()
