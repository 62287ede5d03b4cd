"""Who has met what: (user, item) pairs, each once, in memory or in a file where a log is larger than that."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.data.attribution import rank_before
from tamis.data.on_disk import Appender, OnDisk, as_array, in_ranges
from tamis.data.picks import ranges

Pairs = Iterator[tuple[NDArray[Any], NDArray[Any]]]
"""Users and items [n] of some pairs at a time, in any order, a pair perhaps more than once."""


@dataclass(frozen=True, slots=True)
class KnownPairs:
    """item: [p] the items of one user after the other, ascending.   starts: [users + 1] where each one's begin.

    most: pairs that are read at once where `item` lies on disk.
    """

    item: NDArray[np.int32]
    starts: NDArray[np.int64]
    most: int = 0

    @staticmethod
    def of(user: NDArray[Any], item: NDArray[Any], users: int, items: int) -> "KnownPairs":
        """From users and items [n] below `users` and `items`."""
        pairs = distinct(user.astype(np.int64) * items + item)
        starts = np.searchsorted(pairs, np.arange(users + 1) * items)
        return KnownPairs((pairs % max(1, items)).astype(np.int32), starts)

    @staticmethod
    def on_disk(pairs: Callable[[], Pairs], users: int, items: int, files: tuple[Path, int]) -> "KnownPairs":
        """The same in a file, made without holding more than some of them. pairs: gives them anew at each call.

        files: the one to write, beside which others come and go; how many pairs may be sorted at once, or those of one
        user where he has more.
        """
        path, most = files
        counts = np.zeros(users, np.int64)
        for user, _ in pairs():
            counts += np.bincount(user, minlength=users)
        begins = np.array([first for first, _ in in_ranges(counts, most)])
        buckets = [Appender(path.with_name(f"{path.name}.{number}")) for number in range(len(begins))]
        for user, item in pairs():
            bucket = np.searchsorted(begins, user, "right") - 1
            order = np.argsort(bucket, kind="stable")
            ends = np.searchsorted(bucket[order], np.arange(len(buckets) + 1)).tolist()
            keys = (user.astype(np.int64) * items + item)[order]
            for number, file in enumerate(buckets):
                file.append(keys[ends[number] : ends[number + 1]])
        out, lengths = Appender(path).append(np.empty(0, np.int32)), np.zeros(users, np.int64)
        for file in buckets:
            keys = distinct(np.asarray(file.done()) if file.rows else np.empty(0, np.int64))
            file.path.unlink()
            out.append((keys % max(1, items)).astype(np.int32))
            lengths += np.bincount(keys // max(1, items), minlength=users)
        return KnownPairs(as_array(out.done()), np.append(0, np.cumsum(lengths)), most)

    def of_users(self, users: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(position in `users`, item) of every pair of theirs, by position."""
        begin = self.starts[users]
        counts = self.starts[users + 1] - begin
        row = np.repeat(np.arange(len(users)), counts)
        item: Any = self.item
        if not isinstance(item, OnDisk):
            return row, item[ranges(begin, counts)]
        runs = zip(begin.tolist(), (begin + counts).tolist(), strict=True)
        return row, np.concatenate([np.empty(0, np.int32), *(item[start:end] for start, end in runs)])

    def has(self, users: NDArray[Any], items: NDArray[Any]) -> NDArray[np.bool_]:
        """[n] True where user and item have met."""
        stored: Any = self.item
        if not isinstance(stored, OnDisk):
            return _among(stored, self.starts[users], self.starts[users + 1], items)
        asking, back = np.unique(users, return_inverse=True)
        out = np.zeros(len(users), np.bool_)
        for first, last in in_ranges(self.starts[asking + 1] - self.starts[asking], self.most):
            own = np.flatnonzero((back >= first) & (back < last))
            row, item = self.of_users(asking[first:last])
            starts = np.searchsorted(row, np.arange(last - first + 1))
            place = back[own] - first
            out[own] = _among(item, starts[place], starts[place + 1], items[own])
        return out


def distinct(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct keys, ascending. (np.unique hashes, and clustered keys such as these make it 50 times slower.)"""
    keys = np.sort(keys)
    return np.asarray(keys[np.diff(keys, prepend=-1) != 0])


def _among(
    item: NDArray[Any], low: NDArray[np.int64], high: NDArray[np.int64], wanted: NDArray[Any]
) -> NDArray[np.bool_]:
    """[n] True where item[low : high], which ascends, holds what is wanted."""
    place = rank_before(item, wanted, low, high)
    if not len(item):
        return np.zeros(len(wanted), np.bool_)
    return np.asarray((place < high) & (item[np.minimum(place, len(item) - 1)] == wanted))
