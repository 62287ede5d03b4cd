"""Tables of neighbours, and the walk through one that most channels without a net are made of.

    seeds of the user (items, authors, users: numbers with weights)  →  rows of a table  →  sums by neighbour

U2I2I, U2U2I and U2A2I differ in what the seeds are and which table is walked, not in code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.merge import empty_slots, slot_of
from tamis.order import best_first
from tamis.types import History

F = TypeVar("F", np.float32, np.float64)

_KINDS: Final = 256  # an action is one byte


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest things of each thing: ids [n, k], −1 where there are fewer (at the end), and their weights [n, k]."""

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, row: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, weights) of at most `size` neighbours of one row, nearest first; empty for a row that is not there."""
        if not 0 <= row < len(self.ids):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        known = self.ids[row] >= 0
        return self.ids[row][known][:size].astype(np.int64), self.weights[row][known][:size]

    def walk(
        self, rows: NDArray[np.int64], weights: NDArray[np.float64], without: NDArray[np.int64], limit: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(ids, sums), best first: of each neighbour of `rows` Σ weights[row] · weight(row, neighbour).

        rows [m]: that exist.   without: ids that are left out.   limit: most that come back, 0 = all.
        Equal sums are ordered by the lower id.
        """
        ids = self.ids[rows]
        return best(*_hashed_sums(ids, self.weights[rows], weights, without), limit)

    def save(self, folder: Path) -> None:
        save_arrays(folder, ids=self.ids, weights=self.weights)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(load_array(folder, "ids"), load_array(folder, "weights"))


def liked(history: History, items: int, actions: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(distinct items [m], newest first, interest [m]): one point for each of `actions` that was done with the item.

    actions: at most 63.   Entries that are no longer in the catalogue, not below `items` or of another action are left
    out.
    """
    return _liked(history.items, history.actions, items, actions)


@njit(cache=True, nogil=True)
def _liked(items: Any, done: Any, known: int, actions: Any) -> tuple[Any, Any]:
    """See `liked`. Of each item a bit says for each of the actions whether it was done."""
    bit = np.zeros(_KINDS, np.int64)
    for number in range(len(actions)):
        bit[actions[number]] = np.int64(1) << number
    place = empty_slots(len(items))
    found, bits = np.empty(len(items), np.int64), np.zeros(len(items), np.int64)
    count = 0
    for entry in range(len(items)):
        if 0 <= items[entry] < known and bit[done[entry]]:
            at = place_of(place, found, count, items[entry])
            count += at == count
            bits[at] |= bit[done[entry]]
    points = np.zeros(count)
    for at in range(count):
        left = bits[at]
        while left:
            left &= left - 1
            points[at] += 1
    return found[:count], points


@njit(cache=True, nogil=True)
def _hashed_sums(ids: Any, weights: Any, interest: Any, without: Any) -> tuple[Any, Any]:
    """Sums by id in an open hash table."""
    place = empty_slots(ids.size + len(without))
    found = np.empty(ids.size + len(without), np.int64)
    sums = np.zeros(len(found))
    count = 0
    for item in without:  # they go in first, so that they can be cut off in the end
        count += place_of(place, found, count, item) == count
    first = count
    for row in range(ids.shape[0]):
        for column in range(ids.shape[1]):
            item = int(ids[row, column])
            if item < 0:
                break
            at = place_of(place, found, count, item)
            count += at == count
            sums[at] += interest[row] * weights[row, column]
    return found[first:count], sums[first:count]


@njit(cache=True, nogil=True)
def place_of(place: Any, found: Any, count: int, item: int) -> int:
    """Where `item` stands in `found`; when it is new it is put at `count`.   place: of `merge.empty_slots`."""
    slot = slot_of(place, found, item)
    if place[slot] < 0:
        place[slot] = count
        found[count] = item
    return place[slot]  # type: ignore[no-any-return]


def best(items: NDArray[np.int64], score: NDArray[F], limit: int) -> tuple[NDArray[np.int64], NDArray[F]]:
    """The `limit` best (0 = all), best first, ties by the lower item number."""
    if 0 < limit < len(score):
        keep = score >= np.partition(score, len(score) - limit)[len(score) - limit]
        items, score = items[keep], score[keep]
    order = best_first(items, score)[: limit or None]
    return items[order], score[order]
