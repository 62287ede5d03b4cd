"""Models as rankers of the whole catalogue: functions from a split to scores of blocks of users.

Ours are the functions that the channels are made of, on a matrix of interest; channels that need more than a matrix are
in `_parts`. A peer is named by its library.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.evaluate.protocols import Score, Split
from tamis.recall.bpr import BPRConfig, rank_pairs
from tamis.recall.ease import EASEConfig, regressed
from tamis.recall.graph_filter import GraphFilterConfig, filtered
from tamis.recall.ials import IALSConfig, factorise
from tamis.recall.itemcf import similar_items
from tamis.recall.matrix_completion import MatrixCompletionConfig, complete
from tamis.recall.neighbours import Neighbours

Model = Callable[[Split], Score]


def popular(split: Split) -> Score:
    counts = np.asarray(split.matrix().sum(axis=0)).ravel()
    return lambda users: np.broadcast_to(counts, (len(users), len(counts)))


def itemcf(neighbours: int, **options: Any) -> Model:
    def fit(split: Split) -> Score:
        return by_table(split, Neighbours(*similar_items(split.matrix(), neighbours, **options)))

    return fit


def graph_filter(**options: Any) -> Model:
    return lambda split: by_table(split, filtered(split.matrix(), GraphFilterConfig(**options)))


def ease(**options: Any) -> Model:
    return lambda split: by_table(split, regressed(split.matrix(), EASEConfig(**options)))


def ials(**options: Any) -> Model:
    return lambda split: by_vectors(*factorise(split.matrix(), IALSConfig(**options), seed=1))


def completion(users: NDArray[np.int64], items: NDArray[np.int64], **options: Any) -> Model:
    """Matrix completion. users, items: pairs that were met without interest; those that are liked besides are liked."""

    def fit(split: Split) -> Score:
        liked = split.matrix()
        rows = np.append(np.repeat(np.arange(liked.shape[0]), np.diff(liked.indptr)), users)
        columns = np.append(liked.indices, items)
        values = np.append(liked.data, np.zeros(len(users), np.float32))
        cells = csr_matrix((values, (rows, columns)), shape=liked.shape)
        return by_vectors(*complete(cells, MatrixCompletionConfig(**options), seed=1))

    return fit


def bpr(**options: Any) -> Model:
    return lambda split: by_vectors(*rank_pairs(split.matrix(), BPRConfig(**options), seed=1))


def peers() -> dict[str, Model]:
    """implicit's models, at its defaults and at settings that suit these sets better."""
    return {
        "implicit cosine 100": implicit_cosine(100),
        "implicit ALS 64, defaults": implicit_als(factors=64),
        "implicit ALS 64, alpha 10": implicit_als(factors=64, alpha=10.0, regularization=1.0),
        "implicit BPR 64": implicit_bpr(factors=64, iterations=200),
    }


def implicit_cosine(neighbours: int) -> Model:
    def fit(split: Split) -> Score:
        from implicit.nearest_neighbours import CosineRecommender

        model = CosineRecommender(K=neighbours + 1, num_threads=1)
        model.fit(split.matrix(), show_progress=False)
        known = split.matrix()
        return lambda users: (known[users] @ model.similarity).toarray()

    return fit


def implicit_als(**options: Any) -> Model:
    def fit(split: Split) -> Score:
        from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(random_state=1, num_threads=1, **options)
        model.fit(split.matrix(), show_progress=False)
        return by_vectors(model.user_factors, model.item_factors)

    return fit


def implicit_bpr(**options: Any) -> Model:
    def fit(split: Split) -> Score:
        from implicit.bpr import BayesianPersonalizedRanking

        model = BayesianPersonalizedRanking(random_state=1, num_threads=1, **options)
        model.fit(split.matrix(), show_progress=False)
        return by_vectors(model.user_factors, model.item_factors)

    return fit


def by_table(split: Split, table: Neighbours) -> Score:
    """Σ over the items that a user has of interest · weight, as the channels that walk through a table score."""
    known, there = split.matrix(), table.ids >= 0
    rows = np.repeat(np.arange(len(table)), there.sum(axis=1))
    weights = csr_matrix((table.weights[there], (rows, table.ids[there])), shape=(len(table),) * 2)
    return lambda users: (known[users] @ weights).toarray()


def by_vectors(users: Any, items: Any) -> Score:
    return lambda asked: users[asked] @ items.T
