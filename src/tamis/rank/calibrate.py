"""Calibration: predictions that mean what they say.

`undo_downsampling` is exact and needs no data, only the share of negatives that was kept in training. Platt and
isotonic calibration learn the rest of the error from held-out rows; both are increasing, so that the order of one head
never changes, only its scale against the other heads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from tamis.artifact import load_array, save_arrays

Probabilities = NDArray[np.float64]

_EDGE: Final = 1e-6  # scores are moved this far away from 0 and 1 before their log-odds are taken
_STEPS: Final = 50
_LEAST_SLOPE: Final = 1e-3  # keeps the map increasing when the scores are worse than chance


def undo_downsampling(p: NDArray[Any], keep_rate: float) -> Probabilities:
    """[n] what p would be without down-sampling: α·p / ((1 − p) + α·p).

    p: [n] inside [0, 1], predicted by a model that was trained on a share α = keep_rate of the negatives.
    The odds are multiplied by α, the log-odds shifted by ln α; the nets of this package make the shift themselves while
    they learn (`nets.thinning`), so that theirs needs none. (He et al., "Practical lessons from predicting clicks
    on ads at Facebook", 2014.)
    """
    if not 0 < keep_rate < float("inf"):
        raise ValueError(f"keep_rate {keep_rate}: wanted above 0")
    raw = _probabilities(p, "p")
    return keep_rate * raw / ((1 - raw) + keep_rate * raw)


@dataclass(frozen=True, slots=True)
class Platt:
    """p' = σ(slope · logit(p) + shift), slope > 0."""

    slope: float
    shift: float

    @classmethod
    def fit(cls, labels: NDArray[Any], scores: NDArray[Any]) -> Self:
        """The most likely slope and shift, by Newton's method on Platt's smoothed targets; no rows: the identity.

        labels: [n] 0 or 1.   scores: [n] inside [0, 1].   The targets (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2) keep slope and
        shift finite when the classes separate. (Platt, 1999; Lin, Lin and Weng, 2007.)
        """
        y, p = _rows(labels, scores)
        if not len(y):
            return cls(1.0, 0.0)
        positive = y.sum()
        target = np.where(y > 0, (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2))
        design = np.column_stack([_log_odds(p), np.ones(len(p))])
        slope, shift = _newton(design, target)
        if slope < _LEAST_SLOPE:
            slope = _LEAST_SLOPE
            shift = _newton(design[:, 1:], target, slope * design[:, 0])[0]
        return cls(float(slope), float(shift))

    def apply(self, p: NDArray[Any]) -> Probabilities:
        """[n] calibrated, strictly inside (0, 1), in the order of p."""
        return _inside(expit(self.slope * _log_odds(_probabilities(p, "p")) + self.shift))

    def save(self, folder: Path) -> None:
        save_arrays(folder, platt=np.array([self.slope, self.shift]))

    @classmethod
    def load(cls, folder: Path) -> Self:
        slope, shift = load_array(folder, "platt")
        return cls(float(slope), float(shift))


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A non-decreasing line through points: scores [k] strictly increasing, values [k] inside (0, 1)."""

    scores: Probabilities
    values: Probabilities

    @classmethod
    def fit(cls, labels: NDArray[Any], scores: NDArray[Any]) -> Self:
        """The non-decreasing step function of least squares (pool adjacent violators), joined from block to block.

        labels: [n] 0 or 1.   scores: [n] inside [0, 1].   A block of m rows with s positives stands at its mean score
        with value (s + ½)/(m + 1), so that no prediction is 0 or 1; the few blocks that this puts out of order are
        pooled again. No rows: the identity.
        """
        y, p = _rows(labels, scores)
        if not len(y):
            return cls(np.array([0.0, 1.0]), np.array([_EDGE, 1 - _EDGE]))
        from scipy.optimize import isotonic_regression  # a second of imports that no server needs

        distinct, place = np.unique(p, return_inverse=True)
        rows, positive = np.bincount(place).astype(np.float64), np.bincount(place, y)
        blocks = np.asarray(isotonic_regression(positive / rows, weights=rows).blocks, np.int64)
        mass = np.add.reduceat(rows, blocks[:-1])
        centre = np.add.reduceat(rows * distinct, blocks[:-1]) / mass
        smoothed = (np.add.reduceat(positive, blocks[:-1]) + 0.5) / (mass + 1)
        return cls(centre, np.asarray(isotonic_regression(smoothed, weights=mass).x, np.float64))

    def apply(self, p: NDArray[Any]) -> Probabilities:
        """[n] calibrated, strictly inside (0, 1), never against the order of p; outside the points the end values."""
        return _inside(np.interp(_probabilities(p, "p"), self.scores, self.values))

    def save(self, folder: Path) -> None:
        save_arrays(folder, isotonic_scores=self.scores, isotonic_values=self.values)

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(load_array(folder, "isotonic_scores"), load_array(folder, "isotonic_values"))


def _newton(design: Probabilities, target: Probabilities, fixed: Any = 0.0) -> Probabilities:
    """The coefficients of a logistic regression on `design` [n, c] with soft targets, by damped Newton steps."""
    coefficients = np.zeros(design.shape[1])

    def loss(at: Probabilities) -> float:
        z = design @ at + fixed
        return float(np.mean(np.logaddexp(0, z) - target * z))

    best = loss(coefficients)
    for _ in range(_STEPS):
        p = expit(design @ coefficients + fixed)
        gradient = design.T @ (p - target) / len(target)
        curvature = (design * (p * (1 - p))[:, None]).T @ design / len(target) + 1e-9 * np.eye(len(coefficients))
        step = np.linalg.solve(curvature, gradient)
        while (now := loss(coefficients - step)) > best and np.abs(step).max() > 1e-9:
            step = step / 2
        coefficients, gained, best = coefficients - step, best - now, now
        if gained < 1e-14:
            break
    return coefficients


def _log_odds(p: Probabilities) -> Probabilities:
    return np.asarray(logit(np.clip(p, _EDGE, 1 - _EDGE)))


def _inside(p: Any) -> Probabilities:
    tiny = np.finfo(np.float64).eps
    return np.clip(np.asarray(p, np.float64), tiny, 1 - tiny)


def _probabilities(p: NDArray[Any], name: str) -> Probabilities:
    values = np.asarray(p, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name} has a value that is not inside [0, 1]")
    return values


def _rows(labels: NDArray[Any], scores: NDArray[Any]) -> tuple[Probabilities, Probabilities]:
    y, p = np.asarray(labels, np.float64), _probabilities(scores, "scores")
    if y.shape != p.shape or y.ndim != 1:
        raise ValueError(f"labels {y.shape} and scores {p.shape}: wanted two columns of one length")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("labels has a value that is neither 0 nor 1")
    return y, p
