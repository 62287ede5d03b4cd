"""How much each item of a batch weighs as a negative of each request.

    weight = times drawn · (its share of all draws)^−β,   0 for a pair that must not count

A negative drawn with probability p and weighed by p^−β acts like one drawn with probability ∝ p^{1−β}: β = 1 weighs the
catalogue evenly, β = 0 leaves popular items the negatives that they are because they are popular. In the listwise loss
that is the correction of Yi et al. (RecSys 2019), cos / temperature − log p. It belongs to training; what is served is
the plain cosine.

Hard negatives of a request share among them so much weight that they are `hard_share` of all its negatives.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tamis.nets.draws import Draw

NONE: Final = -1e4
"""The logarithm of no weight. Finite: a row in which every negative is masked must still have a gradient."""


def log_weights(draw: Draw, log_q: float, hard_share: float = 0.0) -> NDArray[np.float32]:
    """[r, u] the logarithm of each item's weight in each request; NONE where it has none."""
    plain = draw.log_times - np.float32(log_q) * draw.log_frequency
    weights = np.broadcast_to(plain, draw.known.shape).copy()
    weights[draw.known] = NONE
    weights[:, ~np.isfinite(plain)] = NONE
    if hard_share and draw.hard.size:
        _mix_hard(weights, draw.hard, hard_share)
    return weights


def _mix_hard(weights: NDArray[np.float32], hard: NDArray[np.int64], share: float) -> None:
    """Adds the hard negatives' weights in place. Without any easy one, the hard ones weigh 1 each."""
    there = hard >= 0
    row = np.flatnonzero(there.any(axis=1))
    if not len(row):
        return
    most = weights[row].max(axis=1)
    easy = most + np.log(np.exp(weights[row] - most[:, None]).sum(axis=1))
    count = there[row].sum(axis=1)
    each = easy + math.log(share / (1.0 - share)) - np.log(count)
    each = np.where(most > NONE, each, 0.0).astype(np.float32)
    at = np.repeat(row, count), hard[row][there[row]]
    weights[at] = np.logaddexp(weights[at], np.repeat(each, count))
