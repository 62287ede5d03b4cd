"""MMR, maximal marginal relevance: rows that score high and are unlike what was picked just before, under rules."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from tamis.config import AtLeastZero, StepConfig
from tamis.features.inputs import Inputs
from tamis.rerank.greedy import Likeness, Limits, greedy, unit
from tamis.rerank.rules import BoostConfig, Rule, boosted, compiled, kinds_of, relaxed
from tamis.types import Candidates, Query


class MmrConfig(StepConfig, frozen=True, tag="mmr"):
    """trade_off: 1 = only the score, 0 = only diversity.   window: picks that a row must be unlike, 0 = all of them.

    likeness: shares of the parts of similarity: "vector" is the cosine of content vectors, not below 0, any other name
    a column of the catalogue, alike where equal and not 0. Parts that the catalogue has not are left out and the rest
    share their weight.   rules, boosts: see rules.py.   limit: rows to pick; 0 = as many as the request asks for.
    """

    limit: AtLeastZero = 0
    trade_off: float = 0.7
    window: int = 10
    likeness: dict[str, float] = msgspec.field(default_factory=lambda: {"vector": 0.7, "category": 0.2, "author": 0.1})
    rules: dict[str, Rule] = {}
    boosts: dict[str, BoostConfig] = {}

    def __post_init__(self) -> None:
        if not 0 <= self.trade_off <= 1:
            raise ValueError(f"mmr: wanted trade_off inside [0, 1], got {self.trade_off}")
        if self.window < 0 or any(not 0 <= share < float("inf") for share in self.likeness.values()):
            raise ValueError("mmr: wanted window ≥ 0 and shares of likeness ≥ 0")


@dataclass(frozen=True, slots=True)
class Mmr:
    """Learns nothing."""

    config: MmrConfig

    @classmethod
    def fit(cls, config: MmrConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def pick(self, query: Query, items: Candidates) -> NDArray[np.intp]:
        """Positions of min(size, n) rows, best first.

        Scores are brought to [0, 1] by their least and largest value in this request, so that a trade-off means the
        same whatever formula made them.
        """
        return self.pick_ruled(query, items)[0]

    def pick_ruled(self, query: Query, items: Candidates) -> tuple[NDArray[np.intp], Mapping[str, int]]:
        """The same, and rule → picks that had to break it."""
        config = self.config
        score = scaled(boosted(config.boosts, query, items))
        likeness = _likeness(config.likeness, query, items)
        limits = compiled(config.rules, query, items)
        size = config.limit or query.size
        picks, broken = greedy(score, likeness, limits, size, config.trade_off, config.window)
        return picks, relaxed(config.rules, broken)

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: MmrConfig, folder: Path) -> Self:
        return cls(config)


def mmr(
    score: NDArray[Any], vectors: NDArray[Any], size: int, *, trade_off: float, window: int | None = None
) -> NDArray[np.intp]:
    """Positions of min(size, n) rows, relevant and unlike each other, in the order picked.

    Greedy: value(i) = trade_off · score[i] − (1 − trade_off) · max over recent picks j of max(0, cos(i, j)); the first
    pick is the best score, ties go to the better score, then to the row that comes first.

    score: [n] finite, on the scale of a cosine.   vectors: [n, d] finite, of any length; a zero vector is like nothing.
    window: only the last `window` picks count, None = all.   O(size · n · (d + window)).
    (Carbonell and Goldstein, 1998.)
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != len(score):
        raise ValueError(f"vectors {vectors.shape}: wanted [n, d] for n = {len(score)} scores")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors has a value that is not finite")
    return _mmr(score, Likeness.of_vectors(vectors), size, trade_off, window)


def mmr_of_matrix(
    score: NDArray[Any], near: NDArray[Any], size: int, *, trade_off: float, window: int | None = None
) -> NDArray[np.intp]:
    """`mmr` with a given symmetric likeness near [n, n] in [0, 1]."""
    near = np.asarray(near, np.float64)
    if near.shape != (len(score), len(score)):
        raise ValueError(f"near {near.shape}: wanted [n, n] for n = {len(score)} scores")
    if not np.isfinite(near).all():
        raise ValueError("near has a value that is not finite")
    return _mmr(score, Likeness.of_matrix(near), size, trade_off, window)


def scaled(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """(score − least) / (largest − least); all 0 where they are equal."""
    if not len(score):
        return score
    least, largest = score.min(), score.max()
    return (score - least) / (largest - least) if largest > least else np.zeros(len(score))


def _mmr(score: NDArray[Any], likeness: Likeness, size: int, trade_off: float, window: int | None) -> NDArray[np.intp]:
    values = np.asarray(score, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("score: wanted one finite number per row")
    if size < 0 or not 0 <= trade_off <= 1 or (window is not None and window < 1):
        raise ValueError(f"size {size}, trade_off {trade_off}, window {window}: wanted ≥ 0, inside [0, 1], ≥ 1 or None")
    return greedy(values, likeness, Limits.none(len(values)), size, trade_off, window or 0)[0]


def _likeness(shares: Mapping[str, float], query: Query, items: Candidates) -> Likeness:
    """The likeness of the rows by the parts that the catalogue has."""
    n = len(items)
    there = {name: share for name, share in shares.items() if share > 0 and name in query.catalog.columns}
    vectors = query.catalog.column("vector", items.ids) if "vector" in there else np.empty((n, 0), np.float32)
    if not vectors.shape[1]:
        there.pop("vector", None)
    total = sum(there.values())
    if not total:
        return Likeness.nothing(n)
    names = [name for name in there if name != "vector"]
    attributes = np.zeros((len(names), n), np.int64)
    for row, name in enumerate(names):
        attributes[row] = kinds_of(name, query, items)
    weights = np.array([there.get("vector", 0.0), *(there[name] for name in names)]) / total
    return Likeness(unit(vectors), attributes, weights, np.empty((0, 0)))
