"""Position bias: learnt beside the net, absent when it serves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_world import Toy

from tamis.features.inputs import Inputs
from tamis.nets.heads import HeadPlan
from tamis.nets.multitask import INPUTS, export_multitask, fit_multitask
from tamis.nets.plans import MultitaskShape, TrainingPlan
from tamis.nets.position import PLACES, PlaceCodes, PositionTower
from tamis.nets.session import Session

HEADS = HeadPlan(("click", "like"), frozenset(), {}, "ratio")
SHAPE = MultitaskShape(
    embedding_size=8, attention="mean", attention_hidden=8, experts=1, expert_hidden=(16,), tower_hidden=()
)
PLAN = TrainingPlan(epochs=1, batch_size=256, threads=1, patience=0)


def biased(toy: Toy) -> Inputs:
    """The toy world where nobody looks below the fifth place, and the items of even number stand there."""
    parts = {}
    for name in ("train", "valid"):
        samples = getattr(toy.inputs, name)
        random = np.random.default_rng(4)
        low = (samples.item % 2 == 0) & (random.random(len(samples.item)) < 0.8)
        place = np.where(low, 5 + samples.position % 5, samples.position % 5).astype(np.int16)
        labels = {"click": samples.labels["click"] * ~low}
        parts[name] = replace(samples, position=place, labels=labels)
    return replace(toy.inputs, **parts, _sides={})


@pytest.mark.parametrize("position", ["feature", "tower"])
def test_items_that_stood_where_nobody_looks_are_not_blamed_for_it(toy: Toy, position: str) -> None:
    inputs, heads = biased(toy), HeadPlan(("click",), frozenset(), {}, "ratio")
    plan = replace(PLAN, epochs=6, learning_rate=3e-3, embedding_learning_rate=1e-2, wide_learning_rate=1e-2)
    gaps = {}
    for option in ("none", position):
        net = fit_multitask(replace(SHAPE, position=option), plan, heads, inputs, 1).net
        batch = inputs.batch(inputs.valid, np.arange(100))
        with torch.no_grad():
            row_of = torch.from_numpy(batch.row_of)
            logits = net([torch.from_numpy(getattr(batch, name)) for name in INPUTS], row_of)[0].numpy()
        items = inputs.valid.item[: len(logits)]
        row_user = inputs.valid.user[batch.row_of]
        liked = toy.user_cluster[row_user] == toy.item_cluster[items]
        gaps[option] = logits[liked & (items % 2 == 1)].mean() - logits[liked & (items % 2 == 0)].mean()
    assert gaps["none"] > 1.0
    assert gaps[position] < 0.75 * gaps["none"]


@pytest.mark.parametrize("position", ["feature", "tower"])
def test_the_served_net_reads_no_position(toy: Toy, tmp_path, position: str) -> None:
    net = fit_multitask(replace(SHAPE, position=position), PLAN, HEADS, toy.inputs, 1).net
    export_multitask(net, toy.inputs.layout, tmp_path / "net.onnx")
    session = Session.open(tmp_path / "net.onnx")
    assert session.inputs == INPUTS
    batch = toy.inputs.batch(toy.inputs.train, np.array([400]))
    arrays = {name: getattr(batch, name) for name in INPUTS}
    with torch.no_grad():
        want = net([torch.from_numpy(arrays[name]) for name in INPUTS], None)
    for at, head in enumerate(HEADS.heads):
        np.testing.assert_allclose(session.run(**arrays)[head], want[at].numpy(), rtol=0, atol=1e-5)


def test_places_and_scenes_are_codes_of_their_rows_and_one_place_in_ten_is_hidden(toy: Toy) -> None:
    samples = toy.inputs.train
    place = np.tile(np.array([-1, 0, 1, 98, 99, 100, 32_767, 5, 6, 7], np.int16), len(samples))
    samples = replace(samples, position=place, scene=np.arange(len(samples), dtype=np.int32) % 3)
    requests = np.array([3, 7, 300])
    codes = PlaceCodes(samples, 1).of(requests).numpy().reshape(3, 10, 2)
    want = np.array([0, 1, 2, 99, 100, 100, 100, 6, 7, 8])
    assert ((codes[:, :, 0] == want) | (codes[:, :, 0] == 0)).all()
    assert (codes[:, :, 1] == PLACES + 1 + (requests % 3)[:, None]).all()
    hidden = PlaceCodes(samples, 1).of(np.arange(len(samples))).numpy()[:, 0].reshape(-1, 10)[:, 1:] == 0
    assert hidden.mean() == pytest.approx(0.1, abs=0.02)


def test_an_unknown_place_adds_nothing_to_any_logit() -> None:
    tower = PositionTower(3, 2, torch.Generator().manual_seed(1))
    codes = torch.tensor([[0, PLACES + 1], [4, PLACES + 1], [4, PLACES + 2]], dtype=torch.int32)
    logits = tower.eval()(codes)
    assert logits.shape == (3, 3)
    assert not logits[:, 0].any()
    assert logits[:, 1].all()
    assert not torch.equal(logits[:, 1], logits[:, 2])  # the same place in another scene


@pytest.mark.parametrize("position", ["feature", "tower"])
def test_rows_without_any_position_train_all_the_same(toy: Toy, position: str) -> None:
    blind = replace(toy.inputs.train, position=np.full(len(toy.inputs.train.item), -1, np.int16))
    trained = fit_multitask(replace(SHAPE, position=position), PLAN, HEADS, replace(toy.inputs, train=blind), 1)
    assert all(np.isfinite(logits).all() for logits in trained.valid.values())


def test_the_same_seed_gives_the_same_net(toy: Toy) -> None:
    for position in ("feature", "tower"):
        nets = [fit_multitask(replace(SHAPE, position=position), PLAN, HEADS, toy.inputs, 1).net for _ in range(2)]
        one, other = (b"".join(value.numpy().tobytes() for value in net.state_dict().values()) for net in nets)
        assert one == other
