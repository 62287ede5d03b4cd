"""Scatter rules: hard limits on what may follow what on a page, and the selector that applies nothing else.

A rule is about a column: of the table if it has one of that name, else of the catalogue. Rows with equal values are of
one kind; value 0 means none and no rule touches it. With `value` the rule is about that one kind only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.config import AtLeastZero, Config, StepConfig
from tamis.errors import StepError
from tamis.features.encode import stable_codes
from tamis.features.inputs import Inputs
from tamis.rerank.greedy import Likeness, Limits, greedy
from tamis.types import Candidates, Query

_ALWAYS: Final = 1 << 40


class RuleConfig(Config, frozen=True, tag_field="kind"):
    """What every rule has. column, value: see above; a text value stands for its stable hash, as in the catalogue.

    priority: when no row may be picked, rules are dropped for that position, lowest priority first; among equals the
    one listed last.
    """

    column: str
    value: str | int | None = None
    priority: int = 0


class RunConfig(RuleConfig, frozen=True, kw_only=True, tag="run"):
    """At most `at_most` rows of one kind in a row."""

    at_most: int

    def __post_init__(self) -> None:
        if self.at_most < 1:
            raise ValueError(f"rule on {self.column!r}: wanted at_most ≥ 1")


class FrequencyConfig(RuleConfig, frozen=True, kw_only=True, tag="frequency"):
    """At most `at_most` rows of one kind in any `window` neighbouring positions."""

    window: int
    at_most: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.at_most < self.window:
            raise ValueError(f"rule on {self.column!r}: wanted 1 ≤ at_most < window")


class FirstConfig(RuleConfig, frozen=True, kw_only=True, tag="first"):
    """At most `at_most` rows of one kind among the first `first` positions."""

    first: int
    at_most: int

    def __post_init__(self) -> None:
        if self.first < 1 or self.at_most < 0:
            raise ValueError(f"rule on {self.column!r}: wanted first ≥ 1 and at_most ≥ 0")


class SlotConfig(RuleConfig, frozen=True, kw_only=True, tag="slot"):
    """Position `position` (from 1) holds a row of kind `value`, or of any kind but none."""

    position: int

    def __post_init__(self) -> None:
        if self.position < 1:
            raise ValueError(f"rule on {self.column!r}: wanted position ≥ 1")


Rule = RunConfig | FrequencyConfig | FirstConfig | SlotConfig


class BoostConfig(Config, frozen=True):
    """The score of rows of a kind times `factor` > 1, before anything is picked (a score below 0: divided)."""

    column: str
    factor: float
    value: str | int | None = None

    def __post_init__(self) -> None:
        if not 1 < self.factor < float("inf"):
            raise ValueError(f"boost on {self.column!r}: wanted a factor above 1, got {self.factor}")


class ScatterConfig(StepConfig, frozen=True, tag="scatter"):
    """rules, boosts: by name.   limit: rows to pick; 0 = as many as the request asks for."""

    limit: AtLeastZero = 0
    rules: dict[str, Rule] = {}
    boosts: dict[str, BoostConfig] = {}


@dataclass(frozen=True, slots=True)
class Scatter:
    """The best rows in order of score, as far as the rules allow."""

    config: ScatterConfig

    @classmethod
    def fit(cls, config: ScatterConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def pick(self, query: Query, items: Candidates) -> NDArray[np.intp]:
        """Positions of min(size, n) rows, never fewer: where no row fits, the least important rules are dropped."""
        return self.pick_ruled(query, items)[0]

    def pick_ruled(self, query: Query, items: Candidates) -> tuple[NDArray[np.intp], Mapping[str, int]]:
        """The same, and rule → picks that had to break it."""
        limits = compiled(self.config.rules, query, items)
        score = boosted(self.config.boosts, query, items)
        size = self.config.limit or query.size
        picks, broken = greedy(score, Likeness.nothing(len(items)), limits, size, 1.0, 0)
        return picks, relaxed(self.config.rules, broken)

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: ScatterConfig, folder: Path) -> Self:
        return cls(config)


def ordered(rules: Mapping[str, Rule]) -> list[str]:
    """Names of the rules, the first to be dropped first."""
    listed = {name: place for place, name in enumerate(rules)}
    return sorted(rules, key=lambda name: (rules[name].priority, -listed[name]))


def compiled(rules: Mapping[str, Rule], query: Query, items: Candidates) -> Limits:
    """The rules for the rows at hand, in the order of `ordered`. Raises StepError for a column that is not there."""
    values = np.zeros((len(rules), len(items)), np.int64)
    numbers = np.zeros((4, len(rules)), np.int64)
    for row, name in enumerate(ordered(rules)):
        rule = rules[name]
        values[row] = kinds_of(rule.column, query, items, rule.value)
        match rule:
            case RunConfig():  # k + 1 neighbours with at most k of a kind
                numbers[:, row] = rule.at_most + 1, rule.at_most, _ALWAYS, 0
            case FrequencyConfig():
                numbers[:, row] = rule.window, rule.at_most, _ALWAYS, 0
            case FirstConfig():
                numbers[:, row] = rule.first, rule.at_most, rule.first, 0
            case SlotConfig():
                numbers[:, row] = 1, 0, 0, rule.position
    span, at_most, until, slot = numbers
    return Limits(values, span, at_most, until, slot)


def boosted(boosts: Mapping[str, BoostConfig], query: Query, items: Candidates) -> NDArray[np.float64]:
    """[n] column `score` after the boosts; without that column, minus the place in the table."""
    score = items.columns.get("score")
    out = -np.arange(len(items), dtype=np.float64) if score is None else score.astype(np.float64)
    for boost in boosts.values():
        chosen = kinds_of(boost.column, query, items, boost.value) != 0
        out = np.where(chosen, np.where(out > 0, out * boost.factor, out / boost.factor), out)
    return out


def relaxed(rules: Mapping[str, Rule], broken: NDArray[np.int64]) -> dict[str, int]:
    """What `greedy` counted by rule name, without the rules that held."""
    if not broken.any():
        return {}
    return {name: count for name, count in zip(ordered(rules), broken.tolist(), strict=True) if count}


def kinds_of(name: str, query: Query, items: Candidates, value: str | int | None = None) -> NDArray[np.int64]:
    """[n] the kind of each row by a column of the table, else of the catalogue: equal where equal, 0 = none (or NaN).

    With a value: 1 where the row is of that kind, else 0. Raises StepError for a column that is not there or is wide.
    """
    column = items.columns[name] if name in items.columns else query.catalog.column(name, items.ids)
    if column.ndim != 1:
        raise StepError(f"column {name!r} is {column.ndim}-dimensional; a rule or likeness wants one number per row")
    if value is not None:
        wanted = int(stable_codes([value])[0]) if isinstance(value, str) else value
        return np.asarray(column == wanted, np.int64)
    if column.dtype.kind == "f":  # by their bits, −0 as 0: cut to whole numbers, 1.2 and 1.9 would be of one kind
        return np.asarray(np.nan_to_num(column.astype(np.float64)) + 0.0).view(np.int64)
    return column.astype(np.int64)
