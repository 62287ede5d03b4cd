import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_world import Toy, part_of

from tamis.errors import ConfigError
from tamis.nets.contrast import BatchMaker, ContrastBatch, batch_loss, fit_two_towers
from tamis.nets.draws import Drawer, acted_rows
from tamis.nets.judge import RecallJudge
from tamis.nets.negatives import NONE
from tamis.nets.plans import TrainingPlan
from tamis.nets.tower import IdHider, Towers, id_fields, numbers_of
from tamis.nets.tower_plan import ContrastPlan, LossPlan, TowerPlan, ViewsPlan
from tamis.types import Catalog


def plan_of(**changes) -> ContrastPlan:
    values = {
        "towers": TowerPlan(embedding_size=4, user_layers=(8,), item_layers=(8,), vector_size=4),
        "training": TrainingPlan(threads=1),
        "loss": LossPlan(temperature=0.2),
        "views": ViewsPlan(),
        "positives": ("click",),
        "objectives": False,
        "log_q": 1.0,
        "extra_negatives": 10,
        "extra_exponent": 0.75,
    }
    return ContrastPlan(**(values | changes))


@pytest.fixture(scope="module")
def made(toy: Toy):
    plan = plan_of()
    towers = Towers(toy.inputs.layout, plan.towers, numbers_of(toy.inputs), 1)
    samples = toy.inputs.train
    drawer = Drawer(samples, acted_rows(samples, ["click"]), toy.inputs.since, (10, 0.75), 1)
    return towers, drawer, BatchMaker(toy.inputs, drawer, plan, 1), plan


def test_the_batch_loss_is_what_a_loop_over_the_positives_says(toy: Toy, made) -> None:
    towers, _, maker, plan = made
    towers.eval()
    batch = maker.batch(np.arange(40))
    users = towers.users(batch.user_codes, batch.user_dense, batch.history_codes).detach()
    items = towers.items(batch.item_codes, batch.item_dense).detach()
    draw = Drawer(toy.inputs.train, acted_rows(toy.inputs.train, ["click"]), toy.inputs.since, (10, 0.75), 1).draw(
        np.arange(40)
    )
    np.testing.assert_array_equal(draw.column_of, batch.column_of)
    terms = []
    for request, column in zip(draw.request_of.tolist(), draw.column_of.tolist(), strict=True):
        scores = [
            float(users[request] @ items[c]) / plan.loss.temperature - float(draw.log_frequency[c])
            for c in range(len(items))
        ]
        others = [
            math.exp(scores[c]) * math.exp(float(draw.log_times[c]))
            for c in range(len(items))
            if not draw.known[request, c]
        ]
        terms.append(-math.log(math.exp(scores[column]) / (math.exp(scores[column]) + sum(others))))
    assert batch_loss(towers, batch, plan).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_a_batch_without_any_negative_has_a_finite_gradient(made) -> None:
    towers, drawer, maker, plan = made
    towers.train()
    batch = maker.batch(np.flatnonzero(drawer.per_request)[:2])
    batch = batch._replace(log_weight=torch.full_like(batch.log_weight, NONE))
    for name in ("listwise", "pairwise_hinge", "pairwise_logistic"):
        loss = batch_loss(towers, batch, replace(plan, loss=replace(plan.loss, loss=name)))
        loss.backward()
        assert loss.item() == pytest.approx(0.0, abs=1e-6)
        assert all(torch.isfinite(w.grad).all() for w in towers.parameters() if w.grad is not None)
        towers.zero_grad()
        towers.table.taken.clear()


def test_hiding_replaces_the_id_and_nothing_else(toy: Toy) -> None:
    users, items = id_fields(toy.inputs)
    assert [field.name for field in (*users, *items)] == ["user.user_id", "item.item_id"]
    codes = toy.inputs.catalog.column("codes", np.arange(240))
    hidden = codes.copy()
    user_codes = toy.inputs.users.codes
    hidden_users = user_codes.copy()
    IdHider(toy.inputs, 0.5, 0).hide(hidden_users, hidden)
    assert (hidden_users != user_codes).any(axis=0).nonzero()[0].tolist() == [users[0].start]
    changed = (hidden != codes).any(axis=0)
    assert changed.tolist() == [column == items[0].start for column in range(codes.shape[1])]
    share = (hidden[:, items[0].start] == items[0].offset).mean()
    assert 0.35 < share < 0.65


def test_items_of_the_future_do_not_compete_when_an_epoch_is_judged(toy: Toy) -> None:
    inputs, plan = toy.inputs, plan_of(judge_k=10)
    old = inputs.catalog
    columns = {name: np.concatenate([pair[0], pair[0]]) for name, pair in old.columns.items()}
    columns["publish_time"][len(old) :] = inputs.until + 1.0  # every item has a double that is not there yet
    doubled = replace(inputs, catalog=Catalog.of(np.concatenate([old.keys[0], old.keys[0] + 1]), columns))
    towers = Towers(inputs.layout, plan.towers, numbers_of(inputs), 1).eval()
    with torch.no_grad():
        alone, among_doubles = (RecallJudge(each, plan).recall(towers) for each in (inputs, doubled))
    assert 0 < alone < 1
    assert among_doubles == alone


def test_without_validation_rows_all_epochs_are_trained(toy: Toy, tmp_path: Path) -> None:
    inputs = toy.inputs.with_samples(toy.inputs.train, part_of(toy.inputs.train, 0, 0))
    plan = plan_of(training=TrainingPlan(threads=1, epochs=4, patience=1, batch_size=512))
    assert len(fit_two_towers(inputs, plan, 1, tmp_path).scores) == 4


def test_an_objective_is_taught_by_its_own_positives_alone(toy: Toy) -> None:  # 08-02, test 3
    plan = plan_of(positives=("click", "like"), objectives=True)
    plan = replace(plan, towers=replace(plan.towers, interests=2))
    towers = Towers(toy.inputs.layout, plan.towers, numbers_of(toy.inputs), 1)
    samples = toy.inputs.train

    def made(each: ContrastPlan) -> ContrastBatch:
        drawer = Drawer(samples, acted_rows(samples, each.positives), toy.inputs.since, (10, 0.75), 1)
        return BatchMaker(toy.inputs, drawer, each, 1).batch(np.arange(60))

    batch = made(plan)
    rows = slice(0, int(samples.first[60]))
    counts = [int(samples.labels[name][rows].sum()) for name in plan.positives]
    assert np.bincount(batch.request_of.numpy() % 2).tolist() == counts
    likes = batch.request_of % 2 == 1
    alone = batch._replace(
        request_of=batch.request_of[likes], column_of=batch.column_of[likes], correction=batch.correction[likes]
    )
    batch_loss(towers.train(), alone, plan).backward()
    slopes = towers.user.layers[-1].weight.grad.abs().sum(1).reshape(2, -1).sum(1)
    assert slopes[0] == 0
    assert slopes[1] > 0
    towers.table.taken.clear()


def test_one_objective_is_the_plain_model(toy: Toy, tmp_path: Path) -> None:
    for name, objectives in (("plain", False), ("one", True)):
        (tmp_path / name).mkdir()
        plan = plan_of(objectives=objectives, training=TrainingPlan(threads=1, epochs=1, batch_size=512))
        fit_two_towers(toy.inputs, plan, 1, tmp_path / name)
    for file in (tmp_path / "plain").iterdir():
        assert file.read_bytes() == (tmp_path / "one" / file.name).read_bytes(), file.name


def test_an_objective_that_nobody_meets_is_refused(toy: Toy, tmp_path: Path) -> None:
    plan = plan_of(positives=("click", "share"), objectives=True)
    with pytest.raises(ConfigError, match=r"nobody did \['share'\]"):
        fit_two_towers(toy.inputs, replace(plan, towers=replace(plan.towers, interests=2)), 1, tmp_path)
