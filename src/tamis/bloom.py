"""A Bloom filter over item keys: never forgets one key, sometimes imagines one, expires as a whole.

It lives in the core because two layers that may not see each other share it: the state adds every impression to the
user's filter, the exposure filter asks it. (Bloom, "Space/time trade-offs in hash coding", CACM 1970.)
"""

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.errors import DataError

_HEADER: Final = struct.Struct("<IHHI")  # bits, hashes, format, count of keys that were new
_COUNT: Final = struct.Struct("<I")  # the last field of the header
_EXPIRES: Final = struct.Struct("<d")  # behind the header of a filter that expires
_FOREVER: Final = 1  # the two formats
_EXPIRING: Final = 2
_BEGIN: Final = {_FOREVER: _HEADER.size, _EXPIRING: _HEADER.size + _EXPIRES.size}  # where the bits begin
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
_ALL: Final = 2**64 - 1
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

    expires: the moment (seconds since the epoch) from which on it counts as empty; infinity = never.
    Mutable on purpose: it is the store's own buffer. Queries get one that nobody adds to any more.
    """

    __slots__ = ("bits", "count", "data", "expires", "hashes")

    def __init__(self, bits: int, hashes: int, expires: float = math.inf) -> None:
        if bits < 8 or bits % 8 or not 1 <= hashes <= 64:
            raise ValueError(f"bits {bits} and hashes {hashes}: wanted a positive multiple of 8 and 1 to 64")
        self.bits = bits
        self.hashes = hashes
        self.count = 0  # keys that were new when added; for deciding when a filter is full
        self.expires = expires
        self.data: NDArray[np.uint8] = np.zeros(bits // 8, np.uint8)

    def positions(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """[n, hashes] the bits of each key."""
        first, second = _hashes(_keys(keys, "keys"))
        sums = first[:, None] + np.arange(self.hashes, dtype=np.uint64) * second[:, None]
        return (sums % np.uint64(self.bits)).view(np.int64)

    def with_flags(self, flags: bytes | bytearray, count: int, expires: float = math.inf) -> "Bloom":
        """A filter of this shape with the bits that `flags` (one byte a bit) has set."""
        bloom = Bloom(self.bits, self.hashes, expires)
        bloom.count = count
        bloom.data = np.packbits(np.frombuffer(flags, np.uint8), bitorder="little")
        return bloom

    def add(self, ids: NDArray[np.uint64]) -> None:
        """Adds keys [n]; adding one twice changes nothing. Raises ValueError for what is no column of whole numbers."""
        keys = np.unique(_keys(ids, "ids"))
        positions = self.positions(keys)
        at, mask = positions >> 3, _BIT.take(positions & 7)
        self.count += int(((self.data[at] & mask) == 0).any(axis=1).sum())
        np.bitwise_or.at(self.data, at.ravel(), mask.ravel())

    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[n] False: certainly never added. True: added, or a false positive."""
        positions = self.positions(keys)
        return np.asarray((self.data[positions >> 3] & _BIT.take(positions & 7)).all(axis=1))

    def to_bytes(self) -> bytes:
        if self.expires == math.inf:
            return _HEADER.pack(self.bits, self.hashes, _FOREVER, self.count) + self.data.tobytes()
        header = _HEADER.pack(self.bits, self.hashes, _EXPIRING, self.count)
        return header + _EXPIRES.pack(self.expires) + self.data.tobytes()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """The filter that `to_bytes` wrote. Raises DataError on anything else."""
        if len(raw) < _HEADER.size:
            raise DataError(f"Bloom filter of {len(raw)} bytes: wanted at least {_HEADER.size}")
        bits, hashes, version, count = _HEADER.unpack_from(raw)
        begin = _BEGIN.get(version, 0)
        if not begin or not bits or not hashes or bits % 8 or len(raw) != begin + bits // 8:
            raise DataError(f"Bloom filter: format {version} and {len(raw)} bytes do not fit {bits} bits")
        bloom = cls.__new__(cls)  # four of these are read for every request: no zeros that are thrown away
        bloom.bits, bloom.hashes, bloom.count, bloom.expires = bits, hashes, count, expiry(raw)
        bloom.data = np.frombuffer(bytearray(raw[begin:]), np.uint8)
        return bloom


@dataclass(frozen=True, slots=True)
class Generations:
    """Several filters asked as one: a key is in when any of them has it. The rates of false positives add up."""

    blooms: tuple[Bloom, ...]

    @staticmethod
    def alive(blooms: Iterable[Bloom], now: float) -> "Generations":
        """Those that have not expired."""
        return Generations(tuple(bloom for bloom in blooms if bloom.expires > now))

    def contains(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """[n] False: certainly in none of them."""
        keys = _keys(keys, "keys")
        found = np.zeros(len(keys), np.bool_)
        shapes = {(bloom.bits, bloom.hashes) for bloom in self.blooms}  # one, unless the settings were changed
        nothing = (8, 1)  # without filters it is asked all the same, so that a warm server has the kernel
        for bits, hashes in sorted(shapes) or [nothing]:
            data = [bloom.data for bloom in self.blooms if (bloom.bits, bloom.hashes) == (bits, hashes)]
            _ask(keys, np.array(data, np.uint8).reshape(-1, bits // 8), np.uint64(bits), hashes, found)
        return found


@njit(cache=True, nogil=True)
def _mix_kernel(key: Any) -> Any:
    """`mixed` of one key."""
    mixed = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@njit(cache=True, nogil=True)
def _ask(keys: Any, data: Any, bits: Any, hashes: int, found: Any) -> None:
    """Sets found [n] for the keys in any of the filters `data` [filters, bytes] of one shape: each bit is computed once
    for all of them, and a key is done when no filter is left that had all of its bits so far."""
    filters = len(data)
    left = np.empty(filters, np.int64)
    for row in range(len(keys)):
        position = _mix_kernel(keys[row])
        step = _mix_kernel(position ^ np.uint64(_GOLDEN)) | np.uint64(1)
        count = filters
        for at in range(filters):
            left[at] = at
        for _ in range(hashes):
            bit = np.int64(position % bits)
            kept = 0
            for at in range(count):
                if data[left[at], bit >> 3] >> (bit & 7) & 1:
                    left[kept] = left[at]
                    kept += 1
            count = kept
            if not count:
                break
            position += step
        if count:
            found[row] = True


def started(empty: bytes, expires: float) -> bytearray:
    """A new filter in its `to_bytes` form. empty: one of the same shape and of the same kind, expiring or not."""
    stored = bytearray(empty)
    if expires != math.inf:
        _EXPIRES.pack_into(stored, _HEADER.size, expires)
    return stored


def expiry(stored: bytes | bytearray) -> float:
    """When a filter in its `to_bytes` form expires."""
    if len(stored) >= _HEADER.size + _EXPIRES.size and _HEADER.unpack_from(stored)[2] == _EXPIRING:
        return float(_EXPIRES.unpack_from(stored, _HEADER.size)[0])
    return math.inf


def count_of(stored: bytes | bytearray) -> int:
    """The count of a filter in its `to_bytes` form."""
    return int(_HEADER.unpack_from(stored)[3])


def add_to_bytes(stored: bytearray, key: int) -> int:
    """Adds one key to a filter in its `to_bytes` form, in place; gives the filter's count afterwards.

    The same bits and count as `Bloom.add` of that one key, without arrays: a tenth of the time, which is what folding
    single events needs.
    """
    bits, hashes, version, count = _HEADER.unpack_from(stored)
    begin = _BEGIN[version]
    position = _mix_one(key)
    step = _mix_one(position ^ _GOLDEN) | 1
    new = False
    for _ in range(hashes):
        bit = position % bits
        at, mask = begin + (bit >> 3), 1 << (bit & 7)
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
    first = mixed(keys)
    return first, mixed(first ^ np.uint64(_GOLDEN)) | np.uint64(1)


def _mix_one(key: int) -> int:
    """`mixed` of a single key as a plain integer."""
    mixed = ((key ^ key >> 30) * 0xBF58476D1CE4E5B9) & _ALL
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _ALL
    return mixed ^ mixed >> 31


def mixed(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every input bit changes every output bit."""
    out = keys >> np.uint64(30)
    out ^= keys
    out *= np.uint64(0xBF58476D1CE4E5B9)
    out ^= out >> np.uint64(27)
    out *= np.uint64(0x94D049BB133111EB)
    out ^= out >> np.uint64(31)
    return out
