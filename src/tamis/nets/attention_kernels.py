"""DIN's activation unit over ragged requests, forward and backward, without ever building an [n, L, …] array.

For candidate n of request r and history entry l, with q = query, x = entry, x' = its first D numbers:

    hidden = query_part[n] + key_part[r, l] + product_weight @ (q * x')        [H]
    score  = output_weight · relu(hidden) + bias,  0 where the entry is absent
    pooled[n] = Σ_l score · x[r, l]

The way back does not make the hidden layer again: which units were above 0 is all it needs. With s the slope of a score
and u = s where the unit is above 0, else 0, still without the output weight o_h, which comes in at the end:

    Z_n = u_n x'   [H, D]       product_weight_h:  o_h Σ_n q_n * Z_n,h        q_n:  Σ_h o_h product_weight_h * Z_n,h
    o_h:  Σ u · hidden,  which is  Σ_l key_part Σ_n u + Σ_n query_part Σ_l u + product_weight_h · Σ_n q_n * Z_n,h

Helpers that may reorder sums are compiled into their callers: numba's cache would choose another order (decision 0031).

Everything of one group of candidates stays in the cache. Letters: r requests, n candidates, L history entries, V width
of an entry, D width of a query, H hidden units, P = L rounded up to 4, G candidates of a group. V, D, H are multiples
of 4.
"""

from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from tamis.nets.small_products import multiply, scratch

GROUP: Final = 16
_LANES: Final = 16  # short loops go on to a multiple of this, over what is written next or never read: no odd rest
_FAST: Final = {"reassoc", "contract", "nsz", "nnan", "arcp"}  # sums may be reordered; the order is fixed by the code
A = NDArray[Any]


def noted_widths(length: int, units: int) -> tuple[int, int]:
    """Columns of the two arrays in which `pool` notes what `pool_gradient` needs: P, and H · P with a little room."""
    padded = (length + 3) // 4 * 4
    return padded, units * padded + _LANES


@numba.njit(cache=True, nogil=True)
def _whole(padded: int) -> int:
    """Lanes of a loop over one candidate's P."""
    return (padded + _LANES - 1) // _LANES * _LANES


@numba.njit(cache=True, nogil=True)
def _entries(x: A, there: A, rows: A, mask: A) -> int:
    """Copies one request's history; the number of entries up to the last present one, rounded up to 4.

    x: [L, V].   there: [L] bool.   Filled, absent entries with zeros: rows [P, V], mask [P] 1 or 0.
    """
    last = 0
    for i in range(len(there)):
        if there[i]:
            last = i + 1
    padded = (last + 3) // 4 * 4
    for i in range(padded):
        present = i < last and there[i]
        mask[i] = 1 if present else 0
        for v in range(x.shape[1]):
            rows[i, v] = x[i, v] if present else x.dtype.type(0)
    return padded


@numba.njit(cache=True, nogil=True)
def _columns(out: A, rows: A, mask: A) -> None:
    """Fills out [c, : P] with the transpose of rows [≥ P, ≥ c]; what the mask [P] calls absent is 0."""
    for i in range(len(mask)):
        for c in range(out.shape[0]):
            out[c, i] = rows[i, c] if mask[i] > 0 else rows.dtype.type(0)


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _pairs(out: A, queries: A, columns: A, padded: int) -> None:
    """Fills out [D, G·P] with q * x' of G candidates, one after the other; queries: [G, D]."""
    lanes = np.uint64(_whole(padded))  # unsigned: no check for counting from the end
    for d in range(queries.shape[1]):
        for g in range(queries.shape[0]):
            q, at = queries[g, d], np.uint64(g * padded)
            for k in range(lanes):
                out[d, at + k] = q * columns[d, k]


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _parts(out: A, keys: A, query_parts: A, padded: int) -> None:
    """Fills out [H, G·P] with the parts of G candidates, query_parts [G, H], plus those of the entries, keys [H, P]."""
    lanes = np.uint64(_whole(padded))
    for h in range(keys.shape[0]):
        for g in range(query_parts.shape[0]):
            part, at = query_parts[g, h], np.uint64(g * padded)
            for k in range(lanes):
                out[h, at + k] = keys[h, k] + part


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _scores(out: A, hidden: A, output_weight: A, size: int) -> None:
    """Fills out[: size] with the scores from hidden [H, : size], before the relu.

    output_weight: [H + 1], the last one is the bias.
    """
    units, zero = hidden.shape[0], hidden.dtype.type(0)
    out[:size] = output_weight[units]
    for h in range(0, units, 4):
        a, b, c, d = output_weight[h], output_weight[h + 1], output_weight[h + 2], output_weight[h + 3]
        r0, r1, r2, r3 = hidden[h], hidden[h + 1], hidden[h + 2], hidden[h + 3]
        for k in range(size):
            first = a * max(r0[k], zero) + b * max(r1[k], zero)
            out[k] += first + c * max(r2[k], zero) + d * max(r3[k], zero)


@numba.njit(cache=True, nogil=True)
def _above(out: NDArray[np.uint8], hidden: A) -> None:
    """Fills out [H, k] with 1 where hidden [H, ≥ k] is above 0, else 0."""
    for h in range(out.shape[0]):
        own, given = out[h], hidden[h]
        for k in range(len(own)):
            own[k] = given[k] > 0


@numba.njit(cache=True, nogil=True)
def pool(
    keys: tuple[A, A, A, A], queries: tuple[A, A], weights: tuple[A, A], outs: tuple[A, A, A], part: tuple[int, int]
) -> None:
    """Fills out[n] for all candidates of the requests part[0] : part[1], and what `pool_gradient` needs to know.

    keys: (x [r, L, V], key_part [r, L, H], there [r, L] bool, first [r + 1], the rows of each request).
    queries: (query [n, D], query_part [n, H]).   weights: (product_weight [H, D], output_weight [H + 1]).
    outs: (out [n, V], scores [n, P], above [n, H · P] uint8: of a group of candidates the units above 0, [H, G·P'] with
    P' the entries up to the request's last); the last two may be empty.
    """
    x, key_part, there, first = keys
    query, query_part = queries
    product_weight, output_weight = weights
    out, kept_scores, kept_above = outs
    width, (units, depth) = x.shape[2], product_weight.shape
    room = (x.shape[1] + 3) // 4 * 4
    rows, mask = scratch(room, width, x), np.empty(room, x.dtype)
    columns, key_columns = scratch(depth, room, x), scratch(units, room, x)
    hidden, pairs = scratch(units, GROUP * room + _LANES, x), scratch(depth, GROUP * room + _LANES, x)
    scores, pooled = scratch(1, GROUP * room, x)[0], scratch(GROUP, width, x)
    for r in range(part[0], part[1]):
        padded = _entries(x[r], there[r], rows, mask)
        _columns(columns, rows, mask[:padded])
        _columns(key_columns, key_part[r], mask[:padded])
        for start in range(first[r], first[r + 1], GROUP):
            count = min(GROUP, first[r + 1] - start)
            group, whole, flat = slice(start, start + count), (count + 3) // 4 * 4, count * padded
            _pairs(pairs, query[group], columns, padded)
            _parts(hidden, key_columns, query_part[group], padded)
            multiply(hidden[:, :flat], product_weight, pairs[:, :flat])
            _scores(scores, hidden, output_weight, flat)
            for g in range(count):
                at = np.uint64(g * padded)
                for k in range(np.uint64(padded)):
                    scores[at + k] *= mask[k]
            scores[flat : whole * padded] = 0
            pooled[:] = 0
            multiply(pooled[:whole], scores[: whole * padded].reshape(whole, padded), rows[:padded])
            for g in range(count):
                for v in range(width):
                    out[start + g, v] = pooled[g, v]
            if len(kept_above):
                kept_scores[group, :padded] = scores[:flat].reshape(count, padded)
                _above(kept_above[group].ravel()[: units * flat].reshape(units, flat), hidden)


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _through_relu(out: A, slope: A, above: NDArray[np.uint8], sums: tuple[A, A], span: tuple[int, int]) -> None:
    """Fills out [H, : P] with slope [P, then 0] of one candidate's scores where above[:, span], the unit's, is 1.

    sums: (of the query part [H], filled, of the keys [H, P], added to).
    """
    query_sum, key_sum = sums
    zero, at, lanes = out.dtype.type(0), np.uint64(span[0]), np.uint64(_whole(span[1] - span[0]))
    for h in range(out.shape[0]):
        total, kept, made, keys = zero, above[h], out[h], key_sum[h]
        for k in range(lanes):
            value = slope[k] if kept[at + k] != 0 else zero
            made[k] = value
            keys[k] += value
            total += value
        query_sum[h] = total


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _masked(slope: A, mask: A, padded: int) -> float:
    """Multiplies slope[: P] by mask [P]; its sum."""
    total = slope.dtype.type(0)
    for k in range(padded):
        slope[k] *= mask[k]
        total += slope[k]
    return float(total)


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _through_query(unit_sum: A, given: tuple[A, A], sums: tuple[A, A]) -> None:
    """Sends Σ_l u [H] of one candidate on.

    given: (query_part [H], output_weight [H + 1]).   sums: (of query_part [H], filled, of output_weight, added to).
    """
    (query_part, output_weight), (query_part_sum, output_sum) = given, sums
    for h in range(len(unit_sum)):
        query_part_sum[h] = output_weight[h] * unit_sum[h]
        output_sum[h] += query_part[h] * unit_sum[h]


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _times(out: A, weighted: A, query: A) -> None:
    """Fills out [H, : D] with weighted [H, : D] * query [D]."""
    for h in range(out.shape[0]):
        for d in range(len(query)):
            out[h, d] = weighted[h, d] * query[d]


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _through_product(between: A, query: A, weighted: A, sums: tuple[A, A]) -> None:
    """Sends u x' of one candidate, between [H, D], on to the weights and to q.

    weighted: [H, D] product_weight times the output weight.   sums, added to: (of product_weight [H, D], of q [D]).
    """
    product_sum, query_sum = sums
    for h in range(between.shape[0]):
        given, weight, total = between[h], weighted[h], product_sum[h]
        for d in range(len(query)):
            total[d] += query[d] * given[d]
            query_sum[d] += weight[d] * given[d]


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _through_keys(row_sum: A, key_sum: A, given: tuple[A, A], sums: tuple[A, A, A]) -> None:
    """Sends the sums over one request's candidates on; absent entries have zeros there.

    row_sum: [P, V].   key_sum: [H, P] of u.   given: (key_part [L, H], output_weight [H + 1]).
    sums: (of x [L, V] and of key_part [L, H], filled, of output_weight, added to).
    """
    (key_part, output_weight), (x_sum, key_part_sum, output_sum) = given, sums
    padded = min(len(x_sum), row_sum.shape[0])
    for i in range(padded):
        own, total = x_sum[i], row_sum[i]
        for v in range(len(own)):
            own[v] = total[v]
    for h in range(key_sum.shape[0]):
        weight, slope, through = output_weight[h], key_sum[h], key_sum.dtype.type(0)
        for i in range(padded):
            key_part_sum[i, h] = weight * slope[i]
            through += key_part[i, h] * slope[i]
        output_sum[h] += through


@numba.njit(cache=True, nogil=True, fastmath=_FAST, forceinline=True)
def _through_weights(weights: tuple[A, A], sums: tuple[A, A]) -> None:
    """Brings the output weight into the sums of a whole part: (of product_weight [H, D], of output_weight [H + 1])."""
    (product_weight, output_weight), (product_sum, output_sum) = weights, sums
    for h in range(product_weight.shape[0]):
        through = output_sum.dtype.type(0)
        for d in range(product_weight.shape[1]):
            through += product_weight[h, d] * product_sum[h, d]
            product_sum[h, d] *= output_weight[h]
        output_sum[h] += through


@numba.njit(cache=True, nogil=True)
def pool_gradient(
    keys: tuple[A, A, A, A],
    queries: tuple[A, A],
    weights: tuple[A, A],
    kept: tuple[A, A, A],
    sums: tuple[A, A, A, A, A, A],
    part: tuple[int, int],
) -> None:
    """The gradient of `pool` for the requests part[0] : part[1].

    kept: (slope [n, V] of `pool`'s output, and what it noted: scores and the units above 0).
    sums: arrays of zeros to fill (x, key_part, query, query_part; product_weight and output_weight of this part alone),
    shaped like the things they are the gradients of.
    """
    x, key_part, there, first = keys
    query, query_part = queries
    product_weight, output_weight = weights
    slope, scores, above = kept
    x_sum, key_part_sum, query_sum, query_part_sum, product_sum, output_sum = sums
    width, (units, depth) = x.shape[2], product_weight.shape
    room = (x.shape[1] + 3) // 4 * 4
    rows, mask = scratch(room, width, x), np.empty(room, x.dtype)
    columns, row_sum = scratch(width, room, x), scratch(room, width, x)
    key_sum, unit_sum, through = scratch(units, room, x), np.empty(units, x.dtype), scratch(units, room, x)
    score_slope, out_slope = scratch(GROUP, room, x), scratch(GROUP, width, x)
    weighted, with_query, between = scratch(units, depth, x), scratch(units, depth, x), scratch(units, depth, x)
    _times(weighted.T, product_weight.T, output_weight[:units])
    for r in range(part[0], part[1]):
        padded = _entries(x[r], there[r], rows, mask)
        _columns(columns, rows, mask[:padded])
        row_sum[:padded] = 0
        key_sum[:, :padded] = 0
        for start in range(first[r], first[r + 1], GROUP):
            count = min(GROUP, first[r + 1] - start)
            group, whole, flat = slice(start, start + count), (count + 3) // 4 * 4, count * padded
            out_slope[count:] = 0
            for g in range(count):
                for v in range(width):
                    out_slope[g, v] = slope[start + g, v]
            score_slope[:] = 0
            multiply(score_slope[:whole, :padded], out_slope, columns[:width, :padded])
            multiply(row_sum[:padded, :width], scores[group, :padded].T, out_slope[:count])
            units_above = above[group].ravel()[: units * flat].reshape(units, flat)
            for g in range(count):
                n, own, of_scores = start + g, through[:, :padded], score_slope[g]
                output_sum[units] += _masked(of_scores, mask, padded)
                _through_relu(through, of_scores, units_above, (unit_sum, key_sum), (g * padded, (g + 1) * padded))
                _through_query(unit_sum, (query_part[n], output_weight), (query_part_sum[n], output_sum))
                _times(with_query, weighted, query[n])
                multiply(row_sum[:padded, :depth], own.T, with_query[:, :depth])
                between[:] = 0
                multiply(between[:, :depth], own, rows[:padded, :depth])
                _through_product(between, query[n], weighted, (product_sum, query_sum[n]))
        sums_of_keys = x_sum[r], key_part_sum[r], output_sum
        _through_keys(row_sum[:padded], key_sum, (key_part[r], output_weight), sums_of_keys)
    _through_weights(weights, (product_sum, output_sum))
