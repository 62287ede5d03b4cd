"""Vectors as bytes, all of them read for each query: where an index would have to read most of its lists anyway.

    number j of a vector v  →  round((v_j − middle_j) / step_j), −127 .. 127, step_j a 254th of the column's range
    query q                 →  round(q_j · step_j · c) in 16 bits, c as large as the sums allow

The sum of products of whole numbers then orders rows almost as q·v does: c is one for all, and q·middle is the same for
all rows. A row takes a quarter of the bytes of its vector, and nothing but additions, in which order plays no part.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays

_LARGEST: Final = 127  # of a code
_EVEN: Final = 8  # rows are padded to a multiple of this
_ROWS_AT_ONCE: Final = 1 << 16
_BLOCK: Final = 16  # rows of which the largest sum is kept


@dataclass(frozen=True, slots=True)
class Scan:
    """codes [n, w ≥ d], zeros behind the first d; steps [d]."""

    codes: NDArray[np.int8]
    steps: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: NDArray[np.float32]) -> Self:
        """The codes of finite vectors [n, d]."""
        count, width = vectors.shape
        low, high = (edge(vectors, axis=0, initial=0).astype(np.float64) for edge in (np.min, np.max))
        steps = np.where(high > low, (high - low) / (2 * _LARGEST), 1.0)
        codes = np.zeros((count, -(-width // _EVEN) * _EVEN), np.int8)
        for start in range(0, count, _ROWS_AT_ONCE):
            part = vectors[start : start + _ROWS_AT_ONCE] - (low + high) / 2
            codes[start : start + _ROWS_AT_ONCE, :width] = np.round(part / steps)
        return cls(codes, steps)

    def near(self, query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """[≥ min(k, n)] rows, ascending, whose sums are the largest; more than k where several tie for the last."""
        if k >= len(self.codes):
            return np.arange(len(self.codes))
        width = self.codes.shape[1]
        part = query * self.steps
        most = min(np.iinfo(np.int16).max, np.iinfo(np.int32).max // (_LARGEST * width))
        asked = np.zeros(width, np.int16)
        asked[: len(part)] = np.round(part * (most / (np.abs(part).max() or 1.0)))
        sums, largest = _sums(self.codes, asked)
        blocks = max(0, len(largest) - k)  # at least k sums reach the k-th largest of the blocks
        rows, sums = _leading(sums, largest, np.partition(largest, blocks)[blocks] if blocks else sums.min())
        return rows[sums >= np.partition(sums, len(sums) - k)[len(sums) - k]]  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        save_arrays(folder, scan_codes=self.codes, scan_steps=self.steps)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError."""
        return cls(load_array(folder, "scan_codes"), load_array(folder, "scan_steps"))


@njit(cache=True, nogil=True)
def _sums(codes: Any, query: Any) -> Any:
    """([n] the products of each row with the query, the largest of each `_BLOCK` rows).

    The casts keep 32 bits, in which several are done at once.
    """
    sums = np.empty(len(codes), np.int32)
    largest = np.empty(-(-len(codes) // _BLOCK), np.int32)
    for block in range(len(largest)):
        most = np.int32(-(2**31))
        for row in range(block * _BLOCK, min((block + 1) * _BLOCK, len(codes))):
            total = np.int32(0)
            for x in range(codes.shape[1]):
                total = np.int32(total + np.int32(codes[row, x]) * np.int32(query[x]))
            sums[row] = total
            most = max(most, total)
        largest[block] = most
    return sums, largest


@njit(cache=True, nogil=True)
def _leading(sums: Any, largest: Any, least: int) -> Any:
    """(rows, their sums): those whose sum is `least` or more, ascending; only blocks that have one are looked into."""
    blocks: Any = np.flatnonzero(largest >= least)
    rows, count = np.empty(len(blocks) * _BLOCK, np.int64), 0
    for block in blocks:
        for row in range(block * _BLOCK, min((block + 1) * _BLOCK, len(sums))):
            rows[count] = row
            count += int(sums[row] >= least)
    rows = rows[:count]
    return rows, sums[rows]
