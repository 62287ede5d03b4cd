"""Item vectors by an exported item tower: the whole catalogue when training ends, new items when they appear."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tamis.nets.session import Session
from tamis.types import Catalog, Features

_ROWS_AT_ONCE = 4096


def item_vectors(tower: Session, items: Features) -> NDArray[np.float32]:
    """[n, d] the tower's output "vector" for each item, in blocks; [0, d] for none."""
    parts = [
        tower.run(item_codes=items.codes[rows], item_dense=items.dense[rows])["vector"]
        for start in range(0, max(1, len(items.codes)), _ROWS_AT_ONCE)
        for rows in (slice(start, start + _ROWS_AT_ONCE),)
    ]
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """The vectors of one snapshot's fresh items and what they were made from."""

    catalog: Catalog
    items: Features
    vectors: NDArray[np.float32]


class FreshVectors:
    """Vectors of the items that the bundle did not know, kept from one snapshot of the catalogue to the next.

    An item is put through the tower once, and again only when one of its static features changed. Threads may share the
    object: a snapshot's result is one reference that is replaced whole; two threads at worst do the same work twice.
    """

    __slots__ = ("_latest", "_since", "_tower")

    def __init__(self, tower: Session, since: int) -> None:
        """since: the first item number that counts as fresh."""
        self._tower = tower
        self._since = since
        self._latest: _Fresh | None = None

    def of(self, catalog: Catalog) -> NDArray[np.float32]:
        """[f, d] vectors of the items `since`, `since` + 1, …, the last one of the catalogue."""
        latest = self._latest
        if latest is None or latest.catalog is not catalog:
            latest = self._renewed(latest, catalog)
            self._latest = latest
        return latest.vectors

    def _renewed(self, old: _Fresh | None, catalog: Catalog) -> _Fresh:
        items = catalog.features(np.arange(self._since, max(self._since, len(catalog))))
        if old is None:
            return _Fresh(catalog, items, item_vectors(self._tower, items))
        same = min(len(items.codes), len(old.items.codes))
        changed = np.ones(len(items.codes), np.bool_)
        changed[:same] = (items.codes[:same] != old.items.codes[:same]).any(axis=1)
        changed[:same] |= (items.dense[:same] != old.items.dense[:same]).any(axis=1)
        vectors = np.empty((len(items.codes), old.vectors.shape[1]), np.float32)
        vectors[:same] = old.vectors[:same]
        if changed.any():
            vectors[changed] = item_vectors(self._tower, items.take(changed))
        return _Fresh(catalog, items, vectors)
