"""The passes between the matrix products of a mixture of experts, each fused into one walk over the rows.

Letters: n rows, r requests, d units of the first layer, t tasks, e experts, h units of an expert's output.
"""

from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

_FAST: Final = {"reassoc", "contract", "nsz", "nnan", "arcp"}
A = NDArray[Any]


@numba.njit(cache=True, nogil=True)
def meet(side: A, rows: A, first: NDArray[np.int64], part: tuple[int, int]) -> None:
    """rows[j] = relu(rows[j] + side[i]) for the rows j of the requests i in part[0] : part[1], in place.

    side: [r, d].   rows: [n, d].   first: [r + 1] where each request's rows begin.
    """
    zero = rows.dtype.type(0)
    for i in range(part[0], part[1]):
        own = side[i]
        for j in range(first[i], first[i + 1]):
            row = rows[j]
            for k in range(len(row)):
                row[k] = max(row[k] + own[k], zero)


@numba.njit(cache=True, nogil=True)
def meet_gradient(out: A, slope: A, slopes: tuple[A, A], first: NDArray[np.int64], part: tuple[int, int]) -> None:
    """The gradient of `meet`: slopes = (of rows [n, d], of side [r, d]), both filled. out: what `meet` gave."""
    of_rows, of_side = slopes
    zero = out.dtype.type(0)
    for i in range(part[0], part[1]):
        total = of_side[i]
        total[:] = 0
        for j in range(first[i], first[i + 1]):
            row, given, back = out[j], slope[j], of_rows[j]
            for k in range(len(row)):
                value = given[k] if row[k] > zero else zero
                back[k] = value
                total[k] += value


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def mix(raw: A, experts: A, keep: NDArray[np.bool_], outs: tuple[A, A], part: tuple[int, int]) -> None:
    """mixed[t, n] = Σ_e gate[n, t, e] · relu(experts[e, n]), gate = softmax(raw[n, t]) without the experts not kept.

    raw: [n, t, e].   experts: [e, n, h] before the relu.   keep: [n or 0, t, e]; empty = all are kept.
    outs: (mixed [t, n, h], gates [n, t, e]), filled for the rows part[0] : part[1]. Where no expert is kept, all are.
    """
    mixed, gates = outs
    tasks, count, zero = raw.shape[1], raw.shape[2], raw.dtype.type(0)
    for n in range(part[0], part[1]):
        for t in range(tasks):
            _gate(raw[n, t], keep[n, t] if len(keep) else keep[:0].ravel(), gates[n, t])
            out = mixed[t, n]
            out[:] = 0
            for e in range(count):
                weight, row = gates[n, t, e], experts[e, n]
                for k in range(len(row)):
                    out[k] += weight * max(row[k], zero)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # what is not a number stays so, for the loop to report
def _gate(raw: A, keep: NDArray[np.bool_], out: A) -> None:
    """out [e] = softmax of raw [e] over the kept experts; over all when none is kept or `keep` is empty."""
    every = len(keep) == 0 or not keep.any()
    top = raw.dtype.type(-np.inf)
    for e in range(len(raw)):
        if every or keep[e]:
            top = max(top, raw[e])
    total = raw.dtype.type(0)
    for e in range(len(raw)):
        out[e] = np.exp(raw[e] - top) if every or keep[e] else 0
        total += out[e]
    for e in range(len(raw)):
        out[e] /= total


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def mix_gradient(gates: A, experts: A, slope: A, slopes: tuple[A, A], part: tuple[int, int]) -> None:
    """The gradient of `mix`: slopes = (of raw [n, t, e], of experts [e, n, h]), filled for rows part[0] : part[1].

    gates: what `mix` gave.   slope: [t, n, h] of its output.
    """
    of_raw, of_experts = slopes
    tasks, count, zero = gates.shape[1], gates.shape[2], gates.dtype.type(0)
    for n in range(part[0], part[1]):
        for e in range(count):
            row, back = experts[e, n], of_experts[e, n]
            back[:] = 0
            for t in range(tasks):
                given, weight, dot = slope[t, n], gates[n, t, e], zero
                for k in range(len(row)):
                    dot += given[k] * max(row[k], zero)
                    back[k] += weight * given[k]
                of_raw[n, t, e] = dot
            for k in range(len(row)):
                back[k] = back[k] if row[k] > zero else zero
        for t in range(tasks):
            mean = zero
            for e in range(count):
                mean += gates[n, t, e] * of_raw[n, t, e]
            for e in range(count):
                of_raw[n, t, e] = gates[n, t, e] * (of_raw[n, t, e] - mean)
