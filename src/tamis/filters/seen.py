"""Seen: what the user was shown before is not shown again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tamis.config import StepConfig
from tamis.features.inputs import Inputs
from tamis.types import Candidates, Query


class SeenConfig(StepConfig, frozen=True, tag="seen"):
    """No settings: how much is remembered is the state's to decide."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Asks `query.seen`, usually Bloom filters: no shown item passes, a known share of the others is lost."""

    config: SeenConfig

    @classmethod
    def fit(cls, config: SeenConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def keep(self, query: Query, items: Candidates) -> NDArray[np.bool_]:
        """[n] True where the user was not shown the item."""
        return ~query.seen.contains(query.catalog.keys_of(items.ids))

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: SeenConfig, folder: Path) -> Self:
        return cls(config)
