"""Newest: what was published last, straight from the catalogue at hand, so that an item put a moment ago is in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from tamis.config import AtLeastZero, StepConfig
from tamis.data.dataset import DAY_SECONDS
from tamis.features.inputs import Inputs
from tamis.types import Candidates, Query


class NewestConfig(StepConfig, frozen=True, tag="newest"):
    """max_age_days: older items are left out; 0 = any age, and items without a publish time too."""

    limit: AtLeastZero = 300
    max_age_days: float = 0.0

    def __post_init__(self) -> None:
        if not self.max_age_days >= 0:
            raise ValueError("newest: wanted max_age_days ≥ 0")


@dataclass(frozen=True, slots=True)
class Newest:
    """Learns nothing: it reads `Catalog.newest`, which holds open items only."""

    config: NewestConfig

    @classmethod
    def fit(cls, config: NewestConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def recall(self, query: Query) -> Candidates:
        """Newest first. Items that will only be published after `query.now` do not exist yet."""
        items, catalog = query.catalog.newest, query.catalog
        if "publish_time" in catalog.columns and len(items):
            published = catalog.column("publish_time", items)
            keep = ~(published > query.now)
            if self.config.max_age_days:
                keep &= published >= query.now - self.config.max_age_days * DAY_SECONDS
            items = items[keep]
        return Candidates(np.asarray(items[: self.config.limit or None], np.int64))

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: NewestConfig, folder: Path) -> Self:
        return cls(config)
