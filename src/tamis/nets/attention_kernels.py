"""DIN's activation unit over ragged requests, forward and backward, without ever building an [n, L, …] array.

For candidate n of request r and history entry l, with q = query, x = entry, x' = its first D numbers:

    hidden = query_part[n] + key_part[r, l] + product_weight @ (q * x')        [H]
    score  = output_weight · relu(hidden) + bias,  0 where the entry is absent
    pooled[n] = Σ_l score · x[r, l]

Everything of one group of candidates stays in the cache. Letters: r requests, n candidates, L history entries, V width
of an entry, D width of a query, H hidden units, P = L rounded up to 8, G candidates of a group. V, D, H are multiples
of 4.
"""

from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

GROUP: Final = 8
_FAST: Final = {"reassoc", "contract", "nsz", "nnan", "arcp"}  # sums may be reordered; the order is fixed by the code
A = NDArray[Any]


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _multiply(out: A, left: A, right: A, size: int) -> None:
    """out[a, : size] += left [a, b] @ right [b, : size]; a and b are multiples of 4."""
    for a in range(0, left.shape[0], 4):
        for b in range(0, left.shape[1], 4):
            u0, u1, u2, u3 = left[a, b], left[a, b + 1], left[a, b + 2], left[a, b + 3]
            v0, v1, v2, v3 = left[a + 1, b], left[a + 1, b + 1], left[a + 1, b + 2], left[a + 1, b + 3]
            w0, w1, w2, w3 = left[a + 2, b], left[a + 2, b + 1], left[a + 2, b + 2], left[a + 2, b + 3]
            z0, z1, z2, z3 = left[a + 3, b], left[a + 3, b + 1], left[a + 3, b + 2], left[a + 3, b + 3]
            for k in range(size):
                r0, r1, r2, r3 = right[b, k], right[b + 1, k], right[b + 2, k], right[b + 3, k]
                out[a, k] += u0 * r0 + u1 * r1 + u2 * r2 + u3 * r3
                out[a + 1, k] += v0 * r0 + v1 * r1 + v2 * r2 + v3 * r3
                out[a + 2, k] += w0 * r0 + w1 * r1 + w2 * r2 + w3 * r3
                out[a + 3, k] += z0 * r0 + z1 * r1 + z2 * r2 + z3 * r3


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _dots(out: A, left: A, right: A, size: int) -> None:
    """out [a, b] += left[:, : size] @ right[:, : size].T; a and b are multiples of 4."""
    o = out.dtype.type(0)
    for a in range(0, left.shape[0], 4):
        for b in range(0, right.shape[0], 4):
            s00, s01, s02, s03, s10, s11, s12, s13 = o, o, o, o, o, o, o, o
            s20, s21, s22, s23, s30, s31, s32, s33 = o, o, o, o, o, o, o, o
            for k in range(size):
                l0, l1, l2, l3 = left[a, k], left[a + 1, k], left[a + 2, k], left[a + 3, k]
                r0, r1, r2, r3 = right[b, k], right[b + 1, k], right[b + 2, k], right[b + 3, k]
                s00, s01, s02, s03 = s00 + l0 * r0, s01 + l0 * r1, s02 + l0 * r2, s03 + l0 * r3
                s10, s11, s12, s13 = s10 + l1 * r0, s11 + l1 * r1, s12 + l1 * r2, s13 + l1 * r3
                s20, s21, s22, s23 = s20 + l2 * r0, s21 + l2 * r1, s22 + l2 * r2, s23 + l2 * r3
                s30, s31, s32, s33 = s30 + l3 * r0, s31 + l3 * r1, s32 + l3 * r2, s33 + l3 * r3
            sums = ((s00, s01, s02, s03), (s10, s11, s12, s13), (s20, s21, s22, s23), (s30, s31, s32, s33))
            for i in range(4):
                for j in range(4):
                    out[a + i, b + j] += sums[i][j]


@numba.njit(cache=True, nogil=True)
def _entries(x: A, key_part: A, there: A, scratch: tuple[A, A, A, A]) -> int:
    """Lays one request's history out by column; the number of entries up to the last present one, rounded up to 8.

    x: [L, V].   key_part: [L, H].   there: [L] bool.   scratch: (rows [P, V], columns [V, P], keys [H, P], mask [P]).
    """
    rows, columns, keys, mask = scratch
    last = 0
    for i in range(len(there)):
        if there[i]:
            last = i + 1
    padded = (last + 7) // 8 * 8
    for i in range(padded):
        present = i < last and there[i]
        mask[i] = 1 if present else 0
        for v in range(x.shape[1]):
            value = x[i, v] if present else x.dtype.type(0)
            rows[i, v] = value
            columns[v, i] = value
        for h in range(keys.shape[0]):
            keys[h, i] = key_part[i, h] if present else x.dtype.type(0)
    return padded


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _pairs(out: A, queries: A, columns: A, padded: int) -> None:
    """Fills out [D, G·P] with q * x' of G candidates, one after the other; queries: [G, D]."""
    for d in range(queries.shape[1]):
        for g in range(queries.shape[0]):
            q, at = queries[g, d], np.uint64(g * padded)  # unsigned: no check for counting from the end
            for k in range(np.uint64(padded)):
                out[d, at + k] = q * columns[d, k]


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _hidden(out: A, keys: A, query_parts: A, weights: tuple[A, A], padded: int) -> None:
    """Fills out [H, G·P] with the hidden layer, before the relu, of G candidates.

    query_parts: [G, H].   weights: (product weight [H, D], the pairs [D, G·P]).
    """
    product_weight, pairs = weights
    for h in range(keys.shape[0]):
        for g in range(query_parts.shape[0]):
            part, at = query_parts[g, h], np.uint64(g * padded)
            for k in range(np.uint64(padded)):
                out[h, at + k] = keys[h, k] + part
    _multiply(out, product_weight, pairs, query_parts.shape[0] * padded)


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _scores(out: A, hidden: A, output_weight: A, mask: A, span: tuple[int, int]) -> None:
    """Fills out[: P] with the scores of one candidate, whose hidden layer is hidden[:, span].

    output_weight: [H + 1], the last one is the bias.
    """
    units, zero = hidden.shape[0], hidden.dtype.type(0)
    at, padded = np.uint64(span[0]), np.uint64(span[1] - span[0])
    for k in range(padded):
        out[k] = output_weight[units]
    for h in range(units):
        weight = output_weight[h]
        for k in range(padded):
            out[k] += weight * max(hidden[h, at + k], zero)
    for k in range(padded):
        out[k] *= mask[k]


@numba.njit(cache=True, nogil=True)
def pool(keys: tuple[A, A, A, A], queries: tuple[A, A], weights: tuple[A, A], out: A, part: tuple[int, int]) -> None:
    """Fills out[n] for all candidates of the requests part[0] : part[1].

    keys: (x [r, L, V], key_part [r, L, H], there [r, L] bool, first [r + 1], the rows of each request).
    queries: (query [n, D], query_part [n, H]).   weights: (product_weight [H, D], output_weight [H + 1]).
    """
    x, key_part, there, first = keys
    query, query_part = queries
    product_weight, output_weight = weights
    length, width = x.shape[1], x.shape[2]
    units, depth = product_weight.shape
    room = (length + 7) // 8 * 8
    kind = x.dtype
    rows, columns = np.empty((room, width), kind), np.empty((width, room), kind)
    key_columns, mask = np.empty((units, room), kind), np.empty(room, kind)
    hidden, pairs = np.empty((units, GROUP * room), kind), np.empty((depth, GROUP * room), kind)
    for r in range(part[0], part[1]):
        padded = _entries(x[r], key_part[r], there[r], (rows, columns, key_columns, mask))
        for start in range(first[r], first[r + 1], GROUP):
            count = min(GROUP, first[r + 1] - start)
            group = slice(start, start + count)
            whole = (count + 3) // 4 * 4
            scores, pooled = np.zeros((whole, padded), kind), np.zeros((whole, width), kind)
            _pairs(pairs, query[group], columns, padded)
            _hidden(hidden, key_columns, query_part[group], (product_weight, pairs), padded)
            for g in range(count):
                _scores(scores[g], hidden, output_weight, mask, (g * padded, (g + 1) * padded))
            _multiply(pooled, scores, rows, width)
            out[start : start + count] = pooled[:count]


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _through_relu(hidden: A, slopes: tuple[A, A], sums: tuple[A, A, A], span: tuple[int, int]) -> None:
    """Turns one candidate's hidden layer hidden[:, span] into its slope, in place.

    slopes: (of the scores [P], output_weight [H + 1]).
    sums, added to: (of output_weight [H + 1], of the query part [H], of the keys [H, P]).
    """
    score_slope, output_weight = slopes
    weight_sum, query_sum, key_sum = sums
    units, zero = hidden.shape[0], hidden.dtype.type(0)
    at, padded = np.uint64(span[0]), np.uint64(span[1] - span[0])
    for h in range(units):
        weight, total, through = output_weight[h], zero, zero
        for k in range(padded):
            value = hidden[h, at + k]
            slope = score_slope[k] * weight if value > zero else zero
            total += score_slope[k] * max(value, zero)
            through += slope
            hidden[h, at + k] = slope
            key_sum[h, k] += slope
        weight_sum[h] += total
        query_sum[h] += through
    for k in range(padded):
        weight_sum[units] += score_slope[k]


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _through_product(slope: A, pair: tuple[A, A], sums: tuple[A, A], span: tuple[int, int]) -> None:
    """Sends slope[:, span], of q * x', on to q and to x'.

    pair: (query [D], columns [V, P]).   sums, added to: (query [D], columns [V, P]).
    """
    query, columns = pair
    query_sum, column_sum = sums
    at, padded = np.uint64(span[0]), np.uint64(span[1] - span[0])
    for d in range(len(query)):
        q, total = query[d], query.dtype.type(0)
        for k in range(padded):
            total += slope[d, at + k] * columns[d, k]
            column_sum[d, k] += q * slope[d, at + k]
        query_sum[d] += total


@numba.njit(cache=True, nogil=True)
def pool_gradient(
    keys: tuple[A, A, A, A],
    queries: tuple[A, A],
    weights: tuple[A, A],
    slope: A,
    sums: tuple[A, A, A, A, A, A],
    part: tuple[int, int],
) -> None:
    """The gradient of `pool` for the requests part[0] : part[1], given `slope` [n, V] of its output.

    sums: arrays to fill (x, key_part, query, query_part: all zeros before) or to add to (product_weight,
    output_weight), shaped like the things they are the gradients of.
    """
    x, key_part, there, first = keys
    query, query_part = queries
    product_weight, output_weight = weights
    x_sum, key_sum, query_sum, query_part_sum, product_sum, output_sum = sums
    length, width = x.shape[1], x.shape[2]
    units, depth = product_weight.shape
    room = (length + 7) // 8 * 8
    kind = x.dtype
    turned = np.ascontiguousarray(product_weight.T)
    rows, columns = np.empty((room, width), kind), np.empty((width, room), kind)
    key_columns, mask = np.empty((units, room), kind), np.empty(room, kind)
    hidden = np.empty((units, GROUP * room), kind)
    back, pairs = np.empty((depth, GROUP * room), kind), np.empty((depth, GROUP * room), kind)
    for r in range(part[0], part[1]):
        padded = _entries(x[r], key_part[r], there[r], (rows, columns, key_columns, mask))
        column_sum, key_column_sum = np.zeros((width, padded), kind), np.zeros((units, padded), kind)
        for start in range(first[r], first[r + 1], GROUP):
            count = min(GROUP, first[r + 1] - start)
            whole = (count + 3) // 4 * 4
            scores, score_slope = np.zeros((whole, padded), kind), np.zeros((whole, padded), kind)
            out_slope = np.zeros((whole, width), kind)
            out_slope[:count] = slope[start : start + count]
            group = slice(start, start + count)
            _multiply(score_slope, out_slope, columns, padded)
            _pairs(pairs, query[group], columns, padded)
            _hidden(hidden, key_columns, query_part[group], (product_weight, pairs), padded)
            for g in range(count):
                n, span = start + g, (g * padded, (g + 1) * padded)
                _scores(scores[g], hidden, output_weight, mask, span)
                score_slope[g] *= mask[:padded]
                part_sums = (output_sum, query_part_sum[n], key_column_sum)
                _through_relu(hidden, (score_slope[g], output_weight), part_sums, span)
            back[:, : count * padded] = 0
            _multiply(back, turned, hidden, count * padded)
            for g in range(count):
                n, span = start + g, (g * padded, (g + 1) * padded)
                _through_product(back, (query[n], columns), (query_sum[n], column_sum), span)
            _dots(product_sum, hidden, pairs, count * padded)
            _multiply(column_sum, np.ascontiguousarray(out_slope.T), scores, padded)
        for i in range(min(padded, length)):
            if there[r, i]:
                x_sum[r, i] = column_sum[:, i]
                key_sum[r, i] = key_column_sum[:, i]
