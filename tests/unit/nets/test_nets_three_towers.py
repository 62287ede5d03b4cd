from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_world import Toy

from tamis.nets.batch import tensors
from tamis.nets.heads import loss
from tamis.nets.plans import TrainingPlan
from tamis.nets.session import Session
from tamis.nets.three_towers import ThreeTowers, export_three_towers, targets
from tamis.nets.tower_plan import LightPlan, TowerPlan

TOWERS = TowerPlan(embedding_size=4, user_layers=(16,), item_layers=(8,), vector_size=6)
PLAN = LightPlan(TOWERS, TrainingPlan(threads=1), ("click", "like"), ("like",), (5, 4), 7, 0, 0.0)


@pytest.fixture(scope="module")
def net(toy: Toy) -> ThreeTowers:
    net = ThreeTowers(toy.inputs, PLAN, 2)
    with torch.no_grad():
        net.towers.table.weight.mul_(20)
    return net


def batch_of(toy: Toy, requests: list[int]):
    return tensors(toy.inputs.batch(toy.inputs.train, np.asarray(requests)))


def test_the_served_form_equals_the_net_in_one_pass(toy: Toy, net: ThreeTowers, tmp_path: Path) -> None:
    net.eval()
    export_three_towers(net, toy.inputs, tmp_path)
    user_tower, item_tower, join = (Session.open(tmp_path / f"{name}.onnx") for name in ("user", "item", "join"))
    for request in (3, 500, 900):
        batch = batch_of(toy, [request])
        wanted = torch.sigmoid(net(batch)).detach().numpy()
        user = user_tower.run(
            user_codes=batch.user_codes.numpy(),
            user_dense=batch.user_dense.numpy(),
            history_codes=batch.history_codes.numpy(),
        )
        items = item_tower.run(item_codes=batch.item_codes.numpy(), item_dense=batch.item_dense.numpy())
        for rows in (1, 10):
            rates = join.run(
                user=user["vector"], items=items["vector"][:rows], dynamic=batch.item_dynamic.numpy()[:rows]
            )["rates"]
            np.testing.assert_allclose(rates, wanted[:rows], atol=1e-6)


def test_a_row_scores_the_same_in_any_batch(toy: Toy, net: ThreeTowers) -> None:
    net.eval()
    together = net(batch_of(toy, [5, 6, 7]))
    torch.testing.assert_close(together[10:20], net(batch_of(toy, [6])), atol=1e-5, rtol=0)


def test_rows_without_a_click_teach_nothing_about_likes(toy: Toy, net: ThreeTowers) -> None:
    net.train()
    batch = batch_of(toy, [1, 2])
    nothing = {name: torch.zeros_like(label) for name, label in batch.labels.items()}
    loss(net(batch).T, targets(batch._replace(labels=nothing), PLAN)).backward()
    click, like = net.join.heads.weight.grad
    assert click.abs().sum() > 0
    assert like.abs().sum() == 0
    net.zero_grad()
    net.towers.table.taken.clear()


def test_rows_nobody_was_shown_teach_only_the_head_shown(toy: Toy) -> None:
    plan = replace(PLAN, heads=("click", "like", "shown"))
    labels = {
        "click": torch.tensor([1.0, 0.0, 0.0]),
        "like": torch.tensor([1.0, 0.0, 0.0]),
        "shown": torch.tensor([1.0, 1.0, 0.0]),
    }
    made = targets(batch_of(toy, [0])._replace(labels=labels), plan)
    assert made.weights.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert made.labels[2].tolist() == [1, 1, 0]
