"""Event counts of pairs while a log is gone through in the order of time: a table for each group, one row per pair.

Pairs are few where one side is a category, and nearly as many as events where both are a user's and an item's own. So
nothing is said of kinds: they are counted first, and refused where there are more than there is memory for.

An event's context is that of its request where that was on the same day or the day before, else it is unknown.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tamis.data.attribution import places_of
from tamis.data.dataset import DAY_SECONDS, Dataset, Events, Requests
from tamis.data.known import distinct
from tamis.errors import ConfigError
from tamis.features.as_of import Columns, Counting, Running, Who
from tamis.features.encode import Encoder
from tamis.features.groups import Group
from tamis.features.pairs import EventKeys, Pairs, context_codes, counted, of_pairs
from tamis.features.statistics import VALUED, Statistics


class Contexts:
    """Contexts of the requests of events that are near to each other in time."""

    def __init__(self, dataset: Dataset, encoder: Encoder) -> None:
        self._dataset, self._encoder = dataset, encoder
        self._days = (0.0, 0.0)
        self._near = Requests.none(), np.empty((0, 0), np.int32)

    def of(self, events: Events, column: int) -> NDArray[np.int32]:
        """See `EventKeys.context_of`."""
        if not len(events):
            return np.empty(0, np.int32)
        first, last = (float(time // DAY_SECONDS) for time in (events.time.min(), events.time.max()))
        days = (first - 1) * DAY_SECONDS, (last + 1) * DAY_SECONDS
        if days != self._days:
            requests = self._dataset.requests(*days)
            self._days, self._near = days, (requests, context_codes(self._encoder, requests))
        requests, codes = self._near
        return np.asarray(codes[places_of(requests, events.request), column])


@dataclass(frozen=True, slots=True)
class PairCounting:
    """What a reader takes along of each group of pairs: their numbers, and tables that move on."""

    numbered: Mapping[str, Pairs]
    counting: Mapping[str, Counting]

    @staticmethod
    def of(dataset: Dataset, keys: EventKeys, whole: tuple[float, float], room: tuple[float, int]) -> "PairCounting":
        """The pairs of the log from its first moment to its end (`whole`), none counted yet.

        room: bytes for all tables, events read at once. Raises ConfigError for a group with more pairs than fit.
        """
        (first, until), (bytes_, piece) = whole, room
        groups = of_pairs(keys.encoder)
        numbered, counting = {}, {}
        for name, group in groups.items():
            pairs = _numbered(keys, group, partial(_pieces, dataset, until, piece), int(bytes_ / _bytes(group)))
            bytes_ -= pairs.statistics.entities * _bytes(group)
            who = {name: Who(pairs.statistics.entities, partial(_number, keys, group, pairs), Events.__slots__)}
            running = partial(Running, dataset, who, group.actions, piece)
            numbered[name], counting[name] = pairs, Counting(running, _windows(group), first)
        return PairCounting(numbered, counting)

    def at(self, refreshed: float) -> dict[str, Pairs]:
        """Group name → its pairs as of that refresh, which may not lie before the last one that was asked for."""
        made, none = {}, Events.joined([])
        for name, counting in self.counting.items():
            counting.advance(refreshed, refreshed)
            made[name] = replace(self.numbered[name], statistics=counting.as_of(name, none, {}))
        return made


def _pieces(dataset: Dataset, until: float, rows: int) -> Iterator[Events]:
    for columns in dataset.pieces(Events.__slots__, None, until, rows=rows):
        yield Events(**columns)


def _windows(group: Group) -> list[float]:
    return sorted({0.0, *group.windows})


def _number(keys: EventKeys, group: Group, pairs: Pairs, events: Columns) -> NDArray[np.int64]:
    return pairs.number(*keys.of(group, Events(**events)))


def _bytes(group: Group) -> int:
    """Of a pair: its keys, and its rows of all tables."""
    valued = sum(code >= VALUED for code in group.actions)
    return 16 + (4 * len(group.actions) + 8 * valued) * (len(_windows(group)) + 1)


def _numbered(keys: EventKeys, group: Group, pieces: Callable[[], Iterator[Events]], most: int) -> Pairs:
    """The pairs that a group counts, of which there may be `most`; see `Pairs`."""
    requests = pairs = np.empty(0, np.int64)
    for events in pieces():
        requests = _joined(requests, _known(keys, group, events)[0], group, most)
    for events in pieces():
        request, candidate = _known(keys, group, events)
        pairs = _joined(pairs, (np.searchsorted(requests, request) << 32) + candidate, group, most)
    none = Statistics.of(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0), len(pairs))
    return Pairs(none, requests, pairs)


def _known(keys: EventKeys, group: Group, events: Events) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    request, candidate = keys.of(group, events.take(np.flatnonzero(counted(group, events.action))))
    known = (request >= 0) & (candidate >= 0)
    return request[known], candidate[known]


def _joined(old: NDArray[np.int64], new: NDArray[np.int64], group: Group, most: int) -> NDArray[np.int64]:
    both = distinct(np.append(old, distinct(new)))
    if len(both) > most:
        raise ConfigError(
            f"train.memory_gib: the statistic {group.name!r} has more than {most:,} pairs, whose counts do not fit; "
            "wanted a larger memory_gib, or a statistic of what has fewer values"
        )
    return both
