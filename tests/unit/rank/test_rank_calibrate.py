"""Calibration: CAL-1 … CAL-4 of the course specification, Platt and isotonic."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from tamis.rank.calibrate import Isotonic, Platt, undo_downsampling


def rows(seed: int, n: int, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels, scores that are off by slope and shift in log-odds, true probabilities)."""
    generator = np.random.default_rng(seed)
    truth = generator.beta(2, 5, n)
    return (generator.random(n) < truth).astype(np.float64), expit((logit(truth) - shift) / slope), truth


@pytest.mark.parametrize(("keep_rate", "predicted"), [(1 / 9, 0.5), (0.2, 0.357142857142857), (0.5, 0.181818181818182)])
def test_cal_1_ten_in_a_hundred_whatever_was_kept(keep_rate: float, predicted: float) -> None:
    assert 10 / (10 + keep_rate * 90) == pytest.approx(predicted, abs=1e-12)
    assert undo_downsampling(np.array([10 / (10 + keep_rate * 90)]), keep_rate)[0] == pytest.approx(0.1, abs=1e-12)


def test_cal_2_spot_values() -> None:
    np.testing.assert_allclose(
        undo_downsampling(np.array([0.5, 0.2, 0.9]), 0.1), [0.0909091, 0.0243902, 0.4736842], atol=5e-8
    )
    assert undo_downsampling(np.array([0.5]), 0.2)[0] == pytest.approx(0.1666667, abs=5e-8)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 1.0), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_cal_3_monotone_with_fixed_ends_and_an_inverse(keep_rate: float, predictions: list[float]) -> None:
    p = np.sort(np.array(predictions))
    q = undo_downsampling(p, keep_rate)
    assert (np.diff(q) >= 0).all()
    assert undo_downsampling(np.array([0.0, 1.0]), keep_rate).tolist() == [0.0, 1.0]
    np.testing.assert_allclose(undo_downsampling(p, 1.0), p, atol=1e-15)
    np.testing.assert_allclose(undo_downsampling(q, 1 / keep_rate), p, atol=1e-9)
    inside = (p > 1e-9) & (p < 1 - 1e-9)
    np.testing.assert_allclose(q[inside], expit(logit(p[inside]) + np.log(keep_rate)), atol=1e-9)


def test_cal_4_a_model_trained_on_a_ninth_of_the_negatives_is_put_right() -> None:
    """A logistic model with click rate 0.1: 0.5 on average when trained on the sample, 0.1 after calibration."""
    generator = np.random.default_rng(4)
    n = 60_000
    x = generator.normal(size=n)
    truth = expit(-2.45 + 0.8 * x)
    y = generator.random(n) < truth
    kept = y | (generator.random(n) < 1 / 9)
    weights = np.zeros(2)
    design = np.column_stack([x[kept], np.ones(kept.sum())])
    for _ in range(20):
        p = expit(design @ weights)
        curvature = (design * (p * (1 - p))[:, None]).T @ design
        weights -= np.linalg.solve(curvature, design.T @ (p - y[kept]))
    assert y.mean() == pytest.approx(0.1, abs=0.01)
    assert expit(design @ weights).mean() == pytest.approx(0.5, abs=0.02)
    raw = expit(np.column_stack([x, np.ones(n)]) @ weights)
    assert undo_downsampling(raw, 1 / 9).mean() == pytest.approx(y.mean(), abs=0.005)
    np.testing.assert_allclose(undo_downsampling(raw, 1 / 9), truth, atol=0.05)


def test_platt_finds_the_slope_and_shift_that_were_put_in() -> None:
    labels, scores, truth = rows(1, 60_000, slope=0.6, shift=-0.9)
    fitted = Platt.fit(labels, scores)
    assert fitted.slope == pytest.approx(0.6, abs=0.03)
    assert fitted.shift == pytest.approx(-0.9, abs=0.05)
    assert np.abs(fitted.apply(scores) - truth).mean() < 0.01


def test_isotonic_follows_a_bend_that_platt_cannot() -> None:
    generator = np.random.default_rng(2)
    scores = generator.random(60_000)
    truth = np.where(scores < 0.5, 0.05, 0.6)
    labels = (generator.random(60_000) < truth).astype(np.float64)
    away = np.abs(scores - 0.5) > 0.05
    isotonic = np.abs(Isotonic.fit(labels, scores).apply(scores) - truth)[away].mean()
    platt = np.abs(Platt.fit(labels, scores).apply(scores) - truth)[away].mean()
    assert isotonic < 0.02
    assert platt > 2 * isotonic


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.sampled_from([3, 1000]))
def test_calibrators_are_monotone_bounded_and_survive_the_disk(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, grain: int
) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, grain + 1, n) / grain
    labels = (generator.random(n) < generator.random()).astype(np.float64)
    asked = np.sort(np.concatenate([generator.random(50), [0.0, 1.0], scores]))
    for kind in (Platt, Isotonic):
        fitted = kind.fit(labels, scores)
        p = fitted.apply(asked)
        assert (np.diff(p) >= 0).all()
        assert ((p > 0) & (p < 1)).all()
        folder = tmp_path_factory.mktemp("calibrator")
        fitted.save(folder)
        np.testing.assert_array_equal(kind.load(folder).apply(asked), p)


def test_isotonic_means_agree_with_the_labels_up_to_smoothing() -> None:
    labels, scores, _ = rows(3, 5000, slope=2.0)
    fitted = Isotonic.fit(labels, scores)
    assert fitted.apply(scores).mean() == pytest.approx(labels.mean(), abs=0.01)
    assert (np.diff(fitted.scores) > 0).all()


def test_scores_against_the_labels_flatten_but_never_turn_round() -> None:
    scores = np.linspace(0.01, 0.99, 200)
    labels = (scores < 0.5).astype(np.float64)
    platt, isotonic = Platt.fit(labels, scores), Isotonic.fit(labels, scores)
    assert platt.slope > 0
    assert platt.apply(scores).mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(isotonic.apply(scores), 0.5, atol=0.01)


def test_separable_classes_stay_finite() -> None:
    scores = np.r_[np.full(50, 0.1), np.full(50, 0.9)]
    fitted = Platt.fit((scores > 0.5).astype(np.float64), scores)
    assert np.isfinite([fitted.slope, fitted.shift]).all()
    np.testing.assert_allclose(fitted.apply(np.array([0.1, 0.9])), [1 / 52, 51 / 52], atol=1e-4)


def test_without_rows_nothing_changes() -> None:
    p = np.array([0.01, 0.3, 0.99])
    for kind in (Platt, Isotonic):
        np.testing.assert_allclose(kind.fit(np.empty(0), np.empty(0)).apply(p), p, atol=1e-5)


def test_wrong_input_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_rate"):
        undo_downsampling(np.array([0.5]), 0.0)
    for bad in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="p has"):
            undo_downsampling(np.array([bad]), 0.5)
        with pytest.raises(ValueError, match="scores"):
            Platt.fit(np.array([1.0]), np.array([bad]))
    with pytest.raises(ValueError, match="labels"):
        Isotonic.fit(np.array([0.5]), np.array([0.5]))
    with pytest.raises(ValueError, match="labels"):
        Isotonic.fit(np.array([1.0, 0.0]), np.array([0.5]))
