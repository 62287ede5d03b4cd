"""Nets on another device than the processor: they learn the same there, and are back when training ends.

The machine of the tests has no graphics card. torch brings a device of its own beside the processor, "lazy", whose
tensors NumPy cannot read and refuse to meet the processor's; its operations compute the same numbers.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch._lazy.ts_backend
from torch import Tensor, nn
from toy_world import FEATURES, Rules, Toy, toy_world

from tamis.assemble import PARTS, part_of
from tamis.config import convert
from tamis.errors import ConfigError
from tamis.features.inputs import Inputs, Journal
from tamis.features.spec import HistoryConfig
from tamis.nets import loop, products
from tamis.nets.batch import tensors
from tamis.nets.device import chosen, device_of, placed
from tamis.nets.embed import Table
from tamis.nets.heads import HeadPlan, loss
from tamis.nets.multitask import MultitaskNet, Scales, fit_multitask
from tamis.nets.optimizer import Optimizer
from tamis.nets.plans import EmbeddingSteps, MultitaskShape, TrainingPlan
from tamis.nets.products import native, precision
from tamis.nets.self_supervised import ViewMaker, view_loss
from tamis.nets.sequence import DinAttention
from tamis.nets.spread import Rows
from tamis.nets.thinning import Thinning
from tamis.nets.tower import Towers, numbers_of
from tamis.nets.tower_plan import TowerPlan, ViewsPlan
from tamis.prerank.three_tower import ThreeTowerConfig
from tamis.rank.light import LightRankConfig
from tamis.rank.multitask import MultitaskConfig
from tamis.rank.rating import RatingConfig
from tamis.recall.deep_retrieval import DeepRetrievalConfig
from tamis.recall.sequential import SequentialConfig
from tamis.recall.two_tower import TwoTowerConfig
from tamis.recall.youtube_dnn import YoutubeDnnConfig
from tamis.types import ACTION_CODE, silent

SHAPE = MultitaskShape(embedding_size=8, attention_hidden=8, experts=3, expert_hidden=(16, 8), tower_hidden=(8,))
HEADS = HeadPlan(("click", "like"), frozenset(("like",)), {}, "ratio")
LONG = HistoryConfig(length=8, fields=("item_id", "category"), actions=("click", "like"), long_length=500)
SHAPES = {
    "din": SHAPE,
    "dot": replace(SHAPE, attention="dot", gate_dropout=0.5, dropout=0.3),
    "mean": replace(SHAPE, attention="mean", experts=1, wide=False, powers=True),
    "search": replace(SHAPE, search="hard", search_entries=5),
    "ple": replace(SHAPE, mixture="ple", gate_dropout=0.5),
    "norm": replace(SHAPE, normalization="batch", expert_hidden=(16, 8, 8)),
    "lhuc": replace(SHAPE, personal_gates="lhuc"),
    "ppnet": replace(SHAPE, personal_gates="ppnet"),
    "place": replace(SHAPE, position="feature"),
    "tower": replace(SHAPE, position="tower"),
    "dcn": replace(SHAPE, crosses=("dcn", "dcn_v2", "gdcn", "fm"), cross_place="beside"),
    "low rank": replace(SHAPE, crosses=("dcn_v2",), cross_rank=4, cross_experts=2),
    "fields": replace(SHAPE, crosses=("senet_bilinear", "final_mlp"), stream_hidden=(8, 8), bilinear_weights="all"),
}
KINDS: dict[str, Any] = {
    "two_tower": TwoTowerConfig(user_layers=(16,), item_layers=(16,), vector_size=8, epochs=1),
    "interests": TwoTowerConfig(user_layers=(16,), vector_size=8, interests=2, loss="pairwise_logistic", epochs=1),
    "youtube_dnn": YoutubeDnnConfig(user_layers=(16,), vector_size=8, epochs=1),
    "sequential": SequentialConfig(vector_size=8, hidden_size=8, epochs=1, dropout=0.1),
    "deep_retrieval": DeepRetrievalConfig(user_layers=(16,), width=8, epochs=1),
    "three_tower": ThreeTowerConfig(user_layers=(16,), item_layers=(16,), vector_size=8, epochs=1),
    "light": LightRankConfig(epochs=1),
    "rating": RatingConfig(epochs=1, batch_size=256),
    "multitask": MultitaskConfig(experts=2, expert_hidden=(16,), tower_hidden=(), epochs=1, threads=1),
}


@pytest.fixture(scope="module")
def other() -> torch.device:
    torch._lazy.ts_backend.init()
    return torch.device("lazy")


@pytest.fixture(scope="module")
def world() -> Toy:
    return toy_world(rules=Rules(features=msgspec.structs.replace(FEATURES, history=LONG)))


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """torch's own fails on this device, with numbers of two lengths in one product."""
    own = (target[:, None] == torch.arange(logits.shape[1], device=logits.device)).to(logits.dtype)
    return (logits.logsumexp(1) - (logits * own).sum(1)).mean()


def learnt(monkeypatch: pytest.MonkeyPatch, device: torch.device, fit: Any) -> dict[str, Tensor]:
    """The weights of the net that `fit` trains on a device, once they are back."""
    found: dict[str, Tensor] = {}
    finish, step = loop._Course.finish, loop._Course._step

    def computed(course: Any, *given: Any) -> Tensor:
        out: Tensor = step(course, *given)
        torch._lazy.mark_step()  # this device notes what is to be computed, until it is asked to
        return out

    def noting(course: Any) -> None:
        assert device_of(course.net).type == device.type
        finish(course)
        found.update({name: value.clone() for name, value in course.net.state_dict().items()})

    monkeypatch.setattr(loop, "chosen", lambda wanted: device)
    monkeypatch.setattr(loop._Course, "finish", noting)
    if device.type == "lazy":
        monkeypatch.setattr(loop._Course, "_step", computed)
        monkeypatch.setattr(nn.functional, "cross_entropy", cross_entropy)
    fit()
    monkeypatch.undo()
    assert all(value.device.type == "cpu" for value in found.values())
    return found


def assert_near(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=2e-3, rtol=2e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def net_for(world: Toy, shape: MultitaskShape) -> MultitaskNet:
    sample = world.inputs.batch(world.inputs.train, np.arange(300, 340))
    scales = Scales(sample.user_dense, sample.item_dense, sample.item_dynamic)
    net = MultitaskNet(shape, world.inputs.layout, HEADS.heads, scales, torch.Generator().manual_seed(1))
    net.table.weight.mul_(30)  # as if trained
    return net


def slopes_of(net: MultitaskNet, batch: Any, device: torch.device) -> dict[str, Tensor]:
    """Logits and gradients of a net on a device, and its tables after a step of the optimizer."""
    net.to(device).train()
    optimizer = Optimizer(net, TrainingPlan(l2=0.1))
    whole = placed(tensors(batch), device)
    targets = HEADS.targets(whole.labels)
    optimizer.clear()
    logits = net(whole.inputs, whole.row_of)
    loss(logits, targets).backward()
    out = {f"slope of {name}": weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
    optimizer.step()
    out |= {name: module.weight for name, module in net.named_modules() if isinstance(module, Table)}
    assert {value.device.type for value in out.values()} == {device.type}
    return {name: value.detach().cpu() for name, value in (out | {"logits": logits}).items()}


@pytest.mark.parametrize("name", SHAPES)
def test_plain_operations_say_and_learn_what_the_compiled_loops_do(world: Toy, other: torch.device, name: str) -> None:
    found = []
    for device in (torch.device("cpu"), other):
        net = net_for(world, SHAPES[name])
        found.append(slopes_of(net, world.inputs.batch(world.inputs.train, np.arange(300, 340), net.search), device))
    assert found[0].keys() == found[1].keys()
    assert any(name.startswith("slope") for name in found[0])
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=2e-6, rtol=1e-4, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("name", KINDS)
def test_every_net_learns_the_same_elsewhere(
    toy: Toy, other: torch.device, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config, inputs = KINDS[name], rated(toy.inputs)
    weights = [
        learnt(monkeypatch, device, lambda: part_of(config).fit(config, inputs, 1))
        for device in (torch.device("cpu"), other)
    ]
    assert weights[0]
    assert_near(*weights)


def test_the_second_task_of_an_item_tower_costs_the_same_elsewhere(toy: Toy, other: torch.device) -> None:
    towers = Towers(toy.inputs.layout, TowerPlan(embedding_size=4, vector_size=4), numbers_of(toy.inputs), 1)
    views = ViewMaker(toy.inputs, ViewsPlan(items=20), 1).batch()
    here = view_loss(towers, views, 0.1)
    there = view_loss(towers.to(other), views.to(other), 0.1)
    assert there.device.type == other.type
    torch.testing.assert_close(there.cpu(), here)


def rated(inputs: Inputs) -> Inputs:
    """With five stars for each click and, in words no other part reads, one for a click in four."""
    events = inputs.events
    clicks = events.take(np.flatnonzero(events.action == ACTION_CODE["click"]))
    stars = np.where(clicks.item % 4 == 0, 1.0, 5.0).astype(np.float32)
    clicks = replace(clicks, action=np.full(len(clicks), ACTION_CODE["rate"], np.uint8), value=stars)
    whole = [np.concatenate([getattr(events, name), getattr(clicks, name)]) for name in events.__slots__]
    together = type(events)(*whole)
    return replace(inputs, events=together.take(np.argsort(together.time, kind="stable")))


@pytest.mark.parametrize("name", ["dcn", "norm", "din"])
def test_mixed_precision_is_as_near_elsewhere(
    world: Toy, other: torch.device, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(products, "native", lambda device: True)
    batch = world.inputs.batch(world.inputs.train, np.arange(300, 340))
    full = slopes_of(net_for(world, SHAPES[name]), batch, torch.device("cpu"))
    with precision("mixed", other):
        half = slopes_of(net_for(world, SHAPES[name]), batch, other)
    assert not torch.equal(full["logits"], half["logits"])
    torch.testing.assert_close(half["logits"], full["logits"], atol=0.05, rtol=0.05)


def test_a_training_asks_its_own_device_whether_it_is_made_for_16_bits(
    other: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the processor, which may be made for it where the card is not, and the other way round."""
    net, seen = nn.Linear(2, 1), []

    def noting(batch: Tensor) -> Tensor:
        seen.append((batch.device.type, products.cast(net.weight).dtype))
        return net(batch).sum()

    problem = loop.Problem(np.ones(4, np.int64), lambda rows: torch.ones(len(rows), 2), noting, float, "", silent)
    for device in (torch.device("cpu"), other):
        monkeypatch.setattr(products, "native", lambda at, device=device: at == device)
        monkeypatch.setattr(loop, "chosen", lambda wanted: other)
        loop.train(net, problem, TrainingPlan(epochs=1, precision="mixed"), 1)
    assert seen == [(other.type, torch.float32), (other.type, torch.bfloat16)]


def test_attention_leaves_out_what_is_not_there_elsewhere(other: torch.device) -> None:
    """In every net entries that are not there are zeros; here they are not, so that the mask decides."""
    random = torch.Generator().manual_seed(3)
    unit = DinAttention(8, 12, 4, random)
    query, entries = torch.randn(5, 8, generator=random), torch.randn(2, 3, 12, generator=random)
    there, row_of = torch.tensor([[True, False, True], [False, False, False]]), torch.tensor([0, 0, 0, 1, 1])
    here = unit(query, entries, there, Rows.of(row_of, 2))
    far = unit.to(other)(*placed((query, entries, there), other), Rows.of(row_of.to(other), 2))
    torch.testing.assert_close(far.cpu(), here)
    assert here[:3].all()
    assert not here[3:].any()


def test_heads_of_thinned_rows_are_corrected_elsewhere(toy: Toy, other: torch.device) -> None:
    whole = tensors(toy.inputs.batch(toy.inputs.train, np.arange(3)))._replace(keep_negatives=0.5)
    thinning, logits = Thinning.of(("click", "like"), ("like",)), torch.zeros(2, len(whole.row_of))
    here, there = thinning.drawn(whole, logits), thinning.drawn(placed(whole, other), logits.to(other))
    assert there.device.type == other.type
    assert torch.equal(there.cpu(), here)
    assert here[0, 0] > here[1, 0] == 0


@pytest.mark.parametrize("steps", ["touched", "all"])
@pytest.mark.parametrize("moving", [False, True])
def test_rows_move_alike_and_their_moments_go_from_device_to_device(
    other: torch.device, steps: EmbeddingSteps, moving: bool
) -> None:
    """Fields of one code and of several, absent codes, the same code many times, a row that no batch holds."""
    random = np.random.default_rng(4)
    plan, widths = TrainingPlan(l2=0.1, embedding_steps=steps), (1, 3, 1, 2)
    places = [torch.device("cpu"), other]
    nets = [nn.ModuleList([Table(12, 4, torch.Generator().manual_seed(1))]) for _ in places]
    for net, device in zip(nets, places, strict=True):
        net[0].moving = random.random(12) < 0.5 if moving and net is nets[0] else nets[0][0].moving
        net.to(device).train()
    optimizers = [Optimizer(net, plan) for net in nets]
    for _ in range(3):
        codes = random.integers(0, 11, (30, sum(widths))).astype(np.int32)
        slope = random.normal(size=(30, 4 * len(widths))).astype(np.float32)
        for net, optimizer, device in zip(nets, optimizers, places, strict=True):
            optimizer.clear()
            (net[0](torch.from_numpy(codes).to(device), widths) * torch.from_numpy(slope).to(device)).sum().backward()
            optimizer.step()
        torch.testing.assert_close(nets[1][0].weight.detach().cpu(), nets[0][0].weight.detach(), atol=1e-6, rtol=1e-5)
    back = Optimizer(nets[0], plan)
    back.set_state(optimizers[1].state())
    for name, value in optimizers[0].state().items():
        np.testing.assert_allclose(back.state()[name], value, atol=1e-6)
    again = Optimizer(nets[1], plan)
    again.set_state(optimizers[0].state())
    np.testing.assert_array_equal(again.state()["table.0.moments"], optimizers[0].state()["table.0.moments"])


def test_a_side_without_fields_and_a_batch_without_rows_move_nothing(other: torch.device) -> None:
    """A project may have no feature of users that is a code; then the table is asked for no field."""
    for device in (torch.device("cpu"), other):
        net = nn.ModuleList([Table(5, 4, torch.Generator().manual_seed(1))]).to(device).train()
        optimizer, before = Optimizer(net, TrainingPlan(l2=0.1)), net[0].weight.detach().cpu().clone()
        for shape, widths in (((3, 0), ()), ((0, 3), (1, 2))):
            optimizer.clear()
            found = net[0](torch.zeros(shape, dtype=torch.int32, device=device), widths)
            assert found.shape == (shape[0], 4 * len(widths))
            torch.cat([found, torch.ones(shape[0], 1, device=device)], 1).sum().backward()
            optimizer.step()
        assert torch.equal(net[0].weight.detach().cpu(), before)


def test_a_training_goes_on_from_the_checkpoint_of_another_device(
    toy: Toy, other: torch.device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two epochs here, against one there and, from its checkpoint, one here."""
    shape = replace(SHAPE, gate_dropout=0.5, dropout=0.2)

    def fit(epochs: int, file: Path) -> Any:
        plan = TrainingPlan(epochs=epochs, batch_size=1024, threads=1, patience=0)
        journal = Journal(file, seconds=0.0)
        return lambda: fit_multitask(shape, plan, HEADS, replace(toy.inputs, journal=journal), 1)

    here = torch.device("cpu")
    whole = learnt(monkeypatch, here, fit(2, tmp_path / "whole"))
    learnt(monkeypatch, other, fit(1, tmp_path / "parts"))
    assert whole
    assert_near(whole, learnt(monkeypatch, here, fit(2, tmp_path / "parts")))


def test_the_card_is_taken_if_there_is_one_and_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, auto in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert chosen("auto").type == auto
        assert chosen("cpu").type == "cpu"
        if there:
            assert chosen("cuda").type == "cuda"
        else:
            with pytest.raises(ConfigError, match="device 'cuda': torch sees no graphics card here; wanted 'auto'"):
                chosen("cuda")
    for able in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert native(torch.device("cuda")) is able


def test_every_step_that_trains_by_torch_has_the_setting() -> None:
    by_torch = {kind for kind in PARTS if "threads" in kind.__struct_fields__}
    assert {type(config) for config in KINDS.values()} <= by_torch
    for kind in by_torch:
        assert kind().device == "auto"
        with pytest.raises(ConfigError, match="device"):
            convert({"device": "tpu"}, kind, "tamis.toml")


def test_what_is_no_tensor_stays_when_a_batch_is_placed(toy: Toy, other: torch.device) -> None:
    whole = tensors(toy.inputs.batch(toy.inputs.train, np.arange(3)))
    targets, rows = HEADS.targets(whole.labels), np.arange(3)
    moved, moved_targets, moved_rows, nothing = placed((whole, targets, rows, None), other)
    assert moved_rows is rows
    assert nothing is None
    assert type(moved) is type(whole)
    assert moved.keep_negatives == whole.keep_negatives
    for one, two in ((moved.item_dense, whole.item_dense), (moved_targets.labels, targets.labels)):
        assert one.device.type == other.type
        assert torch.equal(one.cpu(), two)
    assert {label.device.type for label in moved.labels.values()} == {other.type}
