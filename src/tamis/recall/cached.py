"""Cached: what fine ranking put high in the user's last requests although it was not shown then.

Ranking scores some hundred items and the page shows some ten of them, so most of the dearest scores are never used.
The first `top` of them that did not get on the page wait in the user's state, oldest first:

    residents   what waits and may still be recalled      leaves when shown, or too old
    after       the same once a request was answered      leaves when recalled too often, or pushed out by newer ones

An item that waits already keeps its time and its count, or it would never have to leave.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tamis.config import AboveZero, AtLeastOne, AtLeastZero, StepConfig
from tamis.data.dataset import DAY_SECONDS
from tamis.features.inputs import Inputs
from tamis.types import LEFTOVER, Candidates, Membership, Query


class CachedConfig(StepConfig, frozen=True, tag="cached"):
    """What waits, and for how long."""

    limit: AtLeastZero = 100  # items per request
    top: AtLeastOne = 50  # so many of the first that leave the rank stage wait, if they are not on the page
    capacity: AtLeastOne = 100  # items of one user; the oldest leave
    most_recalls: Annotated[int, Meta(ge=1, le=255)] = 10  # an item leaves with its so many-th recall
    max_age_days: AboveZero = 3.0  # … or at this age


@dataclass(frozen=True, slots=True)
class Cached:
    """Learns nothing: the server keeps what waits in the user's state and gives it to the query."""

    config: CachedConfig

    @classmethod
    def fit(cls, config: CachedConfig, inputs: Inputs, seed: int) -> Self:
        return cls(config)

    def recall(self, query: Query) -> Candidates:
        """What waits, oldest first; nothing in an evaluation, which has no state."""
        return Candidates(query.cached[: self.config.limit or None])

    def residents(self, waiting: NDArray[Any], seen: Membership, now: float) -> NDArray[Any]:
        """Those of LEFTOVER rows that may still be recalled."""
        young = now - waiting["time"] < self.config.max_age_days * DAY_SECONDS
        return waiting[young & ~seen.contains(waiting["key"])]

    def after(
        self, residents: NDArray[Any], ranked: NDArray[np.uint64], shown: NDArray[np.uint64], now: float
    ) -> NDArray[Any]:
        """LEFTOVER rows after an answer. residents: all of them as they were recalled.

        ranked: keys that left fine ranking, best first.   shown: keys on the page.
        """
        counted = residents.copy()
        counted["recalls"][: self.config.limit or None] += 1
        top = ranked[: self.config.top]
        top = top[~(np.isin(top, shown) | np.isin(top, residents["key"]))][: self.config.capacity]
        new = np.zeros(len(top), LEFTOVER)
        new["key"], new["time"] = top, now
        stay = counted[counted["recalls"] < self.config.most_recalls]
        return np.concatenate([stay, new])[-self.config.capacity :]

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def load(cls, config: CachedConfig, folder: Path) -> Self:
        return cls(config)
