"""Arrays in files that are larger than the memory they may take: read where they are asked, never mapped.

A mapped file counts in an address space with all its pages, so nothing is mapped: rows are read into fresh arrays.
"""

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError

_ROWS_AT_ONCE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Room:
    """Where a training may work. folder: empty.   bytes: of memory for the log."""

    folder: Path
    bytes: float

    def rows(self, share: float, each: float) -> int:
        """How many rows of `each` bytes a share of the memory holds."""
        return max(1, int(self.bytes * share / each))


class OnDisk:
    """An array [n, …] in a file. What is taken of it is an ordinary array.

    windows: [w + 1] rows at which windows begin, n last. A window is read as a whole and held until rows of another
    one are asked for, which suits readers who stay in one for long. Without windows only the rows asked for are read.
    """

    def __init__(
        self, path: Path, kind: tuple[np.dtype[Any], tuple[int, ...]], windows: Sequence[int] | NDArray[np.int64] = ()
    ) -> None:
        """kind: type and shape."""
        self.path, (self.dtype, self.shape) = path, kind
        self.windows = np.asarray(windows, np.int64)
        self._row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)  # whoever holds the array last knows nothing of files
        self._held: tuple[int, NDArray[Any]] = (-1, np.empty(0, self.dtype))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it: for those that cannot do with less."""
        return np.asarray(self._read(0, len(self)), dtype)

    def __getitem__(self, rows: Any) -> Any:
        """The rows of an index, a slice, a mask or an array of places of any shape."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self._read(start, max(start, stop)) if step == 1 else self[np.arange(start, stop, step)]
        if not isinstance(rows, np.ndarray):
            return self._read(int(rows), int(rows) + 1)[0]
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.ravel().astype(np.int64, copy=False)
        found = self._by_window(places) if len(self.windows) else self._by_run(places)
        return found if rows.dtype == np.bool_ else found.reshape(*rows.shape, *self.shape[1:])

    def pieces(self) -> Iterator[NDArray[Any]]:
        """The windows one after the other."""
        for window in range(len(self.windows) - 1):
            yield self._window(window)

    def _by_window(self, places: NDArray[np.int64]) -> NDArray[Any]:
        window = np.searchsorted(self.windows, places, "right") - 1
        first = int(window[0]) if len(window) else 0
        if (window == first).all():
            return np.asarray(self._window(first)[places - self.windows[first]])
        out = np.empty((len(places), *self.shape[1:]), self.dtype)
        for number in np.unique(window).tolist():
            here = window == number
            out[here] = self._window(number)[places[here] - self.windows[number]]
        return out

    def _window(self, number: int) -> NDArray[Any]:
        held, rows = self._held
        if held != number:
            self._held = -1, rows[:0].copy()  # two of them are never in memory together
            del rows
            begin, end = self.windows[number : number + 2].tolist()
            rows = self._read(begin, end)
            self._held = number, rows
        return rows

    def _by_run(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Reads each run of neighbouring places at once."""
        distinct, back = np.unique(places, return_inverse=True)
        begins = np.flatnonzero(np.diff(distinct, prepend=-2) > 1)
        out = np.empty((len(distinct), *self.shape[1:]), self.dtype)
        for begin, end in pairwise([*begins.tolist(), len(distinct)]):
            start = int(distinct[begin])
            out[begin:end] = self._read(start, start + end - begin)
        return np.asarray(out[back])

    def _read(self, begin: int, end: int) -> NDArray[Any]:
        out: Any = np.empty((end - begin, *self.shape[1:]), self.dtype)
        if not out.nbytes:
            return np.asarray(out)
        view, at = memoryview(out).cast("B"), begin * self._row_bytes
        while view.nbytes:
            count = os.preadv(self._file, [view], at)
            if not count:
                raise DataError(f"{self.path}: ends before row {end}; something else has changed it")
            view, at = view[count:], at + count
        return np.asarray(out)


class Derived:
    """An array [n] whose rows are made of those of arrays on disk whenever they are asked for."""

    def __init__(self, sources: Sequence[OnDisk], make: Callable[..., NDArray[Any]]) -> None:
        """sources: of the same length and windows.   make: rows of each → as many rows."""
        self._sources, self._make = tuple(sources), make

    def __len__(self) -> int:
        return len(self._sources[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it: for those that cannot do with less."""
        return np.asarray(self[:], dtype)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows of a slice, a mask or an array of places."""
        return self._make(*(source[rows] for source in self._sources))

    def pieces(self) -> Iterator[NDArray[Any]]:
        """The windows one after the other, each made a few rows at a time: what is made on the way is larger."""
        for pieces in zip(*(source.pieces() for source in self._sources), strict=True):
            starts = range(0, max(1, len(pieces[0])), _ROWS_AT_ONCE)
            parts = (self._make(*(piece[start : start + _ROWS_AT_ONCE] for piece in pieces)) for start in starts)
            yield np.concatenate(list(parts))


class Appender:
    """An array on disk being written, piece by piece. Its file is open only meanwhile: who fails leaves none open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kind: tuple[np.dtype[Any], tuple[int, ...]] | None = None
        self.rows = 0
        path.write_bytes(b"")

    def append(self, rows: NDArray[Any]) -> Self:
        """More rows, of the type and width of those before."""
        rows = np.ascontiguousarray(rows)
        self._kind = self._kind or (rows.dtype, rows.shape[1:])
        if self._kind != (rows.dtype, rows.shape[1:]):
            raise ValueError(f"{self.path}: rows of {rows.dtype} {rows.shape[1:]}, those before are {self._kind}")
        with self.path.open("ab") as file:
            file.write(rows.data)
        self.rows += len(rows)
        return self

    def whole(self, bytes_: float) -> list[int]:
        """One window for all rows if they take at most so many bytes, else none."""
        dtype, width = self._kind or (np.dtype(np.uint8), ())
        small = self.rows * dtype.itemsize * int(np.prod(width)) <= bytes_
        return [0, self.rows] if small and self.rows else []

    def done(self, windows: Sequence[int] | NDArray[np.int64] = ()) -> OnDisk:
        """The array so far. Raises ValueError when nothing was appended, not even an empty piece."""
        if self._kind is None:
            raise ValueError(f"{self.path}: nothing was written")
        dtype, width = self._kind
        return OnDisk(self.path, (dtype, (self.rows, *width)), windows)


def in_ranges(counts: NDArray[np.int64], most: float) -> list[tuple[int, int]]:
    """Neighbouring entities in ranges of about `most` counts, one entity at least; at least one range."""
    part = np.maximum(np.cumsum(counts) - 1, 0) // most
    cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(counts)]
    return list(pairwise(cuts))


def as_array(array: OnDisk | Derived) -> Any:
    """For fields that are arrays in memory without a bound."""
    return array
