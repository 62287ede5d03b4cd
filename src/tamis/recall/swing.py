"""Swing: ItemCF whose similarity trusts many unlike common fans more than one circle of friends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.config import AboveZero, AtLeastOne, AtLeastZero, NotNegative, StepConfig
from tamis.features.inputs import Inputs
from tamis.recall.interest import checked, sampled, strongest
from tamis.recall.item_table import ItemTable, TableSource
from tamis.recall.neighbours import Neighbours
from tamis.recall.pair_sums import nearest_by_pairs


class SwingConfig(StepConfig, frozen=True, tag="swing"):
    """neighbours, history: as in `itemcf`.   alpha: the larger, the less a close circle is discounted.

    user_power: a user with |J_u| items weighs |J_u|^−user_power; 0 = all alike.
    user_limit, item_limit: most items of a user and most users of an item that count in the table, see `similar_items`;
    0 = all. They bound the cost, which grows with the square of both.
    """

    limit: AtLeastZero = 300
    neighbours: AtLeastOne = 20
    history: AtLeastOne = 200
    alpha: AboveZero = 1.0
    user_power: NotNegative = 0.0
    user_limit: AtLeastZero = 1000
    item_limit: AtLeastZero = 1000


@dataclass(frozen=True, slots=True)
class Swing(TableSource[SwingConfig]):
    """items: the nearest items of each item by their sums over pairs of common fans."""

    @classmethod
    def fit(cls, config: SwingConfig, inputs: Inputs, seed: int) -> Self:
        """Sums over the training period's pairs of users; there is nothing random in it."""
        interest = inputs.interest()

        def done(rows: int) -> None:
            inputs.progress("swing", rows, interest.shape[1])

        ids, weights = similar_items(
            interest,
            config.neighbours,
            alpha=config.alpha,
            user_power=config.user_power,
            user_limit=config.user_limit,
            item_limit=config.item_limit,
            done=done,
        )
        return cls(config, ItemTable.of(Neighbours(ids, weights), inputs))


def similar_items(  # noqa: PLR0913 - the options of a kernel are its parameters
    interactions: csr_matrix,
    k: int,
    *,
    alpha: float = 1.0,
    user_power: float = 0.0,
    diagonal: bool = False,
    user_limit: int = 0,
    item_limit: int = 0,
    rows: range | None = None,
    done: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(ids [i, k], weights [i, k]) of the k items most similar to each item, itself left out, most similar first.

    sim(a, b) = Σ over pairs u < v of users who have both of w_u · w_v / (alpha + |J_u ∩ J_v|), w_u = |J_u|^−user_power.

    Each pair of different users counts once, so one common user alone is no likeness. Not scaled: it may exceed 1 and
    compares the neighbours of one item, not neighbours of different items. ids −1 and weight 0 where fewer than k items
    share two users; equal weights are ordered by the lower id.

    interactions: [users, items] interest; what is not zero counts, however strong.   alpha: above zero.
    diagonal: the sum over all ordered pairs and every user with himself instead, 2 · sim + Σ_u w_u² / (alpha + |J_u|);
    then one common user is enough.
    user_limit: only that many items of a user count, the strongest interest first, then the rarer item; 0 = all.
    item_limit: only that many users of an item count, those that come first in one fixed shuffle of all users; 0 = all.
    Everything, overlaps too, is counted after the limits, the users' before the items'.
    rows: only these items' rows of the table, a shard; None = all.   done: called with the number of items finished.
    The same answer for any number of threads, and shards joined are the whole.
    """
    if k < 0 or user_limit < 0 or item_limit < 0:
        raise ValueError(f"k {k}, user_limit {user_limit} and item_limit {item_limit}: wanted ≥ 0")
    if not (0 < alpha < float("inf") and 0 <= user_power < float("inf")):
        raise ValueError(f"alpha {alpha} and user_power {user_power}: wanted alpha above 0 and user_power ≥ 0")
    matrix = sampled(strongest(checked(interactions), user_limit), item_limit)
    weights = np.maximum(np.diff(matrix.indptr), 1.0) ** -user_power
    return nearest_by_pairs(matrix, k, (float(alpha), diagonal, weights), rows=rows, done=done)
