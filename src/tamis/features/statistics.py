"""How often things happened before a moment: exact, point in time, without a table per day.

For each action the events are sorted by (entity, time) once; a count is the distance between two binary searches. Times
are compared as their places among all distinct event times, whole numbers that no rounding can bring together. The same
class gives the training rows, the evaluator's rows and the server's snapshot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tamis.types import ACTIONS

VALUED: Final = len(ACTIONS)
"""Plus an action's code: the code of those of its events that have a value above 0."""
SUMS: Final = 2 * len(ACTIONS)
"""Plus an action's code: the column of their sum, in units of 1 / `UNITS`."""
UNITS: Final = 1024
"""Values are added as whole numbers of 1 / UNITS: such a sum does not depend on what else is added up around it."""
_MOST: Final = 1e9  # a value beyond counts as that

Counts = Mapping[float, NDArray[np.float32]]
"""Window in hours (0 = all so far) → [n, len(ACTIONS)] events; with values [n, 3 · len(ACTIONS)], see `SUMS`."""


class EventCounts(Protocol):
    """How often things happened before a moment; see `Statistics` for the meaning of each."""

    @property
    def entities(self) -> int: ...

    def counts(
        self,
        entity: NDArray[Any],
        time: NDArray[np.float64] | float,
        actions: Sequence[int] = ...,
        windows: Sequence[float] = ...,
    ) -> Counts: ...

    def before(
        self, entity: NDArray[Any], time: NDArray[np.float64] | float, actions: Sequence[int] = ...
    ) -> NDArray[np.float32]: ...

    def totals(self) -> dict[int, int]: ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """Event counts per entity (all users, or all items) and action, at any time.

    moments: the distinct event times, ascending; one with place p has p earlier ones.
    axis: action code → entity · (moments + 1) + place of the event's time, sorted.
    sums: code from `VALUED` on → [1 + its events] the sum of the values of the first so many on its axis.
    """

    moments: NDArray[np.float64]
    axis: dict[int, NDArray[np.int64]]
    entities: int
    sums: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        entity: NDArray[Any],
        action: NDArray[np.uint8],
        time: NDArray[np.float64],
        entities: int,
        value: NDArray[np.float32] | None = None,
    ) -> Self:
        """From event columns [e]; `entity` are numbers below `entities`.   value: None = only events are counted."""
        moments = np.sort(time)
        moments = moments[np.append(True, moments[1:] != moments[:-1])] if len(moments) else moments
        key = entity.astype(np.int64) * (len(moments) + 1) + np.searchsorted(moments, time)
        axis = {int(code): np.sort(key[action == code]) for code in np.unique(action)}
        sums: dict[int, NDArray[np.int64]] = {}
        if value is not None:
            for code in np.unique(action[value > 0]).tolist():
                chosen = np.flatnonzero((action == code) & (value > 0))
                chosen = chosen[np.argsort(key[chosen], kind="stable")]
                axis[VALUED + code] = key[chosen]
                sums[VALUED + code] = np.append(0, np.cumsum(units_of(value[chosen])))
        return cls(moments, axis, entities, sums)

    def counts(
        self,
        entity: NDArray[Any],
        time: NDArray[np.float64] | float,
        actions: Sequence[int] = range(len(ACTIONS)),
        windows: Sequence[float] = (0.0,),
    ) -> Counts:
        """Events of each entity strictly before its time, of `actions`; 0 for all others.

        actions: action codes; `VALUED` + code asks for the events that have a value and for the sum of these.
        windows: only events of so many hours before the time, those right at its begin included; 0 = all so far.
        An entity without a number (−1) has none.
        """
        return self._filled(entity, time, (actions, windows), np.dtype(np.float32))

    def exact(
        self, entity: NDArray[Any], time: NDArray[np.float64] | float, actions: Sequence[int]
    ) -> NDArray[np.int64]:
        """All events so far as whole numbers; see `counts`."""
        return self._filled(entity, time, (actions, (0.0,)), np.dtype(np.int64))[0.0]

    def _filled(
        self,
        entity: NDArray[Any],
        time: NDArray[np.float64] | float,
        asked: tuple[Sequence[int], Sequence[float]],
        kind: np.dtype[Any],
    ) -> dict[float, NDArray[Any]]:
        actions, windows = asked
        first = entity.astype(np.int64) * (len(self.moments) + 1)
        end = first + np.searchsorted(self.moments, time)
        begins = {
            hours: first + np.searchsorted(self.moments, time - hours * 3600) if hours else first for hours in windows
        }
        out = {hours: np.zeros((len(entity), width_of(actions)), kind) for hours in windows}
        for code in actions:
            axis = self.axis.get(code)
            if axis is not None:
                until = np.searchsorted(axis, end)
                for hours, begin in begins.items():
                    since = np.searchsorted(axis, begin)
                    out[hours][:, code] = until - since
                    if code in self.sums:
                        out[hours][:, SUMS - VALUED + code] = self.sums[code][until] - self.sums[code][since]
        return out

    def before(
        self, entity: NDArray[Any], time: NDArray[np.float64] | float, actions: Sequence[int] = range(len(ACTIONS))
    ) -> NDArray[np.float32]:
        """[n, len(ACTIONS)] all events of each entity strictly before its time; see `counts`."""
        return self.counts(entity, time, actions)[0.0]

    def totals(self) -> dict[int, int]:
        """Events per action code, and what their values sum up to under `SUMS` + code."""
        sums = {SUMS - VALUED + code: int(total[-1]) for code, total in self.sums.items()}
        return {code: len(axis) for code, axis in self.axis.items()} | sums


def units_of(value: NDArray[np.float32]) -> NDArray[np.int64]:
    """[n] values as whole numbers of 1 / `UNITS`."""
    units: NDArray[np.float64] = np.rint(np.minimum(value.astype(np.float64), _MOST) * UNITS)
    return units.astype(np.int64)


def width_of(actions: Sequence[int]) -> int:
    """How many columns `Counts` of these codes have."""
    return len(ACTIONS) * (3 if max(actions, default=0) >= VALUED else 1)


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


def mean_shift(n: NDArray[np.float32], units: NDArray[np.float32], overall: float, prior: float) -> NDArray[np.float32]:
    """The smoothed mean of n values minus the overall one, (sum − n·overall) / (n + prior).   units: their sum."""
    shift: NDArray[np.float32] = (units / UNITS - n * overall) / (n + prior)
    return shift
