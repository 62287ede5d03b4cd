"""What serving needs of a loaded bundle. `assemble` builds it; nothing here knows how."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tamis.features.spec import Side
from tamis.funnel import Funnel
from tamis.state.protocol import ItemRow
from tamis.types import Catalog, Features

Moment = tuple[float, str, Mapping[str, Any]]
"""(seconds since the epoch, scene, what the caller said of the context)."""


class Ids(Protocol):
    """External ids ↔ dense numbers of one bundle."""

    def number(self, external: str) -> int:
        """The number of an id, −1 when the bundle does not know it."""
        ...

    def numbers(self, externals: Sequence[str]) -> NDArray[np.int64]:
        """[n] `number` of each id."""
        ...

    def numbers_of_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """[n] the number of the id with each stable key, −1 if there is none."""
        ...

    def external(self, number: int) -> str:
        """The id of a number from 0 to len − 1."""
        ...

    def __len__(self) -> int: ...


class Model(Protocol):
    """One bundle, loaded. Immutable; every method may be called from several threads."""

    @property
    def name(self) -> str:
        """The bundle's name."""
        ...

    @property
    def funnel(self) -> Funnel: ...

    @property
    def kinds(self) -> Mapping[str, str]:
        """Name of a step → the `kind` of its configuration (for instance {"hot": "popular"})."""
        ...

    @property
    def history_actions(self) -> NDArray[np.bool_]:
        """[len(ACTIONS)] True for the actions that make up a history; a timeline may hold others too."""
        ...

    @property
    def user_ids(self) -> Ids: ...

    @property
    def item_ids(self) -> Ids: ...

    @property
    def catalog(self) -> Catalog:
        """The items of the bundle, base rows only."""
        ...

    def check(self, side: Side, values: Mapping[str, Any]) -> None:
        """Raises RequestError, naming the field, for a value of a caller that no feature can be made of."""
        ...

    def query_features(self, user: int, profile: Mapping[str, Any], counts: NDArray[Any], moment: Moment) -> Features:
        """The user side of one request: codes [1, c], dense [1, d]. user −1: unknown."""
        ...

    def item_rows(self, rows: Sequence[ItemRow]) -> Mapping[str, NDArray[Any]]:
        """All columns of the catalogue for freshly put items, row i for rows[i]."""
        ...

    def similar(self, item: int, size: int, catalog: Catalog) -> tuple[NDArray[Any], NDArray[Any]]:
        """(item numbers [≤ size], scores) of the nearest open neighbours of any item of the catalogue, nearest first.

        Raises NotFound when nothing in the bundle knows its neighbours.
        """
        ...

    def describe(self, item: int) -> ItemRow:
        """What the bundle knows of one of its own items, for reading."""
        ...
