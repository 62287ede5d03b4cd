"""The statistics of a bundle, as of the end of its training: what the server looks up, memory-mapped.

Per group one table, sorted by the request's key and inside of it by the candidate's. A request takes its slice of each
table (`types.Lookup`), once; its candidates are searched there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.features.encode import Encoder
from tamis.features.groups import ITEM, Group
from tamis.features.pairs import Pairs
from tamis.types import Lookup

_BLOCK: Final = 200_000  # pairs at once: their counts of all actions are larger than what is kept of them
_ARRAYS: Final = ("requests", "starts", "keys", "values")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of request's key g are starts[g] : starts[g + 1] of `keys` and `values`; pairs without events have none."""

    requests: NDArray[np.int64]  # [g] ascending
    starts: NDArray[np.int64]  # [g + 1]
    keys: NDArray[np.int32]  # [m] the candidate's keys, ascending for each request's key
    values: NDArray[np.float32]  # [m, features]

    @classmethod
    def of(cls, encoder: Encoder, group: Group, pairs: Pairs, until: float) -> Self:
        """From all events before `until`."""
        request, candidate = pairs.keys()
        values = np.empty((len(request), len(group.features)), np.float32)
        there = np.zeros(len(request), np.bool_)
        for start in range(0, len(request), _BLOCK):
            block = slice(start, start + _BLOCK)
            numbers = np.arange(len(request))[block]
            counts = pairs.statistics.counts(numbers, until, group.actions, group.windows)
            values[block] = group.values(counts, encoder.learnt.totals)
            there[block] = np.any([count.any(axis=1) for count in counts.values()], axis=0)
        requests, starts = np.unique(request[there], return_index=True)
        starts = np.append(starts, there.sum()).astype(np.int64)
        return cls(requests, starts, candidate[there].astype(np.int32), values[there])

    def slice(self, request: int, absent: NDArray[np.float32]) -> Lookup:
        """What is there under a request's key (−1: nothing). absent: the values of what is not there."""
        place = int(np.searchsorted(self.requests, request))
        found = place < len(self.requests) and int(self.requests[place]) == request
        begin, end = self.starts[place : place + 2].tolist() if found else (0, 0)
        return Lookup(self.keys[begin:end], self.values[begin:end], absent)


@dataclass(frozen=True, slots=True)
class Tables:
    """Group name → table; that of items' own events is a column of the catalogue."""

    tables: Mapping[str, Table]

    @classmethod
    def of(cls, encoder: Encoder, pairs: Mapping[str, Pairs], until: float) -> Self:
        """As of `until`, of every group that the encoder looks up."""
        groups = _tabled(encoder)
        return cls({name: Table.of(encoder, group, pairs[name], until) for name, group in groups.items()})

    def slice(self, name: str, request: int, absent: NDArray[np.float32]) -> Lookup:
        """The slice of one group's table, see `Table.slice`; an empty one where there is no table."""
        return self.tables.get(name, _EMPTY).slice(request, absent)

    def save(self, folder: Path) -> None:
        """Writes into an existing folder; tables are numbered there in the order of the declarations."""
        for number, table in enumerate(self.tables.values()):
            save_arrays(folder, **{f"{number}.{name}": getattr(table, name) for name in _ARRAYS})

    @classmethod
    def load(cls, folder: Path, encoder: Encoder) -> Self:
        """The tables of that encoder, memory-mapped. Raises ArtifactError."""
        return cls(
            {
                name: Table(*(load_array(folder, f"{number}.{array}") for array in _ARRAYS))
                for number, name in enumerate(_tabled(encoder))
            }
        )


def _tabled(encoder: Encoder) -> dict[str, Group]:
    return {name: group for name, group in encoder.groups.items() if name != ITEM}


_EMPTY: Final = Table(np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int32), np.empty((0, 0), np.float32))
NOTHING: Final = Tables({})
"""Of a world without events."""
