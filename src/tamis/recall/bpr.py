"""BPR: vectors of users and items by which what a user liked stands above what he was not seen with.

    x_ui = p_u·q_i + b_i,   minimise  Σ −ln σ(x_ui − x_uj) + ridge/2 · (|p_u|² + |q_i|² + |q_j|² + b_i² + b_j²)

over liked i and drawn j, one step of gradient descent for each liked pair. (Rendle et al., UAI 2009.) The steps are
taken one after the other in an order that the seed decides, by one thread: others that share vectors between threads
give another answer each time. A million steps of width 64 take about a tenth of a second.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from tamis.config import AtLeastOne, AtLeastZero, NotNegative, StepConfig
from tamis.errors import ConfigError
from tamis.features.inputs import Inputs
from tamis.index.vectors import VectorsConfig
from tamis.recall.factors import F32, KnownUsers, KnownUserSource


class BPRConfig(StepConfig, frozen=True, tag="bpr"):
    """How the vectors are learnt and searched."""

    limit: AtLeastZero = 300  # items per request
    vector_size: AtLeastOne = 64  # width of the vectors
    epochs: int = 60  # passes over the pairs with interest
    learning_rate: float = 0.05  # of the first pass; it falls to a tenth in the last
    ridge: NotNegative = 0.01  # pull of the vectors towards zero
    index: VectorsConfig = VectorsConfig()  # how the item vectors are searched


@dataclass(frozen=True, slots=True)
class BPR(KnownUserSource[BPRConfig]):
    """known: the vectors of users and items, the items' biases as their last number."""

    @classmethod
    def fit(cls, config: BPRConfig, inputs: Inputs, seed: int) -> Self:
        """Vectors of the users and items with interest in the training period."""
        interest = inputs.interest()

        def done(epochs: int) -> None:
            inputs.progress("bpr", epochs, config.epochs)

        users, items = rank_pairs(interest, config, seed, done)
        learnt = np.bincount(interest.indices, minlength=interest.shape[1]) > 0
        return cls(config, KnownUsers.of(users, items, learnt, config.limit, (config.index, seed)))


def rank_pairs(
    interactions: csr_matrix,
    config: BPRConfig,
    seed: int = 0,
    done: Callable[[int], None] = lambda epochs: None,
) -> tuple[F32, F32]:
    """(users [u, d + 1], items [i, d + 1]) whose inner product is x; zeros for those without interactions.

    The last number of an item is its bias, of a user 1.   interactions: [users, items], its pattern alone counts.
    A drawn item that the user has is no step. Raises ConfigError when the numbers grow without bound.
    """
    pairs = csr_matrix(interactions)
    pairs.sum_duplicates()
    random = np.random.default_rng(seed)
    counts = np.diff(pairs.indptr), np.bincount(pairs.indices, minlength=pairs.shape[1])
    users, items = (
        random.standard_normal((len(count), config.vector_size + 1), np.float32) * np.float32(0.1) for count in counts
    )
    users[:, -1], items[:, -1] = 1, 0
    users[counts[0] == 0], items[counts[1] == 0] = 0, 0
    owner = np.repeat(np.arange(pairs.shape[0], dtype=np.int32), counts[0])
    there = np.flatnonzero(counts[1])  # only these are drawn: of the others nothing is known
    for epoch in range(config.epochs):
        pace = config.learning_rate * (1 - 0.9 * epoch / max(1, config.epochs - 1))
        order = random.permutation(pairs.nnz)
        against = there[random.integers(0, max(1, len(there)), pairs.nnz)] if len(there) else there
        _pass((owner, pairs.indices, pairs.indptr), order, against, users, items, (pace, config.ridge))
        done(epoch + 1)
    if not (np.isfinite(users).all() and np.isfinite(items).all()):
        raise ConfigError("bpr: the vectors grew without bound; lower learning_rate or ridge")
    return users, items


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _pass(pairs: Any, order: Any, against: Any, users: Any, items: Any, settings: tuple[float, float]) -> None:
    """One step for each place of `order`, whose pair meets the item of `against`."""
    owner, liked, starts = pairs
    pace, ridge = np.float32(settings[0]), np.float32(settings[1])
    width = users.shape[1] - 1
    for step in range(len(order)):
        user = owner[order[step]]
        other = against[step]
        mine = liked[starts[user] : starts[user + 1]]
        at = np.searchsorted(mine, other)
        if at < len(mine) and mine[at] == other:
            continue
        p, q, r = users[user], items[liked[order[step]]], items[other]
        ahead = q[width] - r[width]
        for t in range(width):
            ahead += p[t] * (q[t] - r[t])
        push = np.float32(1) / (np.float32(1) + np.exp(ahead))
        for t in range(width):
            old = p[t]
            p[t] += pace * (push * (q[t] - r[t]) - ridge * old)
            q[t] += pace * (push * old - ridge * q[t])
            r[t] += pace * (-push * old - ridge * r[t])
        q[width] += pace * (push - ridge * q[width])
        r[width] += pace * (-push - ridge * r[width])
