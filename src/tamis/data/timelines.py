"""Timelines of all users on disk, for a log that does not fit into memory."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.data.dataset import Dataset
from tamis.data.on_disk import Appender, Room, as_array, in_ranges
from tamis.data.overview import Overview
from tamis.data.samples import Reach, Timeline

_ENTRY = 4 * 31  # bytes of an event while it is sorted into its timeline


class Kinds(NamedTuple):
    """[len(ACTIONS)] masks of actions. remembered: what a live timeline takes in.   history: what of it histories do.

    limit: entries that a live timeline holds.
    """

    remembered: NDArray[np.bool_]
    history: NDArray[np.bool_]
    limit: int


def timelines_on_disk(
    dataset: Dataset, until: float, overview: Overview, kinds: Kinds, room: Room
) -> tuple[Timeline, Reach]:
    """Those of histories and how far back they reach, made for as many users at a time as there is room for."""
    write = _Writer(room.folder, len(overview.remembered))
    codes = np.flatnonzero(kinds.remembered).tolist()
    for first, last in in_ranges(overview.remembered, room.rows(1 / 8, _ENTRY)):
        users = range(first, last)

        def theirs(events: Any, users: range = users) -> NDArray[np.bool_]:
            user = events["user"]
            return np.asarray(kinds.remembered[events["action"]] & (user >= users.start) & (user < users.stop))

        events = dataset.some(theirs, until=until, rows=room.rows(1 / 16, _ENTRY))
        write.append(Timeline.of(events, len(overview.remembered), codes), kinds.history)
    return write.done(np.append(0, np.cumsum(overview.remembered)), kinds.limit, room.rows(1 / 16, 1))


class _Writer:
    def __init__(self, folder: Path, users: int) -> None:
        self.files = {name: Appender(folder / f"timeline.{name}") for name in ("item", "action", "time")}
        self.times, self.chosen = (Appender(folder / f"remembered.{name}") for name in ("time", "chosen"))
        self.chosen.append(np.zeros(1, np.int64))
        self.counts = np.zeros(users, np.int64)

    def append(self, part: Timeline, history: NDArray[np.bool_]) -> None:
        """The timelines of some users more, of all that is remembered."""
        is_history = history[part.action]
        self.times.append(part.time)
        self.chosen.append(self.counts.sum() + np.cumsum(is_history))
        owner = np.repeat(np.arange(len(self.counts)), np.diff(part.starts))
        self.counts += np.bincount(owner[is_history], minlength=len(self.counts))
        for name, file in self.files.items():
            file.append(getattr(part, name)[is_history])

    def done(self, starts: NDArray[np.int64], limit: int, small: int) -> tuple[Timeline, Reach]:
        """starts: [users + 1] of all that is remembered.   small: an array of so few bytes is held as a whole."""
        arrays = [as_array(file.done(file.whole(small))) for file in (*self.files.values(), self.times, self.chosen)]
        timeline = Timeline(arrays[0], arrays[1], arrays[2], np.append(0, np.cumsum(self.counts)))
        none: Any = np.empty(0)  # of all that a live timeline holds only times are asked for
        return timeline, Reach(Timeline(none, none, arrays[3], starts), arrays[4], limit)
