"""Fusion: many predictions of a row become the one number that the stage sorts by.

The five formulas of the course, and formulas of one's own (`expression`). The first two sum, for products where every
action counts for itself; the third and the fifth multiply; the fourth looks only at ranks, so a head that drifts in
scale cannot take over the page. Binary heads must be calibrated before they come here: heads with different sampling
rates are not comparable raw.

heads: name → [n] predictions of one request, finite, all of one length.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tamis.config import StepConfig
from tamis.errors import StepError
from tamis.features.inputs import Inputs
from tamis.rank.expression import LEAST, place_of, read_expression
from tamis.types import Candidates, Columns, Query

Heads = Mapping[str, NDArray[Any]]
Numbers = Mapping[str, float]
Scores = NDArray[np.float64]
Formula = Literal["weighted_sum", "click_times_sum", "power_product", "rank_sum", "conversion_product", "expression"]

_READS: Final[Mapping[Formula, tuple[str, ...]]] = {
    "weighted_sum": ("weights",),
    "click_times_sum": ("weights",),
    "power_product": ("weights", "exponents"),
    "rank_sum": ("weights", "exponents", "offsets"),
    "conversion_product": ("exponents",),
    "expression": ("constants",),
}


def weighted_sum(click: NDArray[Any], heads: Heads, weights: Numbers) -> Scores:
    """F1 [n]: p_click + Σ_h w_h · p_h over the heads that have a weight."""
    return _checked("click", click) + _weighted(heads, weights, len(click))


def click_times_sum(click: NDArray[Any], heads: Heads, weights: Numbers) -> Scores:
    """F2 [n]: p_click · (1 + Σ_h w_h · p_h).

    With heads that are rates per click this is the expected weighted number of actions per impression, a click
    counting 1.
    """
    return _checked("click", click) * (1 + _weighted(heads, weights, len(click)))


def power_product(heads: Heads, weights: Numbers, exponents: Numbers) -> Scores:
    """F3 [n]: Π_h (1 + w_h · p_h)^α_h over the heads that have a weight; α is 1 where none is given.

    Raises ValueError where a negative weight makes a factor negative.
    """
    total = np.ones(_length(heads))
    for name, weight in weights.items():
        factor = 1 + weight * _checked(name, heads[name])
        if (factor < 0).any():
            raise ValueError(f"heads: 1 + weight · {name!r} is negative; the weight {weight} is too low")
        total *= np.maximum(factor, LEAST) ** exponents.get(name, 1.0)
    return total


def rank_sum(heads: Heads, weights: Numbers, exponents: Numbers, offsets: Numbers) -> Scores:
    """F4 [n]: Σ_h w_h / (r_h^α_h + β_h) over the heads that have a weight; α and β are 1 where none is given.

    r_h: place of the row by head h among the rows of the request, 1 = largest; equal predictions share a place. The
    only formula where a row's score depends on its neighbours, and the only one that no increasing transform of a
    head can change.
    """
    total = np.zeros(_length(heads))
    for name, weight in weights.items():
        head = _checked(name, heads[name])
        total += weight / (place_of(head) ** exponents.get(name, 1.0) + offsets.get(name, 1.0))
    return total


def conversion_product(heads: Heads, exponents: Numbers) -> Scores:
    """F5 [n]: Π_h p_h^α_h = exp Σ_h α_h · ln p_h over the heads that have an exponent, each p at least 1e-9.

    For a chain of steps (click, cart, pay) with a price: with all exponents 1 the expected revenue per impression.
    """
    logarithm = np.zeros(_length(heads))
    for name, exponent in exponents.items():
        logarithm += exponent * np.log(np.maximum(_checked(name, heads[name]), LEAST))
    return np.exp(logarithm)


class FuseConfig(StepConfig, frozen=True, tag="fuse"):
    """formula: which of the six.   factors: column → exponent; the score is multiplied by each column to its exponent.

    weights, exponents, offsets: head → number; see the formula for what is missing.
    expression: a formula of one's own over heads, see rank.expression.   constants: its names that stand for numbers.

    A head h is the column `p_h` of the table, else its column `h` (play, in seconds), else the catalogue's column `h`
    (quality). Click needs no weight in the first two formulas, where it always counts 1.
    A factor is for what the heads cannot know: they learn from shown items, and `pre_shown` of the pre-ranker says how
    much a candidate is like one, so that p_shown · p_click speaks of the whole catalogue. A factor whose column is not
    there (pre-ranking was skipped, the caller brought his own items) counts 1.
    """

    formula: Formula = "click_times_sum"
    weights: dict[str, float] = {}
    exponents: dict[str, float] = {}
    offsets: dict[str, float] = {}
    factors: dict[str, float] = {}
    expression: str = ""
    constants: dict[str, float] = {}

    def __post_init__(self) -> None:
        if self.formula in ("weighted_sum", "click_times_sum") and "click" in self.weights:
            raise ValueError(f"fuse: click has weight 1 in {self.formula}; take it out of weights")
        if self.formula in ("power_product", "rank_sum") and not self.weights:
            raise ValueError(f"fuse: {self.formula} needs weights")
        if self.formula == "conversion_product" and not self.exponents:
            raise ValueError("fuse: conversion_product needs exponents")
        reads = _READS[self.formula]
        for section in ("weights", "exponents", "offsets", "constants"):
            given: dict[str, float] = getattr(self, section)
            if given and section not in reads:
                raise ValueError(f"fuse: {self.formula} reads no {section}, only {' and '.join(reads)}")
            if reads[0] == "weights" and (idle := sorted(set(given) - set(self.weights))):
                raise ValueError(f"fuse: {section} has {idle}, which weights has not")
        self._check_expression()

    def _check_expression(self) -> None:
        if self.formula != "expression":
            if self.expression:
                raise ValueError(f'fuse: {self.formula} reads no expression; set formula = "expression" too')
            return
        expression = read_expression(self.expression)
        if idle := sorted(set(self.constants) - set(expression.names)):
            raise ValueError(f"fuse: constants has {idle}, which the expression does not name")
        expression.check(self.constants)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that the formula multiplies or sums, beside click in the first two formulas."""
        if self.formula == "expression":
            return tuple(name for name in read_expression(self.expression).names if name not in self.constants)
        return tuple(self.exponents if self.formula == "conversion_product" else self.weights)

    @property
    def reads(self) -> tuple[str, ...]:
        """All heads that must be there."""
        return ("click", *self.heads) if self.formula in ("weighted_sum", "click_times_sum") else self.heads

    @property
    def section(self) -> str:
        """The key that names the heads."""
        return "expression" if self.formula == "expression" else _READS[self.formula][0]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the step writes."""
        return ("score",)


@dataclass(frozen=True, slots=True)
class Fuse:
    """Writes column `score`. A prediction that is not a number (no play time for a picture) counts as 0."""

    config: FuseConfig

    @classmethod
    def fit(cls, config: FuseConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def score(self, query: Query, items: Candidates) -> Columns:
        """{"score": [n]}. Raises StepError naming the head that has no column."""
        config = self.config
        heads = {name: _column(name, query, items) for name in config.heads}
        match config.formula:
            case "weighted_sum":
                score = weighted_sum(_column("click", query, items), heads, config.weights)
            case "click_times_sum":
                score = click_times_sum(_column("click", query, items), heads, config.weights)
            case "power_product":
                score = power_product(heads, config.weights, config.exponents)
            case "rank_sum":
                score = rank_sum(heads, config.weights, config.exponents, config.offsets)
            case "conversion_product":
                score = conversion_product(heads, config.exponents)
            case "expression":
                score = read_expression(config.expression).score(heads, config.constants)
        for name, exponent in config.factors.items():
            if name in items.columns:
                score = score * np.maximum(np.nan_to_num(items.columns[name]), LEAST) ** exponent
        return {"score": score}

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: FuseConfig, folder: Path) -> Self:
        return cls(config)


def _column(name: str, query: Query, items: Candidates) -> NDArray[Any]:
    """[n] the predictions of a head, not-a-number as 0."""
    for column in (f"p_{name}", name):
        if column in items.columns:
            return np.nan_to_num(items.columns[column].astype(np.float64), nan=0.0)
    if name in query.catalog.columns:
        return np.nan_to_num(query.catalog.column(name, items.ids).astype(np.float64), nan=0.0)
    raise StepError(f"fuse: head {name!r} has no column 'p_{name}' or {name!r}; the table has {sorted(items.columns)}")


def _checked(name: str, head: NDArray[Any]) -> Scores:
    values = np.asarray(head, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"heads: {name!r} has a value that is not finite")
    return values


def _weighted(heads: Heads, weights: Numbers, n: int) -> Scores:
    total = np.zeros(n)
    for name, weight in weights.items():
        total += weight * _checked(name, heads[name])
    return total


def _length(heads: Heads) -> int:
    return len(next(iter(heads.values()))) if heads else 0
