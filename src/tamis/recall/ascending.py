"""Where numbers stand in an ascending column of distinct ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def rows_among(column: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.int64]:
    """[n] where each number stands in the ascending `column`, −1 for those that are not there."""
    if not len(column):
        return np.full(len(numbers), -1, np.int64)
    rows = np.minimum(np.searchsorted(column, numbers), len(column) - 1)
    return np.where(column[rows] == numbers, rows, -1)
