"""Plans filled from the settings of a step."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from tamis.nets.plans import MultitaskShape, TrainingPlan, plan_of
from tamis.nets.tower_plan import ContrastPlan, LightPlan
from tamis.prerank.three_tower import ThreeTowerConfig
from tamis.rank.multitask import MultitaskConfig
from tamis.recall.two_tower import TwoTowerConfig

WISH: dict[str, Any] = {"epochs": 4, "batch_size": 31, "learning_rate": 0.5, "embedding_learning_rate": 0.25}
SHAPE: dict[str, Any] = {"embedding_size": 8, "user_layers": (9, 7), "item_layers": (5,), "vector_size": 6}


def flat(plan: ContrastPlan | LightPlan) -> dict[str, Any]:
    """All values of a plan of towers by name."""
    whole = asdict(plan)
    whole.pop("views", None)
    loss = whole.pop("loss") if isinstance(plan, ContrastPlan) else {}
    return {**whole.pop("towers"), **whole.pop("training"), **loss, **whole}


@pytest.mark.parametrize(
    ("config", "plan", "others"),
    [
        (
            two := TwoTowerConfig(**WISH, **SHAPE, patience=3, threads=2, log_q=0.5),
            flat(two.plan()),
            {"limit", "index", "self_supervised"},
        ),
        (
            three := ThreeTowerConfig(**WISH, **SHAPE, cross_layers=(3,), join_size=11, unshown=2),
            flat(three.plan(three.heads, ("like",))),
            {"per_click", "weights", "shown_power"},
        ),
        (
            ranker := MultitaskConfig(**WISH, l2=0.125, decay_to=0.5, experts=2, wide=False, threads=1),
            {**asdict(plan_of(MultitaskShape, ranker)), **asdict(plan_of(TrainingPlan, ranker))},
            {"heads", "head_weights", "per_click", "play_loss", "play_limit_seconds", "calibration", "finished_share"},
        ),
    ],
)
def test_every_setting_of_a_net_reaches_its_plan(config: Any, plan: dict[str, Any], others: set[str]) -> None:
    settings = {name: getattr(config, name) for name in config.__struct_fields__ if name not in others}
    assert {name: plan[name] for name in settings} == settings


def test_what_a_step_has_no_setting_for_is_given_or_the_default() -> None:
    made = plan_of(TrainingPlan, TwoTowerConfig(epochs=2), epochs=9)
    assert made.epochs == 9
    assert replace(made, l2=TrainingPlan().l2) == made
