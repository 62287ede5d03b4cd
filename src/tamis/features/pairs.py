"""Event counts of pairs (request's key, candidate's key): the statistics of a group at any time, for training rows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tamis.data.attribution import places_of
from tamis.data.dataset import Events, Requests
from tamis.features.encode import Encoder
from tamis.features.groups import ITEM, Group, key_of
from tamis.features.spec import Hour, Weekday
from tamis.features.statistics import VALUED, EventCounts, Statistics
from tamis.types import ACTIONS, Catalog, Features


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs that events have, numbered.

    requests: [g] the request's keys, ascending.   pairs: [p] place of the request's key · 2³² + candidate's key,
    ascending; a pair's place is its number.   Both None: one of the keys is always 0, and the other is the number.
    """

    statistics: EventCounts
    requests: NDArray[np.int64] | None = None
    pairs: NDArray[np.int64] | None = None

    @classmethod
    def of(
        cls,
        request: NDArray[np.int64],
        candidate: NDArray[np.int64],
        action: NDArray[np.uint8],
        time: NDArray[np.float64],
        value: NDArray[np.float32] | None = None,
    ) -> Self:
        """From the keys, actions and times of events, [e] each; an event with a key −1 counts for nothing.

        value: of the events; None where none of the statistics is made of them.
        """
        known = np.flatnonzero((request >= 0) & (candidate >= 0))
        requests, place = np.unique(request[known], return_inverse=True)
        pairs, number = np.unique((place << 32) + candidate[known], return_inverse=True)
        values = None if value is None else value[known]
        return cls(Statistics.of(number, action[known], time[known], len(pairs), values), requests, pairs)

    def number(self, request: NDArray[np.int64], candidate: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the numbers of pairs of keys, −1 for one without events or with a key −1."""
        if self.requests is None or self.pairs is None:
            return np.where((request < 0) | (candidate < 0), -1, request + candidate)
        if not len(self.pairs):
            return np.full(len(request), -1, np.int64)
        place = np.minimum(np.searchsorted(self.requests, request), len(self.requests) - 1)
        pair = (place << 32) + candidate
        number = np.minimum(np.searchsorted(self.pairs, pair), len(self.pairs) - 1)
        there = (self.requests[place] == request) & (candidate >= 0) & (self.pairs[number] == pair)
        return np.where(there, number, -1)

    def keys(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(request's, candidate's) key of every pair, by number. Not for the items' own events."""
        if self.requests is None or self.pairs is None:
            every = np.arange(self.statistics.entities)
            return every, np.zeros_like(every)
        return self.requests[self.pairs >> 32], self.pairs & 0xFFFFFFFF


def values_at(
    encoder: Encoder,
    group: Group,
    pairs: Pairs,
    keys: tuple[NDArray[np.int64], NDArray[np.int64]],
    time: NDArray[np.float64],
) -> NDArray[np.float32]:
    """[n, features] a group's statistics before each of the given times, which are refreshes and so are few.

    What rows have in common is counted once.   keys: (request's, candidate's) [n].
    """
    moments, moment = np.unique(time, return_inverse=True)
    asked, back = np.unique(pairs.number(*keys) * len(moments) + moment, return_inverse=True)
    number, moment = np.divmod(asked, max(1, len(moments)))
    counts = pairs.statistics.counts(number, moments[moment], group.actions, group.windows)
    return np.asarray(group.values(counts, encoder.learnt.totals)[back])


@dataclass(frozen=True, slots=True)
class EventKeys:
    """The keys that events have. users: static features, row = user number.   catalog: row = item number of the events.

    context_of: (events, column) → [e] codes of their requests' contexts, 0 where that is unknown.
    """

    encoder: Encoder
    users: Features
    catalog: Catalog
    context_of: Callable[[Events, int], NDArray[np.int32]]

    def of(self, group: Group, events: Events) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(request's, candidate's) key of each event, −1 = none.

        Hour and day are those of the event itself; the rest of the context is its request's.
        """
        layout = self.encoder.layout

        def column(source: str) -> NDArray[np.int64 | np.int32]:
            side, _, name = source.partition(".")
            if not name:
                return events.user if side == "user" else events.item
            start = layout.field(source).start
            if side == "user":
                return np.asarray(self.users.codes[:, start][events.user])
            if side == "item":
                every = np.arange(len(self.catalog))
                return np.asarray(self.catalog.column("codes", every)[:, start][events.item])
            feature = self.encoder.learnt.config.context[name]
            if isinstance(feature, Hour | Weekday):
                return self.encoder.ticks(name, feature, events.time)
            return self.context_of(events, start - self.users.codes.shape[1])

        request, candidate = (
            key_of(sources, layout, column, len(events)) for sources in (group.request, group.candidate)
        )
        return request, candidate


def pairs_of(encoder: Encoder, log: tuple[Events, Requests], users: Features, catalog: Catalog) -> dict[str, Pairs]:
    """Group name → its pairs, from all events; not of a user or an item alone, whose `Statistics` there are.

    users, catalog: see `EventKeys`.
    """
    events, requests = log

    @cache
    def contexts() -> NDArray[np.int32]:
        return context_codes(encoder, requests)

    def context_of(some: Events, column: int) -> NDArray[np.int32]:
        return np.asarray(contexts()[places_of(requests, some.request), column])

    keys = EventKeys(encoder, users, catalog, context_of)
    return {name: _pairs(keys, group, events) for name, group in of_pairs(encoder).items()}


def of_pairs(encoder: Encoder) -> dict[str, Group]:
    """The groups that are not of a user or an item alone."""
    return {name: group for name, group in encoder.groups.items() if name not in ("user", ITEM)}


def context_codes(encoder: Encoder, requests: Requests) -> NDArray[np.int32]:
    """[requests + 1, c] the codes of contexts; the last row is for events without a request."""
    moments = encoder.context(requests.time, list(requests.scene), requests.context.to_dict(as_series=False))
    return np.concatenate([moments.codes, np.zeros((1, moments.codes.shape[1]), np.int32)])


def counted(group: Group, action: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[e] True for the events that a group counts."""
    return np.isin(action, np.array(group.actions) % len(ACTIONS))


def _pairs(keys: EventKeys, group: Group, events: Events) -> Pairs:
    events = events.take(np.flatnonzero(counted(group, events.action)))
    value = events.value if max(group.actions) >= VALUED else None
    return Pairs.of(*keys.of(group, events), events.action, events.time, value)
