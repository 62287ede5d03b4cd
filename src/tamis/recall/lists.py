"""Lists of items by a key of theirs (category, keyword, city, cell of the map, author), the best first.

    fit         the column of keys  →  key → items by goodness · 2^(−age / half-life)
    request     seeds (keys with weights)  →  the first open items of each list, and of the items published since

All items fade alike, so their order never changes: log2 goodness + publish time / half-life is a worth that can be
sorted by once, and that a fresh item has too. The lists are never scanned; only the fresh rows are, which are few.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import Config, NotNegative
from tamis.data.dataset import DAY_SECONDS
from tamis.errors import ArtifactError
from tamis.features.geohash import shorter
from tamis.features.inputs import Inputs
from tamis.recall.ascending import rows_among
from tamis.recall.neighbours import best
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

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def fit(cls, key: Key, order: OrderConfig, inputs: Inputs) -> Self:
        """The lists of all items, also of those published in the held-out days; a request leaves out what is closed."""
        catalog = inputs.catalog
        every = np.arange(len(catalog))
        worth = _worth(order, goodness(inputs, order.prior), _days(inputs))
        allowed = _good_enough(order, catalog, every)
        keys = key.of(catalog, every)
        owner, flat = np.repeat(every, keys.shape[1]), keys.ravel()
        use = (flat != 0) & allowed[owner]
        owner, flat = owner[use], flat[use]
        rows = np.lexsort((owner, -worth[owner], flat))
        rows = rows[_changes(flat[rows]) | _changes(owner[rows])]  # a word that an item has twice counts once
        rows = rows[_place_in_run(flat[rows]) < LONGEST]
        distinct, starts = np.unique(flat[rows], return_index=True)
        facts = _Facts(key=key, order=order, known=len(catalog))
        return cls(facts, distinct, np.append(starts, len(rows)), owner[rows], worth[owner[rows]])

    def find(self, seeds: Seeds, query: Query, per_key: int, limit: int) -> Candidates:
        """The open items of the seeds' lists, best first, with column `score`; none without seeds.

        score = log2(Σ weights of the item's seeds · goodness) − age / half-life; with a half-life of 0, −age in days.
        Left out: what is closed, not published yet or in the user's history.   per_key: most items of one key, 0 = all.
        """
        if not len(seeds.keys):
            return Candidates.empty()
        order = np.argsort(seeds.keys)
        seeds = Seeds(seeds.keys[order], seeds.weights[order])
        most = per_key or LONGEST
        seed, items, worth = (
            np.concatenate(pair)
            for pair in zip(self._listed(seeds, query, most), self._fresh(seeds, query), strict=True)
        )
        if len(seed) > most:
            rows = np.lexsort((items, -worth, seed))
            rows = rows[_place_in_run(seed[rows]) < most]
            seed, items, worth = seed[rows], items[rows], worth[rows]
        found, first, at = np.unique(items, return_index=True, return_inverse=True)
        days, half_life = query.now / DAY_SECONDS, self.facts.order.half_life_days
        if half_life:
            weight = np.bincount(at, seeds.weights[seed], len(found))
            score = worth[first] + np.log2(weight) - days / half_life
        else:
            score = worth[first] - days
        found, score = best(found, score, limit)
        return Candidates.of(found, score=score)

    def rows(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the place of each key among the lists', −1 for one that has none."""
        return rows_among(self.keys, keys)

    def _listed(self, seeds: Seeds, query: Query, most: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(seed, item, worth) of the first open items of each list."""
        catalog, rows = query.catalog, self.rows(seeds.keys)
        published = np.asarray(catalog.columns["publish_time"][0])
        own = np.sort(query.history.items)
        lists = self.starts, self.items, self.worth
        return _first_open(rows, lists, catalog.closed, (published, query.now), own, most)  # type: ignore[no-any-return]

    def _fresh(self, seeds: Seeds, query: Query) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(seed, item, worth) of the items that the lists do not know yet. seeds: by ascending key."""
        catalog, facts = query.catalog, self.facts
        items = np.arange(max(facts.known, len(catalog) - FRESH), len(catalog))
        if not len(items):
            return items, items, np.empty(0)
        keys = facts.key.of(catalog, items)
        place = np.minimum(np.searchsorted(seeds.keys, keys), len(seeds.keys) - 1)
        row, column = np.nonzero(seeds.keys[place] == keys)
        seed, items = place[row, column], items[row]
        published = catalog.column("publish_time", items)
        use = ~catalog.closed[items] & ~(published > query.now) & _good_enough(facts.order, catalog, items)
        use &= ~np.isin(items, query.history.items)
        seed, items, published = seed[use], items[use], published[use]
        days = np.where(np.isnan(published), 0.0, published) / DAY_SECONDS
        _, first = np.unique(seed * len(catalog) + items, return_index=True)
        return seed[first], items[first], _worth(facts.order, np.ones(len(first)), days[first])

    def save(self, folder: Path) -> None:
        save_arrays(folder, keys=self.keys, starts=self.starts, items=self.items, worth=self.worth)
        (folder / _FACTS_FILE).write_bytes(msgspec.json.encode(self.facts))

    @classmethod
    def load(cls, key: Key, order: OrderConfig, folder: Path) -> Self:
        """What `save` wrote, memory-mapped. Raises ArtifactError, also for lists made by another key or order."""
        try:
            facts = msgspec.json.decode((folder / _FACTS_FILE).read_bytes(), type=_Facts)
        except (OSError, msgspec.MsgspecError) as error:
            raise ArtifactError(f"{folder / _FACTS_FILE}: {error}") from None
        if (facts.key, facts.order) != (key, order):
            raise ArtifactError(f"{folder}: its lists were made by {facts.key} in {facts.order}")
        return cls(facts, *(load_array(folder, name) for name in ("keys", "starts", "items", "worth")))


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
def _first_open(rows: Any, lists: Any, closed: Any, time: Any, own: Any, most: int) -> Any:
    """(seed, item, worth): of each list in `rows` (−1 = none) the first `most` items that may be shown now."""
    starts, items, worth = lists
    published, now = time
    room = 0
    for row in rows:
        if row >= 0:
            room += min(most, starts[row + 1] - starts[row])
    seeds, found, values = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room)
    count = 0
    for seed in range(len(rows)):
        row, taken = rows[seed], 0
        if row < 0:
            continue
        for at in range(starts[row], starts[row + 1]):
            item = items[at]
            if item >= len(published) or closed[item] or published[item] > now:  # the first: nothing checks the bounds
                continue
            place = np.searchsorted(own, item)
            if place < len(own) and own[place] == item:
                continue
            seeds[count], found[count], values[count] = seed, item, worth[at]
            count += 1
            taken += 1
            if taken == most:
                break
    return seeds[:count], found[:count], values[:count]
