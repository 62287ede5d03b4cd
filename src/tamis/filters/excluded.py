"""Excluded: what the caller named. What a user hid counts as seen, and the filter `seen` keeps it away."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tamis.config import StepConfig
from tamis.features.inputs import Inputs
from tamis.types import Candidates, Query


class ExcludedConfig(StepConfig, frozen=True, tag="excluded"):
    """No settings."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """Reads `query.exclude`."""

    config: ExcludedConfig

    @classmethod
    def fit(cls, config: ExcludedConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def keep(self, query: Query, items: Candidates) -> NDArray[np.bool_]:
        """[n] True where the caller does not object."""
        if not len(query.exclude):
            return np.ones(len(items), np.bool_)
        return ~np.isin(items.ids, query.exclude)

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: ExcludedConfig, folder: Path) -> Self:
        return cls(config)
