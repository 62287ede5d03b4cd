"""Where the keys come from that lists of items are asked for: what the user liked, his profile, the moment."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numba import njit
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
    actions = _codes(tuple(positives))
    items, interest = liked(query.history, len(query.catalog), actions)
    items, interest = items[:most], interest[:most]
    keys = key.of(query.catalog, items)
    return together(keys.ravel(), np.repeat(interest, keys.shape[1]))


@cache
def _codes(actions: tuple[str, ...]) -> NDArray[np.uint8]:
    """The codes of actions."""
    return np.array([ACTION_CODE[name] for name in actions], np.uint8)


def of_words(value: Any) -> Seeds:
    """The keys of words as a profile or a request says them, one point each; of a longer list the first 100 count."""
    keys = stable_codes(texts(value, _MOST_WORDS))
    return together(keys, np.ones(len(keys)))


def texts(value: Any, most: int) -> list[str]:
    """At most `most` words of a profile or a request (a text, a number, a list of them), the first, as text.

    Half a surrogate pair, which no key has in it, is read as "?".
    """
    return [text(word).encode("utf-8", "replace").decode() for word in words(value)[:most]]


def joined(parts: Sequence[Seeds], most: int) -> Seeds:
    """Several seeds as one, as `together` would. At least one part."""
    if len(parts) == 1:
        return Seeds(parts[0].keys[:most], parts[0].weights[:most])
    keys, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    return together(keys, weights, most)


def together(keys: NDArray[np.int64], weights: NDArray[np.float64], most: int = 0) -> Seeds:
    """Distinct keys with the sums of their weights, the heaviest first, at most `most` (0 = all); key 0 is none."""
    return Seeds(*_together(keys, weights, most))


@njit(cache=True, nogil=True)
def _together(keys: Any, weights: Any, most: int) -> tuple[Any, Any]:
    """See `together`. Lists are short: sorting them is next to nothing, unlike a handful of calls of NumPy."""
    order = np.argsort(keys, kind="mergesort")  # stable: a key's weights are added in the order they came
    distinct, sums = np.empty(len(keys), np.int64), np.zeros(len(keys))
    count = 0
    for row in order:
        if keys[row] == 0:
            continue
        if not count or distinct[count - 1] != keys[row]:
            distinct[count] = keys[row]
            count += 1
        sums[count - 1] += weights[row]
    heaviest = np.argsort(-sums[:count], kind="mergesort")
    heaviest = heaviest[:most] if most else heaviest
    return distinct[heaviest], sums[heaviest]
