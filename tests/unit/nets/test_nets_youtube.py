from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_world import DAY, Toy

from tamis.nets import youtube
from tamis.nets.next_item_plans import YoutubePlan
from tamis.nets.plans import TrainingPlan
from tamis.nets.session import Session
from tamis.nets.youtube import YoutubeNet, _ages, _BatchMaker, _export, examples_of, fit_youtube

PLAN = YoutubePlan(
    TrainingPlan(epochs=2, batch_size=64, threads=1, patience=0), positives=("click",), embedding_size=4,
    user_layers=(8,), vector_size=4, user_examples=3,
)  # fmt: skip


def test_every_user_brings_at_most_so_many_examples_and_the_seed_says_which(toy: Toy) -> None:
    train = toy.inputs.train
    request, item = examples_of(train, PLAN, 1)
    all_request, all_item = examples_of(train, replace(PLAN, user_examples=0), 1)
    assert len(all_item) == int(train.labels["click"].sum())
    before = np.bincount(train.user[all_request], minlength=120)
    np.testing.assert_array_equal(np.bincount(train.user[request], minlength=120), np.minimum(before, 3))
    assert (np.diff(request) >= 0).all()
    pairs = set(zip(all_request.tolist(), all_item.tolist(), strict=True))
    assert set(zip(request.tolist(), item.tolist(), strict=True)) <= pairs
    assert examples_of(train, PLAN, 2)[1].tolist() != item.tolist()
    np.testing.assert_array_equal(examples_of(train, PLAN, 1)[1], item)


def test_a_batch_holds_each_example_with_the_user_as_he_was(toy: Toy) -> None:
    inputs = toy.inputs
    request, item = examples_of(inputs.train, PLAN, 1)
    items = np.unique(item)
    maker = _BatchMaker(inputs, (request, np.searchsorted(items, item)), PLAN, 1)
    requests = np.unique(request)[10:30]
    batch = maker.batch(requests)
    asked = np.isin(request, requests)
    assert requests[batch.request_of.numpy()].tolist() == request[asked].tolist()
    assert items[batch.drawn[batch.target.numpy()]].tolist() == item[asked].tolist()
    np.testing.assert_array_equal(batch.history_codes, inputs.batch(inputs.train, requests).history_codes)


def test_the_age_of_an_example_is_its_days_before_the_last_request(toy: Toy) -> None:
    ages, time = _ages(toy.inputs.train)[:, 0], toy.inputs.train.time
    np.testing.assert_allclose(ages, (time[-1] - time) / DAY, rtol=1e-6)
    assert ages.min() == 0.0


@torch.no_grad()
def test_the_served_net_answers_as_of_now(toy: Toy, tmp_path: Path) -> None:
    net = YoutubeNet(toy.inputs, 5, PLAN, 1).eval()
    _export(net, toy.inputs, tmp_path)
    sides = toy.inputs.batch(toy.inputs.valid, np.arange(4))
    arrays = (sides.user_codes, sides.user_dense, sides.history_codes)
    said = Session.open(tmp_path / "user.onnx").run(
        user_codes=arrays[0], user_dense=arrays[1], history_codes=arrays[2]
    )["vector"]
    now, then = (net.users(*map(torch.from_numpy, arrays), torch.full((4, 1), age)) for age in (0.0, 5.0))
    np.testing.assert_allclose(said, now, atol=1e-5)
    assert not torch.allclose(now, then, atol=1e-3)


def test_what_was_watched_lately_is_told_from_what_was_watched_before(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-way through, everybody turns from the first half of the items to the second."""
    train, nets = toy.inputs.train, []
    late = np.repeat(train.time > np.median(train.time), np.diff(train.first))
    turned = {"click": np.where(late, train.item >= 120, train.item < 120).astype(np.float32)}
    inputs = toy.inputs.with_samples(replace(train, labels=turned), toy.inputs.valid)
    monkeypatch.setattr(youtube, "_export", lambda net, *_: nets.append(net))
    plan = replace(
        PLAN,
        training=replace(PLAN.training, epochs=4, learning_rate=1e-2, embedding_learning_rate=2e-2),
        user_examples=30,
    )
    items, vectors, _ = fit_youtube(inputs, plan, 1, tmp_path)
    sides = inputs.batch(inputs.train, np.arange(0, len(train), 20))
    arrays = (sides.user_codes, sides.user_dense, sides.history_codes)
    shares = []
    for age in (0.0, 8.0):
        with torch.no_grad():
            users = nets[0].users(*map(torch.from_numpy, arrays), torch.full((len(sides.user_codes), 1), age))
        best = items[np.argsort(-(users.numpy() @ vectors.T), axis=1)[:, :20]]
        shares.append((best >= 120).mean())
    assert shares[0] > shares[1] + 0.3
