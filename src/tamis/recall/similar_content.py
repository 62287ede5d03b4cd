"""Similar content: items whose own vectors (of text, of pictures) are near those of what the user liked (U2I2I).

Nobody needs to have acted on an item to be found: one published a moment ago has its vector, and counts as a neighbour
of every item of which it is as near as the neighbours in the table are.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import AtLeastOne, AtLeastZero, StepConfig
from tamis.features.inputs import Inputs
from tamis.index.vectors import Vectors, VectorsConfig
from tamis.recall.ascending import distinct, outside
from tamis.recall.neighbours import Neighbours, best, liked
from tamis.types import ACTION_CODE, Candidates, Catalog, Query

FRESH: Final = 2000  # of the items published since the bundle, the last so many are looked at
_AT_ONCE: Final = 1024


class SimilarContentConfig(StepConfig, frozen=True, tag="similar_content"):
    """How many neighbours an item has and how they are found."""

    limit: AtLeastZero = 300  # items per request
    neighbours: AtLeastOne = 20  # kept per item
    history: AtLeastOne = 50  # distinct recent items of the user that are looked up
    index: VectorsConfig = VectorsConfig()  # with which the neighbours are found in training


@dataclass(frozen=True, slots=True)
class SimilarContent:
    """table: the nearest items of each item by the cosine of their vectors; none for one without a vector.

    actions: [a] codes of the actions that are a point of interest each.
    """

    config: SimilarContentConfig
    table: Neighbours
    actions: NDArray[np.uint8]
    fresh: "_FreshUnits" = field(default_factory=lambda: _FreshUnits(), compare=False, repr=False)

    @classmethod
    def fit(cls, config: SimilarContentConfig, inputs: Inputs, seed: int) -> Self:
        """Searches the neighbours of every item that has a vector."""
        vectors = _unit(inputs.catalog.column("vector", np.arange(len(inputs.catalog))))
        actions = np.array([ACTION_CODE[name] for name in inputs.interest_actions], np.uint8)
        return cls(config, nearest(vectors, config.neighbours, config.index, seed), actions)

    def recall(self, query: Query) -> Candidates:
        """Σ over the user's recent items j of interest(j) · cosine(j, item), best first; column `score`.

        The sum goes over those j of which the item is a neighbour. Items of the user's own history are left out.
        """
        items, interest = liked(query.history, len(query.catalog), self.actions)
        items, interest = items[: self.config.history], interest[: self.config.history]
        if not len(items):
            return Candidates.empty()
        known = items < len(self.table)
        found, score = self.table.walk(items[known], interest[known], query.history.items, 0)
        fresh, value = self._fresh(query, items, interest)
        found, score = best(np.concatenate([found, fresh]), np.concatenate([score, value]), self.config.limit)
        return Candidates.of(found, score=score)

    def _fresh(
        self, query: Query, items: NDArray[np.int64], interest: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Items that the table does not know yet, with their sums."""
        fresh, units = self.fresh.of(query.catalog, len(self.table))
        if not len(fresh):
            return fresh, np.empty(0)
        near = _unit(query.catalog.column("vector", items)) @ units.T
        near *= near > self._least(items)[:, None]
        score = interest @ near
        use = (score > 0) & outside(distinct(query.history.items), fresh)
        return fresh[use], score[use]

    def _least(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """[m] the cosine of each item's last neighbour; 0 for one that has fewer than there could be."""
        least = np.zeros(len(items), np.float32)
        known = items < len(self.table)
        if self.table.weights.shape[1]:
            least[known] = np.maximum(self.table.weights[items[known], -1], 0)
        return least

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of at most `size` items nearest to `item`, nearest first; empty for one without a vector.

        catalog: the snapshot that the numbers belong to; it is searched for an item that the table does not know.
        """
        if catalog is None or item < len(self.table) or item >= len(catalog) or size <= 0:
            return self.table.of(item, max(size, 0))
        every = np.arange(len(catalog))
        near = _unit(catalog.column("vector", every)) @ _unit(catalog.column("vector", every[item : item + 1]))[0]
        others = np.flatnonzero((near > 0) & (every != item))
        ids, cosines = best(others, near[others].astype(np.float64), size)
        return ids, cosines.astype(np.float32)

    def save(self, folder: Path) -> None:
        self.table.save(folder)
        save_arrays(folder, actions=self.actions)

    @classmethod
    def load(cls, config: SimilarContentConfig, folder: Path) -> Self:
        return cls(config, Neighbours.load(folder), load_array(folder, "actions"))


class _FreshUnits:
    """The open items of a snapshot that the table does not know, with their vectors at length 1: made once for each.

    Threads may share the object: a snapshot's result is one reference that is replaced whole.
    """

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: tuple[Catalog, NDArray[np.int64], NDArray[np.float32]] | None = None

    def of(self, catalog: Catalog, since: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(items [f], vectors [f, d]) of the last `FRESH` items from number `since` on."""
        latest = self._latest
        if latest is None or latest[0] is not catalog:
            fresh = np.arange(max(since, len(catalog) - FRESH), len(catalog))
            fresh = fresh[~catalog.closed[fresh]]
            latest = catalog, fresh, _unit(catalog.column("vector", fresh))
            self._latest = latest
        return latest[1:]


def nearest(vectors: NDArray[np.float32], k: int, config: VectorsConfig, seed: int) -> Neighbours:
    """The k rows nearest to each row of unit vectors, itself left out; rows of zeros are and have no neighbours."""
    has = np.flatnonzero(vectors.any(axis=1)) if vectors.shape[1] else np.empty(0, np.int64)
    width = min(k, max(len(has) - 1, 0))
    ids, weights = np.full((len(vectors), width), -1, np.int32), np.zeros((len(vectors), width), np.float32)
    if not width:
        return Neighbours(ids, weights)
    index = Vectors.build(vectors[has], config, width + 1, seed=seed)
    for start in range(0, len(has), _AT_ONCE):
        own = np.arange(start, min(start + _AT_ONCE, len(has)))
        found, score = index.search(index.main[own], width + 1)
        other = (found != own[:, None]) & (found >= 0)
        order = np.argsort(~other, axis=1, kind="stable")[:, :width]  # itself behind all others, then off
        kept, cosines = (np.take_along_axis(part, order, 1) for part in (found, score))
        there = np.take_along_axis(other, order, 1)
        ids[has[own]] = np.where(there, has[np.maximum(kept, 0)], -1)
        weights[has[own]] = np.where(there, cosines, 0)
    return Neighbours(ids, weights)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """[n, d] the vectors at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
