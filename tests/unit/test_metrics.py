import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.metrics import (
    Relevant,
    auc,
    calibration_error,
    coverage,
    distinct_share,
    gauc,
    hit_rate,
    hits,
    intra_list_diversity,
    log_loss,
    mean_interval,
    mrr,
    ndcg_at_k,
    recall_at_k,
    reliability,
)

NOTHING = np.empty(0)


def pairs(labels: np.ndarray, scores: np.ndarray) -> float:
    """AUC by its meaning: every positive against every negative."""
    up, down = scores[labels == 1], scores[labels == 0]
    if not len(up) or not len(down):
        return float("nan")
    return float(np.mean((up[:, None] > down) + 0.5 * (up[:, None] == down)))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.sampled_from([2, 5, 1000]))
def test_auc_counts_pairs_and_ties_by_half(seed: int, n: int, grain: int) -> None:
    generator = np.random.default_rng(seed)
    labels, scores = generator.integers(0, 2, n), generator.integers(0, grain, n).astype(np.float64)
    assert auc(labels, scores) == pytest.approx(pairs(labels, scores), nan_ok=True)


def test_auc_of_known_orders() -> None:
    assert auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert auc(np.array([0, 1]), np.array([-np.inf, np.inf])) == 1.0
    assert auc(np.array([True, False]), np.array([0.3, 0.3])) == 0.5
    assert math.isnan(auc(np.array([1, 1]), np.array([0.1, 0.2])))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.sampled_from(["rows", "positives", "equal"]))
def test_gauc_is_the_weighted_mean_over_groups_with_both_classes(seed: int, n: int, weight: Any) -> None:
    generator = np.random.default_rng(seed)
    labels, scores = generator.integers(0, 2, n), generator.integers(0, 6, n) / 6
    groups = generator.choice(["a", "b", "c", "d", "e"], n)
    total = weights = 0.0
    for name in set(groups.tolist()):
        mine = groups == name
        value = pairs(labels[mine], scores[mine])
        if not math.isnan(value):
            w = {"rows": mine.sum(), "positives": labels[mine].sum(), "equal": 1}[weight]
            total, weights = total + w * value, weights + w
    wanted = total / weights if weights else float("nan")
    assert gauc(labels, scores, groups, weight=weight) == pytest.approx(wanted, nan_ok=True)


def test_gauc_of_one_group_is_auc() -> None:
    generator = np.random.default_rng(2)
    labels, scores = generator.integers(0, 2, 50), generator.random(50)
    assert gauc(labels, scores, np.zeros(50)) == pytest.approx(auc(labels, scores))


def test_log_loss_by_hand_and_at_the_edge() -> None:
    assert log_loss(np.array([1, 0]), np.array([0.8, 0.4])) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert log_loss(np.array([0.3]), np.array([0.3])) == pytest.approx(-(0.3 * np.log(0.3) + 0.7 * np.log(0.7)))
    assert log_loss(np.array([1]), np.array([0.0])) == pytest.approx(-np.log(1e-7))


def test_reliability_bins_have_equal_mass_and_keep_equal_predictions_together() -> None:
    scores = np.r_[np.full(30, 0.2), np.linspace(0.3, 0.9, 70)]
    labels = (np.arange(100) % 2).astype(np.float64)
    curve = reliability(labels, scores, bins=10)
    assert curve.count.sum() == 100
    assert curve.count[0] == 30
    assert curve.count[1:].tolist() == [10] * 7
    assert curve.predicted[0] == pytest.approx(0.2)
    assert (np.diff(curve.predicted) > 0).all()
    np.testing.assert_allclose((curve.count * curve.observed).sum(), labels.sum())


def test_calibration_error_is_the_gap_between_said_and_seen() -> None:
    labels = np.r_[np.ones(5), np.zeros(5), np.ones(9), np.zeros(1)]
    scores = np.r_[np.full(10, 0.4), np.full(10, 0.9)]
    assert calibration_error(labels, scores, bins=2) == pytest.approx(0.5 * 0.1)
    generator = np.random.default_rng(1)
    p = generator.random(50_000)
    assert calibration_error(generator.random(50_000) < p, p) < 0.01


RANKED = np.array([[3, 1, 2, 9], [5, 6, 7, -1], [1, 2, 3, 4], [8, 9, -1, -1]])
RELEVANT = Relevant.of([[1, 9, 40], [5], [], [3, 4]])


def test_hits_know_their_query_and_padding_never_hits() -> None:
    assert hits(RANKED, RELEVANT).tolist() == [
        [False, True, False, True],
        [True, False, False, False],
        [False] * 4,
        [False] * 4,
    ]
    assert not hits(np.full((2, 3), -1), Relevant.of([[0], [5]])).any()


def test_list_metrics_by_hand_leave_out_queries_without_an_answer() -> None:
    assert recall_at_k(RANKED, RELEVANT, 2) == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert recall_at_k(RANKED, RELEVANT, 50) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert hit_rate(RANKED, RELEVANT, 1) == pytest.approx(1 / 3)
    assert hit_rate(RANKED, RELEVANT, 4) == pytest.approx(2 / 3)
    assert mrr(RANKED, RELEVANT) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert mrr(RANKED, RELEVANT, 1) == pytest.approx(1 / 3)
    first = (1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3) + 1 / 2)
    assert ndcg_at_k(RANKED, RELEVANT, 4) == pytest.approx((first + 1 + 0) / 3)
    assert ndcg_at_k(RANKED, RELEVANT, 1) == pytest.approx(1 / 3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 10), st.integers(1, 12))
def test_list_metrics_equal_a_loop_over_queries(seed: int, q: int, w: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    ranked = np.array([generator.permutation(15)[:w] for _ in range(q)])
    ranked[:, generator.integers(0, w + 1) :] = -1
    lists = [generator.permutation(15)[: generator.integers(0, 5)].tolist() for _ in range(q)]
    recalls, gains, firsts = [], [], []
    for row, wanted in zip(ranked.tolist(), lists, strict=True):
        if not wanted:
            continue
        hit = [item in wanted for item in row[:k]]
        recalls.append(sum(hit) / len(wanted))
        ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted))))
        gains.append(sum(h / math.log2(r + 2) for r, h in enumerate(hit)) / ideal)
        firsts.append(1 / (1 + hit.index(True)) if any(hit) else 0.0)
    relevant = Relevant.of(lists)
    for got, wanted_mean in ((recall_at_k, recalls), (ndcg_at_k, gains), (mrr, firsts)):
        mean = float(np.mean(wanted_mean)) if wanted_mean else float("nan")
        assert got(ranked, relevant, k) == pytest.approx(mean, nan_ok=True)


def test_relevant_counts_repeats_once() -> None:
    relevant = Relevant.of([[2, 2, 1], []])
    assert relevant.items.tolist() == [1, 2]
    assert relevant.starts.tolist() == [0, 2, 2]
    assert len(relevant) == 2


def test_coverage_counts_each_item_once_and_padding_never() -> None:
    assert coverage(np.array([[1, 2], [2, -1]]), 8) == 0.25
    assert coverage(NOTHING, 8) == 0.0
    assert math.isnan(coverage(NOTHING, 0))


def test_distinct_share_takes_none_as_different_from_all() -> None:
    assert distinct_share(np.array([1, 1, 2, 0, 0])) == pytest.approx(4 / 5)
    assert math.isnan(distinct_share(NOTHING))


def test_diversity_of_categories_is_the_share_of_unlike_pairs() -> None:
    categories = np.array([1, 1, 2, 0, 0])
    assert intra_list_diversity(np.array([[0, 1, 2]]), categories) == pytest.approx(2 / 3)
    assert intra_list_diversity(np.array([[3, 4, -1]]), categories) == 1.0
    both = np.array([[0, 1, -1], [0, 2, -1], [2, -1, -1]])
    assert intra_list_diversity(both, categories) == pytest.approx((0 + 1) / 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_diversity_of_vectors_is_the_mean_of_one_minus_cosine(seed: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(12, 3))
    vectors[3] = 0
    ranked = np.array([generator.permutation(12)[:5] for _ in range(4)])
    ranked[0, 3:] = -1
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.divide(vectors, norm, out=np.zeros_like(vectors), where=norm > 0)
    wanted = []
    for row in ranked.tolist():
        items = [item for item in row if item >= 0]
        near = [rows[a] @ rows[b] for at, a in enumerate(items) for b in items[:at]]
        wanted.append(1 - np.mean(near))
    assert intra_list_diversity(ranked, vectors) == pytest.approx(np.mean(wanted))


def test_nothing_to_measure_is_not_a_number() -> None:
    assert math.isnan(auc(NOTHING, NOTHING))
    assert math.isnan(gauc(NOTHING, NOTHING, NOTHING))
    assert math.isnan(log_loss(NOTHING, NOTHING))
    assert math.isnan(calibration_error(NOTHING, NOTHING))
    assert not len(reliability(NOTHING, NOTHING).count)
    none, nobody = np.empty((0, 3), np.int64), Relevant.of([])
    for metric in (recall_at_k, ndcg_at_k, hit_rate, mrr):
        assert math.isnan(metric(none, nobody, 3))
        assert metric(np.empty((1, 0), np.int64), Relevant.of([[1]]), 3) == 0.0
    assert math.isnan(intra_list_diversity(none, np.arange(3)))


def test_wrong_input_is_refused_by_name() -> None:
    good, bad = np.array([0.0, 1.0]), np.array([0.0, np.nan])
    for metric in (auc, log_loss, calibration_error):
        with pytest.raises(ValueError, match="labels"):
            metric(bad, good)
        with pytest.raises(ValueError, match="scores"):
            metric(good, bad)
        with pytest.raises(ValueError, match="rows"):
            metric(good, good[:1])
        with pytest.raises(ValueError, match="dimensions"):
            metric(good[:, None], good)
    with pytest.raises(ValueError, match="groups"):
        gauc(good, good, bad)
    with pytest.raises(ValueError, match="groups"):
        gauc(good, good, good[:1])
    with pytest.raises(ValueError, match="labels"):
        auc(np.array([0.0, 2.0]), good)
    with pytest.raises(ValueError, match="inside"):
        log_loss(good, np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="bins"):
        reliability(good, good, 0)
    with pytest.raises(ValueError, match="ranked"):
        hits(RANKED[:2], RELEVANT)
    with pytest.raises(ValueError, match="k 0"):
        recall_at_k(RANKED, RELEVANT, 0)
    with pytest.raises(ValueError, match="features"):
        intra_list_diversity(np.array([[0, 1]]), np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="features"):
        intra_list_diversity(np.array([[0, 1]]), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="ranked has item 9: there are 2 items"):
        intra_list_diversity(np.array([[0, 9]]), np.array([1, 2]))
    with pytest.raises(ValueError, match="ranked is float64"):
        ndcg_at_k(RANKED.astype(np.float64), RELEVANT, 2)
    with pytest.raises(ValueError, match="shown is float64"):
        coverage(bad, 3)
    with pytest.raises(ValueError, match="shown has item 3: there are 3 items"):
        coverage(np.array([3, -1]), 3)
    with pytest.raises(ValueError, match="scores"):
        calibration_error(good, np.array([0.5, np.inf]))


def test_the_interval_holds_the_mean_and_shrinks_with_more_users() -> None:
    random = np.random.default_rng(3)
    few, many = random.normal(0.1, 1, 50), random.normal(0.1, 1, 5000)
    wide, narrow = mean_interval(few, 1), mean_interval(many, 1)
    assert wide[0] < few.mean() < wide[1]
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 / np.sqrt(5000), rel=0.1)
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])
    assert np.isnan(mean_interval(few[:1], 1)).all()
