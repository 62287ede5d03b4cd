"""Channels whose model is one table from items to items: ItemCF, Swing, graph filter, EASE."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.features.inputs import Inputs
from tamis.recall.blocks import in_blocks
from tamis.recall.neighbours import Neighbours, liked
from tamis.recall.top import scratch, top
from tamis.types import ACTION_CODE, Candidates, Catalog, Query

_BLOCK: Final = 256  # rows at once and thread: of 100,000 items 100 MB


@dataclass(frozen=True, slots=True)
class ItemTable:
    """table: of each item those that interest in it speaks for.

    actions: [a] codes of the actions that are interest, each a point, online as in training.
    """

    table: Neighbours
    actions: NDArray[np.uint8]

    @staticmethod
    def of(table: Neighbours, inputs: Inputs) -> "ItemTable":
        """The table of a training, read with what counted as interest in it."""
        return ItemTable(table, np.array([ACTION_CODE[name] for name in inputs.interest_actions], np.uint8))

    def recall(self, query: Query, history: int, limit: int) -> Candidates:
        """Σ over the user's last `history` items j of interest(j) · weight(j, item), best first; column `score`.

        interest(j): see `neighbours.liked`. Items of the user's own history are left out. Equal sums are ordered by the
        lower item number.
        """
        items, interest = liked(query.history, len(self.table), self.actions)
        if not len(items):
            return Candidates.empty()
        found, score = self.table.walk(items[:history], interest[:history], query.history.items, limit)
        return Candidates.of(found, score=score)

    def similar(self, item: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, weights) of at most `size` neighbours of an item, nearest first; empty for one the training never saw.

        Items published after the training are in no table.
        """
        return self.table.of(item, size)

    def save(self, folder: Path) -> None:
        self.table.save(folder)
        save_arrays(folder, actions=self.actions)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(Neighbours.load(folder), load_array(folder, "actions"))


class _Walk(Protocol):
    """The settings that all such channels have."""

    @property
    def limit(self) -> int: ...  # items per request, 0 = all
    @property
    def history(self) -> int: ...  # distinct recent items of the user that are looked up


C = TypeVar("C", bound=_Walk)


@dataclass(frozen=True, slots=True)
class TableSource(Generic[C]):
    """What a channel of one table does once it is fitted; the channels differ in how `fit` counts the table."""

    config: C
    items: ItemTable

    def recall(self, query: Query) -> Candidates:
        """See ItemTable.recall."""
        return self.items.recall(query, self.config.history, self.config.limit)

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, weights) of at most `size` items that interest in `item` speaks for most; empty for one it never saw.

        catalog: not needed, since items published after the training are in no table.
        """
        return self.items.similar(item, size)

    def save(self, folder: Path) -> None:
        self.items.save(folder)

    @classmethod
    def load(cls, config: C, folder: Path) -> Self:
        return cls(config, ItemTable.load(folder))


def best_of_rows(
    rows: Callable[[int, int], NDArray[np.float32]], items: int, k: int, done: Callable[[int], None]
) -> Neighbours:
    """The k items of largest weight above zero in each row of a matrix [items, items], its diagonal left out.

    rows: (first, stop) → new array [stop − first, items] of these rows.   done: called with the rows finished.
    Equal weights are ordered by the lower id. Memory: one block of rows for each thread.
    """
    ids = np.full((items, k), -1, np.int32)
    weights = np.zeros((items, k), np.float32)

    names = np.arange(items, dtype=np.int32)

    def block(first: int, stop: int) -> int:
        own = np.arange(stop - first)
        scores = np.maximum(rows(first, stop), np.float32(0))
        scores[own, first + own] = 0
        _best(scores, names, ids[first:stop], weights[first:stop].view(np.uint32))
        return stop

    for finished in in_blocks(block, items, _BLOCK):
        done(finished)
    return Neighbours(ids, weights)


@njit(cache=True, nogil=True)
def _best(rows: Any, names: Any, ids: Any, weights: Any) -> None:
    """`top` of each row [n, items] into ids and weights [n, k]."""
    room = scratch(rows.shape[1], ids.shape[1])
    for row in range(len(rows)):
        top(rows[row], names, room, ids[row], weights[row])
