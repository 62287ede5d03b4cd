"""The five kinds of step. Each returns the smallest thing that says what it did; the funnel applies it.

A scorer therefore cannot drop rows, a filter cannot reorder them, a selector cannot invent them. Steps are
synchronous and pure: the clock, the randomness and the user's state come in through the Query. A part is any frozen
object with one of these verbs; there is no base class.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tamis.types import Candidates, Catalog, Columns, Page, Query


@runtime_checkable
class Source(Protocol):
    """Finds items."""

    def recall(self, query: Query) -> Candidates:
        """Distinct items, best first. May be empty, never raises for an unknown user or an empty history."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Adds columns."""

    def score(self, query: Query, items: Candidates) -> Columns:
        """Columns as long as `items`, row i for `items.ids[i]`. A row's values do not depend on its neighbours."""
        ...


@runtime_checkable
class Filter(Protocol):
    """Says which rows may stay."""

    def keep(self, query: Query, items: Candidates) -> NDArray[np.bool_]:
        """[n] True = may stay."""
        ...


@runtime_checkable
class Selector(Protocol):
    """Chooses and orders."""

    def pick(self, query: Query, items: Candidates) -> NDArray[np.intp]:
        """[k] distinct positions into `items`, best first, k ≤ n. `items` come ordered by score, scores finite."""
        ...


@runtime_checkable
class Ruled(Protocol):
    """What a selector under rules does besides: says which of them it had to relax. The funnel then asks this only."""

    def pick_ruled(self, query: Query, items: Candidates) -> tuple[NDArray[np.intp], Mapping[str, int]]:
        """What `pick` gives, and rule → picks that had to break it; rules that held are not named."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Tells the world, after the answer was sent."""

    def emit(self, query: Query, page: Page) -> None: ...


@runtime_checkable
class ItemToItem(Protocol):
    """What a source may do besides: answers "more like this" (`GET /v1/items/{id}/similar`)."""

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, scores) of at most `size` items most like `item`, best first; empty for one it does not know.

        catalog: the snapshot that the numbers belong to; None: the items of the bundle.
        """
        ...


Step = Source | Scorer | Filter | Selector


class Part(Protocol):
    """What every part of the funnel can do besides its verb. `fit` and `load` return finished, frozen objects.

    One that can learn from a little more log between two trainings has `update(inputs, seed)` besides, which returns a
    new part.
    """

    @classmethod
    def fit(cls, config: Any, inputs: Any, seed: int) -> Self: ...

    def save(self, folder: Path) -> None:
        """Writes arrays and nets into an existing empty folder; a part that learns nothing writes nothing."""
        ...

    @classmethod
    def load(cls, config: Any, folder: Path) -> Self:
        """The part saved in `folder`, its arrays memory-mapped, running under `config`."""
        ...
