"""A Bloom filter over item keys: never forgets, sometimes imagines.

It lives in the core because two layers that may not see each other share it: the state adds every impression to the
user's filter, the exposure filter asks it. (Bloom, "Space/time trade-offs in hash coding", CACM 1970.)
"""

import math
import struct
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.errors import DataError

_HEADER: Final = struct.Struct("<IHHI")  # bits, hashes, format, count of add calls' ids
_COUNT: Final = struct.Struct("<I")  # the last field of the header
_FORMAT: Final = 1
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
_ALL: Final = 2**64 - 1
_EARLY: Final = 2  # hash functions asked of every key before the rest is asked of those that passed
_BIT: Final = (1 << np.arange(8)).astype(np.uint8)
_Hashes = tuple[NDArray[np.uint64], NDArray[np.uint64]]


def parameters(capacity: int, false_positive_rate: float) -> tuple[int, int]:
    """(bits, hashes) for a filter of `capacity` keys: m = n·ln(1/δ)/ln²2 rounded up to bytes, k = log2(1/δ) rounded.

    The course prints m = 2n·ln(1/δ), which lands 20 % above a 1 % target; this is the exact constant.
    """
    if capacity < 1 or not 0 < false_positive_rate < 1:
        raise ValueError(f"capacity {capacity} and rate {false_positive_rate}: wanted ≥ 1 and inside (0, 1)")
    bits = math.ceil(capacity * math.log(1 / false_positive_rate) / math.log(2) ** 2)
    return (bits + 7) // 8 * 8, max(1, round(math.log2(1 / false_positive_rate)))


def predicted_rate(count: int, bits: int, hashes: int) -> float:
    """The expected false-positive rate with `count` distinct keys: (1 − exp(−k·n/m))^k."""
    return (1 - math.exp(-hashes * count / bits)) ** hashes


class Bloom:
    """`bits` bits and `hashes` hash functions h1 + i·h2 mod bits, of two independent mixes of the 64-bit key.

    Mutable on purpose: it is the store's own buffer. Queries get one that nobody adds to any more.
    """

    __slots__ = ("bits", "count", "data", "hashes")

    def __init__(self, bits: int, hashes: int) -> None:
        if bits < 8 or bits % 8 or not 1 <= hashes <= 64:
            raise ValueError(f"bits {bits} and hashes {hashes}: wanted a positive multiple of 8 and 1 to 64")
        self.bits = bits
        self.hashes = hashes
        self.count = 0  # keys that were new when added; for deciding when a filter is full
        self.data: NDArray[np.uint8] = np.zeros(bits // 8, np.uint8)

    def _positions(self, hashes: _Hashes, begin: int, end: int) -> NDArray[np.int64]:
        """[end − begin, n] the bit positions of hash functions begin … end − 1."""
        first, second = hashes
        sums = np.arange(begin, end, dtype=np.uint64)[:, None] * second
        sums += first
        whole = sums // np.uint64(self.bits)  # the remainder by hand: NumPy's own % takes three times as long
        whole *= np.uint64(self.bits)
        sums -= whole
        return sums.view(np.int64)

    def positions(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """[n, hashes] the bits of each key."""
        return self._positions(_hashes(_keys(keys, "keys")), 0, self.hashes).T

    def with_flags(self, flags: bytes | bytearray, count: int) -> "Bloom":
        """A filter of this shape with the bits that `flags` (one byte a bit) has set."""
        bloom = Bloom(self.bits, self.hashes)
        bloom.count = count
        bloom.data = np.packbits(np.frombuffer(flags, np.uint8), bitorder="little")
        return bloom

    def _has(self, hashes: _Hashes, begin: int, end: int) -> NDArray[np.bool_]:
        """[n] True where the bits of hash functions begin … end − 1 are all set."""
        positions = self._positions(hashes, begin, end)
        return np.asarray((self.data.take(positions >> 3) & _BIT.take(positions & 7)).all(axis=0))

    def add(self, ids: NDArray[np.uint64]) -> None:
        """Adds keys [n]; adding one twice changes nothing. Raises ValueError for what is no column of whole numbers."""
        keys = np.unique(_keys(ids, "ids"))
        if not len(keys):
            return
        positions = self._positions(_hashes(keys), 0, self.hashes)
        at, mask = positions >> 3, _BIT.take(positions & 7)
        self.count += int(((self.data[at] & mask) == 0).any(axis=0).sum())
        np.bitwise_or.at(self.data, at.ravel(), mask.ravel())

    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[n] False: certainly never added. True: added, or a false positive."""
        return Generations((self,)).contains(keys)

    def to_bytes(self) -> bytes:
        return _HEADER.pack(self.bits, self.hashes, _FORMAT, self.count) + self.data.tobytes()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The filter that `to_bytes` wrote. Raises DataError on anything else."""
        if len(raw) < _HEADER.size:
            raise DataError(f"Bloom filter of {len(raw)} bytes: wanted at least {_HEADER.size}")
        bits, hashes, version, count = _HEADER.unpack_from(raw)
        if version != _FORMAT or not bits or not hashes or bits % 8 or len(raw) != _HEADER.size + bits // 8:
            raise DataError(f"Bloom filter: format {version} and {len(raw)} bytes do not fit {bits} bits")
        bloom = cls.__new__(cls)  # four of these are read for every request: no zeros that are thrown away
        bloom.bits, bloom.hashes, bloom.count = bits, hashes, count
        bloom.data = np.frombuffer(bytearray(raw[_HEADER.size :]), np.uint8)
        return bloom


@dataclass(frozen=True, slots=True)
class Generations:
    """Several filters asked as one: a key is in when any of them has it. The rates of false positives add up."""

    blooms: tuple[Bloom, ...]

    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[n] False: certainly in none of them. Two hash functions settle most keys; only the rest see all."""
        keys = _keys(keys, "keys")
        found = np.zeros(len(keys), np.bool_)
        if not len(keys):
            return found
        hashes = _hashes(keys)
        for bloom in self.blooms:
            early = min(_EARLY, bloom.hashes)
            maybe = np.flatnonzero(bloom._has(hashes, 0, early))
            if early < bloom.hashes and len(maybe):
                rest = hashes[0][maybe], hashes[1][maybe]
                maybe = maybe[bloom._has(rest, early, bloom.hashes)]
            found[maybe] = True
        return found


def add_to_bytes(stored: bytearray, key: int) -> int:
    """Adds one key to a filter in its `to_bytes` form, in place; gives the filter's count afterwards.

    The same bits and count as `Bloom.add` of that one key, without arrays: a tenth of the time, which is what folding
    single events needs.
    """
    bits, hashes, _, count = _HEADER.unpack_from(stored)
    position = _mix_one(key)
    step = _mix_one(position ^ _GOLDEN) | 1
    new = False
    for _ in range(hashes):
        bit = position % bits
        at, mask = _HEADER.size + (bit >> 3), 1 << (bit & 7)
        if not stored[at] & mask:
            stored[at] |= mask
            new = True
        position = (position + step) & _ALL
    if new:
        count += 1
        _COUNT.pack_into(stored, _HEADER.size - _COUNT.size, count)
    return int(count)


def _keys(values: NDArray[Any], name: str) -> NDArray[np.uint64]:
    """[n] the values as keys."""
    keys = np.asarray(values)
    if keys.ndim != 1 or (keys.dtype.kind not in "iu" and len(keys)):
        raise ValueError(f"{name} is {keys.dtype} {keys.shape}: wanted a column of whole numbers")
    return keys.astype(np.uint64, copy=False)


def _hashes(keys: NDArray[np.uint64]) -> _Hashes:
    """(h1, h2) of each key; h2 is odd, so that no step stands still."""
    first = _mix(keys)
    return first, _mix(first ^ np.uint64(_GOLDEN)) | np.uint64(1)


def _mix_one(key: int) -> int:
    """`_mix` of a single key as a plain integer."""
    mixed = ((key ^ key >> 30) * 0xBF58476D1CE4E5B9) & _ALL
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _ALL
    return mixed ^ mixed >> 31


def _mix(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every input bit changes every output bit."""
    mixed = keys >> np.uint64(30)
    mixed ^= keys
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
