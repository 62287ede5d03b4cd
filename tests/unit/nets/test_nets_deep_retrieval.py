"""T-12.3 and the net's half of T-12.10: the loss of a set of paths, and that training lowers it."""

import numpy as np
import pytest
import torch
from toy_world import Toy

from tamis.nets.contrast import BatchMaker
from tamis.nets.deep_retrieval import DeepNet, PathBatch, Paths, path_loss
from tamis.nets.draws import Drawer, acted_rows
from tamis.nets.optimizer import Optimizer
from tamis.nets.path_assignment import random_paths
from tamis.nets.path_plan import PathShape
from tamis.nets.tower import Towers, numbers_of
from tamis.recall.deep_retrieval import DeepRetrievalConfig


def test_the_loss_is_of_the_sum_of_the_paths_and_heeds_only_those_there() -> None:
    logs = torch.log(torch.tensor([[0.2, 0.05, 0.01]]))
    assert path_loss(logs, torch.tensor([[True, True, True]])).item() == pytest.approx(1.347074, abs=1e-6)
    assert path_loss(logs, torch.tensor([[True, False, False]])).item() == pytest.approx(-np.log(0.2), abs=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_exported_net_says_what_the_trained_one_does(depth: int) -> None:
    net = Paths(PathShape(depth, 3, 6), 4, torch.Generator().manual_seed(depth))
    users = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    codes = np.arange(3**depth)
    nodes = codes[:, None] // 3 ** np.arange(depth - 1, -1, -1) % 3
    with torch.no_grad():
        wanted = net(users, torch.from_numpy(nodes).expand(5, -1, -1)).numpy()
    paths, logs = net.exported().beam(users.numpy(), 3**depth)
    np.testing.assert_allclose(np.take_along_axis(wanted, paths, 1), logs, atol=1e-5)


def test_the_path_loss_falls_while_the_paths_stand_still(toy: Toy) -> None:
    inputs = toy.inputs
    plan = DeepRetrievalConfig(user_layers=(16,), width=8, extra_negatives=16, learning_rate=1e-2).plan(240)
    towers = Towers(inputs.layout, plan.contrast.towers, numbers_of(inputs), 1)
    net = DeepNet(towers, Paths(plan.shape, 32, torch.Generator().manual_seed(1)))
    drawer = Drawer(inputs.train, acted_rows(inputs.train, ["click"]), inputs.since, (16, 0.75), 1)
    requests = np.flatnonzero(drawer.per_request)[:64]
    items = drawer.wanted(requests)
    paths = random_paths(np.arange(240), 240, (3, 512), 1)[items]
    nodes = torch.from_numpy(paths[:, :, None] // np.array([64, 8, 1]) % 8)
    maker = BatchMaker(inputs, drawer, plan.contrast, 1)
    batch = PathBatch(maker.batch(requests), nodes, torch.ones(len(items), 3, dtype=torch.bool))
    optimizer, losses = Optimizer(net, plan.contrast.training), []
    net.train()
    for _ in range(60):
        optimizer.clear()
        net.loss(batch, plan).backward()
        optimizer.step()
        with torch.no_grad():
            users = towers.users(batch.towers.user_codes, batch.towers.user_dense, batch.towers.history_codes)
            losses.append(path_loss(net.paths(users[batch.towers.request_of], nodes), batch.there).item())
    assert losses[-1] < 0.8 * losses[0]
    assert np.mean(losses[-10:]) < np.mean(losses[20:30]) < np.mean(losses[:10])
