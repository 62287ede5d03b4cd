"""Ranking samples, grouped by request, with the history by pointer.

A request's user side is stored once; its candidates are rows. The user's timeline is stored once, sorted by time; a
request holds the slice of it that ends *before* the request's own time, so that a label can never leak into its own
features and nothing is copied.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Timeline:
    """All users' positive actions: sorted by user, then time. User u's entries are starts[u] : starts[u + 1]."""

    item: NDArray[np.int32]  # [t]
    action: NDArray[np.uint8]  # [t]
    time: NDArray[np.float64]  # [t]
    starts: NDArray[np.int64]  # [users + 1]

    def before(self, users: NDArray[np.int32], times: NDArray[np.float64]) -> NDArray[np.int64]:
        """[r] the end of each user's slice: entries strictly earlier than the given time."""
        raise AssertionError("implemented by the data helper")


@dataclass(frozen=True, slots=True)
class Samples:
    """r requests with n candidates in all. Rows of request j are first[j] : first[j + 1]."""

    user: NDArray[np.int32]  # [r]
    time: NDArray[np.float64]  # [r]
    scene: NDArray[np.int32]  # [r] index into `scenes`
    scenes: tuple[str, ...]
    context: pl.DataFrame  # [r] further request columns
    history_start: NDArray[np.int64]  # [r] slice of the timeline …
    history_end: NDArray[np.int64]  # [r] … that ends before `time`
    first: NDArray[np.int64]  # [r + 1]
    item: NDArray[np.int32]  # [n]
    position: NDArray[np.int16]  # [n] −1 = unknown
    labels: Mapping[str, NDArray[np.float32]]  # action name → [n]: 0/1; "play": seconds; only actions that occur
    timeline: Timeline

    def __len__(self) -> int:
        return len(self.user)
