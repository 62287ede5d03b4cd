"""Statistics that are counted by the same keys, and what those keys are of an event, a request and a candidate.

A statistic counts the events that have something in common with the asking request, with the candidate, or with both:
the user ("user"), the item ("item"), or a feature ("context.hour", "user.city", "item.author"). Together these make up
two whole numbers, the request's key and the candidate's. Equal keys, same event counts: offline they say which events
count for a training row (`pairs`), online where its numbers stand in the bundle (`tables`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.features.layout import Layout
from tamis.features.spec import Count, FeaturesConfig, Mean, Rate, Side, Statistic
from tamis.features.statistics import SUMS, UNITS, VALUED, Counts, log_rate, mean_shift
from tamis.types import ACTION_CODE, ACTIONS

ITEM = "item"
"""The group of an item's own events: the only one that is a column of the catalogue, not a table."""

Column = Callable[[str], NDArray[np.int64 | np.int32]]
"""The values [n] of a source: numbers of "user" and "item" (−1 = unknown), codes of the fused table of a feature."""


@dataclass(frozen=True, slots=True)
class Group:
    """Statistics with the same keys.

    request, candidate: what the keys are made of; () is the key 0.   features: "side.name" and declaration of each.
    """

    request: tuple[str, ...]
    candidate: tuple[str, ...]
    features: tuple[tuple[str, Rate | Count | Mean], ...]

    @property
    def name(self) -> str:
        """For instance "user-item.author"."""
        return "-".join((*self.request, *self.candidate))

    @property
    def actions(self) -> list[int]:
        """Codes of what is counted, as `Statistics.counts` takes them, ascending."""
        return sorted({code for _, feature in self.features for code in _codes(feature)})

    @property
    def windows(self) -> list[float]:
        """Window lengths in hours, ascending; 0 = all so far."""
        return sorted({feature.window_hours for _, feature in self.features})

    def values(self, counts: Counts, totals: Mapping[int, int]) -> NDArray[np.float32]:
        """[n, features] from event counts of the group's windows. totals: events by action, for the overall rates."""
        rows = len(next(iter(counts.values())))
        out = np.empty((rows, len(self.features)), np.float32)
        for column, (_, feature) in enumerate(self.features):
            out[:, column] = _value(feature, np.asarray(counts[feature.window_hours], np.float32), totals)
        return out

    def named(self, values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """ "side.name" → its column of `values`."""
        return {name: values[:, column] for column, (name, _) in enumerate(self.features)}

    def absent(self, totals: Mapping[int, int]) -> NDArray[np.float32]:
        """[features] the values without any event."""
        none = np.zeros((1, SUMS + len(ACTIONS)), np.float32)
        return np.asarray(self.values(dict.fromkeys((0.0, *self.windows), none), totals)[0])  # 0: also of no features


def groups_of(config: FeaturesConfig) -> dict[str, Group]:
    """Name → group of all statistics as of a refresh."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[str, Rate | Count | Mean]]] = {}
    sides: tuple[Side, ...] = ("user", "item")
    for side in sides:
        for name, feature in getattr(config, side).items():
            if isinstance(feature, Rate | Count | Mean) and feature.as_of == "refresh":
                found.setdefault(_sources(config, side, feature), []).append((f"{side}.{name}", feature))
    groups = [Group(*sources, tuple(features)) for sources, features in found.items()]
    return {group.name: group for group in groups}


def live_group(config: FeaturesConfig) -> Group:
    """The statistics of a user as of the request; may have none."""
    features = [
        (f"user.{name}", feature)
        for name, feature in config.user.items()
        if isinstance(feature, Rate | Count | Mean) and feature.as_of == "now"
    ]
    return Group(("user",), (), tuple(features))


def key_of(sources: Sequence[str], layout: Layout, column: Column, count: int) -> NDArray[np.int64]:
    """[count] one whole number for the values of all sources together, −1 where one of them is not known."""
    key = np.zeros(count, np.int64)
    for source in sources:
        values = np.asarray(column(source), np.int64)
        least = layout.field(source).offset + 1 if "." in source else 0
        key = np.where((key < 0) | (values < least), -1, key * layout.table_size + values)
    return key


def _sources(config: FeaturesConfig, side: Side, feature: Statistic) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the request's key is made of, and the candidate's."""
    by = config.shared(side, feature)
    if side == "item":
        return (by,) if by else (), (f"item.{feature.of}" if feature.of else ITEM,)
    if by.startswith("item."):
        return ("user",), (by,)
    return ("user", by) if by else ("user",), ()


def _codes(feature: Rate | Count | Mean) -> tuple[int, ...]:
    code = ACTION_CODE[feature.action]
    if isinstance(feature, Mean):
        return (VALUED + code,)
    return (code, ACTION_CODE[feature.per]) if isinstance(feature, Rate) else (code,)


def _value(feature: Rate | Count | Mean, counts: NDArray[np.float32], totals: Mapping[int, int]) -> NDArray[np.float32]:
    """[n] from event counts [n, …] as `Counts` has them, all in one precision, or the server's last bits differ."""
    action = ACTION_CODE[feature.action]
    if isinstance(feature, Count):
        return np.asarray(np.log1p(counts[:, action]), np.float32)
    if isinstance(feature, Mean):
        mean = totals.get(SUMS + action, 0) / UNITS / max(1, totals.get(VALUED + action, 0))
        return mean_shift(counts[:, VALUED + action], counts[:, SUMS + action], mean, feature.prior)
    per = ACTION_CODE[feature.per]
    overall = min(1.0, max(1e-6, totals.get(action, 0) / max(1, totals.get(per, 0))))
    return log_rate(counts[:, action], counts[:, per], overall, feature.prior)
