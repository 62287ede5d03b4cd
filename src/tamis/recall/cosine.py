"""The nearest columns of a sparse matrix by cosine, exact, in blocks of rows on several threads.

Row i of XᵀX is summed from the users of item i, then its k best entries are kept. Three things make it fast. Users with
long lists cost |J_u|² additions each; where interest is small whole numbers they are counted as bits instead: 64 such
users are one word per item (and bit of the interest), and what two items have in common is a popcount. Rows of few
additions visit only what they touched. And the k best are found by a heap that starts from a bound, the least of k
strided maxima, so that few entries ever reach it.

Every row is computed by one thread in a fixed order, so the answer does not depend on the number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numba import get_num_threads, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

_LONG_SHARE: Final = 0.03  # a list longer than this share of the items is cheaper as bits (measured; a flat optimum)
_LONG_LEAST: Final = 64
_MOST_PLANES: Final = 3  # interest up to 7 as bits
_SPARSE_SHARE: Final = 8  # rows with fewer additions than items / 8 visit only the entries they touched
_LOW: Final = np.uint64(0xFFFFFFFF)
_HIGH: Final = np.uint64(32)


class _Matrix(NamedTuple):
    """X by users and by items. Values are int32 or float64; empty when all are alike, because a cosine has no scale.

    bit: [users] the place of a user with a long list in `bits`, −1 for the others.
    bits: [planes, words, items] bit (user) of plane p is bit p of his interest in the item.
    inverse_norm: [items] 0 for an item that nobody has.
    """

    starts: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[Any]
    item_starts: NDArray[np.int64]
    users: NDArray[np.int32]
    user_values: NDArray[Any]
    bit: NDArray[np.int32]
    bits: NDArray[np.uint64]
    inverse_norm: NDArray[np.float64]


def nearest_columns(
    matrix: Any, k: int, *, block_items: int = 256, threads: int = 0, done: Callable[[int], None] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(ids [i, k], cosines [i, k]) of the k columns nearest to each column, itself left out, nearest first.

    matrix: scipy CSR [users, i], canonical (sorted, no duplicates, no explicit zeros), finite and not negative.
    Only columns with a user in common are neighbours; where there are fewer than k, ids are −1 and cosines 0. Equal
    float32 cosines are ordered by the lower id. threads: 0 = numba's setting.   done: called with the rows finished.
    Memory beside the answer: two copies of the matrix, a few bytes per entry for bits, 24 bytes per item and thread.
    """
    items = int(matrix.shape[1])
    ids = np.full((items, k), -1, np.int32)
    weights = np.zeros((items, k), np.float32)
    if not k or not matrix.nnz:
        return ids, weights
    ready, raw_weights = _ready(matrix), weights.view(np.uint32)

    def block(start: int) -> int:
        stop = min(start + block_items, items)
        _rows(ready, start, stop, ids, raw_weights)
        return stop - start

    finished = 0
    workers = threads or int(get_num_threads())
    with ThreadPoolExecutor(workers) as pool:
        for rows in pool.map(block, range(0, items, block_items)):
            finished += rows
            if done is not None:
                done(finished)
    return ids, weights


def _ready(matrix: Any) -> _Matrix:
    users, items = matrix.shape
    starts = matrix.indptr.astype(np.int64, copy=False)
    columns = matrix.indices.astype(np.int32, copy=False)
    values, planes = _compact(matrix.data, users)
    squares = np.bincount(columns, np.square(values, dtype=np.float64) if len(values) else None, items)
    bit = np.full(users, -1, np.int32)
    if planes:
        long = np.flatnonzero(np.diff(starts) > max(planes * _LONG_SHARE * items, _LONG_LEAST))
        bit[long] = np.arange(len(long))
    words = (int(bit.max(initial=-1)) + 64) // 64
    by_item = _transposed((starts, columns, values), bit, (planes, words, items))
    inverse = np.divide(1.0, np.sqrt(squares), out=np.zeros(items), where=squares > 0)
    return _Matrix(starts, columns, values, *by_item[:3], bit, by_item[3], inverse)


def _compact(data: NDArray[Any], users: int) -> tuple[NDArray[Any], int]:
    """(values, planes): empty and 1 when all are alike; int32 and up to three for small whole numbers; floats and 0."""
    most = float(data.max())
    if most == float(data.min()):
        return np.empty(0, np.int32), 1
    if most < 1 << _MOST_PLANES and most * most * users < np.iinfo(np.int32).max:
        whole = data.astype(np.int32)
        if np.array_equal(whole, data):
            return whole, int(most).bit_length()
    return data.astype(np.float64), 0


@njit(cache=True, nogil=True)
def _transposed(rows: Any, bit: Any, shape: tuple[int, int, int]) -> tuple[Any, Any, Any, Any]:
    """(item_starts, users, user_values, bits): the entries by item, users ascending, and the long lists as bits."""
    starts, columns, values = rows
    planes, _, items = shape
    item_starts = np.zeros(items + 1, np.int64)
    for column in columns:
        item_starts[column + 1] += 1
    for item in range(items):
        item_starts[item + 1] += item_starts[item]
    at = item_starts[:-1].copy()
    users = np.empty(len(columns), np.int32)
    user_values = np.empty_like(values)
    bits = np.zeros(shape, np.uint64)
    for user in range(len(starts) - 1):
        word, mask = bit[user] >> 6, np.uint64(1) << np.uint64(bit[user] & 63)
        for entry in range(starts[user], starts[user + 1]):
            column = columns[entry]
            users[at[column]] = user
            value = 1
            if len(values):
                user_values[at[column]] = values[entry]
                value = int(values[entry])
            at[column] += 1
            if bit[user] >= 0:
                for plane in range(planes):
                    if value >> plane & 1:
                        bits[plane, word, column] |= mask
    return item_starts, users, user_values, bits


@njit(cache=True, nogil=True)
def _rows(matrix: Any, first: int, stop: int, ids: Any, weights: Any) -> None:
    """Fills rows first … stop − 1 of the answer; `weights` as the bits of its float32."""
    items = len(matrix.inverse_norm)
    sums = np.zeros(items, matrix.values.dtype)
    touched = np.empty(items + 1, np.int32)
    every = np.arange(items).astype(np.int32)
    cosines = np.empty(items, np.float32)
    heap = np.empty(ids.shape[1], np.uint64)
    planes = matrix.bits.shape[0]
    for item in range(first, stop):
        additions, words = _cost(matrix, item)
        sparse = words == 0 and additions * _SPARSE_SHARE < items
        if len(matrix.values):
            seen = _sum(matrix, item, sums, touched, sparse)
        else:
            seen = _count(matrix, item, sums, touched, sparse)
        if words:
            for plane in range(planes):
                for other in range(planes):
                    _count_bits(matrix.bits[plane, :, item], matrix.bits[other], plane + other, sums)
        found = touched[:seen] if sparse else every
        _cosines(sums, found, matrix.inverse_norm, item, cosines)
        _best(cosines[: len(found)], found, heap, ids[item], weights[item])


@njit(cache=True, nogil=True)
def _cost(matrix: Any, item: int) -> tuple[int, int]:
    """(additions that the short lists need, words of bits that are not empty)."""
    additions = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user = matrix.users[at]
        if matrix.bit[user] < 0:
            additions += matrix.starts[user + 1] - matrix.starts[user]
    words = 0
    for plane in range(matrix.bits.shape[0]):
        for word in range(matrix.bits.shape[1]):
            words += matrix.bits[plane, word, item] != 0
    return additions, words


@njit(cache=True, nogil=True)
def _count(matrix: Any, item: int, sums: Any, touched: Any, sparse: bool) -> int:
    """Adds the common users with short lists to `sums`; when sparse, notes which entries were touched: how many."""
    seen = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user = matrix.users[at]
        if matrix.bit[user] >= 0:
            continue
        others = matrix.items[matrix.starts[user] : matrix.starts[user + 1]]
        if sparse:
            for other in others:  # without a branch, which would be mispredicted all the time
                before = sums[other]
                touched[seen] = other
                seen += int(before == 0)
                sums[other] = before + 1
        else:
            for other in others:
                sums[other] += 1
    return seen


@njit(cache=True, nogil=True)
def _sum(matrix: Any, item: int, sums: Any, touched: Any, sparse: bool) -> int:
    """`_count` for interest of different strengths."""
    seen = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user, value = matrix.users[at], matrix.user_values[at]
        if matrix.bit[user] >= 0:
            continue
        begin, end = matrix.starts[user], matrix.starts[user + 1]
        others, values = matrix.items[begin:end], matrix.values[begin:end]
        if sparse:
            for entry in range(len(others)):
                before = sums[others[entry]]
                touched[seen] = others[entry]
                seen += int(before == 0)
                sums[others[entry]] = before + value * values[entry]
        else:
            for entry in range(len(others)):
                sums[others[entry]] += value * values[entry]
    return seen


def _typed_popcount(typing: Any, word: Any) -> Any:
    """Set bits of a 64-bit word: one instruction, or several words at once, where the machine has them."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), emit


_popcount: Any = intrinsic(_typed_popcount)


@njit(cache=True, nogil=True)
def _count_bits(own: Any, bits: Any, shift: int, sums: Any) -> None:
    """Adds 2^shift per common user with a long list: popcounts of `own` [words] and `bits` [words, items]."""
    words = np.empty(len(own), np.int64)
    count = 0
    for word in range(len(own)):
        if own[word]:
            words[count] = word
            count += 1
    last = count - count % 4
    for at in range(0, last, 4):  # four words per visit of the sums, which would otherwise cost as much as the bits
        w0, w1, w2, w3 = own[words[at]], own[words[at + 1]], own[words[at + 2]], own[words[at + 3]]
        r0, r1, r2, r3 = bits[words[at]], bits[words[at + 1]], bits[words[at + 2]], bits[words[at + 3]]
        for other in range(len(sums)):
            common = _popcount(w0 & r0[other]) + _popcount(w1 & r1[other])
            common += _popcount(w2 & r2[other]) + _popcount(w3 & r3[other])
            sums[other] += np.int32(common) << shift
    for at in range(last, count):
        mine, row = own[words[at]], bits[words[at]]
        for other in range(len(sums)):
            sums[other] += np.int32(_popcount(mine & row[other])) << shift


@njit(cache=True, nogil=True)
def _cosines(sums: Any, found: Any, inverse_norm: Any, item: int, cosines: Any) -> None:
    """cosines[x] for the item found[x], 0 for the item itself; sets the sums back to zero."""
    sums[item] = 0
    scale = inverse_norm[item]
    if len(found) == len(sums):  # all, in order: no gather
        for other in range(len(sums)):
            cosines[other] = sums[other] * (scale * inverse_norm[other])
        sums[:] = 0
        return
    for x in range(len(found)):
        other = found[x]
        cosines[x] = sums[other] * (scale * inverse_norm[other])
        sums[other] = 0


@njit(cache=True, nogil=True)
def _best(cosines: Any, found: Any, heap: Any, ids: Any, weights: Any) -> None:
    """The len(heap) largest cosines, largest first, ties by the lower id; zeros are no neighbours.

    A key in the heap (least on top) is the bits of the cosine, which order like the number because it is not negative,
    above those of ~id: one comparison says it all.
    """
    raw = cosines.view(np.uint32)
    least = _bound(raw, ids)
    heap[:] = 0
    for x in range(len(raw)):
        if raw[x] >= least:
            key = (np.uint64(raw[x]) << _HIGH) | (_LOW - np.uint64(found[x]))
            if key > heap[0]:
                _sink(heap, len(heap), key)
                least = max(least, np.uint32(heap[0] >> _HIGH))
    for end in range(len(heap) - 1, -1, -1):
        key = heap[0]
        if end:
            _sink(heap, end, heap[end])
        if key:
            ids[end] = np.int32(_LOW - (key & _LOW))
            weights[end] = np.uint32(key >> _HIGH)


@njit(cache=True, nogil=True)
def _bound(raw: Any, ids: Any) -> Any:
    """At least len(ids) of the values, if that many are above zero, are as large as this: the least of the maxima of
    len(ids) strided classes; at least 1, because zero is no neighbour."""
    width = len(ids)
    if len(raw) < 4 * width:
        return np.uint32(1)
    most = raw[:width].copy()
    for begin in range(width, len(raw) - len(raw) % width, width):
        part = raw[begin : begin + width]
        for lane in range(width):
            most[lane] = max(most[lane], part[lane])
    least = most[0]
    for lane in range(1, width):
        least = min(least, most[lane])
    return max(least, np.uint32(1))


@njit(cache=True, nogil=True)
def _sink(heap: Any, size: int, key: Any) -> None:
    """Puts `key` in the place of the least of heap[:size]."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key
