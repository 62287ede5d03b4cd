"""ItemCF: items whose audience overlaps with the audience of what the user liked."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.config import AtLeastOne, AtLeastZero, StepConfig
from tamis.features.inputs import Inputs
from tamis.recall.cosine import nearest_columns
from tamis.recall.interest import checked, strongest
from tamis.recall.item_table import ItemTable, TableSource
from tamis.recall.neighbours import Neighbours


class ItemCFConfig(StepConfig, frozen=True, tag="itemcf"):
    """neighbours: kept per item (the course: 10).   history: distinct recent items of the user that are looked up.

    iuf: users with long lists say less about each of their items.   user_limit: most items of one user that count in
    the table, the strongest interest first; 0 = all. It bounds the cost, which grows with the square of a list.
    """

    limit: AtLeastZero = 300
    neighbours: AtLeastOne = 20
    history: AtLeastOne = 200
    iuf: bool = False
    user_limit: AtLeastZero = 0


@dataclass(frozen=True, slots=True)
class ItemCF(TableSource[ItemCFConfig]):
    """items: the nearest items of each item by their cosines."""

    @classmethod
    def fit(cls, config: ItemCFConfig, inputs: Inputs, seed: int) -> Self:
        """Counts co-interest of the training period; there is nothing random in it."""
        interest = inputs.interest()

        def done(rows: int) -> None:
            inputs.progress("itemcf", rows, interest.shape[1])

        ids, weights = similar_items(
            interest, config.neighbours, iuf=config.iuf, user_limit=config.user_limit, done=done
        )
        return cls(config, ItemTable.of(Neighbours(ids, weights), inputs))


def similar_items(
    interactions: csr_matrix,
    k: int,
    *,
    iuf: bool = False,
    user_limit: int = 0,
    rows: range | None = None,
    done: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(ids [i, k], weights [i, k]) of the k items most similar to each item, itself left out, most similar first.

    sim(a, b) = Σ_u x(u, a)·x(u, b) / (‖x(·, a)‖ · ‖x(·, b)‖), the cosine of interest; with interest all alike it is
    |W_a ∩ W_b| / √(|W_a|·|W_b|). ids −1 and weight 0 where fewer than k items share a user; equal weights are ordered
    by the lower id.

    interactions: [users, items] interest, finite and not negative.   iuf: x(u, ·) is divided by √ln(1 + |J_u|).
    user_limit: only that many items of a user count, the strongest interest first, then the rarer item; 0 = all.
    rows: only these items' rows of the table, a shard; None = all.   done: called with the number of items finished.
    The same answer for any number of threads, and shards joined are the whole.
    """
    if k < 0 or user_limit < 0:
        raise ValueError(f"k {k} and user_limit {user_limit}: wanted ≥ 0")
    matrix = strongest(checked(interactions), user_limit)
    weights = None
    if iuf:
        lengths = np.diff(matrix.indptr)
        weights = 1 / np.log1p(np.maximum(lengths, 1))
    return nearest_columns(matrix, k, user_weights=weights, rows=rows, done=done)
