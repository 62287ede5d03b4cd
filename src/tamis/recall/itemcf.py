"""ItemCF: items whose audience overlaps with the audience of what the user liked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.artifact import load_array, save_arrays
from tamis.config import AtLeastZero, StepConfig
from tamis.features.inputs import Inputs
from tamis.recall.cosine import nearest_columns
from tamis.types import ACTION_CODE, Candidates, Catalog, History, Query

_KINDS: Final = 256  # an action is one byte


class ItemCFConfig(StepConfig, frozen=True, tag="itemcf"):
    """neighbours: kept per item (the course: 10).   history: distinct recent items of the user that are looked up.

    iuf: users with long lists say less about each of their items.   user_limit: most items of one user that count in
    the table, the strongest interest first; 0 = all. It bounds the cost, which grows with the square of a list.
    """

    limit: AtLeastZero = 300
    neighbours: int = 20
    history: int = 200
    iuf: bool = False
    user_limit: int = 0

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.history < 1 or self.user_limit < 0:
            raise ValueError("itemcf: wanted neighbours ≥ 1, history ≥ 1 and user_limit ≥ 0")


@dataclass(frozen=True, slots=True)
class ItemCF:
    """A table of the nearest items of each item: ids [i, k] −1 where there are fewer, weights [i, k] their cosines.

    actions: [a] codes of the actions that the table was counted from, each a point of interest, online as in training.
    """

    config: ItemCFConfig
    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    actions: NDArray[np.uint8]

    @classmethod
    def fit(cls, config: ItemCFConfig, inputs: Inputs, seed: int) -> Self:
        """Counts co-interest of the training period; there is nothing random in it."""
        interest = inputs.interest()

        def done(rows: int) -> None:
            inputs.progress("itemcf", rows, interest.shape[1])

        ids, weights = similar_items(
            interest, config.neighbours, iuf=config.iuf, user_limit=config.user_limit, done=done
        )
        actions = np.array([ACTION_CODE[name] for name in inputs.interest_actions], np.uint8)
        return cls(config, ids, weights, actions)

    def recall(self, query: Query) -> Candidates:
        """Σ over the user's recent items j of interest(j) · sim(j, item), best first; column `score`.

        interest(j): one point for each kind of the interest actions on it. Items of the user's own history are left
        out. Equal sums are ordered by the lower item number.
        """
        items, interest = liked(query.history, len(self.ids), self.actions)
        recent, interest = items[: self.config.history], interest[: self.config.history]
        if not len(recent):
            return Candidates.empty()
        found, score = _sums(self.ids[recent], self.weights[recent], interest, query.history.items)
        found, score = _top(found, score, self.config.limit)
        return Candidates.of(found, score=score)

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of at most `size` items nearest to `item`, nearest first; empty for one it never saw.

        catalog: not needed, since items published after the training are in no table of neighbours.
        """
        if not 0 <= item < len(self.ids):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        known = self.ids[item] >= 0
        return self.ids[item][known][:size].astype(np.int64), self.weights[item][known][:size]

    def save(self, folder: Path) -> None:
        save_arrays(folder, ids=self.ids, weights=self.weights, actions=self.actions)

    @classmethod
    def load(cls, config: ItemCFConfig, folder: Path) -> Self:
        return cls(config, *(load_array(folder, name) for name in ("ids", "weights", "actions")))


def similar_items(
    interactions: csr_matrix,
    k: int,
    *,
    iuf: bool = False,
    user_limit: int = 0,
    done: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(ids [i, k], weights [i, k]) of the k items most similar to each item, itself left out, most similar first.

    sim(a, b) = Σ_u x(u, a)·x(u, b) / (‖x(·, a)‖ · ‖x(·, b)‖), the cosine of interest; with interest all alike it is
    |W_a ∩ W_b| / √(|W_a|·|W_b|). ids −1 and weight 0 where fewer than k items share a user; equal weights are ordered
    by the lower id.

    interactions: [users, items] interest, finite and not negative.   iuf: x(u, ·) is divided by √ln(1 + |J_u|).
    user_limit: only that many items of a user count, the strongest interest first, then the rarer item; 0 = all.
    done: called with the number of items finished.   The same answer for any number of threads.
    """
    if k < 0 or user_limit < 0:
        raise ValueError(f"k {k} and user_limit {user_limit}: wanted ≥ 0")
    if interactions.ndim != 2:
        raise ValueError(f"interactions has {interactions.ndim} dimensions, wanted [users, items]")
    matrix = csr_matrix(interactions)
    if not np.isfinite(matrix.data).all() or (len(matrix.data) and matrix.data.min() < 0):
        raise ValueError("interactions has a value that is negative or not finite")
    if not matrix.has_canonical_format or (matrix.data == 0).any():
        matrix = matrix.copy()
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    if user_limit:
        matrix = _capped(matrix, user_limit)
    if iuf:
        lengths = np.diff(matrix.indptr)
        matrix = matrix.astype(np.float64)
        matrix.data /= np.repeat(np.sqrt(np.log1p(lengths)), lengths)
    return nearest_columns(matrix, k, done=done)


def liked(history: History, items: int, actions: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(distinct items [m], newest first, interest [m]): one point for each of `actions` that was done with the item.

    Entries that are no longer in the catalogue, not below `items` or of another action are left out.
    """
    use = (history.items >= 0) & (history.items < items) & np.isin(history.actions, actions)
    item = history.items[use]
    distinct, first = np.unique(item, return_index=True)
    kinds = np.unique(item * _KINDS + history.actions[use]) // _KINDS
    points = np.searchsorted(kinds, distinct, "right") - np.searchsorted(kinds, distinct)
    order = np.argsort(first)
    return distinct[order], points[order].astype(np.float64)


def _capped(matrix: csr_matrix, user_limit: int) -> csr_matrix:
    """At most `user_limit` entries per user: the strongest, then those of rarer items, then of lower numbers."""
    lengths = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), lengths)
    popularity = np.bincount(matrix.indices, minlength=matrix.shape[1])
    order = np.lexsort((matrix.indices, popularity[matrix.indices], -matrix.data, rows))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], lengths)
    keep = place < user_limit
    capped = csr_matrix((matrix.data[keep], (rows[keep], matrix.indices[keep])), shape=matrix.shape)
    capped.sort_indices()
    return capped


def _sums(
    ids: NDArray[np.int32], weights: NDArray[np.float32], interest: NDArray[np.float64], without: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(distinct neighbours, summed weights) of some rows of the table, in the order they were found."""
    slots = 1 << int(2 * (ids.size + len(without))).bit_length()
    found: tuple[NDArray[np.int64], NDArray[np.float64]] = _hashed_sums(ids, weights, interest, without, slots)
    return found


@njit(cache=True, nogil=True)
def _hashed_sums(ids: Any, weights: Any, interest: Any, without: Any, slots: int) -> tuple[Any, Any]:
    """Sums by id in an open hash table of `slots` places, a power of two above twice the number of entries."""
    place = np.full(slots, -1, np.int32)
    found = np.empty(ids.size + len(without), np.int64)
    sums = np.zeros(len(found))
    count = 0
    for item in without:  # they go in first, so that they can be cut off in the end
        count += _place(place, found, count, item) == count
    first = count
    for row in range(ids.shape[0]):
        for column in range(ids.shape[1]):
            item = int(ids[row, column])
            if item < 0:
                break
            at = _place(place, found, count, item)
            count += at == count
            sums[at] += interest[row] * weights[row, column]
    return found[first:count], sums[first:count]


@njit(cache=True, nogil=True)
def _place(place: Any, found: Any, count: int, item: int) -> int:
    """Where `item` stands in `found`; when it is new it is put at `count`."""
    slot = (item * 2654435761) & (len(place) - 1)
    while place[slot] >= 0:
        if found[place[slot]] == item:
            return place[slot]  # type: ignore[no-any-return]
        slot = (slot + 1) & (len(place) - 1)
    place[slot] = count
    found[count] = item
    return count


def _top(
    items: NDArray[np.int64], score: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `limit` best (0 = all), best first, ties by the lower item number."""
    if 0 < limit < len(score):
        keep = score >= np.partition(score, len(score) - limit)[len(score) - limit]
        items, score = items[keep], score[keep]
    order = np.lexsort((items, -score))[: limit or None]
    return items[order], score[order]
