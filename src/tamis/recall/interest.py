"""What the collaborative-filtering kernels do with a matrix of interest before they count."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

_LEAST: Final = 1e-140
_LARGEST: Final = 1e140


def checked(interactions: Any) -> csr_matrix:
    """Interest [users, items] as canonical CSR: no duplicates (they add up), no zeros; the caller's stays as it is.

    Raises ValueError naming `interactions` where it is no matrix or has a value that is negative, not finite, or so
    large or small that sums of its squares are out of the range of a float.
    """
    if interactions.ndim != 2:
        raise ValueError(f"interactions has {interactions.ndim} dimensions, wanted [users, items]")
    matrix = csr_matrix(interactions)
    if not np.isfinite(matrix.data).all() or (len(matrix.data) and matrix.data.min() < 0):
        raise ValueError("interactions has a value that is negative or not finite")
    points = matrix.data[matrix.data > 0]
    least, largest = (float(points.min()), float(points.max())) if len(points) else (1.0, 1.0)
    if least < _LEAST or largest > _LARGEST:
        raise ValueError(f"interactions has values from {least:g} to {largest:g}: wanted {_LEAST:g} to {_LARGEST:g}")
    if not matrix.has_canonical_format or (matrix.data == 0).any():
        matrix = matrix.copy()
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    return matrix


def strongest(matrix: csr_matrix, limit: int) -> csr_matrix:
    """At most `limit` entries per row: the strongest, then those of rarer columns, then of lower numbers; 0 = all."""
    lengths = np.diff(matrix.indptr)
    if not limit or not len(lengths) or lengths.max() <= limit:
        return matrix
    rows = np.repeat(np.arange(matrix.shape[0]), lengths)
    popularity = np.bincount(matrix.indices, minlength=matrix.shape[1])
    order = np.lexsort((matrix.indices, popularity[matrix.indices], -matrix.data, rows))
    return _first(matrix, order, lengths, limit)


def sampled(matrix: csr_matrix, limit: int) -> csr_matrix:
    """At most `limit` entries per column: those of the rows that come first in one fixed shuffle; 0 = all.

    The shuffle orders rows by a hash of their numbers, the same for every column. So columns are sampled together: a
    row that comes early is kept by all its columns, and what two columns share stays shared, which independent draws
    would tear apart.
    """
    by_column = matrix.tocsc()
    lengths = np.diff(by_column.indptr)
    if not limit or not len(lengths) or lengths.max() <= limit:
        return matrix
    columns = np.repeat(np.arange(matrix.shape[1]), lengths)
    order = np.lexsort((by_column.indices, _hashed(by_column.indices), columns))
    return _first(by_column.T.tocsr(), order, lengths, limit).T.tocsr()


def _first(matrix: csr_matrix, order: NDArray[np.int64], lengths: NDArray[Any], limit: int) -> csr_matrix:
    """The first `limit` entries of each row in an order that sorts the entries by row."""
    rows = np.repeat(np.arange(matrix.shape[0]), lengths)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], lengths)
    keep = place < limit
    kept = csr_matrix((matrix.data[keep], (rows[keep], matrix.indices[keep])), shape=matrix.shape)
    kept.sort_indices()
    return kept


def _hashed(numbers: NDArray[Any]) -> NDArray[np.uint64]:
    """A fixed mixing of whole numbers (the finalizer of SplitMix64; Steele, Lea and Flood, 2014)."""
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
