"""The union of what several sources found: every item once, where it was found, and who gets how many places.

Without quotas the sources take turns, best first (a snake merge): the order is that of the best rank in any source.
With quotas each source has a number of places that add up to the limit, so that raising one lowers the others, and
they take turns in proportion to them. An item that several found takes a place of only one of them, whoever's turn
comes first, and the others go on to their next; places that a source cannot fill go to the rest in snake order.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tamis.errors import StepError
from tamis.types import Candidates

Found = tuple[int, str, NDArray[np.int64]]
"""What one source found: its number among all sources of the funnel, its name, distinct ids, best first."""

_OUTSIDE: Final = 1
_TWICE: Final = 2


def united(items: Candidates, found: Sequence[Found], known: int) -> Candidates:
    """The table with the rows of all sources behind its own, in snake order, and where each was found.

    Columns: channel [n] int16 the first source that found the row; found_by [n] int64 one bit per source; score [n]
    minus the best rank in any source.   known: items of the catalogue.
    Raises StepError for a source that returned an item twice or one outside of the catalogue.
    """
    ids, starts = _joined(found)
    numbers = np.array([number for number, _, _ in found], np.int64)
    old = (items.column("channel"), items.column("found_by"), items.column("score")) if len(items) else _NONE
    out, count, source, wrong = _united(items.ids, old, ids, starts, numbers, known)
    if wrong:
        what = "twice" if wrong == _TWICE else f"outside the catalogue of {known}"
        raise StepError(f"{found[source][1]}: the source returned an item {what}")
    rows, channel, found_by, score = (column[:count] for column in out)
    return Candidates(rows, {"channel": channel, "found_by": found_by, "score": score})


def places(quotas: Sequence[int], total: int) -> NDArray[np.int64]:
    """[c] how many of `total` places each source gets: in proportion to its quota, and always `total` together.

    Quotas that add up to the total are the places. What rounding leaves goes to the largest remainders, of equal ones
    to the first. All quotas 0: no places.
    """
    wanted = np.asarray(quotas, np.int64)
    whole = int(wanted.sum())
    if not whole:
        return np.zeros(len(wanted), np.int64)
    got, rest = np.divmod(wanted * total, whole)
    got[np.argsort(-rest, kind="stable")[: total - int(got.sum())]] += 1
    return got


def turns(items: NDArray[np.int64], found: Sequence[NDArray[np.int64]], quota: NDArray[np.int64]) -> NDArray[np.intp]:
    """Rows of a table in snake order as its sources take turns, quota[c] for source c; then the others as they stand.

    items: [n] the distinct ids of the table.   found: per source the ids it found, best first; those that are no longer
    in the table take no turn.
    """
    ids, starts = _joined([(0, "", each) for each in found])
    return np.asarray(_turns(items, ids, starts, quota))


def merged(
    found: Mapping[str, NDArray[np.int64]], allowed: NDArray[np.bool_], quotas: Mapping[str, int], limit: int
) -> NDArray[np.int64]:
    """The `limit` ids that a recall stage of these sources lets through.

    found: source → distinct ids, best first.   allowed: [i] True where the filters let an item of the catalogue pass.
    quotas: {} = none, else of every source.
    """
    sources = [(number, name, ids) for number, (name, ids) in enumerate(found.items())]
    ids = united(Candidates.empty(), sources, len(allowed)).ids
    ids = ids[allowed[ids]]
    if quotas:
        ids = ids[turns(ids, list(found.values()), places([quotas[name] for name in found], limit))]
    return ids[:limit]


_NONE: Final = (np.empty(0, np.int16), np.empty(0, np.int64), np.empty(0, np.float64))


def _joined(found: Sequence[Found]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(all ids, [c + 1] where those of each source begin)."""
    starts = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(ids) for _, _, ids in found], out=starts[1:])
    return np.concatenate([_NONE[1], *(ids for _, _, ids in found)], dtype=np.int64), starts


@njit(cache=True, nogil=True)
def empty_slots(entries: int) -> Any:
    """An empty hash table for so many entries: a power of two of slots, above twice their number."""
    size = 2
    while size <= 2 * entries:
        size *= 2
    return np.full(size, -1, np.int32)


@njit(cache=True, nogil=True)
def slot_of(slots: Any, ids: Any, item: int) -> int:
    """The slot of `item`, or the empty one where it belongs. slots hold rows of `ids`."""
    at = ((item * 2654435761) >> 15) & (len(slots) - 1)  # the middle bits: numbers with a common factor spread too
    while slots[at] >= 0 and ids[slots[at]] != item:
        at = (at + 1) & (len(slots) - 1)
    return at


@njit(cache=True, nogil=True)
def _united(old_ids: Any, old: Any, ids: Any, starts: Any, numbers: Any, known: int) -> Any:
    """((ids, channel, found_by, score), rows, source, what is wrong with it or 0); see `united`."""
    most = len(old_ids) + len(ids)
    out, channel = np.empty(most, np.int64), np.empty(most, np.int16)
    found_by, score = np.empty(most, np.int64), np.empty(most, np.float64)
    now = np.zeros(most, np.int64)  # the sources of this union alone: an old row may bear a bit of an earlier run
    slots, count = empty_slots(most), len(old_ids)
    channels, bits, scores = old
    for row in range(count):
        out[row], channel[row], found_by[row], score[row] = old_ids[row], channels[row], bits[row], scores[row]
        slots[slot_of(slots, out, old_ids[row])] = row
    sources, longest = len(numbers), 0
    for source in range(sources):
        longest = max(longest, starts[source + 1] - starts[source])
    for rank in range(longest):
        for source in range(sources):
            if rank >= starts[source + 1] - starts[source]:
                continue
            item = ids[starts[source] + rank]
            if item < 0 or item >= known:
                return (out, channel, found_by, score), 0, source, _OUTSIDE
            at = slot_of(slots, out, item)
            row = slots[at]
            bit = np.int64(1) << numbers[source]
            if row < 0:
                slots[at] = count
                out[count], channel[count], found_by[count], score[count] = item, numbers[source], bit, -rank
                now[count] = bit
                count += 1
                continue
            if now[row] & bit:
                return (out, channel, found_by, score), 0, source, _TWICE
            now[row] |= bit
            found_by[row] |= bit
            score[row] = max(score[row], -float(rank))
            if row >= len(old_ids):
                channel[row] = min(channel[row], numbers[source])
    return (out, channel, found_by, score), count, 0, 0


@njit(cache=True, nogil=True)
def _turns(items: Any, ids: Any, starts: Any, quota: Any) -> Any:
    """The rows in the order of the turns; see `turns`."""
    slots = empty_slots(len(items))
    for row in range(len(items)):
        slots[slot_of(slots, items, items[row])] = row
    sources = len(quota)
    rows, count = np.empty(len(items), np.intp), 0
    taken, picked = np.zeros(sources, np.int64), np.zeros(len(items), np.bool_)
    following = starts[:-1].copy()
    while True:
        turn = -1  # of the source whose next place is the smallest part of its quota
        for source in range(sources):
            if taken[source] < quota[source] and following[source] < starts[source + 1]:
                ahead = turn < 0 or (taken[source] + 1) * quota[turn] < (taken[turn] + 1) * quota[source]
                turn = source if ahead else turn
        if turn < 0:
            break
        while following[turn] < starts[turn + 1]:
            row = slots[slot_of(slots, items, ids[following[turn]])]
            following[turn] += 1
            if row >= 0 and not picked[row]:
                rows[count], picked[row] = row, True
                taken[turn] += 1
                count += 1
                break
    for row in range(len(items)):
        if not picked[row]:
            rows[count] = row
            count += 1
    return rows
