"""Candidates that look at the same entries, in tiles of equal size: ragged groups as a few dense products."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

TILE: Final = 8
SEARCH_INPUTS: Final = ("found_codes", "tile_found", "tile_rows", "tile_place")
"""What an exported net with a search reads besides a batch: `Found.codes`, and `Tiles` of its `row_of`."""


class Tiles(NamedTuple):
    """n candidates in t tiles of g places, all of a tile in one group.

    group_of: [t].   rows: [t, g] a candidate for each place, candidate 0 where a tile is not full.   place: [n] where
    among the t·g places each candidate is.
    """

    group_of: NDArray[np.int64]
    rows: NDArray[np.int64]
    place: NDArray[np.int64]

    @staticmethod
    def of(row_of: NDArray[np.int64], groups: int, size: int = TILE) -> "Tiles":
        """row_of: [n] each candidate's group, 0 … groups − 1."""
        counts = np.bincount(row_of, minlength=groups)
        many = -(-counts // size)
        order = np.argsort(row_of, kind="stable")
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat((np.cumsum(many) - many) * size, counts) + rank
        rows, place = np.zeros(int(many.sum()) * size, np.int64), np.empty(len(order), np.int64)
        rows[at], place[order] = order, at
        return Tiles(np.repeat(np.arange(groups), many), rows.reshape(-1, size), place)
