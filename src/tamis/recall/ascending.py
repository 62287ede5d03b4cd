"""Ascending columns of distinct numbers: making one, and asking what is in it."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


def rows_among(column: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.int64]:
    """[n] where each number stands in the ascending `column`, −1 for those that are not there."""
    if not len(column):
        return np.full(len(numbers), -1, np.int64)
    rows = np.minimum(np.searchsorted(column, numbers), len(column) - 1)
    return np.where(column[rows] == numbers, rows, -1)


@njit(cache=True, nogil=True)
def distinct(numbers: Any) -> Any:
    """[m] the distinct numbers, ascending."""
    ordered = np.sort(numbers)
    count = 0
    for number in ordered:
        if not count or number != ordered[count - 1]:
            ordered[count] = number
            count += 1
    return ordered[:count]


@njit(cache=True, nogil=True)
def outside(column: Any, numbers: Any) -> Any:
    """[n] True for the numbers that are not in the ascending `column`."""
    out = np.ones(len(numbers), np.bool_)
    for row in range(len(numbers)):
        place = np.searchsorted(column, numbers[row])
        out[row] = place == len(column) or column[place] != numbers[row]
    return out
