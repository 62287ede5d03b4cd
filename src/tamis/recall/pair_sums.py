"""The columns nearest to each column by the sums of Swing over pairs of rows, exact, in blocks on several threads.

    sums(i, j) = Σ over users u < v who both have i and j of weight(u) · weight(v) / (alpha + overlap(u, v))

For one user the lists of what he shares with each later user are made by one walk over the users of his items; then
each list adds its amount to all pairs of its items. A block of items is one thread's work and takes users in ascending
order, so the bytes of the answer depend neither on the number of threads nor on the blocks.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numba import get_num_threads, njit
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.recall.top import scratch, top

_BLOCK_BYTES: Final = 1 << 26  # sums of one block


def nearest_by_pairs(
    matrix: csr_matrix,
    k: int,
    options: tuple[float, bool, NDArray[np.float64]],
    *,
    rows: range | None = None,
    threads: int = 0,
    done: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """(ids [r, k], sums [r, k]) of the k columns with the largest sums for each column, itself left out, largest first.

    matrix: canonical CSR [users, i]; only who has what counts.   options: (alpha, diagonal, weights [users]); with the
    diagonal the sum is over all ordered pairs and every user with himself: 2 · sums(i, j) + Σ weight² / (alpha + |J_u|)
    over the users who have both.   rows, threads, done: as in `cosine.nearest_columns`. ids −1 and sums 0 where fewer
    than k are above zero; equal float32 sums are ordered by the lower id.
    Memory beside the answer: four copies of the matrix, and for each thread 64 MB or one row of sums, 8 bytes per item.
    """
    items = int(matrix.shape[1])
    wanted = range(items) if rows is None else range(items)[rows.start : rows.stop]
    ids = np.full((len(wanted), k), -1, np.int32)
    weights = np.zeros((len(wanted), k), np.float32)
    if not k or not matrix.nnz or not len(wanted):
        return ids, weights
    by_user, by_item, names = _ordered(matrix, wanted)
    raw_weights, workers = weights.view(np.uint32), threads or int(get_num_threads())

    def block(bounds: tuple[int, int]) -> int:
        _fill(by_user, by_item, (*bounds, wanted.start), options, (names, ids, raw_weights))
        return bounds[1] - bounds[0]

    finished = 0  # blocks are as few as they can be: each goes through all common lists again
    with ThreadPoolExecutor(workers) as pool:
        for count in pool.map(block, _blocks(by_user, by_item, len(wanted), workers)):
            finished += count
            if done is not None:
                done(finished)
    return ids, weights


def _ordered(matrix: csr_matrix, wanted: range) -> tuple[Any, Any, NDArray[np.int32]]:
    """(starts, items) by user, (starts, users) by item, both ascending, and the names [i] of items at their places.

    The wanted items come first, so that blocks are slices; popular ones before others, so that slices of a user's list
    are long in few blocks.
    """
    items = matrix.shape[1]
    popularity = np.bincount(matrix.indices, minlength=items)
    every = np.arange(items)
    names = np.lexsort((-popularity, (every < wanted.start) | (every >= wanted.stop))).astype(np.int32)
    place = np.empty(items, np.int32)
    place[names] = np.arange(items, dtype=np.int32)
    by_user = csr_matrix((matrix.data, place[matrix.indices], matrix.indptr), shape=matrix.shape)
    by_item = by_user.tocsc()
    by_user = by_item.tocsr()  # twice transposed is sorted
    return _arrays(by_user), _arrays(by_item), names


def _arrays(matrix: Any) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.uint32)


def _blocks(by_user: Any, by_item: Any, wanted: int, parts: int) -> list[tuple[int, int]]:
    """Places (begin, stop) of blocks: about so many parts of equal work, but none with more sums than its memory."""
    lengths = np.diff(by_user[0])
    work = np.add.reduceat(np.append(lengths[by_item[1]], 0), by_item[0][:-1]) * (np.diff(by_item[0]) > 0)
    work = np.cumsum(work[:wanted] + 1)
    cuts = np.searchsorted(work, np.arange(1, parts) * (work[-1] / parts)) + 1
    most = max(_BLOCK_BYTES // (8 * (len(by_item[0]) - 1)), 1)
    bounds = [0]
    for cut in (*np.unique(cuts[cuts < wanted]).tolist(), wanted):
        while bounds[-1] < cut:
            bounds.append(min(cut, bounds[-1] + most))
    return list(itertools.pairwise(bounds))


@njit(cache=True, nogil=True)
def _fill(by_user: Any, by_item: Any, block: Any, options: Any, table: Any) -> None:
    """Fills the answer for the items at the places of one block, (begin, stop, name of the answer's row 0)."""
    begin, stop, first_name = block
    names, ids, weights = table
    items = len(names)
    sums = np.zeros((stop - begin, items))
    _add_pairs(by_user, by_item, begin, options, sums)
    scores = np.empty(items, np.float32)
    room = scratch(items, ids.shape[1])
    for row in range(stop - begin):
        sums[row, begin + row] = 0
        scores[:] = sums[row].astype(np.float32)
        target = names[begin + row] - first_name
        top(scores, names, room, ids[target], weights[target])


@njit(cache=True, nogil=True)
def _add_pairs(by_user: Any, by_item: Any, begin: int, options: Any, sums: Any) -> None:
    """Adds what each user gives as the earlier one of his pairs to the sums [block, items] of items from `begin` on."""
    starts, columns = by_user
    alpha, diagonal, user_weights = options
    users = len(starts) - 1
    overlap, place = np.zeros(users, np.int32), np.full(users, -1, np.int64)
    met, after = np.empty(users + 1, np.uint32), np.empty(np.diff(starts).max(), np.int64)
    lists = np.empty(1024, np.uint32)
    stop = begin + len(sums)
    for user in range(users):
        own = columns[starts[user] : starts[user + 1]]
        if np.searchsorted(own, begin) == np.searchsorted(own, stop):
            continue
        count, entries = _meet(own, by_item, user, after, overlap, met)
        later = met[:count]
        later.sort()
        if entries > len(lists):
            lists = np.empty(2 * entries, np.uint32)
        _list_common(own, by_item, (after, later), overlap, place, lists)
        factor = user_weights[user] * (2.0 if diagonal else 1.0)
        at = 0
        for v in later:
            if overlap[v] > 1:
                common = lists[at : at + overlap[v]]
                _add_all(common, begin, factor * user_weights[v] / (alpha + overlap[v]), sums)
                at += overlap[v]
            overlap[v], place[v] = 0, -1
        if diagonal:
            _add_all(own, begin, user_weights[user] ** 2 / (alpha + len(own)), sums)


@njit(cache=True, nogil=True)
def _meet(own: Any, by_item: Any, user: int, after: Any, overlap: Any, met: Any) -> tuple[int, int]:
    """Counts what each later user, of which `met` gets the numbers, shares with this one.

    (how many there are, all that they share together).   after: [own] where in `by_item` the later users of each item
    begin.
    """
    starts, users = by_item
    seen, entries = 0, 0
    for x in range(len(own)):
        item = own[x]
        end = starts[item + np.uint32(1)]
        after[x] = starts[item] + np.searchsorted(users[starts[item] : end], user, "right")
        entries += end - after[x]
        for at in range(after[x], end):
            v = users[at]
            met[seen] = v
            seen += int(overlap[v] == 0)
            overlap[v] += 1
    return seen, entries


@njit(cache=True, nogil=True)
def _list_common(own: Any, by_item: Any, met: Any, overlap: Any, place: Any, lists: Any) -> None:
    """Writes the common items of each later user who shares at least two, one list after the other, to `lists`."""
    starts, users = by_item
    after, later = met
    at = 0
    for v in later:
        if overlap[v] > 1:
            place[v] = at
            at += overlap[v]
    for x in range(len(own)):
        for entry in range(after[x], starts[own[x] + np.uint32(1)]):
            v = users[entry]
            if place[v] >= 0:
                lists[place[v]] = own[x]
                place[v] += 1


@njit(cache=True, nogil=True)
def _add_all(common: Any, begin: int, amount: float, sums: Any) -> None:
    """Adds an amount to all pairs of some items of which the first is in the block."""
    for item in common:
        row = int(item) - begin
        if 0 <= row < len(sums):
            line = sums[row]
            for other in common:
                line[other] += amount
