"""Geo: the best new items near the user, by cells of the map. The same for everybody who is there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tamis.config import AtLeastZero, StepConfig
from tamis.features import geohash
from tamis.features.fields import number
from tamis.features.inputs import Inputs
from tamis.recall import seeds
from tamis.recall.lists import Key, Lists, OrderConfig, Seeds
from tamis.types import Candidates, Query


class GeoConfig(StepConfig, frozen=True, tag="geo"):
    """How large the cells are and how a position is found."""

    limit: AtLeastZero = 300  # items per request
    length: Annotated[int, Meta(ge=1, le=geohash.LONGEST)] = 6  # characters of a cell: 6 is about 1.2 km by 0.6 km
    around: bool = False  # the cells that touch the user's count too
    history: AtLeastZero = 0  # without a position: the cells of so many recent items of the user; 0 = none
    positives: tuple[str, ...] = ("click", "like", "collect", "share")  # actions that make an item one of those
    order: OrderConfig = OrderConfig()  # of a list

    def key(self) -> Key:
        """The key of its lists."""
        return Key(column="geohash", length=self.length)


@dataclass(frozen=True, slots=True)
class Geo:
    """lists: items by cell."""

    config: GeoConfig
    lists: Lists

    @classmethod
    def fit(cls, config: GeoConfig, inputs: Inputs, seed: int) -> Self:
        """Sorts the items that have a position into lists; there is nothing random in it."""
        return cls(config, Lists.fit(config.key(), config.order, inputs))

    def recall(self, query: Query) -> Candidates:
        """The best open items of the user's cell, with column `score`; none when nothing says where he is.

        A request without a position is one whose user does not want to tell it: there is no cell to fall back on.
        """
        return self.lists.find(self.seeds(query), query, self.config.limit, self.config.limit)

    def seeds(self, query: Query) -> Seeds:
        """The cells that are looked up."""
        config = self.config
        sides = number(query.context.get("lat")), number(query.context.get("lon"))
        here = geohash.encode(*sides, config.length)
        own = seeds.together(here, np.ones(1))
        if not len(own.keys) and config.history:
            own = seeds.of_history(query, config.key(), config.positives, config.history)
        if not config.around or not len(own.keys):
            return own
        cells = [geohash.around(int(cell)) for cell in own.keys]
        weights: NDArray[Any] = np.repeat(own.weights, [len(touching) for touching in cells])
        return seeds.together(np.concatenate(cells), weights)

    def save(self, folder: Path) -> None:
        self.lists.save(folder)

    @classmethod
    def load(cls, config: GeoConfig, folder: Path) -> Self:
        """The saved part. Raises ArtifactError, also when its cells or its order are not those of the training."""
        return cls(config, Lists.load(config.key(), config.order, folder))
