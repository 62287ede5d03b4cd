"""ItemCF: items whose audience overlaps with the audience of what the user liked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.artifact import load_array, save_arrays
from tamis.config import AtLeastZero, StepConfig
from tamis.features.inputs import Inputs
from tamis.recall.cosine import nearest_columns
from tamis.recall.neighbours import Neighbours, liked
from tamis.types import ACTION_CODE, Candidates, Catalog, Query


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
    """table: the nearest items of each item by their cosines.

    actions: [a] codes of the actions that the table was counted from, each a point of interest, online as in training.
    """

    config: ItemCFConfig
    table: Neighbours
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
        return cls(config, Neighbours(ids, weights), actions)

    def recall(self, query: Query) -> Candidates:
        """Σ over the user's recent items j of interest(j) · sim(j, item), best first; column `score`.

        interest(j): one point for each kind of the interest actions on it. Items of the user's own history are left
        out. Equal sums are ordered by the lower item number.
        """
        items, interest = liked(query.history, len(self.table), self.actions)
        recent, interest = items[: self.config.history], interest[: self.config.history]
        if not len(recent):
            return Candidates.empty()
        found, score = self.table.walk(recent, interest, query.history.items, self.config.limit)
        return Candidates.of(found, score=score)

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of at most `size` items nearest to `item`, nearest first; empty for one it never saw.

        catalog: not needed, since items published after the training are in no table of neighbours.
        """
        return self.table.of(item, size)

    def save(self, folder: Path) -> None:
        self.table.save(folder)
        save_arrays(folder, actions=self.actions)

    @classmethod
    def load(cls, config: ItemCFConfig, folder: Path) -> Self:
        return cls(config, Neighbours.load(folder), load_array(folder, "actions"))


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
