import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_nets_contrast import plan_of
from toy_world import Toy

from tamis.nets.contrast import BatchMaker, batch_loss, fit_two_towers, learn
from tamis.nets.draws import Drawer, acted_rows
from tamis.nets.plans import TrainingPlan
from tamis.nets.self_supervised import ViewMaker, meeting_loss, view_loss
from tamis.nets.tower import Towers, numbers_of
from tamis.nets.tower_plan import ViewsPlan


def test_the_loss_of_views_that_meet_and_of_views_that_are_all_alike() -> None:  # T-11.1
    apart = torch.eye(4)
    assert meeting_loss(apart, apart, 1.0).item() == pytest.approx(0.743668, abs=1e-6)
    alike = torch.ones(4, 4) / 2
    assert meeting_loss(alike, alike, 1.0).item() == pytest.approx(math.log(4), abs=1e-6)


def test_its_items_are_drawn_evenly_among_those_that_are_there(toy: Toy) -> None:  # T-11.6
    maker = ViewMaker(toy.inputs, ViewsPlan(mask="dropout", share=0.0, items=24), 1)
    column = toy.inputs.layout.item_fields[0].start
    codes = np.concatenate([maker.batch().numpy()[:24, column] for _ in range(500)])
    counts = np.unique(codes, return_counts=True)[1]
    expected = len(codes) / len(counts)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < len(counts) + 4 * math.sqrt(2 * len(counts))  # χ² with that many degrees of freedom


def test_it_moves_the_item_tower_and_the_embeddings_only(toy: Toy) -> None:  # T-11.7
    plan = plan_of(views=ViewsPlan(weight=0.3))
    towers = Towers(toy.inputs.layout, plan.towers, numbers_of(toy.inputs), 1).train()
    view_loss(towers, ViewMaker(toy.inputs, plan.views, 1).batch(), 0.1).backward()
    assert all(weight.grad is None for weight in towers.user.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in towers.item.parameters())
    assert any(leaf.grad.abs().sum() > 0 for _, _, leaf in towers.table.taken)


def test_the_two_losses_are_added_by_weight(toy: Toy) -> None:
    samples = toy.inputs.train
    plan = plan_of(views=ViewsPlan(weight=0.3, temperature=0.5))
    towers = Towers(toy.inputs.layout, plan.towers, numbers_of(toy.inputs), 1).eval()
    drawer = Drawer(samples, acted_rows(samples, ["click"]), toy.inputs.since, (10, 0.75), 1)
    batch = BatchMaker(toy.inputs, drawer, plan, 1).batch(np.arange(40))
    main = batch_loss(towers, batch._replace(views=None), plan).item()
    other = view_loss(towers, batch.views, 0.5).item()
    assert batch_loss(towers, batch, plan).item() == pytest.approx(main + 0.3 * other, rel=1e-5)


def test_without_weight_nothing_is_drawn_and_nothing_changes(toy: Toy, tmp_path: Path) -> None:  # T-11.7
    for name, views in (("plain", ViewsPlan()), ("none", ViewsPlan(weight=0.0, mask="random", items=7))):
        (tmp_path / name).mkdir()
        plan = replace(plan_of(views=views), training=TrainingPlan(epochs=1, threads=1, batch_size=512))
        fit_two_towers(toy.inputs, plan, 1, tmp_path / name)
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "none" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("mask", ["random", "dropout", "complementary", "correlated"])
def test_training_makes_views_of_one_item_meet(toy: Toy, mask: str) -> None:
    views = ViewsPlan(weight=1.0, mask=mask, items=64)
    maker = ViewMaker(toy.inputs, views, 9)
    batches = [maker.batch() for _ in range(20)]
    losses = []
    for epochs in (0, 3):
        training = TrainingPlan(epochs=epochs, threads=1, batch_size=64, patience=0, embedding_learning_rate=5e-3)
        plan = plan_of(views=views, training=training)
        towers = Towers(toy.inputs.layout, plan.towers, numbers_of(toy.inputs), 1)
        learn(towers, toy.inputs, plan, 1)
        with torch.no_grad():
            losses.append(np.mean([view_loss(towers.eval(), batch, 0.1).item() for batch in batches]))
    assert losses[1] < losses[0] - 0.1
