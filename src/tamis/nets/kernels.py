"""Gather, sum and update of embedding rows, compiled: what autograd does per batch for a whole table, done per row.

The fused table has millions of rows and a batch touches thousands. These loops read and write only those.
"""

from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 64
_LINE_BYTES: Final = 64


def by_cache_line(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros that begin on a cache line, so that a row of 16 floats is one line and not parts of two.

    Large arrays get huge pages, which NumPy asks for and torch does not.
    """
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(count + _LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % _LINE_BYTES
    out: NDArray[Any] = raw[start : start + count].view(dtype).reshape(shape)
    return out


@numba.njit(cache=True, nogil=True)
def gather(table: NDArray[Any], codes: NDArray[np.int32], starts: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Fills out[n, f] with the mean of the table's rows codes[n, starts[f] : starts[f + 1]], code 0 left out.

    table: [rows, d].   codes: [n, c].   starts: [fields + 1].   out: [n, fields * d]; zeros where all codes are 0.
    """
    size = table.shape[1]
    for row in range(codes.shape[0]):
        for field in range(len(starts) - 1):
            at = field * size
            first, last = starts[field], starts[field + 1]
            if last == first + 1:
                code = codes[row, first]
                for k in range(size):
                    out[row, at + k] = table[code, k]
            else:
                _mean(table, codes[row, first:last], out[row, at : at + size])


@numba.njit(cache=True, nogil=True)
def _mean(table: NDArray[Any], codes: NDArray[np.int32], out: NDArray[Any]) -> None:
    """Fills out [d] with the mean of the table's rows `codes` [w], code 0 left out; zeros when there is none."""
    out[:] = 0
    there = 0
    for code in codes:
        if code != 0:
            there += 1
            for k in range(len(out)):
                out[k] += table[code, k]
    if there > 1:
        for k in range(len(out)):
            out[k] /= there


@numba.njit(cache=True, nogil=True)
def sum_by_code(
    codes: NDArray[np.int32],
    starts: NDArray[np.int64],
    gradient: NDArray[Any],
    sums: NDArray[Any],
    marks: tuple[NDArray[np.int32], NDArray[np.int32], int],
) -> int:
    """Adds the gradient of `gather`'s output to sums[i] of each distinct code; the number of distinct codes so far.

    gradient: [n, fields * d].   sums: [room, d]; a new code's row is cleared here.
    marks: (place [table rows], codes [room], count): place[code] = i + 1 or 0, the distinct codes, how many there are.
    """
    place, distinct, count = marks
    size, one = sums.shape[1], sums.dtype.type(1)
    for row in range(codes.shape[0]):
        for field in range(len(starts) - 1):
            at = field * size
            first, last = starts[field], starts[field + 1]
            there = 1 if last == first + 1 else int(np.count_nonzero(codes[row, first:last]))
            slope = gradient[row, at : at + size]
            for column in range(first, last):
                code = codes[row, column]
                if code == 0:
                    continue
                i = place[code] - 1
                if i < 0:
                    i = count
                    distinct[i] = code
                    count += 1
                    place[code] = count
                    sums[i] = 0
                total = sums[i]
                if there == 1:
                    for k in range(size):
                        total[k] += slope[k]
                else:
                    share = one / sums.dtype.type(there)
                    for k in range(size):
                        total[k] += slope[k] * share
    return count


@numba.njit(cache=True, nogil=True, fastmath={"contract", "arcp"})
def adam_rows(
    table: NDArray[Any],
    moments: NDArray[Any],
    distinct: NDArray[np.int32],
    sums: NDArray[Any],
    rates: tuple[float, float, float, float, float],
) -> float:
    """One Adam step of the rows `distinct` [u] with gradients `sums` [u, d]; moments: [rows, 2, d].

    rates: (step size with both bias corrections, epsilon times the second one's root, beta1, beta2, l2).
    The answer says nothing; it only keeps the reading ahead from being optimised away.
    """
    kind, size = table.dtype.type, table.shape[1]
    step, epsilon, l2 = kind(rates[0]), kind(rates[1]), kind(rates[4])
    beta1, beta2, rest1, rest2 = kind(rates[2]), kind(rates[3]), kind(1.0 - rates[2]), kind(1.0 - rates[3])
    near = kind(0)
    for begin in range(0, len(distinct), _BLOCK):
        block = range(begin, min(begin + _BLOCK, len(distinct)))
        for i in block:  # far apart in memory: this loop waits for many rows at once, the next one finds them near
            near += table[distinct[i], 0] + moments[distinct[i], 0, 0] + moments[distinct[i], 1, 0]
        for i in block:
            code = distinct[i]
            weight, first, second, slope = table[code], moments[code, 0], moments[code, 1], sums[i]
            for k in range(size):
                gradient = slope[k] + l2 * weight[k]
                mean = beta1 * first[k] + rest1 * gradient
                square = beta2 * second[k] + rest2 * gradient * gradient
                first[k] = mean
                second[k] = square
                weight[k] -= step * mean / (np.sqrt(square) + epsilon)
    return float(near)
