"""What the positives of a batch cost against their negatives: four losses over cosines.

    listwise            −log( e^{s⁺} / (e^{s⁺} + Σ w·e^{s⁻}) ),  s = cos / temperature, s⁺ corrected like the negatives
    pointwise           ( log(1 + e^{−σ·cos⁺}) + n · Σ w·log(1 + e^{σ·cos⁻}) ) / (1 + n)
    pairwise_hinge      Σ w·max(0, cos⁻ + margin − cos⁺)
    pairwise_logistic   Σ w·log(1 + e^{σ·(cos⁻ − cos⁺)})

w: how much an item weighs as a negative of a request (`negatives.log_weights`). Except in the list the weights of one
request sum to 1, so a term is the mean that one drawn negative (n drawn ones: 1 : n) would have, without the noise of
drawing it. With one negative and σ = 1 / temperature the list is the logistic pair.
(Listwise: Yi et al., RecSys 2019; pairs: Huang et al., KDD 2020.)
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tamis.nets.negatives import NONE
from tamis.nets.tower_plan import LossPlan


class Cosines(NamedTuple):
    """p positives of r requests against the u items of a batch."""

    positive: Tensor  # [p]
    negative: Tensor  # [r, u]
    log_weight: Tensor  # [r, u] see negatives.log_weights
    request_of: Tensor  # [p] row of each positive's request
    correction: Tensor  # [p] what the logarithm of a negative's weight holds of its frequency, for the positive


def mean_loss(cosines: Cosines, plan: LossPlan) -> Tensor:
    """The mean over the positives."""
    return {
        "listwise": listwise,
        "pointwise": pointwise,
        "pairwise_hinge": pairwise_hinge,
        "pairwise_logistic": pairwise_logistic,
    }[plan.loss](cosines, plan)


def listwise(cosines: Cosines, plan: LossPlan) -> Tensor:
    """Cross-entropy of the list."""
    sums: Tensor = _LogSum.apply(cosines.negative, cosines.log_weight, 1.0 / plan.temperature)  # type: ignore[no-untyped-call]
    negatives = sums[cosines.request_of]
    return nn.functional.softplus(negatives - cosines.positive / plan.temperature - cosines.correction).mean()


def pointwise(cosines: Cosines, plan: LossPlan) -> Tensor:
    """Each positive, and `plan.negatives_each` times as much weight of negatives, classified by the logistic loss."""
    losses = nn.functional.softplus(plan.scale * cosines.negative)
    negatives = (_shares(cosines.log_weight) * losses).sum(1)[cosines.request_of]
    positives = nn.functional.softplus(-plan.scale * cosines.positive)
    return ((positives + plan.negatives_each * negatives) / (1.0 + plan.negatives_each)).mean()


def pairwise_hinge(cosines: Cosines, plan: LossPlan) -> Tensor:
    """The mean pair of a positive and a negative: 0 once they are `plan.margin` apart."""
    return _pairs(cosines, torch.relu(_differences(cosines) + plan.margin))


def pairwise_logistic(cosines: Cosines, plan: LossPlan) -> Tensor:
    """The mean pair, smooth."""
    return _pairs(cosines, nn.functional.softplus(plan.scale * _differences(cosines)))


class _LogSum(torch.autograd.Function):
    """[r] log Σ w·e^{scale·x} of rows x [r, u], in half the passes over the matrix that autograd would make of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_weight: Tensor, scale: float) -> Tensor:
        terms = torch.add(log_weight, x, alpha=scale)
        shares = torch.softmax(terms, 1)
        ctx.save_for_backward(shares)
        ctx.scale = scale
        return terms.amax(1) - shares.amax(1).log()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (shares,) = ctx.saved_tensors
        return shares * (ctx.scale * gradient[:, None]), None, None


def _differences(cosines: Cosines) -> Tensor:
    return cosines.negative[cosines.request_of] - cosines.positive[:, None]


def _pairs(cosines: Cosines, losses: Tensor) -> Tensor:
    return (_shares(cosines.log_weight)[cosines.request_of] * losses).sum(1).mean()


def _shares(log_weight: Tensor) -> Tensor:
    """[r, u] weights that sum to 1 in each row; all 0 in a row without a negative."""
    return torch.softmax(log_weight, 1) * (log_weight > NONE)
