import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.nets.draws import Draw
from tamis.nets.losses import Cosines, mean_loss
from tamis.nets.negatives import NONE, log_weights
from tamis.nets.tower_plan import LossPlan


def loss_of(cosines: list[float], weights: list[float] | None = None, correction: float = 0.0, **plan) -> float:
    """The loss of one positive, the first cosine, against the others as negatives."""
    negative = torch.tensor([cosines[1:]], dtype=torch.float64)
    log_weight = torch.log(torch.tensor([weights or [1.0] * negative.shape[1]], dtype=torch.float64))
    made = Cosines(
        positive=torch.tensor([cosines[0]], dtype=torch.float64),
        negative=negative,
        log_weight=log_weight,
        request_of=torch.tensor([0]),
        correction=torch.tensor([correction], dtype=torch.float64),
    )
    return mean_loss(made, LossPlan(**{"temperature": 1.0, "scale": 1.0, **plan})).item()


def corrected(cosines: list[float], shares: list[float], log_q: float = 1.0) -> float:
    """The loss of a list whose items have these shares of all draws, the first being the positive."""
    draw = Draw(
        items=np.arange(len(cosines)),
        row=np.array([0]),
        request_of=np.array([0]),
        column_of=np.array([0]),
        log_frequency=np.log(shares).astype(np.float32),
        log_times=np.zeros(len(cosines), np.float32),
        known=np.arange(len(cosines))[None] == 0,
        hard=np.empty((1, 0), np.int64),
    )
    weights = np.exp(log_weights(draw, log_q)[0].astype(np.float64))[1:].tolist()
    return loss_of(cosines, weights, correction=-log_q * math.log(shares[0]))


def test_the_list_is_the_cross_entropy() -> None:  # T-8.2
    assert loss_of([0.8, 0.1, -0.2]) == pytest.approx(0.622974, abs=1e-6)
    for n in (3, 127, 1023):
        assert loss_of([1.0, *[-1.0] * n]) == pytest.approx(math.log(1 + n * math.exp(-2)), abs=1e-5)
        assert loss_of([0.3] * (n + 1)) == pytest.approx(math.log(1 + n), abs=1e-6)


def test_the_slope_of_the_list_is_that_of_autograd() -> None:
    random = torch.Generator().manual_seed(1)
    negative = torch.randn(3, 5, generator=random, dtype=torch.float64).requires_grad_()
    positive = torch.randn(4, generator=random, dtype=torch.float64).requires_grad_()
    log_weight = torch.randn(3, 5, generator=random, dtype=torch.float64)
    log_weight[0, :4] = log_weight[2] = NONE
    request_of, correction = torch.tensor([0, 1, 1, 2]), torch.randn(4, generator=random, dtype=torch.float64)

    def loss(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return mean_loss(Cosines(positive, negative, log_weight, request_of, correction), LossPlan(temperature=0.3))

    assert torch.autograd.gradcheck(loss, (positive, negative))
    plain = torch.logsumexp(negative / 0.3 + log_weight, 1)[request_of] - positive / 0.3 - correction
    assert loss(positive, negative).item() == pytest.approx(torch.nn.functional.softplus(plain).mean().item())


def test_the_triplets_are_those_of_the_formulas() -> None:  # T-8.1
    for cosines, wanted in (([0.8, 0.3], 0.0), ([0.4, 0.3], 0.1)):
        assert loss_of(cosines, loss="pairwise_hinge", margin=0.2) == pytest.approx(wanted, abs=1e-6)
    for scale, wanted in ((1.0, 0.474077), (10.0, 0.006715)):
        assert loss_of([0.8, 0.3], loss="pairwise_logistic", scale=scale) == pytest.approx(wanted, abs=1e-6)
    assert loss_of([0.5, 0.5], loss="pairwise_logistic") == pytest.approx(math.log(2), abs=1e-6)


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.5, 20.0))
@settings(deadline=None)
def test_a_list_of_one_negative_is_the_logistic_triplet(one: float, other: float, scale: float) -> None:  # T-8.6
    pair = loss_of([one, other], loss="pairwise_logistic", scale=scale)
    assert loss_of([one, other], temperature=1 / scale) == pytest.approx(pair, abs=1e-6)


@pytest.mark.parametrize("each", [2.0, 3.0])
def test_the_negatives_of_a_point_weigh_as_much_as_is_told(each: float) -> None:  # T-8.8
    positive, near, far = (
        math.log(1 + math.exp(-5 * 0.6)),
        math.log(1 + math.exp(5 * 0.2)),
        math.log(1 + math.exp(-2)),
    )
    negatives = 0.75 * near + 0.25 * far
    wanted = (positive + each * negatives) / (1 + each)
    got = loss_of([0.6, 0.2, -0.4], weights=[3.0, 1.0], loss="pointwise", scale=5.0, negatives_each=each)
    assert got == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("loss", ["pointwise", "pairwise_hinge", "pairwise_logistic"])
def test_one_drawn_negative_costs_on_average_what_the_weights_say(loss: str) -> None:
    cosines, weights = [0.1, 0.3, -0.5, 0.0], [0.5, 0.2, 0.3]
    alone = [loss_of([0.1, cosine], loss=loss) for cosine in cosines[1:]]
    assert loss_of(cosines, weights, loss=loss) == pytest.approx(np.dot(weights, alone), abs=1e-6)


def test_the_correction_undoes_popularity() -> None:  # T-9.3
    assert corrected([0.5, 0.5], [0.9, 0.1]) == pytest.approx(2.302585, abs=1e-5)
    assert corrected([0.5, 0.5], [0.1, 0.9]) == pytest.approx(0.105361, abs=1e-5)
    assert corrected([0.5, 0.5], [0.9, 0.1], log_q=0.0) == pytest.approx(math.log(2), abs=1e-6)


def test_only_the_ratios_of_the_frequencies_count() -> None:  # T-9.4
    cosines, shares = [0.2, -0.4, 0.9], [0.2, 0.5, 0.3]
    assert corrected(cosines, [5 * share for share in shares]) == pytest.approx(corrected(cosines, shares), abs=1e-6)
    assert corrected(cosines, [1 / 3] * 3) == pytest.approx(corrected(cosines, shares, log_q=0.0), abs=1e-6)
    odds = [math.exp(cosine) / share for cosine, share in zip(cosines, shares, strict=True)]
    assert corrected(cosines, shares) == pytest.approx(-math.log(odds[0] / sum(odds)), abs=1e-5)


def test_a_power_of_the_correction_leaves_a_power_of_the_frequency() -> None:
    """Drawn ∝ p and weighed by p^−β, an item counts like one drawn ∝ p^(1 − β)."""
    draw = Draw(
        items=np.arange(3),
        row=np.array([0]),
        request_of=np.array([0]),
        column_of=np.array([0]),
        log_frequency=np.log([0.7, 0.2, 0.1]).astype(np.float32),
        log_times=np.log([70, 20, 10]).astype(np.float32),
        known=np.zeros((1, 3), np.bool_),
        hard=np.empty((1, 0), np.int64),
    )
    weights = np.exp(log_weights(draw, 0.25)[0])
    wanted = np.array([0.7, 0.2, 0.1]) ** 0.75
    np.testing.assert_allclose(weights / weights.sum(), wanted / wanted.sum(), rtol=1e-5)


def test_a_request_without_negatives_costs_its_positive_alone() -> None:
    made = Cosines(
        torch.tensor([0.4]), torch.tensor([[0.9, 0.8]]), torch.full((1, 2), NONE), torch.tensor([0]), torch.zeros(1)
    )
    assert mean_loss(made, LossPlan(loss="listwise")).item() == pytest.approx(0.0, abs=1e-6)
    assert mean_loss(made, LossPlan(loss="pairwise_hinge")).item() == 0.0
    assert mean_loss(made, LossPlan(loss="pairwise_logistic")).item() == 0.0
    point = mean_loss(made, LossPlan(loss="pointwise", scale=1.0, negatives_each=3.0)).item()
    assert point == pytest.approx(math.log(1 + math.exp(-0.4)) / 4, abs=1e-6)
