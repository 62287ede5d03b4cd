"""Where the keys come from that lists of items are asked for: what the user liked, his profile, the moment."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.features.encode import stable_codes
from tamis.features.fields import text, words
from tamis.recall.lists import Key, Seeds
from tamis.recall.neighbours import liked
from tamis.types import ACTION_CODE, Query

_MOST_WORDS: Final = 100


def of_history(query: Query, key: Key, positives: Sequence[str], most: int) -> Seeds:
    """The keys of the user's `most` newest distinct items, weighed by his interest in them.

    positives: the actions that say interest, one point each for an item; none of them, no seeds.
    """
    actions = np.array([ACTION_CODE[name] for name in positives], np.uint8)
    items, interest = liked(query.history, len(query.catalog), actions)
    items, interest = items[:most], interest[:most]
    keys = key.of(query.catalog, items)
    return together(keys.ravel(), np.repeat(interest, keys.shape[1]))


def of_words(value: Any) -> Seeds:
    """The keys of words as a profile or a request says them, one point each; of a longer list the first 100 count."""
    keys = stable_codes(texts(value, _MOST_WORDS))
    return together(keys, np.ones(len(keys)))


def texts(value: Any, most: int) -> list[str]:
    """At most `most` words of a profile or a request (a text, a number, a list of them), the first, as text.

    Half a surrogate pair, which no key has in it, is read as "?".
    """
    return [text(word).encode("utf-8", "replace").decode() for word in words(value)[:most]]


def together(keys: NDArray[np.int64], weights: NDArray[np.float64], most: int = 0) -> Seeds:
    """Distinct keys with the sums of their weights, the heaviest first, at most `most` (0 = all); key 0 is none."""
    there = keys != 0
    distinct, at = np.unique(keys[there], return_inverse=True)
    sums = np.bincount(at, weights[there], len(distinct)).astype(np.float64)
    order = np.argsort(-sums, kind="stable")[: most or None]
    return Seeds(distinct[order], sums[order])
