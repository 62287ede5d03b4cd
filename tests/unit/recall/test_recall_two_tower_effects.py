"""What choices of the two towers are for, each on a small world made so that its cause is there and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from numpy.typing import NDArray
from toy_world import CLUSTERS, DAY, Rules, Toy, own_cluster, toy_world

from tamis.features.earlier import STAGES, Dropped, Earlier
from tamis.features.inputs import Inputs
from tamis.features.spec import Category, FeaturesConfig, HistoryConfig, Id, Tags
from tamis.nets.contrast import BatchMaker, batch_loss, learn
from tamis.nets.draws import Drawer, acted_rows
from tamis.nets.tower import Towers, numbers_of
from tamis.nets.tower_plan import ContrastPlan
from tamis.recall.two_tower import SelfSupervisedConfig, TwoTower, TwoTowerConfig

CONFIG = TwoTowerConfig(
    limit=0, epochs=5, patience=0, batch_size=128, extra_negatives=64, vector_size=16, user_layers=(64,)
)


RING = np.array([0.8, 0.35, 0.1, 0.03])  # a click's chance by the distance of the clusters on a ring


def by_distance(users: NDArray[Any], items: NDArray[Any], times: NDArray[Any]) -> NDArray[Any]:
    steps = np.abs(users - items)
    return RING[np.minimum(steps, CLUSTERS - steps)]


def funnel_before(toy: Toy, random: np.random.Generator) -> Dropped:
    """What a funnel cut that sees the true log-odds of a click, with noise of 1 in recall, 0.5 in prerank and rank.

    Of 240 items 100 were found for each user and 40 passed prerank; the lower 20 of those in rank count as low.
    """
    chance = by_distance(toy.user_cluster[:, None], toy.item_cluster, np.zeros(1))
    items, stages = [], []
    for odds in np.log(chance / (1 - chance)):
        found = np.argsort(-(odds + random.normal(size=len(odds))))[:100]
        light = found[np.argsort(-(odds[found] + 0.5 * random.normal(size=100)))]
        fine = light[:40][np.argsort(-(odds[light[:40]] + 0.5 * random.normal(size=40)))]
        items += [light[40:], fine[20:]]
        stages += [np.full(60, STAGES.index("prerank"), np.int8), np.full(20, STAGES.index("rank"), np.int8)]
    return Dropped(80 * np.arange(len(chance) + 1), np.concatenate(items), np.concatenate(stages))


def user_vectors(toy: Toy, part: TwoTower) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(vectors, users) of the held-out requests."""
    valid = toy.inputs.valid
    batch = toy.inputs.batch(valid, np.arange(len(valid)))
    run = part.user_tower.run(
        user_codes=batch.user_codes, user_dense=batch.user_dense, history_codes=batch.history_codes
    )
    return run["vector"], valid.user


@pytest.mark.parametrize("hard_share", [0.0, 0.2])
def test_the_later_a_funnel_cut_an_item_the_harder_it_is_to_tell_from_a_positive(hard_share: float) -> None:  # T-9.8
    toy = toy_world(rules=Rules(chance=by_distance))
    dropped = funnel_before(toy, np.random.default_rng(5))
    earlier = Earlier("yesterday", Path(), toy.inputs.encoder, begin=False, dropped=lambda: dropped)
    part = TwoTower.fit(structs.replace(CONFIG, hard_share=hard_share), replace(toy.inputs, earlier=earlier), 1)
    vectors, users = user_vectors(toy, part)
    cosines, valid = vectors @ part.index.main.T, toy.inputs.valid
    owner = np.repeat(np.arange(len(valid)), np.diff(valid.first))
    right: dict[str, list[float]] = {"catalogue": [], "prerank": [], "rank": []}
    for row in np.flatnonzero(valid.labels["click"]).tolist():
        request, item = owner[row], valid.item[row]
        of_user = slice(*dropped.starts[users[request] : users[request] + 2].tolist())
        kinds = {"catalogue": np.arange(240)} | {
            stage: dropped.item[of_user][dropped.stage[of_user] == code] for code, stage in enumerate(STAGES)
        }
        for kind, negatives in kinds.items():
            others = negatives[negatives != item]
            right[kind].append(float((cosines[request, item] > cosines[request, others]).mean()))
    accuracy = {kind: np.mean(shares) for kind, shares in right.items()}
    assert accuracy["catalogue"] > accuracy["prerank"] + 0.02
    assert accuracy["prerank"] > accuracy["rank"] + 0.05


ALONE = FeaturesConfig(  # ids and one attribute: nothing tells the hour, neither the clock nor what was clicked last
    user={"user_id": Id(min_count=0)},
    item={"item_id": Id(min_count=0), "category": Category(column="category")},
    history=HistoryConfig(fields=()),
)


def by_the_hour(users: NDArray[Any], items: NDArray[Any], times: NDArray[Any]) -> NDArray[Any]:
    """A user wants another cluster every four hours."""
    return own_cluster((users + (times % DAY) // (DAY / CLUSTERS)) % CLUSTERS, items, times)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_shuffled_day_teaches_more_of_the_next_one_than_the_day_in_its_order(seed: int) -> None:  # T-10.8
    toy = toy_world(requests=60, seed=seed, rules=Rules(chance=by_the_hour, features=ALONE, days=2, train_share=0.5))
    held_out = toy.inputs.with_samples(toy.inputs.valid, toy.inputs.train)
    losses = []
    for in_order in (False, True):
        plan = structs.replace(CONFIG, epochs=1, batch_size=64, learning_rate=1e-2, embedding_learning_rate=5e-2).plan()
        plan = replace(plan, training=replace(plan.training, in_order=in_order))
        towers = Towers(toy.inputs.layout, plan.towers, numbers_of(toy.inputs), seed)
        report = learn(towers, toy.inputs, plan, seed)
        assert report.rows == toy.inputs.train.labels["click"].sum()
        losses.append(mean_loss_over(held_out, towers, plan))
    assert losses[0] < losses[1] - 0.05


def mean_loss_over(inputs: Inputs, towers: Towers, plan: ContrastPlan) -> float:
    """The towers' loss on the training rows of `inputs`, batch by batch of 40 requests."""
    drawer = Drawer(inputs.train, acted_rows(inputs.train, ["click"]), inputs.since, (64, 0.75), 9)
    maker = BatchMaker(inputs, drawer, replace(plan, training=replace(plan.training, unknown_share=0.0)), 9)
    blocks = np.array_split(np.flatnonzero(drawer.per_request), len(inputs.train) // 40)
    with torch.no_grad():
        return float(np.mean([batch_loss(towers, maker.batch(block), plan).item() for block in blocks]))


HEAD, ITEMS = 60, 360  # popular items come first
WORDS = FeaturesConfig(
    user={"user_id": Id(min_count=0)},
    item={"item_id": Id(min_count=0), "category": Category(column="category"), "tags": Tags(column="tags", width=2)},
    history=HistoryConfig(length=8, fields=("item_id", "category"), actions=("click",)),
)


def words_of_rare_items(random: np.random.Generator, clusters: NDArray[Any]) -> dict[str, list[Any]]:
    """Attributes that tell a rare item's cluster, of which clicks hardly teach the meaning.

    Tags of rare items are on no popular one. Of the rare items four in ten have their category besides, so the
    catalogue knows which tags belong to which category, and whoever looks at clicks alone does not.
    """
    count = len(clusters)
    popular, named = np.arange(count) < HEAD, random.random(count) < 0.4
    return {
        "category": [f"c{c}" if known else None for c, known in zip(clusters, popular | named, strict=True)],
        "tags": [
            [f"often{c}{random.integers(3)}"] if first else [f"rare{c}{n}" for n in random.choice(5, 2, replace=False)]
            for c, first in zip(clusters, popular, strict=True)
        ],
        "publish_time": [0.0] * count,
    }


@pytest.mark.slow  # six trainings
def test_the_second_task_finds_rare_items_and_loses_no_popular_ones() -> None:  # T-11.8
    shown = np.where(np.arange(ITEMS) < HEAD, 1.0, 0.02)
    rules = Rules(raw=words_of_rare_items, features=WORDS, weights=shown / shown.sum())
    config = structs.replace(CONFIG, epochs=12, item_layers=(32,))
    second = SelfSupervisedConfig(weight=1.0, mask="complementary", items=128, temperature=0.3)
    recalls = {}
    for name, change in (("without", {}), ("with", {"self_supervised": second})):
        found = []
        for seed in (1, 2, 3):
            toy = toy_world(items=ITEMS, seed=seed, rules=rules)
            part = TwoTower.fit(structs.replace(config, **change), toy.inputs, seed)
            found.append(recall_of_clusters(toy, part))
        recalls[name] = np.mean(found, axis=0)
    (popular, rare), (popular_with, rare_with) = recalls["without"], recalls["with"]
    assert rare_with > rare + 0.05
    assert popular_with > popular - 0.02


def recall_of_clusters(toy: Toy, part: TwoTower) -> tuple[float, float]:
    """Recall@20 of popular items and recall@60 of rare ones; relevant is the user's cluster, and no log says so."""
    popular, rare = [], []
    for user in range(0, 120, 5):
        own = toy.likes(toy.user_cluster[user])
        ids = part.recall(toy.query(user, own[own < HEAD][:4].tolist())).ids
        popular.append(np.isin(own[own < HEAD], ids[:20]).mean())
        rare.append(np.isin(own[own >= HEAD], ids[:60]).mean())
    return float(np.mean(popular)), float(np.mean(rare))
