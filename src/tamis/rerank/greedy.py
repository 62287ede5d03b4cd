"""The greedy loop that every re-ranker here shares: pick, forbid, discount, pick again.

At each position the rules leave R′ of the rows not picked yet, and the best of R′ by
trade_off · score − (1 − trade_off) · (largest likeness to a recent pick) is taken. Rules and diversity therefore see
each other's choices, which running one after the other cannot give.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class Likeness(NamedTuple):
    """How alike two of n rows are, in [0, 1]: weights[0] · max(0, cosine) + Σ_a weights[1 + a] · same attribute a.

    vectors: [d, n] float32 columns of length 1 (or 0: no vector), d may be 0.   attributes: [a, n], 0 = none.
    matrix: [n, n] given likeness that replaces all of it, or [0, 0].
    """

    vectors: NDArray[np.float32]
    attributes: NDArray[np.int64]
    weights: NDArray[np.float64]
    matrix: NDArray[np.float64]

    @staticmethod
    def of_vectors(vectors: NDArray[Any]) -> "Likeness":
        """Cosine of the rows of vectors [n, d], not below 0; a zero vector is like nothing."""
        return Likeness(unit(vectors), np.empty((0, len(vectors)), np.int64), np.ones(1), np.empty((0, 0)))

    @staticmethod
    def of_matrix(matrix: NDArray[Any]) -> "Likeness":
        """A given symmetric [n, n] matrix."""
        n, given = len(matrix), np.ascontiguousarray(matrix, np.float64)
        return Likeness(np.empty((0, n), np.float32), np.empty((0, n), np.int64), np.ones(1), given)

    @staticmethod
    def nothing(n: int) -> "Likeness":
        """n rows that are nothing like each other."""
        return Likeness(np.empty((0, n), np.float32), np.empty((0, n), np.int64), np.ones(1), np.empty((0, 0)))


class Limits(NamedTuple):
    """Rules over n rows as numbers, least important first; see rules.py for what they mean. Arrays [r].

    values: [r, n] the rule is about rows of equal value, 0 = the rule does not touch the row.
    A row is forbidden while at_most of the last span − 1 picks share its value, at positions (from 1) up to `until`.
    slot > 0: instead, at that position only rows with a value are allowed.
    """

    values: NDArray[np.int64]
    span: NDArray[np.int64]
    at_most: NDArray[np.int64]
    until: NDArray[np.int64]
    slot: NDArray[np.int64]

    @staticmethod
    def none(n: int) -> "Limits":
        empty = np.empty(0, np.int64)
        return Limits(np.empty((0, n), np.int64), empty, empty, empty, empty)


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """[d, n]: the rows of vectors [n, d] scaled to length 1, as columns; zero vectors stay zero."""
    wide = np.asarray(vectors, np.float32)
    norm = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
    out = np.empty(wide.shape[::-1], np.float32)
    np.multiply(wide.T, inverse, out=out)
    return out


def greedy(
    score: NDArray[np.float64], likeness: Likeness, limits: Limits, size: int, trade_off: float, window: int
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """(positions of min(size, n) rows in the order picked, broken [r]).

    window: only the last `window` picks count for likeness, 0 = all.   Ties go to the higher score, then to the row
    that comes first. When no row may be picked, rules are dropped for this position, least important first, until one
    may; broken counts for each rule the picks that break it. The list is never cut short.
    """
    picks: tuple[NDArray[np.intp], NDArray[np.int64]] = _greedy(
        np.ascontiguousarray(score, np.float64), likeness, limits, min(size, len(score)), trade_off, window
    )
    return picks


@njit(cache=True, nogil=True)
def _greedy(score: Any, likeness: Any, limits: Any, size: int, trade_off: float, window: int) -> tuple[Any, Any]:
    n, rules = len(score), len(limits.span)
    picks = np.empty(size, np.intp)
    broken = np.zeros(rules, np.int64)
    level = np.zeros(n, np.int64)
    counts = np.zeros((rules, n), np.int64)
    nearest, worth = np.zeros(n), np.empty(n)
    windowed = 0 < window < size
    ring = np.zeros((window if windowed else 1, n))
    picked = np.zeros(n, np.bool_)
    for at in range(size):
        for row in range(n):  # loops, not array expressions: the same speed and a quarter of the time to compile
            worth[row] = trade_off * score[row] - (1 - trade_off) * nearest[row]
            level[row] = 0
        for rule in range(rules):
            _forbid(limits, counts, rule, at + 1, level)
        best = _argbest(score, worth, level, picked)
        picks[at] = best
        picked[best] = True
        for rule in range(rules if level[best] else 0):
            broken[rule] += _breaks(limits, counts, rule, best, at + 1)
        for rule in range(rules):
            _count(limits.values[rule], counts[rule], limits.span[rule], picks, at)
        if trade_off < 1 and at + 1 < size:
            _like(likeness, best, ring[at % len(ring)])
            _approach(nearest, ring, at, windowed)
    return picks, broken


@njit(cache=True, nogil=True)
def _forbid(limits: Any, counts: Any, rule: int, position: int, level: Any) -> None:
    """level[row] = rule + 1 where the row would break the rule; called with the most important rule last."""
    values, count, mark = limits.values[rule], counts[rule], rule + 1
    if limits.slot[rule]:
        if limits.slot[rule] == position:
            for row in range(len(level)):
                level[row] = mark if values[row] == 0 else level[row]
    elif position <= limits.until[rule]:
        at_most = limits.at_most[rule]
        for row in range(len(level)):
            level[row] = mark if (values[row] != 0) & (count[row] >= at_most) else level[row]


@njit(cache=True, nogil=True)
def _breaks(limits: Any, counts: Any, rule: int, row: int, position: int) -> bool:
    """Whether `row` at `position` breaks the rule."""
    value = limits.values[rule, row]
    if limits.slot[rule]:
        return bool(limits.slot[rule] == position and value == 0)
    return bool(value != 0 and position <= limits.until[rule] and counts[rule, row] >= limits.at_most[rule])


@njit(cache=True, nogil=True)
def _argbest(score: Any, worth: Any, level: Any, picked: Any) -> int:
    """The row with the least important broken rule, then the most worth, then the best score, then the first."""
    best = -1
    for row in range(len(score)):
        if picked[row]:
            continue
        if best >= 0:
            tied = level[row] == level[best]
            beaten = worth[row] < worth[best] or (worth[row] == worth[best] and score[row] <= score[best])
            if level[row] > level[best] or (tied and beaten):
                continue
        best = row
    return best


@njit(cache=True, nogil=True)
def _count(values: Any, count: Any, span: int, picks: Any, at: int) -> None:
    """Moves one rule's window one pick on: count[row] = picks in it that share the row's value."""
    entered = values[picks[at]]
    if entered:
        for row in range(len(values)):
            count[row] += values[row] == entered
    old = at + 1 - span
    left = values[picks[old]] if old >= 0 else 0
    if left:
        for row in range(len(values)):
            count[row] -= values[row] == left


@njit(cache=True, nogil=True)
def _approach(nearest: Any, ring: Any, at: int, windowed: bool) -> None:
    """nearest[row] = largest likeness of the row to the picks that count; `ring` holds those to the last picks."""
    if windowed:
        for row in range(len(nearest)):
            nearest[row] = 0.0  # a maximum cannot be undone when a pick leaves the window
    for recent in range(min(at + 1, len(ring))):
        for row in range(len(nearest)):
            nearest[row] = max(nearest[row], ring[recent, row])


@njit(cache=True, nogil=True)
def _like(likeness: Any, pick: int, out: Any) -> None:
    """out [n] = likeness of every row to `pick`."""
    if len(likeness.matrix):
        for row in range(len(out)):
            out[row] = likeness.matrix[pick, row]
        return
    _cosines(likeness.vectors, likeness.weights[0], pick, out)
    for a in range(len(likeness.attributes)):
        attribute, weight = likeness.attributes[a], likeness.weights[1 + a]
        mine = attribute[pick]
        if mine:
            for row in range(len(out)):
                out[row] += weight * (attribute[row] == mine)


@njit(cache=True, nogil=True)
def _cosines(vectors: Any, weight: float, pick: int, out: Any) -> None:
    """out [n] = weight · cosine to `pick`, kept inside [0, 1]; summed component by component, rows side by side."""
    cosine = np.zeros(len(out), np.float32)
    for at in range(len(vectors)):
        component = vectors[at]
        mine = component[pick]
        for row in range(len(out)):
            cosine[row] += mine * component[row]
    for row in range(len(out)):
        out[row] = weight * min(max(cosine[row], np.float32(0)), np.float32(1))
