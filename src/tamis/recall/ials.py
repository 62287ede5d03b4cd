"""iALS: a vector for each item such that a user's vector, made from his history on the spot, tells what he will like.

Fitted to all pairs, seen or not, by alternating least squares. (Hu, Koren, Volinsky, ICDM 2008; the weight of the
unseen and the ridge that grows with frequency after Rendle, Krichene, Zhang, Koren, RecSys 2022.)

    Σ_seen interest · (1 − x_u·y_i)² + unseen_weight · Σ_all (x_u·y_i)²
        + Σ_u r(n_u, items) · |x_u|² + Σ_i r(n_i, users) · |y_i|²
    r(n, others) = ridge · (n + unseen_weight · others)^frequency_power

No vector of a user is kept: the one that is best for given item vectors is found from his history at request time, so
that a click changes the next answer and somebody new is served as well as others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve as solve_linear
from scipy.sparse import csr_matrix

from tamis.artifact import load_array, save_arrays
from tamis.config import AboveZero, AtLeastOne, AtLeastZero, NotNegative, Share, StepConfig
from tamis.features.inputs import Inputs
from tamis.index.vectors import VectorsConfig
from tamis.recall.factors import Factors
from tamis.recall.least_squares import F32, alternate, both_sides, drawn, gram
from tamis.recall.neighbours import liked
from tamis.types import ACTION_CODE, Candidates, Catalog, Query

_LEAST_RIDGE: Final = 4e-6  # of the trace: what a smaller one adds is lost in the rounding of a float32


class IALSConfig(StepConfig, frozen=True, tag="ials"):
    """How the vectors are fitted and searched."""

    limit: AtLeastZero = 300  # items per request
    history: AtLeastOne = 200  # distinct recent items of the user that his vector is made from
    vector_size: AtLeastOne = 64  # width of the vectors
    rounds: AtLeastOne = 12  # … in each of which users, then items are solved
    steps: AtLeastOne = 3  # of conjugate gradients per solution
    unseen_weight: AboveZero = 0.1  # weight of a pair that nothing is known of; a seen one weighs its interest
    ridge: NotNegative = 0.003  # pull of the vectors towards zero
    frequency_power: Share = 1.0  # how the pull grows with what a vector is fitted to; 0 = the same for all
    index: VectorsConfig = VectorsConfig()  # how the item vectors are searched

    def ridges(self, counts: NDArray[np.int64], others: int) -> F32:
        """[n] r(n, others) of rows with these numbers of entries; others: rows of the other side."""
        pull = self.ridge * np.power(counts + self.unseen_weight * others, self.frequency_power)
        return np.asarray(pull, np.float32)


@dataclass(frozen=True, slots=True)
class IALS:
    """square: [d, d] Σ y yᵀ over all items, times unseen_weight.

    actions: [a] codes of the actions that are interest, each a point, online as in training.
    """

    config: IALSConfig
    factors: Factors
    square: F32
    actions: NDArray[np.uint8]

    @classmethod
    def fit(cls, config: IALSConfig, inputs: Inputs, seed: int) -> Self:
        """Vectors of the items that somebody had interest in during the training period."""
        interest = inputs.interest()

        def done(rounds: int) -> None:
            inputs.progress("ials", rounds, config.rounds)

        users, items = factorise(interest, config, seed, done)
        learnt = np.bincount(interest.indices, minlength=interest.shape[1]) > 0
        asked = users[np.diff(interest.indptr) > 0]
        factors = Factors.of(items, learnt, config.limit, asked, (config.index, seed))
        actions = np.array([ACTION_CODE[name] for name in inputs.interest_actions], np.uint8)
        return cls(config, factors, config.unseen_weight * gram(items), actions)

    def recall(self, query: Query) -> Candidates:
        """The items of largest inner product with the user's vector, best first; column `score`.

        Items of his own history are left out. Empty when nothing of it has a vector.
        """
        items, interest = liked(query.history, len(query.catalog), self.actions)
        rows = self.factors.rows(items)
        known = np.flatnonzero(rows >= 0)[: self.config.history]
        if not len(known):
            return Candidates.empty()
        vector = self.user_vector(rows[known], interest[known])
        return self.factors.nearest(vector, query.history.items, self.config.limit, len(query.catalog))

    def user_vector(self, rows: NDArray[np.int64], interest: NDArray[np.float64]) -> F32:
        """[d] the exact minimum of a user's part of the loss: (w₀Σyyᵀ + Σ interest·yyᵀ + r)x = Σ interest·y.

        A ridge too small for the equations to have one solution in float32 is raised until they do.
        """
        own, weights = self.factors.vectors(rows), interest.astype(np.float32)
        ridge = self.config.ridges(np.array([len(rows)]), len(self.factors.items))[0]
        left = self.square + (own.T * weights) @ own
        ridge = max(ridge, _LEAST_RIDGE * np.trace(left))
        left += ridge * np.eye(len(left), dtype=np.float32)
        return np.asarray(solve_linear(left, weights @ own, assume_a="pos", check_finite=False), np.float32)

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of at most `size` items most like `item`; see Factors.similar.

        catalog: not needed, since items published after the training have no vector.
        """
        return self.factors.similar(item, size)

    def save(self, folder: Path) -> None:
        self.factors.save(folder)
        save_arrays(folder, square=self.square, actions=self.actions)

    @classmethod
    def load(cls, config: IALSConfig, folder: Path) -> Self:
        return cls(config, Factors.load(folder), load_array(folder, "square"), load_array(folder, "actions"))


def factorise(
    interactions: csr_matrix, config: IALSConfig, seed: int = 0, done: Callable[[int], None] = lambda rounds: None
) -> tuple[F32, F32]:
    """(users [u, d], items [i, d]) that make the loss at the head of this module small.

    interactions: [users, items] interest, > 0 and finite.   done: called with the rounds finished.
    A user or item without interactions gets a vector of zeros. The same answer for any number of threads.
    """
    matrix = csr_matrix(interactions, dtype=np.float32)
    matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all() or (matrix.data <= 0).any():
        raise ValueError("interactions has a value that is not finite and above 0")
    sides = both_sides(matrix, matrix.data)
    counts = [np.diff(side.starts) for side in sides]
    there = [int((count > 0).sum()) for count in counts]  # those without entries stay zero, so nobody meets them
    ridges = config.ridges(counts[0], there[1]), config.ridges(counts[1], there[0])
    start = drawn(matrix.shape, config.vector_size, seed)
    return alternate(sides, ridges, start, (config.unseen_weight, config.rounds, config.steps), done)
