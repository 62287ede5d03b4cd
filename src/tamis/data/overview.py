"""How much a log holds of what, learnt by reading it once: sums per user, item and minute, never an event."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tamis.data.dataset import Dataset
from tamis.types import ACTIONS, Action


@dataclass(frozen=True)
class Overview:
    """Of all events before a moment.

    totals: [len(ACTIONS)] events.   by_user: [users] events.   by_item: [items] events.
    remembered: [users] events of some kinds, the entries of live timelines.
    first_seen: [items] when each item's first event was, inf = never.
    minutes: [m, 2] minute since the epoch, its events; ascending, only minutes with events.
    loose_pages: pages of impressions that name no request, about.
    """

    totals: NDArray[np.int64]
    by_user: NDArray[np.int64]
    by_item: NDArray[np.int64]
    remembered: NDArray[np.int64]
    first_seen: NDArray[np.float64]
    minutes: NDArray[np.int64]
    loose_pages: int

    @staticmethod
    def of(dataset: Dataset, until: float, remembered: NDArray[np.bool_], rows: int) -> "Overview":
        """remembered: [len(ACTIONS)] the kinds that a live timeline takes in.   rows: events read at once."""
        users, items = len(dataset.users), len(dataset.items)
        totals = np.zeros(len(ACTIONS), np.int64)
        by_user, kept, by_item = (np.zeros(count, np.int64) for count in (users, users, items))
        first_seen = np.full(items, np.inf)
        minutes: dict[int, int] = {}
        pages = 0
        for events in dataset.pieces(("user", "item", "action", "request"), None, until, rows=rows):
            totals += np.bincount(events["action"], minlength=len(ACTIONS))
            by_user += np.bincount(events["user"], minlength=users)
            by_item += np.bincount(events["item"], minlength=items)
            kept += np.bincount(events["user"][remembered[events["action"]]], minlength=users)
            np.minimum.at(first_seen, events["item"], events["time"])
            loose = (events["action"] == Action.IMPRESSION) & (events["request"] < 0)
            user, time = events["user"][loose], events["time"][loose]
            pages += int(((user[1:] != user[:-1]) | (time[1:] != time[:-1])).sum()) + bool(len(user))
            minute, count = np.unique((events["time"] // 60).astype(np.int64), return_counts=True)
            for at, more in zip(minute.tolist(), count.tolist(), strict=True):
                minutes[at] = minutes.get(at, 0) + more
        every = np.array(sorted(minutes.items()), np.int64).reshape(-1, 2)
        return Overview(totals, by_user, by_item, kept, first_seen, every, pages)

    @cached_property
    def first(self) -> float:
        """When the first event was, inf without any."""
        return float(self.first_seen.min(initial=np.inf))

    @cached_property
    def all_of(self) -> dict[int, int]:
        """Events by action code, only codes that occur."""
        return {code: count for code, count in enumerate(self.totals.tolist()) if count}

    def since(self, moment: float) -> int:
        """Events from a moment on, those of its minute included."""
        return int(self.minutes[self.minutes[:, 0] * 60 >= moment, 1].sum())

    def cuts(self, most: int) -> list[float]:
        """Moments that cut the log into pieces of about `most` events, whole minutes."""
        part = (np.cumsum(self.minutes[:, 1]) - 1) // most
        cuts: list[float] = (self.minutes[np.flatnonzero(np.diff(part)) + 1, 0] * 60.0).tolist()
        return cuts
