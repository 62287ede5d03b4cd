"""Positions picked out of a long array: runs of neighbours, or a few that are spread evenly."""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

A = TypeVar("A", bound=NDArray[Any])


def ranges(first: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """first[j], first[j] + 1, …, lengths[j] of them, for each j in turn."""
    numbers: NDArray[np.int64] = np.repeat(first - (np.cumsum(lengths) - lengths), lengths)
    return numbers + np.arange(len(numbers))


def evenly(values: A, most: int) -> A:
    """At most `most` of the values, at equal distances, from the first on."""
    count = min(len(values), most)
    taken: A = values[np.arange(count) * len(values) // max(count, 1)]  # type: ignore[assignment]
    return taken


def spaced(values: A, most: int) -> A:
    """A view of values at equal distances, from the first on: all of up to `most`, else fewer than twice as many."""
    taken: A = values[:: max(1, len(values) // most)]  # type: ignore[assignment]
    return taken
