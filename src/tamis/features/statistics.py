"""How often things happened before a moment: exact, point in time, without a table per day.

For each action the event times are sorted by (entity, time) once; a count is the distance between two binary
searches. The same class gives the training rows, the evaluator's rows and the server's snapshot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tamis.types import ACTIONS

SPAN_SECONDS = float(1 << 33)  # 272 years: one entity's slot on the joint axis of (entity, time)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Event counts per entity (all users, or all items) and action, at any time.

    axis: action code → entity·SPAN + seconds since `origin`, sorted.   totals: events per action code, all entities.
    """

    origin: float
    axis: dict[int, NDArray[np.float64]]
    entities: int

    @classmethod
    def of(cls, entity: NDArray[Any], action: NDArray[np.uint8], time: NDArray[np.float64], entities: int) -> Self:
        """From event columns [e]; `entity` are numbers below `entities`."""
        origin = float(time.min()) if len(time) else 0.0
        axis = {}
        for code in np.unique(action):
            rows = action == code
            axis[int(code)] = np.sort(entity[rows] * SPAN_SECONDS + (time[rows] - origin))
        return cls(origin, axis, entities)

    def before(
        self, entity: NDArray[Any], time: NDArray[np.float64] | float, actions: Sequence[int] = range(len(ACTIONS))
    ) -> NDArray[np.float32]:
        """[n, len(ACTIONS)] events of each entity strictly before its time, for `actions`; 0 for all others.

        Times nearer than the resolution of the axis (about 10 ms at ten million entities) count as equal, so rounding
        can only hide an event, never reveal one.
        """
        low = entity * SPAN_SECONDS
        since = np.clip(np.asarray(time, np.float64) - self.origin, 0.0, SPAN_SECONDS - 1)
        out = np.zeros((len(entity), len(ACTIONS)), np.float32)
        for code in actions:
            axis = self.axis.get(code)
            if axis is not None:
                out[:, code] = np.searchsorted(axis, low + since, "left") - np.searchsorted(axis, low, "left")
        return out

    def totals(self) -> dict[int, int]:
        """Events per action code."""
        return {code: len(axis) for code, axis in self.axis.items()}


def refresh_time(time: NDArray[np.float64], refresh_hours: float) -> NDArray[np.float64]:
    """The last refresh of the statistics at or before each time: multiples of `refresh_hours` since the epoch."""
    step = refresh_hours * 3600
    return np.floor(np.asarray(time, np.float64) / step) * step


def log_rate(
    counts: NDArray[np.float32], per: NDArray[np.float32], overall: float, prior: float
) -> NDArray[np.float32]:
    """log of the smoothed rate over the overall rate: 0 for an entity without events, positive when better.

    log(((counts + prior·overall) / (per + prior)) / overall), overall in (0, 1].
    """
    rate = (counts + prior * overall) / (per + prior)
    return np.log(np.maximum(rate, 1e-12) / overall).astype(np.float32)
