"""Excluded: what the caller named, and what the user asked not to see again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tamis.config import StepConfig
from tamis.features.inputs import Inputs
from tamis.types import Action, Candidates, Query


class ExcludedConfig(StepConfig, frozen=True, tag="excluded"):
    """hide: drop items that the user hid, as far back as his history reaches."""

    hide: bool = True


@dataclass(frozen=True, slots=True)
class Excluded:
    """Reads `query.exclude` and the HIDE entries of `query.history`."""

    config: ExcludedConfig

    @classmethod
    def fit(cls, config: ExcludedConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def keep(self, query: Query, items: Candidates) -> NDArray[np.bool_]:
        """[n] True where nobody objects."""
        unwanted = query.exclude
        if self.config.hide:
            unwanted = np.concatenate([unwanted, query.history.items[query.history.actions == Action.HIDE]])
        if not len(unwanted):
            return np.ones(len(items), np.bool_)
        return ~np.isin(items.ids, unwanted)

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: ExcludedConfig, folder: Path) -> Self:
        return cls(config)
