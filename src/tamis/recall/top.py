"""The k best of a row of scores, without a heap: a bound that few entries reach, then those few in order."""

from typing import Any, Final

import numpy as np
from numba import njit

_FEW: Final = 256  # so many keys are ranked faster by comparing all with all, several at once, than by sorting
_LOW: Final = np.uint64(0xFFFFFFFF)
_HIGH: Final = np.uint64(32)


@njit(cache=True, nogil=True)
def scratch(size: int, k: int) -> tuple[Any, Any]:
    """Room that `top` works in, for rows of at most `size` scores of which k are kept: (keys, maxima)."""
    return np.empty(size + 1, np.uint64), np.empty(_classes(size, k), np.int32)


@njit(cache=True, nogil=True)
def _classes(size: int, k: int) -> int:
    """So many that reading the maxima and looking into the best of the classes cost about the same."""
    return max(4 * k, int(np.sqrt(float(k) * size)))


@njit(cache=True, nogil=True)
def top(scores: Any, names: Any, room: Any, ids: Any, weights: Any) -> None:
    """The len(ids) largest scores above zero, largest first, ties by the lower name; the rest of `ids` stays as it is.

    scores [n]: float32, not negative.   names [n]: int32.   room: of `scratch`.
    ids, weights [k]: what is filled; `weights` as the bits of its float32.
    The scores are dealt to classes, and only classes whose maximum reaches `_bound` are looked into. Bits of a float
    that is not negative order like the number; above those of ~name they make a key: one comparison says all.
    """
    keys, maxima = room
    raw = scores.view(np.int32)
    found = _found(raw, names, keys, maxima[: min(_classes(len(raw), len(ids)), len(raw))], len(ids))
    if len(found) > _FEW:
        found.sort()
        for place in range(min(len(found), len(ids))):
            _write(found[len(found) - 1 - place], place, ids, weights)
        return
    for key in found:
        place = 0
        for other in found:
            place += int(other > key)
        if place < len(ids):
            _write(key, place, ids, weights)


@njit(cache=True, nogil=True)
def _found(raw: Any, names: Any, keys: Any, most: Any, k: int) -> Any:
    """Keys of a few scores above zero with the k best among them; most: room for the maximum of each class."""
    width = len(most)
    most[:] = raw[:width]
    for begin in range(width, len(raw), max(width, 1)):
        part = raw[begin : begin + width]
        for lane in range(len(part)):
            most[lane] = max(most[lane], part[lane])
    least = _bound(most, k)
    count = 0
    for lane in range(width):
        if most[lane] >= least:
            for x in range(lane, len(raw), width):
                keys[count] = (np.uint64(raw[x]) << _HIGH) | (_LOW - np.uint64(names[x]))
                count += int(raw[x] >= least)
    return keys[:count]


@njit(cache=True, nogil=True)
def _write(key: Any, place: int, ids: Any, weights: Any) -> None:
    ids[place] = np.int32(_LOW - (key & _LOW))
    weights[place] = np.uint32(key >> _HIGH)


@njit(cache=True, nogil=True)
def _bound(values: Any, k: int) -> Any:
    """A number that at least k of the values reach, if that many are above zero, and few others; at least 1."""
    low, high = 1, 0x7F800000
    if _reach(values, np.int32(low)) <= k:
        return np.int32(low)
    while high - low > 1:
        middle = (low + high) // 2
        reached = _reach(values, np.int32(middle))
        if reached < k:
            high = middle
        else:
            low = middle
            if reached == k:
                break
    return np.int32(low)


@njit(cache=True, nogil=True)
def _reach(values: Any, least: Any) -> int:
    """How many of the values are at least that."""
    count = 0
    for value in values:
        count += int(value >= least)
    return count
