"""Pre-ranking that learns from the ranker."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from toy_world import Toy

from tamis.artifact import open_bundle
from tamis.assemble import load_model
from tamis.config import override
from tamis.data.samples import Samples, thinned
from tamis.errors import ConfigError
from tamis.features.batch import NetBatch
from tamis.features.inputs import Inputs
from tamis.features.lesson import Lesson
from tamis.metrics import auc
from tamis.nets.batch import tensors
from tamis.nets.heads import HeadPlan
from tamis.nets.labels import TAUGHT
from tamis.nets.thinning import Thinning
from tamis.nets.three_towers import taught
from tamis.prerank.three_tower import ThreeTower, ThreeTowerConfig
from tamis.rank.calibrate import undo_downsampling
from tamis.rank.multitask import Multitask, MultitaskConfig
from tamis.train import Choice, fitting_order, train
from tamis.types import Candidates

NAMES = ("user_codes", "user_dense", "history_codes", "item_codes", "item_dense", "item_dynamic")
EVERYTHING = Candidates(np.arange(240))


def config(**settings: Any) -> ThreeTowerConfig:
    plain = {"heads": ("click", "like"), "epochs": 6, "batch_size": 256}
    rates = {"learning_rate": 3e-3, "embedding_learning_rate": 2e-2}
    return ThreeTowerConfig(**{**plain, **rates, **settings})


def arrays(batch: NetBatch) -> dict[str, np.ndarray]:
    """What the exported net reads of a batch."""
    return {name: getattr(batch, name) for name in NAMES}


def even_items(inputs: Inputs, samples: Samples) -> Lesson:
    """A teacher for whom only the number of an item matters."""
    return Lesson({"click": np.where(samples.item % 2 == 0, 0.9, 0.1)}, frozenset())


def test_a_pupil_says_what_its_teacher_says_and_without_one_what_happened(toy: Toy) -> None:
    inputs = replace(toy.inputs, teacher=even_items)
    even = {}
    for share in (0.0, 1.0):
        part = ThreeTower.fit(config(distill=share), inputs, 1)
        query = toy.query(1, [int(item) for item in toy.likes(1)[:4]])
        clicks = part.score(query, EVERYTHING)["pre_click"]
        even[share] = auc(np.arange(240) % 2 == 0, clicks), auc(toy.item_cluster == 1, clicks)
    assert even[1.0][0] > 0.9
    assert abs(even[0.0][0] - 0.5) < 0.15
    assert even[0.0][1] > 0.8
    assert abs(even[1.0][1] - 0.5) < 0.2


def test_the_ranker_teaches_what_it_serves(toy: Toy) -> None:
    small = MultitaskConfig(
        heads=("click", "like"), epochs=3, batch_size=256, threads=1, experts=2, expert_hidden=(16,), tower_hidden=(8,),
        learning_rate=3e-3, embedding_learning_rate=1e-2,
    )  # fmt: skip
    ranker = Multitask.fit(small, toy.inputs, 1)
    valid = toy.inputs.valid
    lesson = ranker.teach(toy.inputs, valid)
    assert set(lesson.p) == {"click", "like"}
    assert lesson.per_click == {"like"}
    assert lesson.p["click"].mean() == pytest.approx(
        float(valid.labels["click"].mean()), rel=0.05
    )  # calibrated on them
    assert auc(valid.labels["click"], lesson.p["click"]) > 0.7
    for request in (0, 7, len(valid) - 1):
        batch = toy.inputs.batch(valid, np.array([request]))
        p = ranker.calibrators["click"].apply(expit(ranker.session.run(**arrays(batch))["click"].astype(np.float64)))
        np.testing.assert_allclose(lesson.p["click"][valid.first[request] : valid.first[request + 1]], p, rtol=1e-9)
    part = ThreeTower.fit(config(epochs=2, distill=0.5), replace(toy.inputs, teacher=ranker.teach), 1)
    scored = part.score(toy.query(2, [int(toy.likes(2)[0])]), EVERYTHING)
    assert np.isfinite(scored["score"]).all()


def test_targets_are_a_mixture_and_speak_of_rows_as_they_were_drawn(toy: Toy) -> None:
    samples = thinned(toy.inputs.train, 0.2)
    p = np.linspace(0.01, 0.99, len(samples.item))
    said = np.log(p / (1 - p)).astype(np.float32)
    samples = replace(samples, labels={**samples.labels, f"{TAUGHT}click": said})
    inputs = toy.inputs.with_samples(samples, toy.inputs.valid)
    batch = tensors(inputs.batch(samples, np.arange(len(samples))))
    plan = HeadPlan(("click", "like"), frozenset(), {}, "ratio")
    thinning = Thinning.of(plan.heads, plan.per_click)
    before = thinning.targets(batch, plan.targets(batch.labels))
    after = taught(batch, before, thinning, 0.25)
    label = samples.labels["click"]
    wanted = 0.75 * label + 0.25 * undo_downsampling(p, 1 / 0.2)
    np.testing.assert_allclose(after.labels[0].numpy(), wanted, atol=1e-5)
    assert torch.equal(after.labels[1], before.labels[1])  # nobody teaches likes
    assert torch.equal(after.weights, before.weights)
    assert taught(batch, before, thinning, 0.0) is before


def test_heads_that_mean_something_else_are_not_taught(toy: Toy) -> None:
    def likes(inputs: Inputs, samples: Samples) -> Lesson:
        return Lesson({"like": np.full(len(samples.item), 0.5)}, frozenset())

    with pytest.raises(ConfigError, match=r"none of \['click', 'like'\] alike"):
        ThreeTower.fit(config(distill=0.5, per_click="always"), replace(toy.inputs, teacher=likes), 1)
    with pytest.raises(ConfigError, match="no ranker to learn from"):
        ThreeTower.fit(config(distill=0.5), toy.inputs, 1)


def test_a_funnel_without_a_ranker_cannot_be_asked_to_distill(tiny: Any) -> None:
    changes = {"funnel.prerank.steps.three_tower.distill": 0.5}
    assert list(fitting_order(tiny.project.config)).index("prerank.three_tower") == len(
        tiny.project.config.funnel.recall.steps
    )
    assert list(fitting_order(override(tiny.project.config, changes)))[-1] == "prerank.three_tower"
    with pytest.raises(ConfigError, match=r"three_tower\.distill: there is no ranker"):
        override(tiny.project.config, {**changes, "funnel.rank.steps": {}})


def test_a_training_of_the_pre_ranker_alone_learns_from_the_ranker_that_is_kept(tiny: Any, tmp_path: Path) -> None:
    shutil.copytree(tiny.project.bundles, tmp_path / "bundles", symlinks=True)
    trained_with = load_model(open_bundle(tiny.project.bundles)).config
    changes = {"funnel.prerank.steps.three_tower.distill": 0.7, "evaluate.most_users": 20, "evaluate.most_requests": 5}
    asked: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        asked.append(what)

    done = train(
        override(trained_with, changes),
        tiny.project.data,
        tmp_path / "bundles",
        progress,
        None,
        Choice(only=("three_tower",)),
    )
    assert "teach" in asked
    assert set(done.bundle.manifest.kept) >= {"rank.heads"}
    assert "overlap@50" in done.report.stages["prerank"]
