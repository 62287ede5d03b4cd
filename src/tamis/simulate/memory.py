"""What a user has in mind at a moment: the last impressions, which tire, and the last clicks, which invite more.

The same moment can be had in two ways: `Memory` carries it forward while a world runs; `Diary` looks it up for any
time in a finished log.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SHOWN: Final = 300  # impressions that a user remembers
CLICKED: Final = 6  # clicks that a user remembers


@dataclass(frozen=True, slots=True)
class Recent:
    """The memory of r users at one moment each; −1 = empty place."""

    shown: NDArray[np.int32]  # [r, SHOWN]
    clicked: NDArray[np.int32]  # [r, CLICKED]
    clicked_at: NDArray[np.float64]  # [r, CLICKED] seconds since the epoch

    @classmethod
    def nothing(cls, count: int) -> "Recent":
        """The memory of `count` users to whom nothing was shown yet."""
        return Memory.empty(count).recent(np.arange(count))

    def times_shown(self, items: NDArray[Any]) -> NDArray[np.int64]:
        """[r, n] how often each of `items` [r, n] (valid numbers) is among the remembered impressions of its row."""
        if items.shape[1] <= self.shown.shape[1]:
            return np.asarray(np.count_nonzero(items[:, :, None] == self.shown[:, None, :], axis=2))
        # For whole catalogues, counting every item of a row once is far less work than comparing all pairs.
        stride = int(max(items.max(initial=0), self.shown.max(initial=0))) + 2
        rows = np.arange(len(items))[:, None] * stride + 1
        counts = np.bincount((rows + self.shown).ravel(), minlength=len(items) * stride)
        return np.asarray(counts[rows + items])


@dataclass(slots=True)
class Memory:
    """The memory of all users as it changes while the world runs: rings that overwrite their oldest entry."""

    shown: NDArray[np.int32]  # [u, SHOWN]
    clicked: NDArray[np.int32]  # [u, CLICKED]
    clicked_at: NDArray[np.float64]  # [u, CLICKED]
    shown_next: NDArray[np.int64]  # [u] place of the next entry
    clicked_next: NDArray[np.int64]  # [u]

    @classmethod
    def empty(cls, users: int) -> "Memory":
        """The memory of users to whom nothing was shown yet."""
        return cls(
            np.full((users, SHOWN), -1, np.int32),
            np.full((users, CLICKED), -1, np.int32),
            np.zeros((users, CLICKED)),
            np.zeros(users, np.int64),
            np.zeros(users, np.int64),
        )

    def copy(self) -> "Memory":
        """The same memory, to be carried on apart from this one."""
        return Memory(*(getattr(self, name).copy() for name in self.__slots__))

    def recent(self, users: NDArray[Any]) -> Recent:
        """What the given users have in mind now."""
        return Recent(self.shown[users], self.clicked[users], self.clicked_at[users])

    def remember(self, users: NDArray[Any], items: NDArray[Any], outcomes: Mapping[str, NDArray[Any]]) -> None:
        """Take in one page for each of some *distinct* users: items [r, n] (−1 = no item) and what came of them."""
        for column in range(items.shape[1]):
            seen = items[:, column] >= 0
            who = users[seen]
            self.shown[who, self.shown_next[who] % SHOWN] = items[seen, column]
            self.shown_next[who] += 1
            chosen = seen & outcomes["click"][:, column]
            who = users[chosen]
            place = self.clicked_next[who] % CLICKED
            self.clicked[who, place] = items[chosen, column]
            self.clicked_at[who, place] = outcomes["time"][chosen, column]
            self.clicked_next[who] += 1


@dataclass(frozen=True, slots=True)
class Diary:
    """A finished log by user and time, so that the memory of any moment can be looked up.

    Each column ends with one entry of item −1, so that row −1 reads as "nothing".
    """

    start_time: float
    end_time: float
    shown: NDArray[np.int32]  # [impressions + 1] items, by user, then time
    shown_keys: NDArray[np.int64]  # [impressions + 1] user and milliseconds in one ascending number
    clicked: NDArray[np.int32]  # [clicks + 1]
    clicked_at: NDArray[np.float64]  # [clicks + 1]
    clicked_keys: NDArray[np.int64]  # [clicks + 1]

    @classmethod
    def of(
        cls,
        span: tuple[float, float],
        shown: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
        clicked: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    ) -> "Diary":
        """The diary of a log from span[0] to span[1]; shown and clicked: users, items and times, in order of time.

        What happened after the log, such as a click on its last page, is not in it.
        """
        columns: list[NDArray[Any]] = []
        for every in (shown, clicked):
            users, items, times = (column[every[2] <= span[1]] for column in every)
            keys = _keys(users, times, span)
            order = np.argsort(keys, kind="stable")
            columns += [
                np.append(items[order], -1).astype(np.int32),
                np.append(times[order], 0.0),
                np.append(keys[order], np.iinfo(np.int64).max),
            ]
        return cls(*span, columns[0], columns[2], columns[3], columns[4], columns[5])

    def recent(self, users: NDArray[Any], times: NDArray[np.float64]) -> Recent:
        """What each user [r] had in mind at its time [r]: all that happened strictly before."""
        span = (self.start_time, self.end_time)
        until = _keys(users, np.clip(times, *span), span)
        since = _keys(users, np.full(len(times), self.start_time), span)
        shown = _last(self.shown_keys, since, until, SHOWN)
        clicked = _last(self.clicked_keys, since, until, CLICKED)
        return Recent(self.shown[shown], self.clicked[clicked], self.clicked_at[clicked])


def _keys(users: NDArray[Any], times: NDArray[Any], span: tuple[float, float]) -> NDArray[np.int64]:
    milliseconds = np.round((times - span[0]) * 1000).astype(np.int64)
    return users.astype(np.int64) * round((span[1] - span[0]) * 1000 + 1) + milliseconds


def _last(keys: NDArray[np.int64], since: NDArray[np.int64], until: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """[r, count] rows of the last `count` keys in [since, until), newest first; −1 where there are fewer."""
    first, end = np.searchsorted(keys, since), np.searchsorted(keys, until)
    rows = end[:, None] - 1 - np.arange(count)
    return np.where(rows < first[:, None], -1, rows)
