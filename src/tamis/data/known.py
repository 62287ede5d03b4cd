"""Who has met what: (user, item) pairs, each once, in memory or in files where a log is larger than that."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.data.attribution import rank_before
from tamis.data.on_disk import Appender, OnDisk, as_array, in_ranges
from tamis.data.picks import ranges
from tamis.data.samples import Samples

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
        pairs = _distinct(user.astype(np.int64) * items + item)
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
            keys = _distinct(np.asarray(file.done()) if file.rows else np.empty(0, np.int64))
            file.path.unlink()
            out.append((keys % max(1, items)).astype(np.int32))
            lengths += np.bincount(keys // max(1, items), minlength=users)
        return KnownPairs(as_array(out.done()), np.append(0, np.cumsum(lengths)), most)

    def of_users(self, users: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(position in `users`, item) of every pair of theirs, by position."""
        begin = self.starts[users]
        counts = self.starts[users + 1] - begin
        row = np.repeat(np.arange(len(users)), counts)
        if not isinstance(self.item, OnDisk):
            return row, self.item[ranges(begin, counts)]
        runs = zip(begin.tolist(), (begin + counts).tolist(), strict=True)
        return row, np.concatenate([np.empty(0, np.int32), *(self.item[start:end] for start, end in runs)])

    def has(self, users: NDArray[Any], items: NDArray[Any]) -> NDArray[np.bool_]:
        """[n] True where user and item have met."""
        if not isinstance(self.item, OnDisk):
            return _among(self.item, self.starts[users], self.starts[users + 1], items)
        asking, back = np.unique(users, return_inverse=True)
        out = np.zeros(len(users), np.bool_)
        for first, last in in_ranges(self.starts[asking + 1] - self.starts[asking], self.most):
            own = np.flatnonzero((back >= first) & (back < last))
            row, item = self.of_users(asking[first:last])
            starts = np.searchsorted(row, np.arange(last - first + 1))
            place = back[own] - first
            out[own] = _among(item, starts[place], starts[place + 1], items[own])
        return out


def known_pairs(samples: Samples, items: int) -> KnownPairs:
    """All pairs that the samples and the histories behind them hold. Beside the samples where those lie on disk."""
    timeline, shown = samples.timeline, samples.item
    users = len(timeline.starts) - 1
    if isinstance(shown, OnDisk):
        most = int(np.diff(shown.windows).max(initial=1))
        file = shown.path.with_name(f"{shown.path.name}.known")
        return KnownPairs.on_disk(lambda: _pieces(samples, most), users, items, (file, most))
    pieces = list(_pieces(samples, max(1, len(shown), len(timeline.item))))
    user, item = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    return KnownPairs.of(user, item, max(int(user.max(initial=-1)) + 1, users), items)


def _pieces(samples: Samples, most: int) -> Pairs:
    """The pairs of about `most` rows at a time."""
    counts = np.diff(samples.first)
    end = -np.inf
    for first, last in in_ranges(counts, most):
        rows = slice(int(samples.first[first]), int(samples.first[last]))
        end = max(end, float(samples.time[first:last].max(initial=-np.inf)))
        yield np.repeat(samples.user[first:last], counts[first:last]), samples.item[rows]
    timeline = samples.timeline
    for start in range(0, len(timeline.item), most):
        part = slice(start, start + most)
        past = timeline.time[part] < end  # what came later must not shape the training
        owner = np.searchsorted(timeline.starts, np.arange(*part.indices(len(timeline.item))), "right") - 1
        yield owner[past], timeline.item[part][past]
    gone_user, gone_item = samples.before
    for start in range(0, len(gone_user), most):
        yield gone_user[start : start + most], gone_item[start : start + most]


def _distinct(keys: NDArray[np.int64]) -> NDArray[np.int64]:
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
