"""SIM in the ranking net: attention over what was found, in tiles when served, and what only a long history tells."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import CLICK, DAY, FEATURES, LIKE, Rules, Toy, toy_world

from tamis.assemble import part_of
from tamis.data.samples import Samples, Timeline
from tamis.errors import ArtifactError, ConfigError
from tamis.features.batch import NetBatch
from tamis.features.spec import HistoryConfig
from tamis.metrics import auc
from tamis.nets.batch import tensors
from tamis.nets.heads import HeadPlan
from tamis.nets.multitask import INPUTS, MultitaskNet, Scales, export_multitask, fit_multitask, predict
from tamis.nets.plans import MultitaskShape, TrainingPlan
from tamis.nets.sequence import DinAttention, SearchAttention, dot_weights
from tamis.nets.session import Session
from tamis.nets.spread import Rows
from tamis.nets.tiles import SEARCH_INPUTS, Tiles
from tamis.prerank.three_tower import ThreeTowerConfig
from tamis.rank.light import LightRankConfig
from tamis.rank.multitask import Multitask, MultitaskConfig
from tamis.recall.deep_retrieval import DeepRetrievalConfig
from tamis.recall.two_tower import TwoTowerConfig
from tamis.recall.youtube_dnn import YoutubeDnnConfig
from tamis.types import Candidates, History

SHAPE = MultitaskShape(
    embedding_size=8, attention_hidden=8, experts=1, expert_hidden=(16, 8), tower_hidden=(), search_entries=5
)
HEADS = HeadPlan(("click",), frozenset(), {}, "ratio")
LONG = HistoryConfig(
    length=8,
    fields=("item_id", "category"),
    actions=("click", "like"),
    long_length=500,
    last_n=("click", "like"),
    last_n_length=4,
)


@pytest.fixture(scope="module")
def world() -> Toy:
    return toy_world(rules=Rules(features=msgspec.structs.replace(FEATURES, history=LONG)))


def net_for(world: Toy, shape: MultitaskShape) -> MultitaskNet:
    batch = world.inputs.batch(world.inputs.train, np.arange(300, 340))
    scales = Scales(batch.user_dense, batch.item_dense, batch.item_dynamic)
    return MultitaskNet(shape, world.inputs.layout, HEADS.heads, scales, torch.Generator().manual_seed(1))


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 9))
@settings(deadline=None)
def test_every_candidate_has_one_place_in_a_tile_of_its_group(row_of: list[int], size: int) -> None:
    tiles = Tiles.of(np.array(row_of, np.int64), 6, size)
    assert tiles.rows.shape == (len(tiles.group_of), size)
    assert tiles.rows.flatten()[tiles.place].tolist() == list(range(len(row_of)))
    assert tiles.group_of[tiles.place // size].tolist() == row_of
    assert len(tiles.group_of) == sum(-(-row_of.count(group) // size) for group in range(6))


@given(st.integers(0, 2**31), st.lists(st.integers(0, 3), max_size=12), st.integers(1, 6))
@settings(deadline=None, max_examples=20)
def test_attention_over_what_was_found_is_din_of_each_candidate_alone(
    seed: int, row_of: list[int], length: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    net = SearchAttention(8, 12, 8, random).double()
    query = torch.randn(len(row_of), 8, generator=random, dtype=torch.float64).requires_grad_()
    entries = torch.randn(4, length, 12, generator=random, dtype=torch.float64).requires_grad_()
    there = torch.rand(4, length, generator=random) < 0.7
    slope = torch.randn(len(row_of), 12, generator=random, dtype=torch.float64)
    got = net(query, entries, there, (torch.tensor(row_of, dtype=torch.int64),))
    unit, parts = net.unit, []
    for n, row in enumerate(row_of):
        total = 0.0 * query[n].sum() * entries[row, 0]
        for x in entries[row][there[row]]:
            hidden = torch.relu(unit.query(query[n]) + unit.key(x) + unit.product @ (query[n] * x[:8]))
            total = total + (unit.output[:-1] @ hidden + unit.output[-1]) * x
        parts.append(total)
    want = torch.stack(parts) if parts else torch.zeros(0, 12, dtype=torch.float64)
    torch.testing.assert_close(got, want)
    leaves = [query, entries, *net.parameters()]
    slopes = torch.autograd.grad(got, leaves, slope)
    if row_of:
        wanted = torch.autograd.grad(want, leaves, slope, allow_unused=True)
        for own, other in zip(slopes, wanted, strict=True):
            torch.testing.assert_close(own, torch.zeros_like(own) if other is None else other)


def test_sim_1_a_search_that_keeps_everything_is_din(world: Toy) -> None:
    """Soft, with as many entries as the history has: the same entries for all, so the same sums."""
    net = net_for(world, replace(SHAPE, search="soft", search_entries=200))
    samples = world.inputs.train
    longest = np.argmax(samples.history_end - samples.history_start)
    batch = world.inputs.batch(samples, np.array([longest]), net.search)
    assert batch.found is not None
    there = (batch.found.codes[:, :, 0] != 0).sum(1)
    assert (there == there[0]).all()
    assert there[0] > 8
    torch.manual_seed(3)
    entries = torch.randn(1, 200, 12).expand(len(there), 200, 12).contiguous()
    mask, query = torch.from_numpy(batch.found.codes[:, :, 0] != 0), torch.randn(len(there), 8)
    attention = SearchAttention(8, 12, 8, torch.Generator().manual_seed(2))
    got = attention(query, entries, mask, (torch.from_numpy(batch.found.row_of),))
    din: DinAttention = attention.unit
    rows = Rows.of(torch.zeros(len(there), dtype=torch.int64), 1)
    torch.testing.assert_close(got, din(query, entries[:1], mask[:1], rows))


def test_sim_4_the_weights_of_the_example() -> None:
    kept = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    weights = dot_weights(
        torch.tensor([[1.0, 0.0]], dtype=torch.float64) @ kept.t(), torch.ones(1, 2, dtype=torch.bool)
    )
    assert weights[0].tolist() == pytest.approx([0.59869, 0.40131], abs=1e-5)
    assert (weights @ kept)[0].tolist() == pytest.approx([0.83948, 0.32105], abs=1e-5)


@pytest.mark.parametrize("how", ["hard", "soft"])
@pytest.mark.parametrize("others", [{}, {"attention": "mean"}, {"crosses": ("dcn_v2", "senet_bilinear")}], ids=str)
def test_the_exported_net_gives_the_same_logits(world: Toy, tmp_path: Path, how: str, others: dict[str, Any]) -> None:
    net = net_for(world, replace(SHAPE, search=how, **others))
    export_multitask(net, world.inputs.layout, tmp_path / "net.onnx")
    session = Session.open(tmp_path / "net.onnx")
    assert session.inputs == (*INPUTS, *SEARCH_INPUTS)
    for request in (0, 400, 900):  # the first one has no history
        batch = world.inputs.batch(world.inputs.train, np.array([request]), net.search)
        with torch.no_grad():
            want = net(tensors(batch).inputs, torch.zeros(len(batch.row_of), dtype=torch.int64))[0].numpy()
        for size in (1, 3, 8):
            got = session.run(**feed(batch, size))["click"]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def feed(batch: NetBatch, size: int) -> dict[str, np.ndarray]:
    assert batch.found is not None
    tiles = Tiles.of(batch.found.row_of, len(batch.found.codes), size)
    searched = zip(SEARCH_INPUTS, (batch.found.codes, *tiles), strict=True)
    return {**{name: getattr(batch, name) for name in INPUTS}, **dict(searched)}


def test_sim_7_attention_looks_at_no_more_than_k_entries_of_any_history(world: Toy) -> None:
    search = net_for(world, replace(SHAPE, search="hard", search_entries=2)).search
    batch = world.inputs.batch(world.inputs.train, np.arange(800, 900), search)
    assert batch.found is not None
    assert batch.found.codes.shape[1] == 2
    samples = world.inputs.train
    entries = samples.history_end[800:900] - samples.history_start[800:900]
    assert entries.max() > 10
    assert len(batch.found.codes) < len(batch.row_of)  # candidates of one category share theirs


def long_ago(world: Toy, samples: Samples, seed: int) -> Samples:
    """Every request has a past of its own: 4 clicks in one category half a year ago, then 12 of any kind.

    A candidate of the old category is clicked with probability 0.95, another one with 0.05.
    """
    random = np.random.default_rng(seed)
    requests, rows = len(samples), np.diff(samples.first)
    loved = random.integers(0, 6, requests)
    of_category = [world.likes(category) for category in range(6)]
    old = np.stack([random.choice(of_category[category], 4) for category in loved])
    recent = random.integers(0, len(world.item_cluster), (requests, 12))
    item = np.concatenate([old, recent], 1).astype(np.int32).ravel()
    ages = np.append(np.linspace(200, 150, 4), np.linspace(2, 0.1, 12)) * DAY
    line = Timeline(
        item, np.full(len(item), CLICK, np.uint8), (samples.time[:, None] - ages).ravel(), np.zeros(2, np.int64)
    )
    same = world.item_cluster[samples.item] == np.repeat(loved, rows)
    click = (random.random(len(same)) < np.where(same, 0.95, 0.05)).astype(np.float32)
    start = np.arange(requests) * 16
    return replace(samples, timeline=line, history_start=start, history_end=start + 16, labels={"click": click})


def test_sim_9_what_only_the_long_past_tells_is_learnt_by_sim_and_not_by_din(world: Toy) -> None:
    parts = long_ago(world, world.inputs.train, 1), long_ago(world, world.inputs.valid, 2)
    inputs = world.inputs.with_samples(*parts)
    plan = TrainingPlan(
        epochs=6,
        batch_size=256,
        threads=1,
        patience=0,
        learning_rate=3e-3,
        embedding_learning_rate=1e-2,
        unknown_share=0.5,
    )
    scores = {}
    for how in ("none", "hard", "soft"):
        net = fit_multitask(replace(SHAPE, search=how), plan, HEADS, inputs, 1).net
        scores[how] = auc(inputs.valid.labels["click"], predict(net, inputs, inputs.valid)["click"])
    assert scores["none"] < 0.6  # DIN sees the 8 newest entries
    assert min(scores["hard"], scores["soft"]) > 0.8


CONFIG = MultitaskConfig(
    heads=("click",),
    epochs=1,
    batch_size=256,
    threads=1,
    experts=2,
    expert_hidden=(16, 8),
    tower_hidden=(8,),
    attention_hidden=8,
    embedding_size=8,
    embedding_spread=0.5,
    search_entries=4,
)


@pytest.mark.parametrize("how", ["hard", "soft"])
def test_a_part_with_a_search_scores_alone_as_in_company_whatever_the_history(
    world: Toy, tmp_path: Path, how: str
) -> None:
    config = msgspec.structs.replace(CONFIG, search=how)
    part = Multitask.fit(config, world.inputs, 1)
    part.save(tmp_path)
    again = Multitask.load(config, tmp_path)
    known = world.query(1, [int(item) for item in world.likes(1)[:20]] * 30)
    catalog = world.with_fresh([1, 2])
    fresh = replace(known, catalog=catalog, history=replace(known.history, items=known.history.items[::-1].copy()))
    gone = replace(known, history=replace(known.history, items=np.full(len(known.history), -1)))
    ids = np.array([7, 3, 200, 41, 9, 239, 0])
    for query in (known, fresh, gone, replace(known, history=History.empty()), world.query(-1, [])):
        items = np.append(ids, [240, 241]) if query is fresh else ids
        together = part.score(query, Candidates(items))["p_click"]
        assert np.isfinite(together).all()
        assert again.score(query, Candidates(items))["p_click"].tobytes() == together.tobytes()
        for row, item in enumerate(items):
            alone = part.score(query, Candidates(np.array([item])))["p_click"][0]
            assert alone == pytest.approx(together[row], rel=1e-5)
    nothing = part.score(replace(known, history=History.empty()), Candidates(ids))["p_click"]
    assert part.score(gone, Candidates(ids))["p_click"].tobytes() == nothing.tobytes()
    searched = part.score(known, Candidates(ids))["p_click"]
    assert np.abs(searched - nothing).max() > 1e-4


def test_a_net_cannot_search_what_it_was_not_trained_for(world: Toy, tmp_path: Path) -> None:
    searching = msgspec.structs.replace(CONFIG, search="hard")
    for name, trained in (("plain", CONFIG), ("searching", searching)):
        (tmp_path / name).mkdir()
        Multitask.fit(trained, world.inputs, 1).save(tmp_path / name)
    with pytest.raises(ArtifactError, match=r"search 'hard'.*trained with none"):
        Multitask.load(searching, tmp_path / "plain")
    with pytest.raises(ArtifactError, match=r"search 'hard'.*9 entries; it was trained with Search"):
        Multitask.load(msgspec.structs.replace(searching, search_entries=9), tmp_path / "searching")


def test_a_soft_search_without_content_vectors_is_refused(world: Toy) -> None:
    base, fresh = world.inputs.catalog.columns["vector"]
    columns = {**world.inputs.catalog.columns, "vector": (base[:, :0], fresh[:, :0])}
    inputs = replace(world.inputs, catalog=replace(world.inputs.catalog, columns=columns))
    with pytest.raises(ConfigError, match="wants content vectors"):
        Multitask.fit(msgspec.structs.replace(CONFIG, search="soft"), inputs, 1)


def test_a_search_without_a_long_history_is_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="long_length"):
        Multitask.fit(msgspec.structs.replace(CONFIG, search="hard"), toy.inputs, 1)


def test_last_n_1_2_7_lists_of_single_actions_are_means_on_the_users_side(world: Toy) -> None:
    layout = world.inputs.layout
    names = [field.name for field in layout.user_fields[-4:]]
    assert names == [f"history.{action}.{name}" for action in ("click", "like") for name in ("item_id", "category")]
    samples = world.inputs.train
    net = net_for(world, SHAPE)
    batch = world.inputs.batch(samples, np.array([900]))
    clicks, likes = (
        [p for p in range(int(samples.history_end[900]) - 1, int(samples.history_start[900]) - 1, -1)
         if samples.timeline.action[p] == action][:4]
        for action in (CLICK, LIKE)
    )  # fmt: skip
    assert len(clicks) == 4
    with torch.no_grad():
        user, _, _ = net.sides(tensors(batch).inputs, tensors(batch).row_of)
    weight, columns = net.table.weight.detach(), list(layout.history_columns)
    want = []
    for places in (clicks, likes):
        codes = world.inputs.catalog.column("codes", samples.timeline.item[places])[:, columns]
        want += [weight[codes[:, at].tolist()].mean(0) if len(codes) else torch.zeros(8) for at in range(2)]
    fields = len(layout.user_fields)
    torch.testing.assert_close(user[0, 8 * (fields - 4) : 8 * fields], torch.cat(want), rtol=0, atol=1e-6)
    shuffled = replace(batch, user_codes=batch.user_codes.copy())
    first = layout.user_fields[-4]
    part = slice(first.start, first.start + first.width)
    shuffled.user_codes[:, part] = batch.user_codes[:, part][:, ::-1]
    with torch.no_grad():
        other, _, _ = net.sides(tensors(shuffled).inputs, tensors(shuffled).row_of)
    torch.testing.assert_close(other, user, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "kind", [TwoTowerConfig, YoutubeDnnConfig, DeepRetrievalConfig, ThreeTowerConfig, LightRankConfig]
)
def test_last_n_6_every_user_tower_and_ranker_takes_the_lists_of_single_actions(world: Toy, kind: Any) -> None:
    part = part_of(kind()).fit(kind(epochs=1), world.inputs, 1)
    liked = world.query(1, [int(item) for item in world.likes(2)[:5]])
    likes = replace(liked.history, actions=np.full(len(liked.history), LIKE, np.uint8))
    for query in (liked, replace(liked, history=likes), world.query(-1, [])):
        if hasattr(part, "recall"):
            assert len(part.recall(query))
        else:
            for column in part.score(query, Candidates(np.arange(30))).values():
                assert np.isfinite(column).all()
