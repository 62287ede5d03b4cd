"""Lists of items by a key of theirs (category, keyword, city, cell of the map, author), the best first.

    fit         the column of keys  →  key → items by goodness · 2^(−age / half-life)
    request     seeds (keys with weights)  →  the first open items of each list, and of the items published since

All items fade alike, so their order never changes: log2 goodness + publish time / half-life is a worth that can be
sorted by once, and that a fresh item has too. Lists are never scanned, and the fresh items, which are few, are sorted
into lists of their own once for each snapshot of the catalogue.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import Config, NotNegative
from tamis.data.dataset import DAY_SECONDS
from tamis.errors import ArtifactError
from tamis.facts import load_facts, save_facts
from tamis.features.geohash import shorter
from tamis.features.inputs import Inputs
from tamis.merge import empty_slots
from tamis.recall.ascending import rows_among
from tamis.recall.neighbours import best, place_of
from tamis.types import ACTION_CODE, Action, Candidates, Catalog, Query

Column = Literal["author", "category", "city", "keywords", "geohash"]

LONGEST: Final = 2000  # items of one list; more than that nobody reads before the next bundle
FRESH: Final = 10_000  # of the items published since the bundle, the last so many are looked at
_FACTS_FILE: Final = "lists.json"


class OrderConfig(Config, frozen=True):
    """What makes an item of a list good, and how it ages."""

    half_life_days: NotNegative = 7.0  # an item this much older counts half; 0 = newest first, whatever else
    prior: NotNegative = 30.0  # impressions at the average rate that every item is given besides its own
    least_quality: float = 0.0  # items whose column `quality` is lower are in no list; unknown counts as good


class Key(Config, frozen=True):
    """The column that lists are made by. length: characters of a cell of the map; 0 for other columns."""

    column: Column
    length: int = 0

    def of(self, catalog: Catalog, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n, w] the keys of items; 0 is none."""
        keys = catalog.column(self.column, items)
        keys = shorter(keys, self.length) if self.length else keys
        return keys if keys.ndim > 1 else keys[:, None]


class Seeds(NamedTuple):
    """Keys that items are wanted of: keys [m] distinct, weights [m] > 0."""

    keys: NDArray[np.int64]
    weights: NDArray[np.float64]


class _Facts(Config, frozen=True):
    """What lists were made of. known: items there were."""

    key: Key
    order: OrderConfig
    known: int


@dataclass(frozen=True, slots=True)
class Lists:
    """keys [m] ascending; the items of keys[j] are items[starts[j] : starts[j + 1]], by falling worth."""

    facts: _Facts
    keys: NDArray[np.int64]
    starts: NDArray[np.int64]  # [m + 1]
    items: NDArray[np.int64]  # [e]
    worth: NDArray[np.float64]  # [e]
    fresh: "_FreshLists" = field(default_factory=lambda: _FreshLists(), init=False, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def fit(cls, key: Key, order: OrderConfig, inputs: Inputs) -> Self:
        """The lists of all items, also of those published in the held-out days; a request leaves out what is closed."""
        catalog = inputs.catalog
        every = np.arange(len(catalog))
        worth = _worth(order, goodness(inputs, order.prior), _days(inputs))
        flat, row = _grouped(key.of(catalog, every), worth, _good_enough(order, catalog, every))
        first = _place_in_run(flat) < LONGEST
        flat, row = flat[first], row[first]
        distinct, starts = np.unique(flat, return_index=True)
        facts = _Facts(key=key, order=order, known=len(catalog))
        return cls(facts, distinct, np.append(starts, len(flat)), row, worth[row])

    def find(self, seeds: Seeds, query: Query, per_key: int, limit: int) -> Candidates:
        """The open items of the seeds' lists, best first, with column `score`; none without seeds.

        score = log2(Σ weights of the item's seeds · goodness) − age / half-life; with a half-life of 0, −age in days.
        Left out: what is closed, not published yet or in the user's history.   per_key: most items of one key, 0 = all.
        """
        if not len(seeds.keys):
            return Candidates.empty()
        order = np.argsort(seeds.keys)
        weighed = seeds.keys[order], seeds.weights[order]
        catalog, most = query.catalog, per_key or LONGEST
        shown = np.asarray(catalog.columns["publish_time"][0]), catalog.closed, query.now, np.sort(query.history.items)
        lists = self.keys, self.starts, self.items, self.worth
        found, worth, weight = _first_open(weighed, lists, self.fresh.of(catalog, self.facts), shown, most)
        days, half_life = query.now / DAY_SECONDS, self.facts.order.half_life_days
        score = worth + np.log2(weight) - days / half_life if half_life else worth - days
        found, score = best(found, score, limit)
        return Candidates.of(found, score=score)

    def rows(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the place of each key among the lists', −1 for one that has none."""
        return rows_among(self.keys, keys)

    def save(self, folder: Path) -> None:
        save_arrays(folder, keys=self.keys, starts=self.starts, items=self.items, worth=self.worth)
        save_facts(folder / _FACTS_FILE, self.facts)

    @classmethod
    def load(cls, key: Key, order: OrderConfig, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError, also for lists made by another key or order."""
        facts = load_facts(folder / _FACTS_FILE, _Facts)
        if (facts.key, facts.order) != (key, order):
            raise ArtifactError(f"{folder}: its lists were made by {facts.key} in {facts.order}")
        return cls(facts, *(load_array(folder, name) for name in ("keys", "starts", "items", "worth")))


class _FreshLists:
    """The lists of the open items of a snapshot that are newer than the bundle: made once for each.

    Threads may share the object: a snapshot's result is one reference that is replaced whole.
    """

    __slots__ = ("_latest",)

    def __init__(self) -> None:
        self._latest: tuple[Catalog, tuple[NDArray[Any], ...]] | None = None

    def of(self, catalog: Catalog, facts: _Facts) -> tuple[NDArray[Any], ...]:
        """(keys, starts, items, worth, published) of the last `FRESH` items, as in `Lists`; published: [e] seconds."""
        latest = self._latest
        if latest is None or latest[0] is not catalog:
            latest = catalog, self._made(catalog, facts)
            self._latest = latest
        return latest[1]

    def _made(self, catalog: Catalog, facts: _Facts) -> tuple[NDArray[Any], ...]:
        items = np.arange(max(facts.known, len(catalog) - FRESH), max(facts.known, len(catalog)))
        published = np.asarray(catalog.column("publish_time", items), np.float64)
        days = np.where(np.isnan(published), 0.0, published) / DAY_SECONDS
        worth = _worth(facts.order, np.ones(len(items)), days)
        allowed = ~catalog.closed[items] & _good_enough(facts.order, catalog, items)
        flat, row = _grouped(facts.key.of(catalog, items), worth, allowed)
        distinct, starts = np.unique(flat, return_index=True)
        return distinct, np.append(starts, len(flat)), items[row], worth[row], published[row]


def _grouped(
    keys: NDArray[np.int64], worth: NDArray[np.float64], allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(key [e], row [e]) of rows with keys [n, w], by key, then falling worth, then row; each pair once."""
    row, flat = np.repeat(np.arange(len(keys)), keys.shape[1]), keys.ravel()
    use = (flat != 0) & allowed[row]
    row, flat = row[use], flat[use]
    order = np.lexsort((row, -worth[row], flat))
    flat, row = flat[order], row[order]
    once = _changes(flat) | _changes(row)  # a word that an item has twice counts once
    return flat[once], row[once]


def goodness(inputs: Inputs, prior: float) -> NDArray[np.float64]:
    """[i] smoothed interest per impression over its average: 1 for an average item and for one without impressions.

    (n + prior·r) / (shown + prior) / r with n the interest actions on the item before `inputs.until` and r the n of all
    over the impressions of all. Where a log has no impressions every item counts as shown once.
    """
    items = len(inputs.catalog)
    counts = inputs.item_statistics.before(np.arange(items), inputs.until).astype(np.float64)
    liked = counts[:, [ACTION_CODE[name] for name in inputs.interest_actions]].sum(axis=1)
    shown = counts[:, Action.IMPRESSION]
    if not shown.any():
        shown = np.ones(items)
    average = liked.sum() / max(shown.sum(), 1.0)
    if not average:
        return np.ones(items)
    some = shown + prior > 0
    rate = np.full(items, float(average))
    np.divide(liked + prior * average, shown + prior, out=rate, where=some)
    return np.asarray(np.maximum(rate / average, 1e-3), np.float64)  # an item without interest is poor, not impossible


def _worth(order: OrderConfig, good: NDArray[np.float64], days: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] what lists are sorted by; days: of publishing, since the epoch."""
    return np.log2(good) + days / order.half_life_days if order.half_life_days else days


def _days(inputs: Inputs) -> NDArray[np.float64]:
    """[i] publish times in days since the epoch; where unknown the first event, 0 where there is none either."""
    published = inputs.catalog.column("publish_time", np.arange(len(inputs.catalog)))
    known = np.where(np.isfinite(published), published, inputs.since[: len(published)])
    return np.where(np.isfinite(known), known, 0.0) / DAY_SECONDS


def _good_enough(order: OrderConfig, catalog: Catalog, items: NDArray[np.int64]) -> NDArray[np.bool_]:
    return ~(catalog.column("quality", items) < order.least_quality)


def _changes(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] True where a value differs from the one before; the first does."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def _place_in_run(values: NDArray[Any]) -> NDArray[np.int64]:
    """[n] places among neighbouring equal values, from 0."""
    at = np.arange(len(values))
    return at - np.maximum.accumulate(np.where(_changes(values), at, 0)) if len(values) else at


@njit(cache=True, nogil=True)
def _first_open(seeds: Any, lists: Any, fresh: Any, shown: Any, most: int) -> Any:
    """(items, worth, weight): the best `most` items of each seed's list and fresh list that may be shown now.

    weight: Σ over the item's seeds, which come by ascending key.
    """
    keys, weights = seeds
    published, closed, now, own = shown
    at, fresh_at = _spans(lists[0], lists[1], keys), _spans(fresh[0], fresh[1], keys)
    room = 0
    for seed in range(len(keys)):
        room += min(most, at[seed, 1] - at[seed, 0] + fresh_at[seed, 1] - fresh_at[seed, 0])
    place = empty_slots(room)
    found, worth, weight = np.empty(room, np.int64), np.empty(room), np.zeros(room)
    count = 0
    for seed in range(len(keys)):
        (old, stop), (new, fresh_stop), taken = at[seed], fresh_at[seed], 0
        while taken < most and (old < stop or new < fresh_stop):
            if new == fresh_stop or (old < stop and lists[3][old] >= fresh[3][new]):
                item, value = lists[2][old], lists[3][old]
                old += 1  # an unknown number first: nothing checks the bounds
                if item >= len(published) or closed[item] or published[item] > now:
                    continue
            else:
                item, value, late = fresh[2][new], fresh[3][new], fresh[4][new] > now
                new += 1
                if late:
                    continue
            before = np.searchsorted(own, item)
            if before < len(own) and own[before] == item:
                continue
            taken += 1
            row = place_of(place, found, count, item)
            count += row == count
            worth[row] = value
            weight[row] += weights[seed]
    return found[:count], worth[:count], weight[:count]


@njit(cache=True, nogil=True)
def _spans(known: Any, starts: Any, keys: Any) -> Any:
    """[m, 2] where the entries of each of the keys begin and end; nothing for one that is not known."""
    spans = np.zeros((len(keys), 2), np.int64)
    for row in range(len(keys)):
        at = np.searchsorted(known, keys[row])
        if at < len(known) and known[at] == keys[row]:
            spans[row] = starts[at], starts[at + 1]
    return spans
