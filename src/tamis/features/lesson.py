"""What a larger model says of training rows, for a smaller one to learn from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lesson:
    """p: head → [n] probability of each row, strictly inside (0, 1).   per_click: heads whose p is a rate per click."""

    p: Mapping[str, NDArray[np.float64]]
    per_click: frozenset[str]
