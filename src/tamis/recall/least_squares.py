"""Alternating least squares: the rows of one side solved exactly enough while the other side stands still.

    for each row x:  minimise  Σ_e w_e (y_e·x)² − 2 Σ_e b_e (y_e·x)  +  everywhere · Σ_all y (y·x)²  +  ridge |x|²

which is a squared loss over the row's entries e plus, where `everywhere` > 0, a pull of all other scores towards 0;
what w and b are makes it one model or the other. Rows are solved by a few steps of conjugate gradients from where they
were (Takács, Pilászy, Tikk, RecSys 2011), some rows side by side, because their products with YᵀY, where most of
the time goes, are faster as one. Every row is computed by one thread in a fixed order, so the answer does not depend on
the number of threads.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.recall.blocks import in_blocks

F32 = NDArray[np.float32]

_BLOCK: Final = 512  # rows that one thread takes at a time
_GROUP: Final = 32  # rows that are solved side by side
_EXACT: Final = np.float32(1e-13)  # a rest of |b|² of this size is rounding, and going on would only amplify it
_REORDER: Final = {"reassoc", "contract", "nsz"}  # sums may be vectorised; NaN and infinity stay what they are


class Entries(NamedTuple):
    """The entries of one side's rows: those of row x are starts[x] : starts[x + 1]."""

    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    weights: F32  # w
    pulls: F32  # b

    @staticmethod
    def of(weights: csr_matrix, pulls: F32) -> "Entries":
        """weights: CSR [rows, columns] of w.   pulls: b of the same entries, in the same order."""
        return Entries(
            weights.indptr.astype(np.int64), weights.indices.astype(np.int32), weights.data.astype(np.float32), pulls
        )


def both_sides(weights: csr_matrix, pulls: F32) -> tuple[Entries, Entries]:
    """The entries by row and by column of one matrix."""
    numbered = csr_matrix((np.arange(len(pulls)), weights.indices, weights.indptr), shape=weights.shape)
    turned = numbered.T.tocsr()
    across = csr_matrix((weights.data[turned.data], turned.indices, turned.indptr), shape=turned.shape)
    return Entries.of(weights, pulls), Entries.of(across, pulls[turned.data])


def drawn(shape: tuple[int, int], width: int, seed: int) -> tuple[F32, F32]:
    """(x [rows, width], y [columns, width]) to start from: normal, 0.1 / √width wide, so that scores are small."""
    random = np.random.default_rng(seed)
    spread = np.float32(0.1 / np.sqrt(width))
    x, y = (random.standard_normal((count, width), np.float32) * spread for count in shape)
    return x, y


def alternate(
    sides: tuple[Entries, Entries],
    ridges: tuple[F32, F32],
    start: tuple[F32, F32],
    settings: tuple[float, int, int],
    done: Callable[[int], None],
) -> tuple[F32, F32]:
    """(x [rows, d], y [columns, d]) after some rounds of solving x with y fixed, then y with x fixed.

    settings: (everywhere, rounds, steps of conjugate gradients).   done: called with the rounds finished.
    """
    everywhere, rounds, steps = settings
    x, y = (np.ascontiguousarray(side, np.float32).copy() for side in start)
    for finished in range(rounds):
        solve(sides[0], y, x, ridges[0], (everywhere, steps))
        solve(sides[1], x, y, ridges[1], (everywhere, steps))
        done(finished + 1)
    return x, y


def solve(entries: Entries, fixed: F32, solved: F32, ridge: F32, settings: tuple[float, int]) -> None:
    """Improves `solved` [rows, d] in place by `settings` = (everywhere, steps); a row without entries becomes 0."""
    everywhere, steps = settings
    product = gram(fixed) * np.float32(everywhere) if everywhere else np.zeros((0, 0), np.float32)
    for _ in in_blocks(
        lambda a, b: _rows((entries, fixed, product, ridge), solved, (a, b), steps), len(solved), _BLOCK
    ):
        pass


def gram(vectors: F32) -> F32:
    """[d, d] Σ v vᵀ over the rows of [n, d], summed in blocks of fixed size."""
    total = np.zeros((vectors.shape[1],) * 2)
    for part in in_blocks(lambda a, b: vectors[a:b].T @ vectors[a:b], len(vectors), 4 * _BLOCK):
        total += part
    return total.astype(np.float32)


def quadratic(entries: Entries, x: F32, y: F32, ridges: tuple[F32, F32], everywhere: float) -> float:
    """What `alternate` makes small: the sum at the head of this module over all rows, with the ridges of both sides."""
    scores = entry_scores(entries, x, y).astype(np.float64)
    value = float(np.sum(scores * (entries.weights * scores - 2 * entries.pulls)))
    if everywhere:
        value += everywhere * float(np.sum(gram(x).astype(np.float64) * gram(y)))
    for ridge, side in zip(ridges, (x, y), strict=True):
        value += float(ridge.astype(np.float64) @ np.einsum("nd,nd->n", side, side))
    return value


def entry_scores(entries: Entries, x: F32, y: F32) -> F32:
    """[e] x·y of every entry."""
    scores = np.empty(len(entries.columns), np.float32)
    for _ in in_blocks(lambda a, b: _scores(entries, x, y, a, b, scores), len(x), _BLOCK):
        pass
    return scores


@njit(cache=True, nogil=True, fastmath=_REORDER)
def _scores(entries: Any, x: Any, y: Any, first: int, stop: int, scores: Any) -> None:
    for row in range(first, stop):
        for at in range(entries.starts[row], entries.starts[row + 1]):
            scores[at] = _dot(x[row], y[entries.columns[at]])


@njit(cache=True, nogil=True, fastmath=_REORDER)
def _rows(problem: Any, solved: Any, ends: tuple[int, int], steps: int) -> None:
    """Conjugate gradients for the rows from one end to the other, some at a time.

    problem: (entries, the other side [n, d], everywhere · YᵀY [d, d] or [0, 0], ridge [rows]).
    """
    entries, fixed, _, _ = problem
    rest = np.empty((_GROUP, solved.shape[1]), np.float32)
    way, image = np.empty_like(rest), np.empty_like(rest)
    left, enough = np.empty(_GROUP, np.float32), np.empty(_GROUP, np.float32)
    for begin in range(ends[0], ends[1], _GROUP):
        count = min(_GROUP, ends[1] - begin)
        x = solved[begin : begin + count]
        for g in range(count):
            if entries.starts[begin + g] == entries.starts[begin + g + 1]:
                x[g, :] = 0
        _apply(problem, begin, x, image[:count])
        for g in range(count):
            rest[g, :] = 0
            for at in range(entries.starts[begin + g], entries.starts[begin + g + 1]):
                _add(rest[g], entries.pulls[at], fixed[entries.columns[at]])
            enough[g] = max(_EXACT * _dot(rest[g], rest[g]), np.float32(1e-20))
            _add(rest[g], np.float32(-1), image[g])
            way[g, :] = rest[g]
            left[g] = _dot(rest[g], rest[g])
        for _ in range(steps):
            _apply(problem, begin, way[:count], image[:count])
            for g in range(count):
                if left[g] > enough[g]:
                    left[g] = _step(x[g], rest[g], way[g], image[g], left[g])


@njit(cache=True, nogil=True, fastmath=_REORDER, forceinline=True)
def _step(x: Any, rest: Any, way: Any, image: Any, left: Any) -> Any:
    """One step of conjugate gradients along `way`, whose image is known: the new |rest|²."""
    curve = _dot(way, image)
    if curve <= 0:
        return np.float32(0)  # nothing pulls along this way
    pace = left / curve
    _add(x, pace, way)
    _add(rest, -pace, image)
    now = _dot(rest, rest)
    turn = now / left
    for t in range(len(way)):
        way[t] = rest[t] + turn * way[t]
    return now


@njit(cache=True, nogil=True, fastmath=_REORDER, forceinline=True)
def _apply(problem: Any, begin: int, x: Any, image: Any) -> None:
    """image[g] = (everywhere · YᵀY + Σ_e w y yᵀ + ridge) x[g] for the rows begin, begin + 1, …"""
    entries, fixed, product, ridge = problem
    if len(product):
        np.dot(x, product, image)
    else:
        image[:] = 0
    for g in range(len(x)):
        _add(image[g], ridge[begin + g], x[g])
        for at in range(entries.starts[begin + g], entries.starts[begin + g + 1]):
            y = fixed[entries.columns[at]]
            _add(image[g], entries.weights[at] * _dot(x[g], y), y)


@njit(cache=True, nogil=True, fastmath=_REORDER, inline="always")
def _dot(a: Any, b: Any) -> Any:
    total = np.float32(0)
    for t in range(len(a)):
        total += a[t] * b[t]
    return total


@njit(cache=True, nogil=True, fastmath=_REORDER, inline="always")
def _add(out: Any, scale: Any, vector: Any) -> None:
    for t in range(len(out)):
        out[t] += scale * vector[t]
