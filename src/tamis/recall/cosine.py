"""The nearest columns of a sparse matrix by cosine, exact, in blocks of rows on several threads.

Row i of XᵀX is summed from the users of item i, then its k best entries are kept. Two things make it fast. Users with
long lists cost |J_u|² additions each, and when all interest is alike they can be counted instead: 64 such users are
one word per item, and the common ones of two items are a popcount. And the k best of a row are found without sorting
it: the k-th largest of a few hundred strided maxima is a bound that hardly more than k entries pass.

Every row is computed by one thread in a fixed order, so the answer does not depend on the number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numba import get_num_threads, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

_LONG_SHARE: Final = 0.03  # a list longer than this share of the items is cheaper as bits (measured, flat optimum)
_LONG_LEAST: Final = 64
_DENSE_SHARE: Final = 8  # rows with fewer additions than items / 8 visit only the entries they touched
_LANES_PER_KEPT: Final = 4
_ID_MASK: Final = np.uint64(0xFFFFFFFF)


class _Matrix(NamedTuple):
    """X by users and by items. Users with a `bit` ≥ 0 are counted in `bits`, the others are summed."""

    starts: NDArray[np.int64]  # [users + 1]
    items: NDArray[np.int32]  # [entries]
    values: NDArray[np.float64]  # [entries]; empty when all values are alike
    item_starts: NDArray[np.int64]  # [items + 1]
    users: NDArray[np.int32]  # [entries] of each item, ascending
    user_values: NDArray[np.float64]  # [entries] likewise; empty when all values are alike
    bit: NDArray[np.int32]  # [users]
    bits: NDArray[np.uint64]  # [words, items]
    inverse_norm: NDArray[np.float64]  # [items] 0 for an item that nobody has


def nearest_columns(
    matrix: Any, k: int, *, block_items: int = 256, threads: int = 0, done: Callable[[int], None] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(ids [i, k], cosines [i, k]) of the k columns nearest to each column, itself left out, nearest first.

    matrix: scipy CSR [users, i], canonical (no duplicates, no explicit zeros), finite and not negative.
    Only columns with a user in common are neighbours; where there are fewer than k, ids are −1 and cosines 0. Equal
    float32 cosines are ordered by the lower id. threads: 0 = numba's setting.   done: called with the rows finished.
    Memory: the answer, about three bytes per entry for bits, and 40 bytes per item and thread.
    """
    items = matrix.shape[1]
    ids = np.full((items, k), -1, np.int32)
    weights = np.zeros((items, k), np.float32)
    if not k or not matrix.nnz:
        return ids, weights
    ready, bits_of_weights = _ready(matrix), weights.view(np.uint32)
    starts = list(range(0, items, block_items))

    def block(start: int) -> int:
        stop = min(start + block_items, items)
        _rows(ready, start, stop, ids, bits_of_weights)
        return stop - start

    with ThreadPoolExecutor(threads or get_num_threads()) as pool:
        finished = 0
        for rows in pool.map(block, starts):
            finished += rows
            if done is not None:
                done(finished)
    return ids, weights


def _ready(matrix: Any) -> _Matrix:
    users, items = matrix.shape
    starts = matrix.indptr.astype(np.int64, copy=False)
    columns = matrix.indices.astype(np.int32, copy=False)
    values = matrix.data.astype(np.float64)
    alike = bool((values == values[0]).all())
    if alike:
        values = np.empty(0)
    lengths = np.diff(starts)
    bit = np.full(users, -1, np.int32)
    if alike:
        long = np.flatnonzero(lengths > max(_LONG_SHARE * items, _LONG_LEAST))
        bit[long] = np.arange(len(long))
    item_starts, by_item, user_values, bits = _transposed(starts, columns, values, bit, items)
    squares = np.diff(item_starts) if alike else np.bincount(columns, values * values, items)
    inverse = np.divide(1.0, np.sqrt(squares), out=np.zeros(items), where=squares > 0)
    return _Matrix(starts, columns, values, item_starts, by_item, user_values, bit, bits, inverse)


@njit(cache=True, nogil=True)
def _transposed(
    starts: Any, columns: Any, values: Any, bit: Any, items: int
) -> tuple[Any, Any, Any, Any]:
    """(item_starts, users, user_values, bits): the entries by item, users ascending, and the long lists as bits."""
    item_starts = np.zeros(items + 1, np.int64)
    for column in columns:
        item_starts[column + 1] += 1
    for item in range(items):
        item_starts[item + 1] += item_starts[item]
    at = item_starts[:-1].copy()
    users = np.empty(len(columns), np.int32)
    user_values = np.empty(len(values))
    bits = np.zeros(((bit.max() + 64) // 64, items), np.uint64)
    for user in range(len(starts) - 1):
        word = bits[max(bit[user], 0) >> 6] if bit[user] >= 0 else np.empty(0, np.uint64)
        mask = np.uint64(1) << np.uint64(max(bit[user], 0) & 63)
        for entry in range(starts[user], starts[user + 1]):
            column = columns[entry]
            users[at[column]] = user
            if len(values):
                user_values[at[column]] = values[entry]
            if bit[user] >= 0:
                word[column] |= mask
            at[column] += 1
    return item_starts, users, user_values, bits


@njit(cache=True, nogil=True)
def _rows(matrix: Any, first: int, stop: int, ids: Any, weights: Any) -> None:
    """Fills rows first … stop − 1 of the answer; `weights` as the bits of its float32."""
    items = len(matrix.inverse_norm)
    counts = np.zeros(items if not len(matrix.values) else 0, np.int64)
    sums = np.zeros(items if len(matrix.values) else 0)
    touched = np.empty(items, np.int32)
    cosine = np.empty(items, np.float32)
    keys = np.empty(items, np.uint64)
    k = ids.shape[1]
    lanes = np.empty(max(64, _LANES_PER_KEPT * k), np.uint64)
    every = np.arange(items).astype(np.int32)
    for item in range(first, stop):
        additions, words = _cost(matrix, item)
        sparse = words == 0 and additions * _DENSE_SHARE < items
        if len(matrix.values):
            seen = _sum(matrix, item, sums, touched, sparse)
            found = touched[:seen] if sparse else every
            _cosines(sums, found, matrix.inverse_norm, item, cosine)
        else:
            seen = _count(matrix, item, counts, touched, sparse)
            _count_bits(matrix.bits, item, counts)
            found = touched[:seen] if sparse else every
            _cosines(counts, found, matrix.inverse_norm, item, cosine)
        _best(cosine, found, keys, lanes, ids[item], weights[item])


@njit(cache=True, nogil=True)
def _cost(matrix: Any, item: int) -> tuple[int, int]:
    """(additions that the short lists need, words of bits that are not empty)."""
    additions = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user = matrix.users[at]
        if matrix.bit[user] < 0:
            additions += matrix.starts[user + 1] - matrix.starts[user]
    words = 0
    for word in range(matrix.bits.shape[0]):
        words += matrix.bits[word, item] != 0
    return additions, words


@njit(cache=True, nogil=True)
def _count(matrix: Any, item: int, counts: Any, touched: Any, sparse: bool) -> int:
    """Adds the common users with short lists to `counts`; when sparse, notes which entries were touched."""
    seen = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user = matrix.users[at]
        if matrix.bit[user] >= 0:
            continue
        others = matrix.items[matrix.starts[user] : matrix.starts[user + 1]]
        if sparse:
            for other in others:
                if counts[other] == 0:
                    touched[seen] = other
                    seen += 1
                counts[other] += 1
        else:
            for other in others:
                counts[other] += 1
    return seen


@njit(cache=True, nogil=True)
def _sum(matrix: Any, item: int, sums: Any, touched: Any, sparse: bool) -> int:
    """`_count` for interest of different strengths."""
    seen = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user, value = matrix.users[at], matrix.user_values[at]
        begin, end = matrix.starts[user], matrix.starts[user + 1]
        others, values = matrix.items[begin:end], matrix.values[begin:end]
        if sparse:
            for entry in range(len(others)):
                other = others[entry]
                if sums[other] == 0:
                    touched[seen] = other
                    seen += 1
                sums[other] += value * values[entry]
        else:
            for entry in range(len(others)):
                sums[others[entry]] += value * values[entry]
    return seen


@intrinsic
def _popcount(typing: Any, word: Any) -> Any:
    """Set bits of a 64-bit word; LLVM turns it into one instruction, or eight words at once, where there is one."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), emit


@njit(cache=True, nogil=True)
def _count_bits(bits: Any, item: int, counts: Any) -> None:
    """Adds the common users with long lists to `counts`, four words of them at a time."""
    words = np.flatnonzero(bits[:, item])
    last = len(words) - len(words) % 4
    for at in range(0, last, 4):
        r0, r1, r2, r3 = bits[words[at]], bits[words[at + 1]], bits[words[at + 2]], bits[words[at + 3]]
        w0, w1, w2, w3 = r0[item], r1[item], r2[item], r3[item]
        for other in range(len(counts)):
            common = _popcount(w0 & r0[other]) + _popcount(w1 & r1[other])
            common += _popcount(w2 & r2[other]) + _popcount(w3 & r3[other])
            counts[other] += np.int64(common)
    for at in range(last, len(words)):
        row = bits[words[at]]
        word = row[item]
        for other in range(len(counts)):
            counts[other] += np.int64(_popcount(word & row[other]))


@njit(cache=True, nogil=True)
def _cosines(sums: Any, found: Any, inverse_norm: Any, item: int, cosine: Any) -> None:
    """cosine[x] of the entry found[x], 0 for the item itself; sets the sums back to zero."""
    sums[item] = 0
    scale = inverse_norm[item]
    if len(found) == len(sums):  # all of them, in order: no gather
        for other in range(len(sums)):
            cosine[other] = sums[other] * (scale * inverse_norm[other])
        sums[:] = 0
        return
    for x in range(len(found)):
        other = found[x]
        cosine[x] = sums[other] * (scale * inverse_norm[other])
        sums[other] = 0


@njit(cache=True, nogil=True)
def _best(cosine: Any, found: Any, keys: Any, lanes: Any, ids: Any, weights: Any) -> None:
    """The len(ids) largest of cosine[: len(found)], largest first, ties by the lower id; zeros are no neighbours.

    A key is the bits of the cosine, which order like the number because it is not negative, above those of ~id.
    """
    n, k, width = len(found), len(ids), len(lanes)
    raw = cosine[:n].view(np.uint32)
    for x in range(n):
        keys[x] = (np.uint64(raw[x]) << np.uint64(32)) | (_ID_MASK - np.uint64(found[x]))
    bound = np.uint64(0)
    if n > 2 * width:
        lanes[:] = 0
        for begin in range(0, n - n % width, width):
            for lane in range(width):
                lanes[lane] = max(lanes[lane], keys[begin + lane])
        bound = np.partition(lanes, width - k)[width - k]
    least = max(bound, np.uint64(1) << np.uint64(32))
    kept = 0
    for x in range(n):
        if keys[x] >= least:
            keys[kept] = keys[x]
            kept += 1
    order = np.sort(keys[:kept])[::-1]
    for x in range(min(k, kept)):
        ids[x] = np.int32(_ID_MASK - (order[x] & _ID_MASK))
        weights[x] = np.uint32(order[x] >> np.uint64(32))
