"""Hard negatives: items that an earlier funnel found for the user and that its ranking then cut.

Most of a batch's negatives are easy: items that have nothing to do with the user. What pre-ranking cut, or ranking put
low, looked right to recall and was not. What the user was shown is never among them, acted on or not (`draws`): it had
passed the whole funnel.
"""

import numpy as np
from numpy.typing import NDArray

from tamis.features.earlier import Dropped


class HardDraws:
    """Draws some of each user's dropped items; the same seed draws the same ones in the same order."""

    def __init__(self, dropped: Dropped, count: int, seed: int) -> None:
        self._dropped, self._count = dropped, count
        self._random = np.random.default_rng((seed, 3))

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return [self._random]

    def draw(self, users: NDArray[np.int32]) -> NDArray[np.int64]:
        """[r, count] distinct items of each user, −1 where he has no more or one was drawn twice."""
        starts = self._dropped.starts
        begin = starts[users]
        there = starts[users + 1] - begin
        place = (self._random.random((len(users), self._count)) * there[:, None]).astype(np.int64)
        place.sort(axis=1)
        good = np.broadcast_to(there[:, None] > 0, place.shape).copy()
        good[:, 1:] &= place[:, 1:] != place[:, :-1]
        items = np.full(place.shape, -1, np.int64)
        items[good] = self._dropped.item[(begin[:, None] + place)[good]]
        return items
