"""Negatives for logs without impressions.

Rule. For a positive event at time t, items are drawn with probability proportional to (events + 1) ** power, events
counted over the log at hand, among the items that were there at t (published or first seen in the log by then) and
that the user has no event with anywhere in the log. Draws of one request are distinct. Where after some rounds of
drawing again too few are left to find, the request has fewer negatives. (Power 0.75: Mikolov et al., 2013.)

Popular negatives teach more than even ones, but they also make popular items look worse than they are: with draws in
proportion to q, a row's log-odds are those of even draws minus ln(q · items). That term is known, so it is added to
what a net says while it trains (`Popularity.log_odds`), and what the net has learnt then is free of it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tamis.data.dataset import Events
from tamis.data.known import KnownPairs, distinct

_ROUNDS: Final = 30


def there_since(events: Events, published: NDArray[np.float64]) -> NDArray[np.float64]:
    """[i] when each item came to be there: published or first in an event, the earlier of both; inf = neither.

    Where nothing says when an item was published, it may have been there before its first event. It then counts as
    there from that event on: a negative is left out rather than taken from the future.

    published: [i] seconds, NaN = unknown.
    """
    items = max(len(published), int(events.item.max(initial=-1)) + 1)
    since = np.full(items, np.inf)
    since[: len(published)] = np.where(np.isnan(published), np.inf, published)
    np.minimum.at(since, events.item, events.time)
    return since


@dataclass(frozen=True, slots=True)
class Popularity:
    """Items by the time they came to be there, with the running sum of their weights: a prefix is what was there."""

    item: NDArray[np.int64]  # [i] by ascending `since`
    since: NDArray[np.float64]  # [i] when the item was published or first seen, the earlier of both
    total: NDArray[np.float64]  # [i] running sum of the weights

    @staticmethod
    def of(events: Events, published: NDArray[np.float64], power: float) -> "Popularity":
        """Weights and times of all items. An item neither published nor seen is never there.

        published: [i] seconds, NaN = unknown.
        """
        since = there_since(events, published)
        return Popularity.of_counts(np.bincount(events.item, minlength=len(since)), since, power)

    @staticmethod
    def of_counts(counts: NDArray[np.int64], since: NDArray[np.float64], power: float) -> "Popularity":
        """From the events of each item [i], and when it came to be there, inf = never."""
        weight = (counts + 1.0) ** power
        order = np.argsort(since, kind="stable")
        return Popularity(order, since[order], np.cumsum(weight[order]))

    def draw(self, times: NDArray[np.float64], random: NDArray[np.float64]) -> NDArray[np.int64]:
        """[q] an item that was there at each time, −1 where none was. random: [q] uniform in [0, 1)."""
        there = np.searchsorted(self.since, times, "right")
        total = np.where(there > 0, self.total[np.maximum(there - 1, 0)], 0.0)
        place = np.searchsorted(self.total, random * total, "right")
        return np.where(there > 0, self.item[np.minimum(place, np.maximum(there - 1, 0))], -1)

    def log_odds(self, items: NDArray[np.int32], times: NDArray[np.float64]) -> NDArray[np.float32]:
        """[n] what drawing by weight instead of evenly adds to the log-odds of an item's row: −ln(q · items there)."""
        place = np.empty(len(self.item), np.int64)
        place[self.item] = np.arange(len(place))
        weight = np.diff(self.total, prepend=0.0)[place[items]]
        there = np.maximum(np.searchsorted(self.since, times, "right"), 1)
        odds: NDArray[np.float64] = np.log(self.total[there - 1] / (weight * there))
        return odds.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Drawing:
    """What negatives are drawn by. met: who has an event with what anywhere in the log."""

    popularity: Popularity
    met: KnownPairs

    @staticmethod
    def of(events: Events, published: NDArray[np.float64], power: float) -> "Drawing":
        """From a whole log; see `Popularity.of`."""
        popularity = Popularity.of(events, published, power)
        users = int(events.user.max(initial=-1)) + 1
        return Drawing(popularity, KnownPairs.of(events.user, events.item, users, len(popularity.item)))


def draw_negatives(
    users: NDArray[np.int32], times: NDArray[np.float64], drawing: Drawing, count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Up to `count` negatives for each of q requests: (the request's place in `users`, item), by request.

    Same seed, same draws.
    """
    generator, popularity = np.random.default_rng(seed), drawing.popularity
    items = len(popularity.item)
    owner = np.repeat(np.arange(len(users), dtype=np.int64), count)
    found = np.empty(0, np.int64)  # owner · items + item, ascending
    for _ in range(_ROUNDS):
        if not len(owner):
            break
        item = popularity.draw(times[owner], generator.random(len(owner)))
        pair = owner * items + item
        good = (item >= 0) & ~drawing.met.has(users[owner], item) & ~_has(found, pair)
        found = distinct(np.concatenate([found, pair[good]]))
        missing = count - np.bincount(found // items, minlength=len(users))
        owner = np.repeat(np.arange(len(users), dtype=np.int64), missing)
    return found // items, (found % items).astype(np.int32)


def _has(ascending: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(keys), np.bool_)
    place = np.minimum(np.searchsorted(ascending, keys), len(ascending) - 1)
    return np.asarray(ascending[place] == keys)
