"""Lists by attribute: the best new items of the categories, keywords, cities or authors that a user cares for.

The same part is many channels; its settings say which:

    category, keyword      column = "category", positives = ["click"]
    same city              column = "city", context = "city", positives = []
    followed authors       column = "author", positives = ["follow"], profile = "follows"
    interacted authors     column = "author", positives = ["like", "collect", "share"]          U2A2I
    similar authors        … and neighbours = 10                                                 U2A2A2I
    what was searched      column = "keywords", context = "search", profile = "searches", positives = []
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from scipy.sparse import csr_matrix

from tamis.config import AtLeastOne, AtLeastZero, StepConfig
from tamis.features.inputs import Inputs
from tamis.recall import seeds
from tamis.recall.itemcf import similar_items
from tamis.recall.lists import Key, Lists, OrderConfig, Seeds
from tamis.recall.neighbours import Neighbours
from tamis.types import Candidates, Query


class KeyedConfig(StepConfig, frozen=True, tag="keyed"):
    """Which lists, and where the keys come from: history, profile and request add up."""

    limit: AtLeastZero = 300  # items per request
    column: Literal["author", "category", "city", "keywords"] = "category"  # of the items; the lists are made by it
    positives: tuple[str, ...] = ("click", "like", "collect", "share")  # actions that say interest in an item's keys
    history: AtLeastOne = 100  # distinct recent items of the user that are looked at
    profile: str = ""  # column of the profile that holds keys, one or a list; "" = none
    context: str = ""  # name in the request's context that holds keys, one or a list; "" = none
    keys: AtLeastOne = 20  # most keys of the user that count, those of the most interest
    neighbours: AtLeastZero = 0  # look up so many keys most similar to each instead, by co-interest; 0 = itself
    per_key: AtLeastZero = 50  # most items of one key; 0 = all
    order: OrderConfig = OrderConfig()  # of a list

    def key(self) -> Key:
        """The key of its lists."""
        return Key(column=self.column)


@dataclass(frozen=True, slots=True)
class Keyed:
    """lists: items by key.   alike: rows of the lists most like each row, empty without `neighbours`."""

    config: KeyedConfig
    lists: Lists
    alike: Neighbours

    @classmethod
    def fit(cls, config: KeyedConfig, inputs: Inputs, seed: int) -> Self:
        """Sorts the items into lists; there is nothing random in it."""
        lists = Lists.fit(config.key(), config.order, inputs)
        return cls(config, lists, similar_keys(lists, inputs, config.neighbours))

    def recall(self, query: Query) -> Candidates:
        """The best open items of the keys that the user cares for; none for a user without any. See Lists.find."""
        return self.lists.find(self.seeds(query), query, self.config.per_key, self.config.limit)

    def seeds(self, query: Query) -> Seeds:
        """The keys that are looked up, with their weights: interest, carried over to similar keys where told."""
        config = self.config
        found = [seeds.of_history(query, config.key(), config.positives, config.history)]
        if config.profile:
            found.append(seeds.of_words(query.profile.get(config.profile)))
        if config.context:
            found.append(seeds.of_words(query.context.get(config.context)))
        own = seeds.joined(found, config.keys)
        if not config.neighbours:
            return own
        rows = self.lists.rows(own.keys)
        there = rows >= 0
        near, weight = self.alike.walk(rows[there], own.weights[there], rows[there], 0)
        return Seeds(self.lists.keys[near], weight)

    def save(self, folder: Path) -> None:
        self.lists.save(folder)
        self.alike.save(folder)

    @classmethod
    def load(cls, config: KeyedConfig, folder: Path) -> Self:
        """The saved part. Raises ArtifactError, also when its column or its order are not those of the training."""
        return cls(config, Lists.load(config.key(), config.order, folder), Neighbours.load(folder))


def similar_keys(lists: Lists, inputs: Inputs, k: int) -> Neighbours:
    """The k rows of `lists` most similar to each row: ItemCF's cosine of the interest in all items of a key."""
    every = np.arange(len(inputs.catalog))
    keys = lists.facts.key.of(inputs.catalog, every)
    rows = lists.rows(keys.ravel()).reshape(keys.shape)
    item, column = np.nonzero(rows >= 0)
    has = csr_matrix((np.ones(len(item), np.float32), (item, rows[item, column])), (len(every), len(lists)))
    return Neighbours(*similar_items(inputs.interest() @ has, k)) if k else _no_neighbours()


def _no_neighbours() -> Neighbours:
    return Neighbours(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32))
