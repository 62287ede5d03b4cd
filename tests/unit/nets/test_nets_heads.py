"""Heads and losses: the course's numbers."""

import math

import pytest
import torch
from torch import Tensor

from tamis.nets.heads import HeadPlan, Targets, Towers, loss

HEADS = ("click", "like", "collect", "share")
P = torch.tensor([0.7, 0.2, 0.1, 0.05], dtype=torch.float64)


def labels(*values: float) -> dict[str, Tensor]:
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in zip(HEADS, values, strict=True)}


def of_play(seconds: list[float], logits: Tensor, kind: str) -> Tensor:
    plan = HeadPlan(("play",), frozenset(), {}, kind)
    return loss(logits, plan.targets({"play": torch.tensor(seconds, dtype=torch.float64)}))


def test_the_loss_is_the_weighted_sum_of_four_cross_entropies() -> None:
    logits = torch.logit(P).unsqueeze(1)
    for head, term in zip(HEADS, (0.356675, 0.223144, 0.105361, 2.995732), strict=True):
        at = HEADS.index(head)
        single = HeadPlan((head,), frozenset(), {}, "ratio").targets(labels(1, 0, 0, 1))
        assert float(loss(logits[at : at + 1], single)) == pytest.approx(term, abs=1e-6)
    plain = HeadPlan(HEADS, frozenset(), {}, "ratio")
    assert float(loss(logits, plain.targets(labels(1, 0, 0, 1)))) == pytest.approx(3.680911, abs=1e-6)
    weighted = HeadPlan(HEADS, frozenset(), {"like": 2, "collect": 2, "share": 4}, "ratio")
    assert float(loss(logits, weighted.targets(labels(1, 0, 0, 1)))) == pytest.approx(12.996612, abs=1e-6)


def test_an_unclicked_row_teaches_the_heads_per_click_nothing_at_all() -> None:
    random = torch.Generator().manual_seed(1)
    towers, shared = Towers(4, 6, (5,), random), torch.randn(1, 3, 6, generator=random).requires_grad_()
    plan = HeadPlan(HEADS, frozenset(HEADS[1:]), {}, "ratio")
    unclicked = {name: torch.zeros(3) for name in HEADS}
    loss(towers(shared.expand(4, 3, 6)), plan.targets(unclicked)).backward()
    for weight in towers.parameters():
        assert weight.grad[0].any()
        assert not weight.grad[1:].any()
    assert shared.grad is not None
    assert shared.grad.any()


def test_a_head_does_not_see_the_weights_of_another_and_all_give_probabilities() -> None:
    random = torch.Generator().manual_seed(2)
    towers, x = Towers(3, 6, (5, 4), random), torch.randn(3, 7, 6, generator=random)
    before = torch.sigmoid(towers(x)).detach()
    assert ((before > 0) & (before < 1)).all()
    with torch.no_grad():
        for weight in towers.parameters():
            weight[1] += 1.0
    after = torch.sigmoid(towers(x))
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])


def test_towers_are_separate_nets() -> None:
    random = torch.Generator().manual_seed(3)
    towers, x = Towers(2, 6, (5,), random), torch.randn(2, 7, 6, generator=random)
    for task in range(2):
        hidden = torch.relu(x[task] @ towers.weights[0][task] + towers.biases[0][task])
        want = hidden @ towers.weights[1][task] + towers.biases[1][task]
        torch.testing.assert_close(towers(x)[task], want.squeeze(1))


def test_training_can_start_at_given_rates() -> None:
    towers = Towers(2, 4, (), torch.Generator().manual_seed(4))
    towers.start_at([math.log(0.1 / 0.9), 2.0])
    assert towers(torch.zeros(2, 1, 4)).flatten().tolist() == pytest.approx([math.log(0.1 / 0.9), 2.0])


@pytest.mark.parametrize(("seconds", "target"), [(0, 0), (1, 0.5), (4, 0.8), (9, 0.9), (60, 0.983607), (240, 0.995851)])
def test_watch_time_becomes_a_soft_label(seconds: float, target: float) -> None:
    plan = HeadPlan(("play",), frozenset(), {}, "ratio")
    soft = float(plan.targets({"play": torch.tensor([seconds], dtype=torch.float64)}).labels)
    assert soft == pytest.approx(target, abs=1e-6)
    if seconds:
        assert math.exp(math.log(soft / (1 - soft))) == pytest.approx(seconds)


def test_a_time_beyond_the_limit_weighs_no_more_than_the_limit() -> None:
    plan = HeadPlan(("play",), frozenset(), {}, "weighted", 60.0)
    targets = plan.targets({"play": torch.tensor([-1.0, 30.0, 60.0, 86_400.0], dtype=torch.float64)})
    assert targets.weights.tolist() == [[1.0, 31.0, 61.0, 61.0]]
    assert float(targets.labels[0, 3]) == float(targets.labels[0, 2]) == pytest.approx(60 / 61)


def test_both_readings_of_the_time_loss() -> None:
    for kind, value, slope in (("ratio", 0.693147, -0.4), ("weighted", 6.931472, -4.0)):
        z = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        one = of_play([9.0], z, kind)
        one.backward()
        assert one.item() == pytest.approx(value, abs=1e-6)
        assert z.grad is not None
        assert float(z.grad) == pytest.approx(slope, abs=1e-6)
    z = torch.full((1, 1), math.log(9), dtype=torch.float64, requires_grad=True)
    one = of_play([9.0], z, "ratio")
    one.backward()
    assert one.item() == pytest.approx(0.325083, abs=1e-6)
    assert z.grad is not None
    assert float(z.grad) == pytest.approx(0, abs=1e-9)


def test_the_two_readings_estimate_different_times() -> None:
    for kind, want in (("weighted", 5.0), ("ratio", 0.8333)):
        z = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([z], max_iter=50, tolerance_grad=1e-12)

        def closure(z: Tensor = z, kind: str = kind, optimizer: torch.optim.LBFGS = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = of_play([0.0, 10.0], z.expand(1, 2), kind)
            value.backward()
            return value

        optimizer.step(closure)
        assert float(z.detach().exp()) == pytest.approx(want, abs=1e-3)


def test_without_a_click_both_readings_are_the_same() -> None:
    z = torch.tensor([[0.3]], dtype=torch.float64)
    want = -math.log(1 - 1 / (1 + math.exp(-0.3)))
    assert float(of_play([0.0], z, "ratio")) == pytest.approx(want)
    assert float(of_play([0.0], z, "weighted")) == pytest.approx(want)


def test_no_rows_cost_nothing() -> None:
    assert float(loss(torch.zeros(2, 0), Targets(torch.zeros(2, 0), torch.zeros(2, 0)))) == 0.0
