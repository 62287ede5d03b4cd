"""The encoder: raw users, items and moments in, arrays for the nets out. Fitted once, it travels in the bundle.

There is one code path: training, evaluation and the server call the same methods of the same object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import Config
from tamis.errors import ConfigError
from tamis.facts import load_facts, save_facts
from tamis.features import geohash
from tamis.features.arrange import AGE_CODES, arrange, is_code
from tamis.features.fields import Codes, Learned, encode_number, learn, numbers, text, words
from tamis.features.groups import ITEM, Group, groups_of, live_group
from tamis.features.layout import Layout
from tamis.features.raw import TICKS, Raw, learnt_from, raw_values, tick_of, vocabulary_of
from tamis.features.spec import (
    Age,
    FeatureConfig,
    FeaturesConfig,
    Hour,
    Id,
    Number,
    Scene,
    Vector,
    Weekday,
)
from tamis.features.statistics import Counts, EventCounts
from tamis.types import Features, item_key

KEYWORDS: Final = 8  # of an item that lists of items by keyword know
KIND_COLUMNS: Final = ("author", "category", "city")
"""Columns of the catalogue that hold stable hashes of texts, 0 = none."""
NUMBER_COLUMNS: Final = ("duration_seconds", "quality")
"""Columns of the catalogue that hold numbers, NaN = unknown."""


class Learnt(Config, frozen=True):
    """Everything the encoder learnt, as it is saved. totals: events of the training period by action code."""

    config: FeaturesConfig
    layout: Layout
    user: dict[str, Learned]
    context: dict[str, Learned]
    item: dict[str, Learned]
    totals: dict[int, int]
    vector_width: int


def single_columns(config: FeaturesConfig) -> set[str]:
    """Names of the catalogue's columns of one number per item; see `Encoder.items`."""
    ages = {feature.column for feature in config.item.values() if isinstance(feature, Age)}
    return {"publish_time", *ages, *KIND_COLUMNS, *NUMBER_COLUMNS}


@dataclass(frozen=True)
class Encoder:
    """See the module. user_codes, item_codes: codes of the `id` features by number; numbers beyond are unknown."""

    learnt: Learnt
    user_code: NDArray[np.int32]
    item_code: NDArray[np.int32]
    _codes: dict[tuple[str, str], Codes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layout = self.learnt.layout
        offsets = {f.name: f.offset for f in (*layout.user_fields, *layout.item_fields)}
        for side in ("user", "context", "item"):
            for name, feature in getattr(self.learnt.config, side).items():
                if is_code(feature) and not isinstance(feature, Id):
                    learned = getattr(self.learnt, side)[name]
                    self._codes[side, name] = Codes(feature, learned, offsets[f"{side}.{name}"])

    @property
    def layout(self) -> Layout:
        return self.learnt.layout

    @classmethod
    def fit(cls, config: FeaturesConfig, raw: Mapping[str, Raw], users: EventCounts, items: EventCounts) -> Self:
        """From raw columns of the training period and the event counts of users and items.

        raw: "user", "item" → columns of those that were there; "context" → columns of requests plus "scene".
        Raises ConfigError for a declared column that is in none of the data.
        """
        learned: dict[str, dict[str, Learned]] = {}
        for side in ("user", "context", "item"):
            learned[side] = {}
            for name, feature in getattr(config, side).items():
                learned[side][name] = learn(vocabulary_of(feature), learnt_from(raw[side], feature, f"{side}.{name}"))
        known = {"user": _known_ids(config.user, users), "item": _known_ids(config.item, items)}
        width = _vector_width(config, raw["item"])
        layout = arrange(config, learned, {side: int(mask.sum()) for side, mask in known.items()}, width)
        learnt = Learnt(
            config=config,
            layout=layout,
            user=learned["user"],
            context=learned["context"],
            item=learned["item"],
            totals=users.totals(),
            vector_width=width,
        )
        codes = {side: _id_codes(mask, _id_offset(config, layout, side)) for side, mask in known.items()}
        return cls(learnt, codes["user"], codes["item"])

    @cached_property
    def groups(self) -> Mapping[str, Group]:
        """Name → group of the statistics as of a refresh."""
        return groups_of(self.learnt.config)

    @cached_property
    def live(self) -> Group:
        """The statistics of a user as of the request."""
        return live_group(self.learnt.config)

    @cached_property
    def absent(self) -> Mapping[str, NDArray[np.float32]]:
        """Name of a group → its statistics where nothing happened."""
        return {name: group.absent(self.learnt.totals) for name, group in self.groups.items()}

    def columns_of(self, group: Group) -> list[int]:
        """Where the statistics of a group that has candidates stand in `Layout.item_dynamic`."""
        return [self.layout.item_dynamic.index(name.removeprefix("item.")) for name, _ in group.features]

    # ---- user side ---------------------------------------------------------------------------------------------

    def users(self, user_numbers: NDArray[np.int64], raw: Raw) -> Features:
        """The static part of the user side; number −1 is an unknown user."""
        return self._static("user", user_numbers, raw, self.user_code)

    def context(self, time: NDArray[np.float64], scenes: Sequence[str], raw: Raw) -> Features:
        """What is known of the moment of each request."""
        config, count = self.learnt.config.context, len(time)
        columns: list[NDArray[Any]] = []
        dense: list[NDArray[np.float32]] = []
        for name, feature in config.items():
            if isinstance(feature, Hour | Weekday):
                columns.append(self.ticks(name, feature, time)[:, None])
                continue
            values = scenes if isinstance(feature, Scene) else raw_values(raw, feature, count)
            if isinstance(feature, Number):
                dense.append(encode_number(feature, self.learnt.context[name], values))
            else:
                columns.append(self._codes["context", name].encode(values))
        return _features(columns, dense, count)

    def ticks(self, name: str, feature: Hour | Weekday, time: NDArray[np.float64]) -> NDArray[np.int32]:
        """[n] the codes that a context feature of that name, read off a clock, has at these times."""
        return np.asarray(self._ticks[name][tick_of(feature, time)])

    @cached_property
    def _ticks(self) -> Mapping[str, NDArray[np.int32]]:
        """Name of a context feature that is read off a clock → codes in the order of time."""
        kinds = {name: type(feature) for name, feature in self.learnt.config.context.items()}
        named = {name: TICKS[kind] for name, kind in kinds.items() if kind in TICKS}
        return {name: self._codes["context", name].encode(words)[:, 0] for name, words in named.items()}

    def user_side(self, static: Features, statistics: Mapping[str, NDArray[np.float32]], context: Features) -> Features:
        """The whole user side: static features, statistics, context.

        statistics: "user.name" → [r], at least those that are no candidate's.
        """
        names = self.layout.user_statistics
        columns = [statistics[f"user.{name}"] for name in names]
        stacked = np.stack(columns, axis=1) if columns else np.zeros((len(static.codes), 0), np.float32)
        return Features(
            np.concatenate([static.codes, context.codes], axis=1),
            np.concatenate([static.dense, stacked, context.dense], axis=1),
        )

    # ---- item side ---------------------------------------------------------------------------------------------

    def items(self, item_numbers: NDArray[np.int64], raw: Raw, counts: Counts | None = None) -> dict[str, NDArray[Any]]:
        """The catalogue's columns for items; number −1 is an item that training did not see.

        counts: events of each item up to the last refresh, in the windows of the group of items; None = none at all.
        """
        static = self._static("item", item_numbers, raw, self.item_code)
        count, layout = len(item_numbers), self.layout
        columns: dict[str, NDArray[Any]] = {"codes": static.codes, "dense": static.dense}
        columns["dynamic"] = self.item_dynamic(counts, count)
        for name in {"publish_time", *layout.item_ages}:
            columns[name] = numbers(raw.get(name, [None] * count))
        for name in KIND_COLUMNS:
            columns[name] = stable_codes(raw.get(name, [None] * count))
        columns["keywords"] = stable_tags(raw.get("keywords", [None] * count), KEYWORDS)
        latitude, longitude = (numbers(raw.get(name, [None] * count)) for name in ("latitude", "longitude"))
        columns["geohash"] = geohash.encode(latitude, longitude)
        for name in NUMBER_COLUMNS:
            columns[name] = numbers(raw.get(name, [None] * count)).astype(np.float32)
        columns["vector"] = vectors(raw.get("vector", [None] * count), self.learnt.vector_width)
        return columns

    def item_dynamic(self, counts: Counts | None, count: int) -> NDArray[np.float32]:
        """[n, len(Layout.item_dynamic)] statistics of items alone; columns of ages and crosses are left 0."""
        out = np.zeros((count, len(self.layout.item_dynamic)), np.float32)
        if group := self.groups.get(ITEM):
            out[:, self.columns_of(group)] = group.values(counts, self.learnt.totals) if counts else self.absent[ITEM]
        return out

    def _static(self, side: str, entity: NDArray[np.int64], raw: Raw, id_code: NDArray[np.int32]) -> Features:
        codes: list[NDArray[Any]] = []
        dense: list[NDArray[np.float32]] = []
        count = len(entity)
        for name, feature in getattr(self.learnt.config, side).items():
            if isinstance(feature, Id):
                codes.append(_numbered(entity, id_code)[:, None])
                continue
            values = raw_values(raw, feature, count)
            if isinstance(feature, Number):
                dense.append(encode_number(feature, getattr(self.learnt, side)[name], values))
            elif isinstance(feature, Vector):
                dense.append(vectors(values, self.learnt.vector_width))
            elif is_code(feature):
                codes.append(self._codes[side, name].encode(values))
        return _features(codes, dense, count)

    # ---- disk --------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes into an existing folder."""
        save_facts(folder / "encoder.json", self.learnt)
        save_arrays(folder, user_code=self.user_code, item_code=self.item_code)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The saved encoder. Raises ArtifactError."""
        learnt = load_facts(folder / "encoder.json", Learnt)
        return cls(learnt, load_array(folder, "user_code"), load_array(folder, "item_code"))


def with_ages(layout: Layout, dynamic: NDArray[np.float32], raw: Mapping[str, NDArray[Any]], now: Any) -> None:
    """Fills the age columns of `dynamic` [n, …] in place: log1p of hours since the time column; missing gives 0."""
    for name, column in layout.item_ages.items():
        known = np.isfinite(raw[name])
        hours = np.where(known, now - raw[name], 0.0) / 3600
        dynamic[:, column] = np.log1p(np.where(hours > 0, hours, 0.0))
        dynamic[:, layout.item_age_gaps[name]] = ~known


def history_codes(
    layout: Layout, item_codes: NDArray[np.int32], action: NDArray[np.uint8], age_seconds: NDArray[np.float64]
) -> NDArray[np.int32]:
    """[…, Layout.history_codes] codes of history entries.

    item_codes: […, Layout.item_codes] of the entries' items.   action, age_seconds: […] of the entries.
    """
    out = np.empty((*action.shape, layout.history_codes), np.int32)
    fields = len(layout.history_columns)
    out[..., :fields] = item_codes[..., list(layout.history_columns)]
    if layout.with_action:
        out[..., fields] = layout.history_action.offset + 1 + action.astype(np.int32)
    if layout.with_age:
        age = np.clip(np.log2(1.0 + np.maximum(age_seconds, 0.0) / 60.0), 0, AGE_CODES - 1).astype(np.int32)
        out[..., -1] = layout.history_age.offset + 1 + age
    return out


def stable_codes(values: Sequence[Any]) -> NDArray[np.int64]:
    """[n] a 63-bit hash of each value that any process and any bundle agrees on; missing is 0."""
    seen: dict[str, int] = {"": 0}
    out = np.empty(len(values), np.int64)
    for row, value in enumerate(values):
        word = text(value)
        if word not in seen:
            seen[word] = item_key(word) >> 1 or 1
        out[row] = seen[word]
    return out


def stable_tags(values: Sequence[Any], width: int) -> NDArray[np.int64]:
    """[n, width] `stable_codes` of the first words of each list, 0 behind the last one."""
    lists = [words(value)[:width] for value in values]
    out = np.zeros((len(values), width), np.int64)
    there = np.arange(width) < np.fromiter(map(len, lists), np.int64, len(lists))[:, None]
    out[there] = stable_codes([word for row in lists for word in row])
    return out


def vectors(values: Sequence[Any], width: int) -> NDArray[np.float32]:
    """[n, width] content vectors; missing, no list or of another width gives zeros, not finite numbers give 0."""
    out = np.zeros((len(values), width), np.float32)
    for row, value in enumerate(values):
        if isinstance(value, list | tuple | np.ndarray) and len(value) == width:
            out[row] = value
    return np.nan_to_num(out, nan=0.0, posinf=0.0, neginf=0.0)


def _known_ids(features: Mapping[str, FeatureConfig], statistics: EventCounts) -> NDArray[np.bool_]:
    """[entities] True where the entity has enough events for a code of its own; all False without an `id` feature."""
    least = [feature.min_count for feature in features.values() if isinstance(feature, Id)]
    if not least or not statistics.entities:
        return np.zeros(statistics.entities, np.bool_)
    everything = statistics.before(np.arange(statistics.entities), np.inf).sum(axis=1)
    return np.asarray(everything >= least[0])


def _id_offset(config: FeaturesConfig, layout: Layout, side: str) -> int:
    names = [f"{side}.{name}" for name, feature in getattr(config, side).items() if isinstance(feature, Id)]
    return next((f.offset for f in (*layout.user_fields, *layout.item_fields) if f.name in names), 0)


def _id_codes(known: NDArray[np.bool_], offset: int) -> NDArray[np.int32]:
    last = int(np.flatnonzero(known)[-1]) + 1 if known.any() else 0  # nothing is kept of entities that came later
    codes = np.full(last + 1, offset, np.int32)  # the last one is for unknown numbers
    codes[:-1][known[:last]] = offset + 1 + np.arange(int(known.sum()), dtype=np.int32)
    return codes


def _numbered(entity: NDArray[np.int64], id_code: NDArray[np.int32]) -> NDArray[np.int32]:
    unknown = len(id_code) - 1
    return np.asarray(id_code[np.where((entity < 0) | (entity >= unknown), unknown, entity)])


def _vector_width(config: FeaturesConfig, raw: Raw) -> int:
    """The one width of all content vectors. Raises ConfigError for a column of something else, and for two widths."""
    columns = {f"item.{name}": f.column for name, f in config.item.items() if isinstance(f, Vector)}
    widths = {where: _width(raw.get(column, ()), where, column) for where, column in columns.items()}
    if not columns:
        return _width(raw.get("vector", ()), "item", "vector")
    if len(set(widths.values()) - {0}) > 1:
        raise ConfigError(f"features: content vectors of the widths {widths}; wanted one width for all")
    return max(widths.values())


def _width(values: Sequence[Any], where: str, column: str) -> int:
    """The length of the longest vector of a column. Raises ConfigError for a column of something else."""
    there = [value for value in values if value is not None]
    first = next((value for value in there if not isinstance(value, list | tuple | np.ndarray) or len(value)), None)
    fine = isinstance(first, list | tuple | np.ndarray) and all(isinstance(x, Real | None) for x in first)
    if not (first is None or fine):
        raise ConfigError(f"features.{where}: column {column!r} holds {str(first)[:60]!r}, wanted lists of numbers")
    return max(map(len, there), default=0)


def _features(codes: list[NDArray[Any]], dense: list[NDArray[np.float32]], count: int) -> Features:
    return Features(
        np.concatenate(codes, axis=1).astype(np.int32) if codes else np.zeros((count, 0), np.int32),
        np.concatenate(dense, axis=1).astype(np.float32) if dense else np.zeros((count, 0), np.float32),
    )
