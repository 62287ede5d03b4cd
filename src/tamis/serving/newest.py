"""The open items by publish time, kept up to date item by item instead of sorted anew."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Times = tuple[NDArray[np.float64], NDArray[Any]]
"""Publish times of the bundle's items and of the fresh ones; NaN counts as older than all."""


class NewestItems:
    """The `size` newest open items. Twice as many are held in reserve, so that few departures need a look at all.

    Between looks at all items the reserve is complete down to the publish time `_complete_from` only: items older than
    that may be missing, so none that old is taken in.   published: of the bundle's items.
    """

    def __init__(self, bundle_newest: NDArray[np.int64], size: int, published: NDArray[np.float64]) -> None:
        self._bundle: Final = bundle_newest
        self._size: Final = size
        self._items = bundle_newest[: 2 * size]
        self._age = -published_at(self._items, (published, published[:0]))  # ascending
        self._complete_from = -float(self._age[-1]) if len(bundle_newest) > 2 * size else -np.inf

    def first(self) -> NDArray[np.int64]:
        """The newest items, newest first."""
        return self._items[: self._size]

    def changed(self, items: NDArray[np.int64], times: Times, closed: NDArray[np.bool_]) -> bool:
        """Takes in distinct items that are new, moved or closed. False when too few are left: `renew` must follow."""
        stay = ~(closed[self._items] | np.isin(self._items, items))
        self._items, self._age = self._items[stay], self._age[stay]
        self._insert(items[~closed[items]], times)
        return self._complete_from == -np.inf or len(self._items) >= self._size

    def renew(self, touched: NDArray[np.int64], times: Times, closed: NDArray[np.bool_]) -> None:
        """Looks at all items. touched: all items of the bundle whose publish time or state was ever changed."""
        reach = 2 * self._size + len(touched)  # so many of the bundle's newest cannot all have left
        items = np.unique(np.concatenate([self._bundle[:reach], touched, np.arange(len(times[0]), len(closed))]))
        self._items, self._age, self._complete_from = self._items[:0], self._age[:0], -np.inf
        self._insert(items[~closed[items]], times)

    def _insert(self, items: NDArray[np.int64], times: Times) -> None:
        age = -published_at(items, times)
        order = np.argsort(age, kind="stable")
        items, age = items[order], age[order]
        there = age <= -self._complete_from
        at = np.searchsorted(self._age, age[there], side="right")
        self._items = np.insert(self._items, at, items[there])[: 2 * self._size]
        self._age = np.insert(self._age, at, age[there])[: 2 * self._size]
        if len(self._items) == 2 * self._size:
            self._complete_from = -float(self._age[-1])


def published_at(items: NDArray[np.int64], times: Times) -> NDArray[np.float64]:
    """[n] publish times; −inf where unknown."""
    published, fresh = np.empty(len(items)), items >= len(times[0])
    published[~fresh] = times[0][items[~fresh]]
    published[fresh] = times[1][items[fresh] - len(times[0])]
    return np.where(np.isnan(published), -np.inf, published)
