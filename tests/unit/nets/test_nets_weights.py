"""Weights that come back from exported nets, and embeddings that find their rows under a new encoder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from test_nets_contrast import plan_of
from toy_world import Toy, toy_world

from tamis.errors import ArtifactError, ConfigError
from tamis.features.earlier import Dropped, Earlier, carried_rows
from tamis.nets.contrast import BatchMaker, batch_loss, fit_two_towers
from tamis.nets.draws import Drawer, acted_rows
from tamis.nets.embed import Standardize
from tamis.nets.export import export
from tamis.nets.increment import move_user_ids
from tamis.nets.plans import TrainingPlan
from tamis.nets.session import Session
from tamis.nets.tower import Towers, id_fields, numbers_of
from tamis.nets.weights import begin_with, read_weights, restore

TRAINING = TrainingPlan(epochs=4, threads=1, batch_size=64, patience=0, unknown_share=0.1, embedding_learning_rate=5e-3)
PLAN = plan_of(training=TRAINING)


@pytest.fixture(scope="module")
def folder(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two towers trained on the toy world."""
    path = tmp_path_factory.mktemp("nets")
    fit_two_towers(toy.inputs, PLAN, 1, path)
    return path


def nothing() -> Dropped:
    return Dropped(np.zeros(121, np.int64), np.empty(0, np.int64), np.empty(0, np.int8))


def earlier(toy: Toy, folder: Path) -> Earlier:
    return Earlier("yesterday", folder, toy.inputs.encoder, begin=True, dropped=nothing)


def test_the_weights_of_an_exported_net_are_those_it_answers_with(toy: Toy, folder: Path) -> None:
    towers = Towers(toy.inputs.layout, PLAN.towers, numbers_of(toy.inputs), 9)
    restore(towers, read_weights(folder), folder)
    items = toy.inputs.catalog.features(np.arange(50))
    with torch.no_grad():
        ours = towers.eval().items(torch.from_numpy(items.codes), torch.from_numpy(items.dense)).numpy()
    served = Session.open(folder / "item.onnx").run(item_codes=items.codes, item_dense=items.dense)["vector"]
    np.testing.assert_allclose(served, ours, atol=1e-5)


def test_weights_that_are_equal_come_back_both_although_the_graph_has_them_once(tmp_path: Path) -> None:
    towers = Standardize(np.empty((5, 0), np.float32))  # of a side without numbers: mean and scale are both empty
    net = torch.nn.ModuleDict({"towers": towers})
    net.forward = lambda values: towers(values)
    for side in ("item", "user"):
        path, axes = tmp_path / f"{side}.onnx", {"values": {0: "n"}}
        export(net, {"values": torch.zeros(2, 0)}, ["numbers"], path, axes)
    assert {name: value.shape for name, value in read_weights(tmp_path).items()} == {"mean": (0,), "scale": (0,)}


def test_towers_of_another_shape_are_refused(toy: Toy, folder: Path, tmp_path: Path) -> None:
    for change in ({"user_layers": (9,)}, {"embedding_size": 8}, {"interests": 2}):
        towers = Towers(toy.inputs.layout, replace(PLAN.towers, **change), numbers_of(toy.inputs), 1)
        with pytest.raises(ArtifactError, match="another shape"):
            begin_with(towers, earlier(toy, folder), toy.inputs.encoder)
    with pytest.raises(ArtifactError, match=r"item\.onnx"):
        read_weights(tmp_path)


def test_a_training_that_begins_with_weights_starts_far_below_a_new_one(
    toy: Toy, folder: Path, tmp_path: Path
) -> None:  # T-10.7
    drawer = Drawer(toy.inputs.train, acted_rows(toy.inputs.train, ["click"]), toy.inputs.since, (50, 0.75), 1)
    batch = BatchMaker(toy.inputs, drawer, PLAN, 1).batch(np.arange(400))
    losses = []
    for before in (None, earlier(toy, folder)):
        towers = Towers(toy.inputs.layout, PLAN.towers, numbers_of(toy.inputs), 3)
        if before:
            begin_with(towers, before, toy.inputs.encoder)
        losses.append(batch_loss(towers.eval(), batch, PLAN).item())
    assert losses[1] < losses[0] - 0.3
    report = fit_two_towers(replace(toy.inputs, earlier=earlier(toy, folder)), PLAN, 1, tmp_path)
    assert len(report.scores) == 1  # one pass (T-10.5)
    assert report.rows == toy.inputs.train.labels["click"].sum()


def test_codes_find_their_old_rows_by_what_they_mean(toy: Toy) -> None:
    old = toy.inputs.encoder
    words = old.learnt.item["category"].words
    item = {
        **old.learnt.item,
        "category": structs.replace(old.learnt.item["category"], words=("new", *words[::-1][:-1])),
    }
    user_code = old.user_code.copy()
    user_code[[3, 4]] = user_code[[4, 3]]
    new = replace(old, learnt=structs.replace(old.learnt, item=item), user_code=user_code)
    rows = carried_rows(old, new)
    field = next(f for f in old.layout.item_fields if f.name == "item.category")
    got = rows[field.offset : field.offset + field.size] - field.offset
    assert got.tolist() == [0, -1 - field.offset, *range(len(words), 1, -1)]
    moved = np.flatnonzero(rows != np.arange(len(rows)))
    users = next(f for f in old.layout.user_fields if f.name == "user.user_id")
    others = moved[(moved < field.offset) | (moved >= field.offset + field.size)]
    assert sorted(others.tolist()) == sorted(user_code[[3, 4]].tolist())
    assert all(users.offset < row < users.offset + users.size for row in others)
    assert carried_rows(old, old).tolist() == list(range(old.layout.table_size))


def test_an_encoder_of_another_world_keeps_what_both_know() -> None:
    """Codes of users and items that only one side knows, and fields of other sizes."""
    small, large = toy_world(users=60, items=100, requests=3), toy_world(users=90, items=240, requests=3)
    rows = carried_rows(small.inputs.encoder, large.inputs.encoder)
    layout, before = large.inputs.layout, small.inputs.layout
    assert len(rows) == layout.table_size
    assert rows.max() < before.table_size
    kept = rows[rows > 0]
    assert len(np.unique(kept)) == len(kept)
    for number in range(60):
        code, old = int(large.inputs.encoder.user_code[number]), int(small.inputs.encoder.user_code[number])
        assert rows[code] == old
    assert (rows[large.inputs.encoder.user_code[60:90]] == -1).all()


def test_features_declared_otherwise_are_refused(toy: Toy) -> None:
    old = toy.inputs.encoder
    other = replace(
        old, learnt=structs.replace(old.learnt, config=structs.replace(old.learnt.config, refresh_hours=1.0))
    )
    with pytest.raises(ConfigError, match="--warm"):
        carried_rows(old, other)


def test_an_increment_moves_the_embeddings_of_the_users_it_saw_and_nothing_else(
    toy: Toy, folder: Path, tmp_path: Path
) -> None:  # T-10.3
    late = toy.inputs.train.since(float(toy.inputs.train.time[-20]))
    valid = toy.inputs.valid.since(np.inf)
    inputs = toy.inputs.with_samples(late, valid)
    plan = replace(PLAN, training=replace(PLAN.training, epochs=5))
    move_user_ids(inputs, plan, 1, (folder, tmp_path))
    before, after = read_weights(folder), read_weights(tmp_path)
    assert before.keys() == after.keys()
    for name in before:
        if name != "table.weight":
            assert torch.equal(before[name], after[name]), name
    moved = set((before["table.weight"] != after["table.weight"]).any(1).nonzero().flatten().tolist())
    acted = np.unique(late.user[np.add.reduceat(late.labels["click"], late.first[:-1]) > 0])
    assert moved == set(toy.inputs.encoder.user_code[acted].tolist())
    field = id_fields(inputs)[0][0]
    assert field.offset not in moved
    for file in folder.glob("item.*"):
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_an_increment_reads_the_log_in_its_order_and_once(toy: Toy, folder: Path, tmp_path: Path) -> None:
    seen: list[np.ndarray] = []
    batch = type(toy.inputs).batch

    class Watched(type(toy.inputs)):  # type: ignore[misc]
        def batch(self, samples, requests):
            if samples is self.train:
                seen.append(requests)
            return batch(self, samples, requests)

    inputs = Watched(**{name: getattr(toy.inputs, name) for name in toy.inputs.__dataclass_fields__ if name[0] != "_"})
    move_user_ids(inputs, replace(PLAN, training=replace(PLAN.training, epochs=5)), 1, (folder, tmp_path))
    read = np.concatenate(seen)
    assert (np.diff(read) > 0).all()
    assert len(read) == len(
        np.unique(np.searchsorted(inputs.train.first, np.flatnonzero(inputs.train.labels["click"]), "right"))
    )


def test_without_a_user_id_there_is_nothing_to_move(toy: Toy, folder: Path, tmp_path: Path) -> None:
    old = toy.inputs.encoder
    user = {name: feature for name, feature in old.learnt.config.user.items() if name != "user_id"}
    learnt = structs.replace(old.learnt, config=structs.replace(old.learnt.config, user=user))
    with pytest.raises(ConfigError, match="no feature of kind 'id'"):
        move_user_ids(replace(toy.inputs, encoder=replace(old, learnt=learnt)), PLAN, 1, (folder, tmp_path))


def test_an_increment_of_nothing_changes_nothing(toy: Toy, folder: Path, tmp_path: Path) -> None:
    inputs = toy.inputs.with_samples(toy.inputs.train.since(np.inf), toy.inputs.valid.since(np.inf))
    move_user_ids(inputs, PLAN, 1, (folder, tmp_path))
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes(), file.name
