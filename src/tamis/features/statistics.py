"""How often things happened before a moment: exact, point in time, without a table per day.

For each action the events are sorted by (entity, time) once; a count is the distance between two binary searches. Times
are compared as their places among all distinct event times, whole numbers that no rounding can bring together. The same
class gives the training rows, the evaluator's rows and the server's snapshot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tamis.types import ACTIONS

Counts = Mapping[float, NDArray[np.float32]]
"""Window in hours (0 = all so far) → [n, len(ACTIONS)] events."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Event counts per entity (all users, or all items) and action, at any time.

    moments: the distinct event times, ascending; one with place p has p earlier ones.
    axis: action code → entity · (moments + 1) + place of the event's time, sorted.
    """

    moments: NDArray[np.float64]
    axis: dict[int, NDArray[np.int64]]
    entities: int

    @classmethod
    def of(cls, entity: NDArray[Any], action: NDArray[np.uint8], time: NDArray[np.float64], entities: int) -> Self:
        """From event columns [e]; `entity` are numbers below `entities`."""
        moments = np.sort(time)
        moments = moments[np.append(True, moments[1:] != moments[:-1])] if len(moments) else moments
        key = entity.astype(np.int64) * (len(moments) + 1) + np.searchsorted(moments, time)
        axis = {int(code): np.sort(key[action == code]) for code in np.unique(action)}
        return cls(moments, axis, entities)

    def counts(
        self,
        entity: NDArray[Any],
        time: NDArray[np.float64] | float,
        actions: Sequence[int] = range(len(ACTIONS)),
        windows: Sequence[float] = (0.0,),
    ) -> Counts:
        """Events of each entity strictly before its time, of `actions`; 0 for all others.

        windows: only events of so many hours before the time, those right at its begin included; 0 = all so far.
        An entity without a number (−1) has none.
        """
        first = entity.astype(np.int64) * (len(self.moments) + 1)
        end = first + np.searchsorted(self.moments, time)
        begins = {
            hours: first + np.searchsorted(self.moments, time - hours * 3600) if hours else first for hours in windows
        }
        out = {hours: np.zeros((len(entity), len(ACTIONS)), np.float32) for hours in windows}
        for code in actions:
            axis = self.axis.get(code)
            if axis is not None:
                until = np.searchsorted(axis, end)
                for hours, begin in begins.items():
                    out[hours][:, code] = until - np.searchsorted(axis, begin)
        return out

    def before(
        self, entity: NDArray[Any], time: NDArray[np.float64] | float, actions: Sequence[int] = range(len(ACTIONS))
    ) -> NDArray[np.float32]:
        """[n, len(ACTIONS)] all events of each entity strictly before its time; see `counts`."""
        return self.counts(entity, time, actions)[0.0]

    def totals(self) -> dict[int, int]:
        """Events per action code."""
        return {code: len(axis) for code, axis in self.axis.items()}


def refresh_time(time: NDArray[np.float64], refresh_hours: float, offset_hours: float = 0.0) -> NDArray[np.float64]:
    """The last refresh at or before each time, for training rows: multiples of `refresh_hours` since the epoch.

    offset_hours: the epoch's day began so many hours before UTC's.
    """
    step, offset = refresh_hours * 3600, offset_hours * 3600
    return np.floor((np.asarray(time, np.float64) + offset) / step) * step - offset


def log_rate(
    counts: NDArray[np.float32], per: NDArray[np.float32], overall: float, prior: float
) -> NDArray[np.float32]:
    """log of the smoothed rate over the overall rate: 0 for an entity without events, positive when better.

    log(((counts + prior·overall) / (per + prior)) / overall), overall in (0, 1].
    """
    rate = (counts + prior * overall) / (per + prior)
    return np.log(np.maximum(rate, 1e-12) / overall).astype(np.float32)
