"""Matrix completion: a vector for each user and item id, their inner products fitted to interest in what was shown.

    Σ_shown (y − a_u·b_i)² + ridge · (Σ_u n_u|a_u|² + Σ_i n_i|b_i|²),   y = interest, 0 to 4;   n = shown pairs of each

Pairs that were never shown are unknown and never enter the loss. Here, and nowhere else, shown without interest counts
as 0; that is this model's best known flaw, because what was shown had been chosen for the user already, and a quick
swipe says little. It knows ids alone. Channels without these flaws are the two towers and iALS; this one is a baseline.
(The ridge by number of observations: Zhou et al., AAIM 2008.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix

from tamis.config import AtLeastOne, AtLeastZero, NotNegative, StepConfig
from tamis.features.inputs import Inputs
from tamis.index.vectors import VectorsConfig
from tamis.recall.factors import KnownUsers, KnownUserSource
from tamis.recall.least_squares import F32, alternate, both_sides, drawn
from tamis.types import Action


class MatrixCompletionConfig(StepConfig, frozen=True, tag="matrix_completion"):
    """How the vectors are fitted and searched."""

    limit: AtLeastZero = 300  # items per request
    unclicked: bool = True  # shown without interest counts as interest 0; false: only pairs with interest are known
    vector_size: AtLeastOne = 32  # width of the vectors
    rounds: AtLeastOne = 15  # … in each of which users, then items are solved
    steps: AtLeastOne = 3  # of conjugate gradients per solution
    ridge: NotNegative = 0.05  # pull of the vectors towards zero, times the number of known pairs of each
    index: VectorsConfig = VectorsConfig()  # how the item vectors are searched


@dataclass(frozen=True, slots=True)
class MatrixCompletion(KnownUserSource[MatrixCompletionConfig]):
    """known: the vectors of users and items."""

    @classmethod
    def fit(cls, config: MatrixCompletionConfig, inputs: Inputs, seed: int) -> Self:
        """Vectors of the users and items of the pairs that were shown in the training period."""
        cells = observed(inputs, config.unclicked)

        def done(rounds: int) -> None:
            inputs.progress("matrix_completion", rounds, config.rounds)

        users, items = complete(cells, config, seed, done)
        learnt = np.bincount(cells.indices, minlength=cells.shape[1]) > 0
        return cls(config, KnownUsers.of(users, items, learnt, config.limit, (config.index, seed)))


def observed(inputs: Inputs, unclicked: bool) -> csr_matrix:
    """[users, items] interest of every pair that was shown or acted on; zeros are entries, unless not `unclicked`."""
    interest = inputs.interest()
    if not unclicked:
        return interest
    shown = inputs.events.action == Action.IMPRESSION
    pairs = inputs.events.user[shown].astype(np.int64) * interest.shape[1] + inputs.events.item[shown]
    liked = np.repeat(np.arange(interest.shape[0]), np.diff(interest.indptr)) * interest.shape[1] + interest.indices
    cells = np.union1d(pairs, liked)
    values = np.zeros(len(cells), np.float32)
    values[np.searchsorted(cells, liked)] = interest.data
    users, items = np.divmod(cells, interest.shape[1])
    return csr_matrix((values, items, np.searchsorted(users, np.arange(interest.shape[0] + 1))), shape=interest.shape)


def complete(
    cells: csr_matrix,
    config: MatrixCompletionConfig,
    seed: int = 0,
    done: Callable[[int], None] = lambda rounds: None,
) -> tuple[F32, F32]:
    """(users [u, d], items [i, d]) that make the loss at the head of this module small.

    cells: [users, items] whose entries, zeros among them, are the known pairs.   done: called with the rounds finished.
    A user or item without entries gets a vector of zeros. The same answer for any number of threads.
    """
    if not np.isfinite(cells.data).all():
        raise ValueError("cells has a value that is not finite")
    values = cells.data.astype(np.float32)
    ones = csr_matrix((np.ones_like(values), cells.indices, cells.indptr), shape=cells.shape)
    sides = both_sides(ones, values)
    users, items = (np.asarray(config.ridge * np.diff(side.starts), np.float32) for side in sides)
    start = drawn(cells.shape, config.vector_size, seed)
    return alternate(sides, (users, items), start, (0.0, config.rounds, config.steps), done)
