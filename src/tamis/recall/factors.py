"""What channels with one vector per item have in common: finding the items of largest inner product.

Only items that were learnt have a vector; the others, and all that are published later, are never found this way. An
inner product depends on the length of an item's vector, and inverted lists are made for vectors of one length. So each
vector v is given one more number, √(m² − |v|²) with m the greatest length, which makes all of them m long, and queries
a 0 there, which changes no inner product. (Bachrach et al., RecSys 2014.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.data.picks import evenly
from tamis.index.vectors import Vectors, VectorsConfig
from tamis.recall.ascending import distinct, outside, rows_among
from tamis.types import Candidates, Catalog, Query

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Factors:
    """items [n] the numbers of the items that have a vector, ascending; row j of the index is that of items[j]."""

    items: NDArray[np.int64]
    index: Vectors  # of width d + 1

    @staticmethod
    def of(
        vectors: F32, learnt: NDArray[np.bool_], limit: int, queries: F32, how: tuple[VectorsConfig, int]
    ) -> "Factors":
        """From vectors [i, d] of all items, of which those `learnt` [i] are kept.

        limit: how many will be asked for, 0 = all.   queries: [q, d] users' vectors to tune the index by.
        how: the kind of index, and the seed of its making.
        """
        config, seed = how
        items = np.flatnonzero(learnt)
        kept = np.asarray(vectors[items], np.float32)
        squares = np.einsum("nd,nd->n", kept, kept, dtype=np.float64)
        last = np.sqrt(squares.max(initial=0.0) - squares).astype(np.float32)
        asked = _longer(evenly(queries, config.recall_queries)) if len(queries) else None
        return Factors(items, Vectors.build(np.column_stack([kept, last]), config, limit or len(items), asked, seed))

    def rows(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the row of each item, −1 for one that has no vector."""
        return rows_among(self.items, items)

    def vectors(self, rows: NDArray[np.int64]) -> F32:
        """[n, d] the vectors of rows."""
        return np.asarray(self.index.main[rows, :-1])

    def nearest(self, vector: F32, without: NDArray[Any], limit: int, items: int) -> Candidates:
        """At most `limit` items (0 = all) of largest inner product with `vector` [d], best first; column `score`.

        without: items that are left out.   items: those from this number on are left out too.
        """
        without = distinct(without)
        ids, scores = self.index.search(
            _longer(vector[None]), min(len(self.items), (limit or len(self.items)) + len(without))
        )
        score, found = scores[0][ids[0] >= 0], self.items[ids[0][ids[0] >= 0]]
        keep = outside(without, found) & (found < items)
        return Candidates.of(found[keep][: limit or None], score=score[keep][: limit or None])

    def similar(self, item: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of at most `size` items most like `item`, best first; empty for one that has no vector.

        Likeness is the cosine, not the inner product, of which the popular have more with everything; it takes one pass
        over all vectors.
        """
        row = int(self.rows(np.array([item]))[0])
        if row < 0 or size <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        vectors = self.index.main[:, :-1]
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        cosine = (vectors @ vectors[row]) / np.maximum(lengths * lengths[row], np.float32(1e-30))
        cosine[row] = -np.inf
        order = np.lexsort((self.items, -cosine))[: min(size, len(cosine) - 1)]
        return self.items[order], cosine[order]

    def save(self, folder: Path) -> None:
        save_arrays(folder, items=self.items)
        self.index.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(load_array(folder, "items"), Vectors.load(folder))


@dataclass(frozen=True, slots=True)
class KnownUsers:
    """Users who have a vector each, looked up by their number, beside the items' factors.

    vectors: [u, d] zeros for a user of whom the training knew nothing.
    """

    vectors: F32
    factors: Factors

    @staticmethod
    def of(
        users: F32, items: F32, learnt: NDArray[np.bool_], limit: int, how: tuple[VectorsConfig, int]
    ) -> "KnownUsers":
        """From the vectors [u, d] and [i, d] of all; see Factors.of."""
        asked = users[users.any(axis=1)]
        return KnownUsers(users, Factors.of(items, learnt, limit, asked, how))

    def recall(self, query: Query, limit: int) -> Candidates:
        """The items of largest inner product with the user's vector but those of his history, best first.

        Empty for a user who has no vector: other channels serve him.
        """
        if not 0 <= query.user < len(self.vectors) or not self.vectors[query.user].any():
            return Candidates.empty()
        vector = np.asarray(self.vectors[query.user])
        return self.factors.nearest(vector, query.history.items, limit, len(query.catalog))

    def save(self, folder: Path) -> None:
        save_arrays(folder, users=self.vectors)
        self.factors.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(load_array(folder, "users"), Factors.load(folder))


class _Limited(Protocol):
    """The setting that such channels share."""

    @property
    def limit(self) -> int: ...  # items per request, 0 = all


C = TypeVar("C", bound=_Limited)


@dataclass(frozen=True, slots=True)
class KnownUserSource(Generic[C]):
    """What a channel of known users does once it is fitted; the channels differ in how `fit` finds the vectors."""

    config: C
    known: KnownUsers

    def recall(self, query: Query) -> Candidates:
        """The items of largest inner product, best first; column `score`. See KnownUsers.recall."""
        return self.known.recall(query, self.config.limit)

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of at most `size` items most like `item`; see Factors.similar.

        catalog: not needed, since items published after the training have no vector.
        """
        return self.known.factors.similar(item, size)

    def save(self, folder: Path) -> None:
        self.known.save(folder)

    @classmethod
    def load(cls, config: C, folder: Path) -> Self:
        return cls(config, KnownUsers.load(folder))


def _longer(queries: F32) -> F32:
    """The queries [q, d] with a 0 more."""
    return np.column_stack([queries, np.zeros(len(queries), np.float32)]).astype(np.float32)
