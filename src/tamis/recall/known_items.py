"""Items that a training has learnt vectors of by their numbers alone, and the search among them.

An item's vector is its own weights, so there is none for an item that nobody acted on before training ended: such items
are not in the index, are left out of histories, and are found by channels that read attributes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.index.vectors import Vectors, VectorsConfig
from tamis.recall.ascending import distinct, outside, rows_among
from tamis.types import Candidates, Catalog


@dataclass(frozen=True, slots=True)
class KnownItems:
    """items: [v] ascending item numbers.   index: their vectors of length 1, row by row."""

    items: NDArray[np.int64]
    index: Vectors

    @classmethod
    def build(
        cls,
        items: NDArray[np.int64],
        vectors: NDArray[np.float32],
        limit: int,
        queries: NDArray[np.float32] | None,
        how: tuple[VectorsConfig, int],
    ) -> Self:
        """vectors: [v, d] of length 1.   limit: how many will be asked for, 0 = all.

        queries: [q, d] users' vectors to tune the index by; without any it is tuned by those of items.
        how: the kind of index, and the seed of its making.
        """
        config, seed = how
        asked = queries if queries is not None and len(queries) else None
        return cls(items, Vectors.build(vectors, config, limit or len(items), asked, seed))

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the row of each item number, −1 for items that are not known."""
        return rows_among(self.items, numbers)

    def nearest(
        self, user: NDArray[np.float32], limit: int, without: NDArray[np.int64], catalog: Catalog
    ) -> Candidates:
        """The items of largest cosine with `user` [1, d], best first, with column `similarity`.

        limit: most that come back, 0 = all.   without: item numbers that are left out.
        """
        out = distinct(without)
        wanted = limit + len(out) if limit else len(self.items)
        rows, scores = self.index.search(user, min(wanted, len(self.items)))
        found = self.items[rows[0][rows[0] >= 0]]
        stay = (found < len(catalog)) & outside(out, found)
        return Candidates(found[stay][: limit or None], {"similarity": scores[0, : len(found)][stay][: limit or None]})

    def similar(self, item: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of at most `size` other items nearest to `item`, best first; empty for an unknown one."""
        row = int(self.rows(np.array([item]))[0])
        if row < 0 or size <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        rows, scores = self.index.search(self.index.take(np.array([row])), min(size + 1, len(self.items)))
        others = (rows[0] >= 0) & (rows[0] != row)
        return self.items[rows[0, others]][:size], scores[0, others][:size]

    def save(self, folder: Path) -> None:
        save_arrays(folder, items=self.items)
        self.index.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(load_array(folder, "items"), Vectors.load(folder))
