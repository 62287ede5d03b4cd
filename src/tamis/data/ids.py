"""External ids ↔ dense numbers: a frozen table of four flat arrays that processes can share.

A look-up hashes the string to its 64-bit key, finds the key by binary search and compares the bytes, so that a string
that is not in the table never passes for one that is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.errors import DataError
from tamis.types import item_key, item_keys


@dataclass(frozen=True, slots=True)
class Ids:
    """A map between external strings and the numbers 0 … n − 1, in both directions."""

    blob: NDArray[np.uint8]  # all strings as UTF-8, one after the other
    offsets: NDArray[np.int64]  # [n + 1] string i is blob[offsets[i] : offsets[i + 1]]
    keys: NDArray[np.uint64]  # [n] types.item_key of each string, in number order
    order: NDArray[np.int32]  # [n] numbers by ascending key
    sorted_keys: NDArray[np.uint64]  # [n] keys[order]

    @classmethod
    def of(cls, externals: Sequence[str]) -> Self:
        """A table of distinct strings; string i gets number i.

        Raises DataError when a string is there twice, or two strings share a key (3e-6 likely at ten million).
        """
        encoded = [external.encode() for external in externals]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
        keys = item_keys(externals)
        order = np.argsort(keys, kind="stable").astype(np.int32)
        sorted_keys = keys[order]
        if (same := np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])).size:
            first, second = externals[order[same[0]]], externals[order[same[0] + 1]]
            what = "appears twice" if first == second else f"has the same 64-bit key as {second!r}; rename one of them"
            raise DataError(f"id {first!r} {what}")
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets, keys, order, sorted_keys)

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, external: str) -> int:
        """The number of a string, −1 if it is not in the table."""
        try:
            key = np.uint64(item_key(external))
        except UnicodeEncodeError:  # half a surrogate pair: no stored id can have one
            return -1
        place = int(self.sorted_keys.searchsorted(key))
        if place == len(self.sorted_keys) or self.sorted_keys[place] != key:
            return -1
        number = int(self.order[place])
        return number if self._bytes(number) == external.encode() else -1

    def numbers(self, externals: Iterable[str]) -> NDArray[np.int64]:
        """[n] `number` of each string."""
        strings = list(externals)
        try:
            found = self.numbers_of_keys(item_keys(strings))
        except UnicodeEncodeError:
            return np.array([self.number(external) for external in strings], np.int64)
        for row in np.flatnonzero(found >= 0).tolist():
            if self._bytes(int(found[row])) != strings[row].encode():
                found[row] = -1
        return found

    def numbers_of_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """[n] the number whose string has each key, −1 if none has."""
        if not len(self):
            return np.full(len(keys), -1, np.int64)
        order, place = np.argsort(keys), np.empty(len(keys), np.int64)
        place[order] = self.sorted_keys.searchsorted(keys[order])  # in order, so that neighbours meet in the cache
        place = np.minimum(place, len(self) - 1)
        return np.where(self.sorted_keys[place] == keys, self.order[place].astype(np.int64), -1)

    def external(self, number: int) -> str:
        """The string of a number. Raises ValueError for one outside the table."""
        if not 0 <= number < len(self.keys):
            raise ValueError(f"number: {number} is outside the table of {len(self.keys)} ids")
        return self._bytes(number).decode()

    def externals(self, numbers: NDArray[Any] | Sequence[int]) -> list[str]:
        """`external` of each number."""
        return [self.external(int(number)) for number in numbers]

    def _bytes(self, number: int) -> bytes:
        return self.blob[self.offsets[number] : self.offsets[number + 1]].tobytes()

    def save(self, folder: Path, name: str) -> None:
        """Writes the arrays `<name>_blob.npy` and so on into an existing folder."""
        save_arrays(folder, **{f"{name}_{part}": getattr(self, part) for part in self.__slots__})

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """The table saved under `name`, memory-mapped. Raises ArtifactError when a file is missing or damaged."""
        return cls(*(load_array(folder, f"{name}_{part}") for part in cls.__slots__))
