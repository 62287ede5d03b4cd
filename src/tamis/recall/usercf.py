"""UserCF: what users with the same interests liked lately."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.artifact import load_array, save_arrays
from tamis.config import AtLeastOne, AtLeastZero, StepConfig
from tamis.features.inputs import Inputs
from tamis.recall.cosine import nearest_columns
from tamis.recall.interest import checked, sampled
from tamis.recall.last_liked import last_liked
from tamis.recall.neighbours import Neighbours
from tamis.types import Candidates, Query


class UserCFConfig(StepConfig, frozen=True, tag="usercf"):
    """neighbours: similar users kept per user.   last: distinct recent items of each that are read.

    weighted: items that everybody likes say less.   item_limit: most users of an item that count, see `similar_users`;
    0 = all. It bounds the cost, which grows with the square of an item's users.
    """

    limit: AtLeastZero = 100
    neighbours: AtLeastOne = 50
    last: AtLeastOne = 200
    weighted: bool = True
    item_limit: AtLeastZero = 0


@dataclass(frozen=True, slots=True)
class UserCF:
    """alike: the nearest users of each user of the training.   last: each user's recent items and interest in them.

    Both are as of the training. Who came later has no row and gets nothing, other channels have to find for him; who
    did more since keeps his neighbours until the next training, but never gets what he has seen in the meantime.
    """

    config: UserCFConfig
    alike: Neighbours
    last: Neighbours

    @classmethod
    def fit(cls, config: UserCFConfig, inputs: Inputs, seed: int) -> Self:
        """Compares the users of the training period; there is nothing random in it."""
        interest = inputs.interest()

        def done(rows: int) -> None:
            inputs.progress("usercf", rows, interest.shape[0])

        ids, weights = similar_users(
            interest, config.neighbours, weighted=config.weighted, item_limit=config.item_limit, done=done
        )
        return cls(config, Neighbours(ids, weights), last_liked(inputs, interest, config.last))

    def recall(self, query: Query) -> Candidates:
        """Σ over the similar users v of sim(user, v) · interest(v, item), best first; column `score`.

        Items of the user's own history are left out. Equal sums are ordered by the lower item number.
        """
        users, weights = self.alike.of(query.user, self.config.neighbours)
        if not len(users):
            return Candidates.empty()
        found, score = self.last.walk(users, weights.astype(np.float64), query.history.items, self.config.limit)
        return Candidates.of(found, score=score)

    def save(self, folder: Path) -> None:
        save_arrays(folder, alike_ids=self.alike.ids, alike_weights=self.alike.weights)
        save_arrays(folder, last_ids=self.last.ids, last_weights=self.last.weights)

    @classmethod
    def load(cls, config: UserCFConfig, folder: Path) -> Self:
        alike = Neighbours(load_array(folder, "alike_ids"), load_array(folder, "alike_weights"))
        return cls(config, alike, Neighbours(load_array(folder, "last_ids"), load_array(folder, "last_weights")))


def similar_users(
    interactions: csr_matrix,
    k: int,
    *,
    weighted: bool = True,
    item_limit: int = 0,
    rows: range | None = None,
    done: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(ids [u, k], weights [u, k]) of the k users most similar to each user, himself left out, most similar first.

    sim(a, b) = Σ over common items l of 1 / ln(1 + n_l), divided by √(|J_a|·|J_b|); n_l: users of item l, J: items of a
    user. Without weights every common item counts 1, which is the cosine. ids −1 and weight 0 where fewer than k users
    share an item; equal weights are ordered by the lower id.

    interactions: [users, items] interest; what is not zero counts, however strong.
    item_limit: common items are counted among so many users of each item only, those that come first in one fixed
    shuffle of all users; n_l and J stay as they are; 0 = all.
    rows: only these users' rows of the table, a shard; None = all.   done: called with the number of users finished.
    The same answer for any number of threads, and shards joined are the whole.
    """
    if k < 0 or item_limit < 0:
        raise ValueError(f"k {k} and item_limit {item_limit}: wanted ≥ 0")
    interest = checked(interactions)
    norms = np.sqrt(np.diff(interest.indptr).astype(np.float64))
    popularity = np.bincount(interest.indices, minlength=interest.shape[1])
    by_item = sampled(interest, item_limit).T.tocsr()
    by_item.data = np.ones(by_item.nnz, np.float32)
    weights = 1 / np.log1p(np.maximum(popularity, 1)) if weighted else None
    return nearest_columns(by_item, k, user_weights=weights, norms=norms, rows=rows, done=done)
