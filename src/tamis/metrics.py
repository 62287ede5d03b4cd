"""Metrics, as pure functions of arrays. Full ranking everywhere: nothing here samples negatives.

Letters: n rows, q queries, w places of a ranked list, k a cut-off, i items, d vector width.
An empty input, or one on which the metric is not defined, gives NaN. NaN in an input raises ValueError naming it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_RESAMPLES: Final = 2000


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """The chance that a positive row scores above a negative one, ties counting half; NaN unless both classes occur.

    (Σ ranks of positives − n₊(n₊ + 1)/2) / (n₊ · n₋), tied scores sharing their mean rank.
    labels: [n] 0 or 1.   scores: [n] any scale.
    """
    positive, score = _binary(labels, scores)
    return float(_auc_by_group(positive, score, np.zeros(len(score), np.int64))[0][0]) if len(score) else float("nan")


def gauc(
    labels: NDArray[Any],
    scores: NDArray[Any],
    groups: NDArray[Any],
    *,
    weight: Literal["rows", "positives", "equal"] = "rows",
) -> float:
    """Σ_g w_g · AUC_g / Σ_g w_g over the groups (users, requests) in which both classes occur; NaN when none has.

    Groups with one class are skipped: no order of theirs is right or wrong.
    weight: w_g is the number of rows of the group (the usual definition), of its positives, or 1.
    labels: [n] 0 or 1.   scores: [n].   groups: [n] any values that can be compared.
    """
    positive, score = _binary(labels, scores)
    if np.shape(groups) != score.shape:
        raise ValueError(f"groups {np.shape(groups)}: wanted one per row, {score.shape}")
    if not len(score):
        return float("nan")
    names, group = np.unique(groups, return_inverse=True)
    if names.dtype.kind == "f" and np.isnan(names).any():
        raise ValueError("groups has a value that is not a number")
    values, rows, positives = _auc_by_group(positive, score, group.ravel())
    defined = np.isfinite(values)
    weights = {"rows": rows, "positives": positives, "equal": np.ones(len(rows))}[weight][defined]
    return float(np.average(values[defined], weights=weights)) if len(weights) else float("nan")


def log_loss(labels: NDArray[Any], scores: NDArray[Any], edge: float = 1e-7) -> float:
    """Mean of −(y·ln p + (1 − y)·ln(1 − p)), p kept `edge` away from 0 and 1.

    labels: [n] inside [0, 1] (soft labels allowed).   scores: [n] probabilities.
    """
    y, p = _column(labels, "labels"), _column(scores, "scores")
    _same_length(y, p)
    if ((y < 0) | (y > 1)).any() or ((p < 0) | (p > 1)).any():
        raise ValueError("labels or scores has a value that is not inside [0, 1]")
    if not len(y):
        return float("nan")
    p = np.clip(p, edge, 1 - edge)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predictions against outcomes in bins of equal mass, lowest predictions first. Arrays [b]."""

    count: NDArray[np.int64]
    predicted: Floats  # mean prediction
    observed: Floats  # share of positives


def reliability(labels: NDArray[Any], scores: NDArray[Any], bins: int = 10) -> Reliability:
    """The reliability curve: at most `bins` bins of equally many rows; equal predictions never part.

    labels: [n] 0 or 1.   scores: [n] probabilities.
    """
    if bins < 1:
        raise ValueError(f"bins {bins}: wanted ≥ 1")
    positive, p = _binary(labels, scores)
    if not np.isfinite(p).all():
        raise ValueError("scores has a value that is not finite")
    order = np.argsort(p, kind="stable")
    p, positive = p[order], positive[order]
    edges = p[np.linspace(0, len(p), bins, endpoint=False).astype(np.int64)] if len(p) else p
    starts = np.unique(np.searchsorted(p, edges))
    if not len(starts):
        return Reliability(np.empty(0, np.int64), np.empty(0), np.empty(0))
    count = np.diff(np.append(starts, len(p)))
    observed = np.add.reduceat(positive.astype(np.float64), starts) / count
    return Reliability(count, np.add.reduceat(p, starts) / count, observed)


def calibration_error(labels: NDArray[Any], scores: NDArray[Any], bins: int = 10) -> float:
    """Expected calibration error: Σ_b n_b/n · |mean p − share of positives| over bins of equal mass."""
    curve = reliability(labels, scores, bins)
    if not len(curve.count):
        return float("nan")
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.count))


@dataclass(frozen=True, slots=True)
class Relevant:
    """The right answers of q queries; those of query j are items[starts[j] : starts[j + 1]], distinct."""

    starts: NDArray[np.int64]  # [q + 1]
    items: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @staticmethod
    def of(lists: Iterable[Iterable[int]]) -> "Relevant":
        """From one collection of item numbers per query; repeats count once."""
        sets = [np.unique(np.fromiter(one, np.int64)) for one in lists]
        starts = np.cumsum([0, *(len(one) for one in sets)], dtype=np.int64)
        return Relevant(starts, np.concatenate(sets) if sets else np.empty(0, np.int64))


def hits(ranked: NDArray[Any], relevant: Relevant) -> NDArray[np.bool_]:
    """[q, w] True where the place of the ranked list holds a relevant item.

    ranked: [q, w] item numbers, best first, distinct within a row, −1 where the list is shorter.
    """
    ranked = _item_numbers(ranked, "ranked")
    if ranked.ndim != 2 or len(ranked) != len(relevant):
        raise ValueError(f"ranked {ranked.shape}: wanted one row for each of the {len(relevant)} queries")
    if not ranked.size or not len(relevant.items):
        return np.zeros(ranked.shape, np.bool_)
    span = int(max(ranked.max(), relevant.items.max())) + 1
    query = np.repeat(np.arange(len(relevant)), np.diff(relevant.starts))
    right = np.sort(query * span + relevant.items)
    asked = np.arange(len(ranked))[:, None] * span + ranked
    found = right[np.minimum(np.searchsorted(right, asked), len(right) - 1)] == asked
    return np.asarray(found & (ranked >= 0))


def recall_at_k(ranked: NDArray[Any], relevant: Relevant, k: int) -> float:
    """Mean over queries of |top k ∩ relevant| / |relevant|. Queries without a relevant item are left out.

    ranked: [q, w] as in `hits`.
    """
    return _mean_over(ranked, relevant, k, lambda hit, wanted: np.asarray(hit.sum(axis=1) / wanted))


def hit_rate(ranked: NDArray[Any], relevant: Relevant, k: int) -> float:
    """Share of queries with a relevant item among the first k; queries without a relevant item are left out."""
    return _mean_over(ranked, relevant, k, lambda hit, wanted: np.asarray(hit.any(axis=1), np.float64))


def ndcg_at_k(ranked: NDArray[Any], relevant: Relevant, k: int) -> float:
    """Mean over queries of DCG@k / IDCG@k with gain 1: DCG = Σ_r hit_r / log2(r + 1), r = 1 … k.

    IDCG puts min(k, |relevant|) hits first. Queries without a relevant item are left out.
    """

    def gained(hit: NDArray[np.bool_], wanted: Floats) -> Floats:
        discount = 1 / np.log2(np.arange(2, k + 2))
        ideal = np.cumsum(discount)[np.minimum(wanted.astype(np.int64), k) - 1]
        return np.asarray(hit @ discount[: hit.shape[1]] / ideal)

    return _mean_over(ranked, relevant, k, gained)


def mrr(ranked: NDArray[Any], relevant: Relevant, k: int | None = None) -> float:
    """Mean over queries of 1 / place of the first relevant item among the first k (None: all), 0 when there is none.

    Queries without a relevant item are left out.
    """

    def reciprocal(hit: NDArray[np.bool_], wanted: Floats) -> Floats:
        if not hit.shape[1]:
            return np.zeros(len(hit))
        return np.asarray(hit.any(axis=1) / (1.0 + hit.argmax(axis=1)), np.float64)

    return _mean_over(ranked, relevant, max(1, ranked.shape[-1]) if k is None else k, reciprocal)


def mean_interval(values: NDArray[Any], seed: int) -> tuple[float, float]:
    """The 95 % interval of the mean of some users' values, by drawing them with replacement (percentile bootstrap).

    NaN with fewer than two users, who say nothing of how users differ.
    """
    random, n = np.random.default_rng((seed, 1)), len(values)
    if n < 2:
        return float("nan"), float("nan")
    means = np.array([values[random.integers(0, n, n)].mean() for _ in range(_RESAMPLES)])
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def coverage(shown: NDArray[Any], items: int) -> float:
    """Share of a catalogue of `items` that occurs at least once in `shown` (any shape, −1 = nothing)."""
    if items < 1:
        return float("nan")
    distinct = np.unique(_item_numbers(shown, "shown", items))
    return float((distinct >= 0).sum() / items)


def distinct_share(values: NDArray[Any]) -> float:
    """Different values / places of one list [w]; a value of 0 (none) is different from every other."""
    if not len(values):
        return float("nan")
    known = values[values != 0]
    return float((len(np.unique(known)) + len(values) - len(known)) / len(values))


def intra_list_diversity(ranked: NDArray[Any], features: NDArray[Any]) -> float:
    """Mean over lists of the mean pairwise 1 − sim inside the list. Lists of fewer than two items are left out.

    ranked: [q, w] item numbers, −1 where the list is shorter.
    features: [i, d] vectors: sim is the cosine, 0 for a zero vector; or [i] categories: sim is 1 for the same
    category, and 0, which means none, is like nothing.
    """
    if ranked.ndim != 2 or features.ndim not in (1, 2):
        raise ValueError(f"ranked {ranked.shape} and features {features.shape}: wanted [q, w] and [i] or [i, d]")
    there = _item_numbers(ranked, "ranked", len(features)) >= 0
    length = there.sum(axis=1).astype(np.float64)
    use = length > 1
    if not use.any():
        return float("nan")
    alike = _like_pairs(ranked, there, features) if features.ndim == 1 else _cosine_pairs(ranked, there, features)
    pairs = length[use] * (length[use] - 1) / 2
    return float(np.mean(1 - alike[use] / pairs))


def _item_numbers(values: NDArray[Any], name: str, items: int | None = None) -> NDArray[Any]:
    """The values, if they are whole numbers, and below `items` where that is known."""
    numbers = np.asarray(values)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise ValueError(f"{name} is {numbers.dtype}: wanted item numbers")
    if items is not None and numbers.size and numbers.max() >= items:
        raise ValueError(f"{name} has item {numbers.max()}: there are {items} items")
    return numbers


def _like_pairs(ranked: NDArray[Any], there: NDArray[np.bool_], categories: NDArray[Any]) -> Floats:
    """[q] pairs of the same category: Σ_c m_c(m_c − 1)/2."""
    if categories.dtype.kind == "f" and np.isnan(categories).any():
        raise ValueError("features has a value that is not a number")
    row = np.broadcast_to(np.arange(len(ranked))[:, None], ranked.shape)[there]
    names, code = np.unique(categories[ranked[there]], return_inverse=True)
    known = names[code] != 0
    keys, count = np.unique(row[known] * len(names) + code[known], return_counts=True)
    return np.bincount(keys // len(names), count * (count - 1) / 2, len(ranked)).astype(np.float64)


def _cosine_pairs(ranked: NDArray[Any], there: NDArray[np.bool_], vectors: NDArray[Any]) -> Floats:
    """[q] Σ over pairs of the cosine: (‖Σv‖² − Σ‖v‖²)/2 of unit vectors."""
    chosen = vectors[np.where(there, ranked, 0)].astype(np.float64)
    if not np.isfinite(chosen).all():
        raise ValueError("features has a value that is not finite")
    norm = np.sqrt(np.einsum("qwd,qwd->qw", chosen, chosen))
    chosen *= np.where(there, np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0), 0)[..., None]
    total = chosen.sum(axis=1)
    return np.asarray((np.einsum("qd,qd->q", total, total) - np.einsum("qwd,qwd->q", chosen, chosen)) / 2)


def _mean_over(
    ranked: NDArray[Any], relevant: Relevant, k: int, value: Callable[[NDArray[np.bool_], Floats], Floats]
) -> float:
    """The mean of value(hits of the first k places, number of relevant items) over queries that have any."""
    if k < 1:
        raise ValueError(f"k {k}: wanted ≥ 1")
    hit = hits(ranked, relevant)[:, :k]
    wanted = np.diff(relevant.starts).astype(np.float64)
    use = wanted > 0
    return float(np.mean(value(hit[use], wanted[use]))) if use.any() else float("nan")


def _auc_by_group(
    positive: NDArray[np.bool_], score: Floats, group: NDArray[np.int64]
) -> tuple[Floats, Floats, Floats]:
    """(AUC, rows, positives) of each group 0 … g − 1; NaN where only one class occurs."""
    order = np.lexsort((score, group))
    group, score, positive = group[order], score[order], positive[order]
    rows = np.bincount(group)
    place = np.arange(1, len(score) + 1) - np.repeat(np.cumsum(rows) - rows, rows)  # 1 … rows of the group
    tie = np.append(True, (score[1:] != score[:-1]) | (group[1:] != group[:-1])).cumsum() - 1
    rank = (np.bincount(tie, place) / np.bincount(tie))[tie]
    ups = np.bincount(group, positive)
    downs = rows - ups
    sums = np.bincount(group, rank * positive) - ups * (ups + 1) / 2
    values = np.divide(sums, ups * downs, out=np.full(len(rows), np.nan), where=ups * downs > 0)
    return values, rows.astype(np.float64), ups.astype(np.float64)


def _binary(labels: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[np.bool_], Floats]:
    y, score = _column(labels, "labels"), _column(scores, "scores")
    _same_length(y, score)
    if not ((y == 0) | (y == 1)).all():
        raise ValueError("labels has a value that is neither 0 nor 1")
    return y == 1, score


def _column(values: NDArray[Any], name: str) -> Floats:
    column = np.asarray(values, np.float64)
    if column.ndim != 1:
        raise ValueError(f"{name} has {column.ndim} dimensions, wanted one")
    if np.isnan(column).any():
        raise ValueError(f"{name} has a value that is not a number")
    return column


def _same_length(labels: Floats, scores: Floats) -> None:
    if len(labels) != len(scores):
        raise ValueError(f"labels has {len(labels)} rows, scores has {len(scores)}")
