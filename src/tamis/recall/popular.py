"""Popular: what most users acted on lately."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import AtLeastZero, StepConfig
from tamis.data.dataset import DAY_SECONDS
from tamis.features.inputs import Inputs
from tamis.types import ACTION_CODE, Candidates, Query


class PopularConfig(StepConfig, frozen=True, tag="popular"):
    """half_life_days: an action this much older than the end of training counts half; 0 = age does not matter."""

    limit: AtLeastZero = 300
    half_life_days: float = 7.0

    def __post_init__(self) -> None:
        if not 0 <= self.half_life_days < float("inf"):
            raise ValueError("popular: wanted half_life_days ≥ 0")


@dataclass(frozen=True, slots=True)
class Popular:
    """Items by decayed interest, best first: items [p] numbers, weights [p] > 0."""

    config: PopularConfig
    items: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def fit(cls, config: PopularConfig, inputs: Inputs, seed: int) -> Self:
        """weight(i) = Σ over the interest actions on i of 2^(−age / half-life); ties by the lower item number."""
        actions = [ACTION_CODE[name] for name in inputs.interest_actions]
        weights = np.zeros(len(inputs.catalog))
        for events in inputs.events.pieces():
            chosen = np.isin(events.action, actions) & (events.item >= 0)
            age_days = (inputs.until - events.time[chosen]) / DAY_SECONDS
            decay = np.exp2(-age_days / config.half_life_days) if config.half_life_days else 1.0
            np.add.at(weights, events.item[chosen], decay)  # one by one, so that pieces change no digit
        order = np.argsort(-weights, kind="stable")[: int((weights > 0).sum())]
        return cls(config, order.astype(np.int64), weights[order])

    def recall(self, query: Query) -> Candidates:
        """The same for everybody; column `score` is the weight."""
        limit = self.config.limit or None
        return Candidates.of(self.items[:limit], score=self.weights[:limit])

    def save(self, folder: Path) -> None:
        save_arrays(folder, items=self.items, weights=self.weights)

    @classmethod
    def load(cls, config: PopularConfig, folder: Path) -> Self:
        return cls(config, load_array(folder, "items"), load_array(folder, "weights"))
