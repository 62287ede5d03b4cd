"""The nearest columns of a sparse matrix by cosine, exact, in blocks of rows on several threads.

Row i of XᵀX is summed from the users of item i, then its k best entries are kept. Users with long lists cost |J_u|²
additions each; where interest is small whole numbers they are counted as bits instead: 64 such users are one word per
item (and bit of the interest), and what two items have in common is a popcount, taken of four items at a time so that
each word is read once for four rows. Rows of few additions visit only what they touched.

Every row is computed by one thread in a fixed order, so the answer depends neither on the number of threads nor on
which rows are asked for together.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numba import get_num_threads, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from tamis.recall.top import scratch, top

_LONG_SHARE: Final = 0.025  # a list longer than this share of the items is cheaper as bits (measured; a flat optimum)
_LONG_LEAST: Final = 64
_MOST_PLANES: Final = 3  # interest up to 7 as bits
_SPARSE_SHARE: Final = 8  # rows with fewer additions than items / 8 visit only the entries they touched
_GROUP: Final = 4  # items whose bits are counted together; `_count_bits` is written out for four
_BLOCK: Final = 128


class _Matrix(NamedTuple):
    """X by users and by items, the items in the order of popularity: what is asked for often stands close together.

    values, user_values: the entries, int32 or float64; empty where all entries of a user are alike.
    rates: [users] what a user then adds to each pair of his items; its type is that of the sums.
    bit: [users] the place of a user with a long list in `bits`, −1 for the others.
    bits: [planes, words, items] bit (user) of plane p is bit p of his interest in the item.
    scale: [items] 1 / norm; 0 for an item that nobody has.   names: [items] their numbers outside.
    """

    starts: NDArray[np.int64]
    items: NDArray[np.uint32]
    values: NDArray[Any]
    rates: NDArray[Any]
    item_starts: NDArray[np.int64]
    users: NDArray[np.uint32]
    user_values: NDArray[Any]
    bit: NDArray[np.int32]
    bits: NDArray[np.uint64]
    scale: NDArray[np.float64]
    names: NDArray[np.int32]


def nearest_columns(  # noqa: PLR0913 - the options of a kernel are its parameters
    matrix: Any,
    k: int,
    *,
    user_weights: NDArray[np.float64] | None = None,
    norms: NDArray[np.float64] | None = None,
    rows: range | None = None,
    threads: int = 0,
    done: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(ids [r, k], weights [r, k]) of the k columns nearest to each column, itself left out, nearest first.

    near(a, b) = Σ_u weight(u) · x(u, a) · x(u, b) / (norm(a) · norm(b))

    matrix: scipy CSR [users, i], canonical (no duplicates, no explicit zeros), finite and not negative.
    user_weights: [users] above zero; None = 1.   norms: [i] above zero where the column is not empty; None =
    √(Σ_u weight(u) · x(u, a)²), which makes it a cosine.   rows: the columns whose neighbours are wanted, r of them (a
    shard; the shards joined are the whole); None = all.   threads: 0 = numba's setting.   done: called with the rows
    finished.
    Only columns with a user in common are neighbours; where there are fewer than k, ids are −1 and weights 0. Equal
    float32 weights are ordered by the lower id.
    Memory beside the answer: two copies of the matrix, a few bytes per entry for bits, 60 bytes per item and thread.
    """
    items = int(matrix.shape[1])
    wanted = range(items) if rows is None else range(items)[rows.start : rows.stop]
    ids = np.full((len(wanted), k), -1, np.int32)
    weights = np.zeros((len(wanted), k), np.float32)
    if not k or not matrix.nnz or not len(wanted):
        return ids, weights
    ready, raw_weights = _ready(matrix, user_weights, norms), weights.view(np.uint32)
    places = np.flatnonzero((ready.names >= wanted.start) & (ready.names < wanted.stop))

    def block(begin: int) -> int:
        part = places[begin : begin + _BLOCK]
        _rows(ready, part, wanted.start, ids, raw_weights)
        return len(part)

    finished = 0
    with ThreadPoolExecutor(threads or int(get_num_threads())) as pool:
        for count in pool.map(block, range(0, len(places), _BLOCK)):
            finished += count
            if done is not None:
                done(finished)
    return ids, weights


def _ready(matrix: Any, user_weights: NDArray[np.float64] | None, norms: NDArray[np.float64] | None) -> _Matrix:
    users, items = matrix.shape
    starts = matrix.indptr.astype(np.int64, copy=False)
    popularity = np.bincount(matrix.indices, minlength=items)
    names = np.argsort(-popularity, kind="stable").astype(np.int32)
    place = np.empty(items, np.uint32)
    place[names] = np.arange(items, dtype=np.uint32)
    values, rates, planes = _compact(matrix, user_weights)
    bit = np.full(users, -1, np.int32)
    if planes:
        long = np.flatnonzero(np.diff(starts) > max(planes * _LONG_SHARE * items, _LONG_LEAST))
        bit[long] = np.arange(len(long))
    words = (int(bit.max(initial=-1)) + 64) // 64
    columns = place[matrix.indices]
    by_item = _transposed((starts, columns, values, rates), bit, (planes, words, items))
    lengths = np.sqrt(by_item[4]) if norms is None else norms[names]
    if norms is not None and user_weights is None and not len(values):
        lengths = lengths / matrix.data[0]  # entries that are all alike were counted as 1
    scale = np.divide(1.0, lengths, out=np.zeros(items), where=by_item[4] > 0)
    return _Matrix(starts, columns, values, rates, *by_item[:3], bit, by_item[3], scale, names)


def _compact(matrix: Any, user_weights: NDArray[np.float64] | None) -> tuple[NDArray[Any], NDArray[Any], int]:
    """(values, rates, planes of bits) as in `_Matrix`: whole numbers where that is possible, without weights only."""
    data, users = matrix.data, matrix.shape[0]
    most = float(data.max())
    if most == float(data.min()):
        if user_weights is None:
            return np.empty(0, np.int32), np.ones(users, np.int32), 1  # whatever the value: a cosine has no scale
        return np.empty(0), user_weights * most * most, 0
    if user_weights is not None:
        return data * np.repeat(np.sqrt(user_weights), np.diff(matrix.indptr)), np.empty(0), 0
    if most < 1 << _MOST_PLANES and most * most * users < np.iinfo(np.int32).max:
        whole = data.astype(np.int32)
        if np.array_equal(whole, data):
            return whole, np.empty(0, np.int32), int(most).bit_length()
    return data.astype(np.float64), np.empty(0), 0


@njit(cache=True, nogil=True)
def _transposed(by_user: Any, bit: Any, shape: tuple[int, int, int]) -> tuple[Any, Any, Any, Any, Any]:
    """(item_starts, users, user_values, bits, squares): the entries by item, users ascending, and the long lists as
    bits. squares: [items] Σ of each column's squares."""
    starts, columns, values, rates = by_user
    planes, _, items = shape
    item_starts = np.zeros(items + 1, np.int64)
    for column in columns:
        item_starts[column + np.uint32(1)] += 1
    for item in range(items):
        item_starts[item + 1] += item_starts[item]
    at = item_starts[:-1].copy()
    users = np.empty(len(columns), np.uint32)
    user_values = np.empty_like(values)
    bits = np.zeros(shape, np.uint64)
    squares = np.zeros(items)
    for user in range(len(starts) - 1):
        word, mask = bit[user] >> 6, np.uint64(1) << np.uint64(bit[user] & 63)
        for entry in range(starts[user], starts[user + 1]):
            column = columns[entry]
            users[at[column]] = user
            value = 1
            if len(values):
                user_values[at[column]] = values[entry]
                value = int(values[entry])
                squares[column] += values[entry] * values[entry]
            else:
                squares[column] += rates[user]
            at[column] += 1
            if bit[user] >= 0:
                for plane in range(planes):
                    if value >> plane & 1:
                        bits[plane, word, column] |= mask
    return item_starts, users, user_values, bits, squares


@njit(cache=True, nogil=True)
def _rows(matrix: Any, rows: Any, first_name: int, ids: Any, weights: Any) -> None:
    """Fills the answer for the items at the places `rows`; row 0 of it is the item named `first_name`."""
    planes, words, items = matrix.bits.shape
    sums = np.zeros((_GROUP, items), matrix.rates.dtype)
    touched = np.empty(items + 1, np.uint32)
    scores, names = np.empty(items, np.float32), np.empty(items, np.int32)
    room = scratch(items, ids.shape[1])
    own, there = np.empty((planes, _GROUP, words + 3), np.uint64), np.empty(words + 3, np.int64)
    for first in range(0, len(rows), _GROUP):
        group = rows[first : first + _GROUP]
        count = _own_bits(matrix.bits, group, own, there)
        _count_bits(own, there[:count], matrix.bits, sums)
        for row in range(len(group)):
            item = group[row]
            line = sums[row if count else 0]  # without bits one line is enough, and stays in the nearest cache
            sparse = count == 0 and _additions(matrix, item) * _SPARSE_SHARE < items
            if len(matrix.values):
                seen = _sum(matrix, item, line, touched, sparse)
            else:
                seen = _count(matrix, item, line, touched, sparse)
            line[item] = 0
            name = matrix.names[item]
            target = name - first_name
            if sparse:
                _gathered(line, touched[:seen], matrix, item, scores, names)
                top(scores[:seen], names[:seen], room, ids[target], weights[target])
            else:
                scale = matrix.scale[item]
                for other in range(items):
                    scores[other] = line[other] * (scale * matrix.scale[other])
                line[:] = 0
                top(scores, matrix.names, room, ids[target], weights[target])


@njit(cache=True, nogil=True)
def _gathered(line: Any, touched: Any, matrix: Any, item: int, scores: Any, names: Any) -> None:
    """Score and name of each touched entry; sets the sums back to zero."""
    scale = matrix.scale[item]
    for x in range(len(touched)):
        other = touched[x]
        scores[x] = line[other] * (scale * matrix.scale[other])
        names[x] = matrix.names[other]
        line[other] = 0


@njit(cache=True, nogil=True)
def _additions(matrix: Any, item: int) -> int:
    """How many additions the short lists of an item's users need."""
    additions = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user = matrix.users[at]
        if matrix.bit[user] < 0:
            additions += matrix.starts[user + np.uint32(1)] - matrix.starts[user]
    return additions


@njit(cache=True, nogil=True)
def _count(matrix: Any, item: int, sums: Any, touched: Any, sparse: bool) -> int:
    """Adds the rates of common users with short lists; when sparse, notes which entries were touched: how many."""
    seen = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user = matrix.users[at]
        if matrix.bit[user] >= 0:
            continue
        others, rate = matrix.items[matrix.starts[user] : matrix.starts[user + np.uint32(1)]], matrix.rates[user]
        if sparse:
            for other in others:  # without a branch, which would be mispredicted all the time
                before = sums[other]
                touched[seen] = other
                seen += int(before == 0)
                sums[other] = before + rate
        else:
            for other in others:
                sums[other] += rate
    return seen


@njit(cache=True, nogil=True)
def _sum(matrix: Any, item: int, sums: Any, touched: Any, sparse: bool) -> int:
    """`_count` for interest of different strengths."""
    seen = 0
    for at in range(matrix.item_starts[item], matrix.item_starts[item + 1]):
        user, value = matrix.users[at], matrix.user_values[at]
        if matrix.bit[user] >= 0:
            continue
        begin, end = matrix.starts[user], matrix.starts[user + np.uint32(1)]
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


popcount: Any = intrinsic(_typed_popcount)


@njit(cache=True, nogil=True)
def _own_bits(bits: Any, group: Any, own: Any, there: Any) -> int:
    """Copies the words that any item of the group has bits in to own [planes, group, words].

    Gives how many, a multiple of four (empty words fill it up); there: where each stands in `bits`.
    """
    count = 0
    own[:] = 0
    for word in range(bits.shape[1]):
        some = np.uint64(0)
        for plane in range(bits.shape[0]):
            for row in range(len(group)):
                own[plane, row, count] = bits[plane, word, group[row]]
                some |= own[plane, row, count]
        if some:
            there[count] = word
            count += 1
    for plane in range(bits.shape[0]):
        own[plane, :, count:] = 0
    while count % 4:
        there[count] = 0
        count += 1
    return count


@njit(cache=True, nogil=True)
def _count_bits(own: Any, there: Any, bits: Any, sums: Any) -> None:
    """Adds 2^(p + q) for each common user with a long list and pair of planes to sums [group, items].

    Four words of four items at a time: sixteen popcounts for every four words that are read.
    """
    sa, sb, sc, sd = sums[0], sums[1], sums[2], sums[3]
    for p in range(len(own)):
        for q in range(len(own)):
            for at in range(0, len(there), 4):
                a0, a1, a2, a3 = own[p, 0, at], own[p, 0, at + 1], own[p, 0, at + 2], own[p, 0, at + 3]
                b0, b1, b2, b3 = own[p, 1, at], own[p, 1, at + 1], own[p, 1, at + 2], own[p, 1, at + 3]
                c0, c1, c2, c3 = own[p, 2, at], own[p, 2, at + 1], own[p, 2, at + 2], own[p, 2, at + 3]
                d0, d1, d2, d3 = own[p, 3, at], own[p, 3, at + 1], own[p, 3, at + 2], own[p, 3, at + 3]
                r0, r1, r2, r3 = (
                    bits[q, there[at]], bits[q, there[at + 1]], bits[q, there[at + 2]], bits[q, there[at + 3]]
                )  # fmt: skip
                for i in range(len(sa)):
                    w, x, y, z = r0[i], r1[i], r2[i], r3[i]
                    a = popcount(a0 & w) + popcount(a1 & x) + popcount(a2 & y) + popcount(a3 & z)
                    b = popcount(b0 & w) + popcount(b1 & x) + popcount(b2 & y) + popcount(b3 & z)
                    c = popcount(c0 & w) + popcount(c1 & x) + popcount(c2 & y) + popcount(c3 & z)
                    d = popcount(d0 & w) + popcount(d1 & x) + popcount(d2 & y) + popcount(d3 & z)
                    sa[i] += np.int32(a) << (p + q)
                    sb[i] += np.int32(b) << (p + q)
                    sc[i] += np.int32(c) << (p + q)
                    sd[i] += np.int32(d) << (p + q)
