"""Blocked: items that were taken down are not shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tamis.config import StepConfig
from tamis.features.inputs import Inputs
from tamis.types import Candidates, Query


class BlockedConfig(StepConfig, frozen=True, tag="blocked"):
    """No settings."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Reads `Catalog.closed` of the snapshot at hand."""

    config: BlockedConfig

    @classmethod
    def fit(cls, config: BlockedConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def keep(self, query: Query, items: Candidates) -> NDArray[np.bool_]:
        """[n] True where the item is open."""
        return ~query.catalog.closed[items.ids]

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: BlockedConfig, folder: Path) -> Self:
        return cls(config)
