"""Similar items: what another channel says is like the items that the user liked (U2I2I over any channel's vectors).

    fit         each item  →  the neighbours that the channel `over` answers "more like this" with, once for all
    request     the user's recent items  →  their neighbours, by Σ interest · likeness

Two towers search by one vector, in which many tastes meet; this searches by each item that the user liked. Once it is
trained it needs the other channel no more.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from tamis.config import AtLeastOne, AtLeastZero, Name, StepConfig
from tamis.errors import ConfigError
from tamis.features.inputs import Inputs
from tamis.recall.item_table import ItemTable, TableSource
from tamis.recall.neighbours import Neighbours
from tamis.stages import ItemToItem


class SimilarItemsConfig(StepConfig, frozen=True, tag="similar_items"):
    """Whose likeness, and how much of it is kept."""

    limit: AtLeastZero = 300  # items per request
    over: Name = "two_tower"  # a source before this one in the same stage that knows items like an item
    neighbours: AtLeastOne = 20  # kept per item
    history: AtLeastOne = 50  # distinct recent items of the user that are looked up


@dataclass(frozen=True, slots=True)
class SimilarItems(TableSource[SimilarItemsConfig]):
    """The likeness of another channel, read as ItemCF's table is; items published after the training are not in it."""

    @classmethod
    def fit(cls, config: SimilarItemsConfig, inputs: Inputs, seed: int) -> Self:
        """Asks the finished part `config.over` for the neighbours of each item; only likeness above 0 counts.

        Raises ConfigError when there is no such part, or one that does not know items like an item.
        """
        other = inputs.part(config.over)
        if not isinstance(other, ItemToItem):
            raise ConfigError(f"over: {config.over!r} does not know items like an item")
        items = len(inputs.catalog)
        ids = np.full((items, config.neighbours), -1, np.int32)
        weights = np.zeros(ids.shape, np.float32)
        for item in range(items):
            found, likeness = other.similar(item, config.neighbours)
            use = (likeness > 0) & (found < items)
            ids[item, : use.sum()], weights[item, : use.sum()] = found[use], likeness[use]
            if item % 1000 == 0:
                inputs.progress("similar items", item, items)
        return cls(config, ItemTable.of(Neighbours(ids, weights), inputs))
