"""Learning from thinned negatives what all of them would have taught."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import Toy, toy_world

from tamis.data.samples import Samples, thinned
from tamis.data.unshown import SHOWN, with_unshown
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.heads import HeadPlan
from tamis.nets.thinning import Thinning
from tamis.prerank.three_tower import ThreeTower, ThreeTowerConfig
from tamis.rank.calibrate import undo_downsampling
from tamis.rank.multitask import Multitask, MultitaskConfig
from tamis.types import Candidates

KEEP = 0.2


@pytest.fixture(scope="module")
def few(toy: Toy) -> Samples:
    return thinned(toy.inputs.train, KEEP)


def batch_of(toy: Toy, samples: Samples) -> TensorBatch:
    """All of some samples as one batch."""
    inputs = toy.inputs.with_samples(samples, toy.inputs.valid)
    return tensors(inputs.batch(samples, np.arange(len(samples))))


def test_the_correction_of_logits_is_the_formula_of_probabilities(toy: Toy, few: Samples) -> None:
    batch = batch_of(toy, few)
    z = torch.linspace(-6, 6, len(batch.row_of)).repeat(3, 1)
    drawn = torch.sigmoid(Thinning.of(("click", "like", "play"), ("like",)).drawn(batch, z)).double().numpy()
    true = torch.sigmoid(z.double()).numpy()
    np.testing.assert_allclose(undo_downsampling(drawn[0], KEEP), true[0], rtol=1e-5)
    np.testing.assert_allclose(drawn[1:], true[1:], rtol=1e-6)


def test_each_head_keeps_each_of_its_negatives_with_the_same_probability(toy: Toy, few: Samples) -> None:
    """Per impression, "like" must not see all clicked rows without a like beside a fifth of the others."""
    plan = HeadPlan(("click", "like"), frozenset(), {}, "ratio")
    whole, part = batch_of(toy, toy.inputs.train), batch_of(toy, few)
    got = Thinning.of(plan.heads, plan.per_click).targets(part, plan.targets(part.labels))
    clicked = [batch.labels["click"] > 0 for batch in (whole, part)]
    disliked = [batch.labels["like"] == 0 for batch in (whole, part)]
    for among in (0, 1):
        before = (disliked[0] & (clicked[0] == bool(among))).sum()
        after = got.weights[1][disliked[1] & (clicked[1] == bool(among))].sum()
        assert after / before == pytest.approx(KEEP, abs=0.03)
    assert (got.weights[1][~disliked[1]] == 1).all()
    assert (got.weights[0][clicked[1]] == 1).all()


def test_rates_per_click_and_rows_that_were_not_thinned_are_left_alone(toy: Toy, few: Samples) -> None:
    plan = HeadPlan(("like",), frozenset({"like"}), {}, "ratio")
    thinning = Thinning.of(plan.heads, plan.per_click)
    for samples in (few, toy.inputs.train):
        batch = batch_of(toy, samples)
        made = plan.targets(batch.labels)
        assert torch.equal(thinning.targets(batch, made).weights, made.weights)
    batch = batch_of(toy, toy.inputs.train)
    everything = Thinning.of(("click", SHOWN), ())
    logits = torch.zeros(2, len(batch.row_of))
    assert torch.equal(everything.drawn(batch, logits), logits)
    assert everything.starts([0.0, 0.0], 1.0) == [0.0, 0.0]


def test_heads_without_negatives_of_their_own_weigh_each_kept_row_for_those_that_went(toy: Toy) -> None:
    samples = with_unshown(thinned(toy.inputs.train, KEEP), toy.inputs.since, 4, 1)
    batch = batch_of(toy, samples)
    heads = HeadPlan(("click", SHOWN), frozenset(), {}, "ratio")
    weights = Thinning.of(heads.heads, heads.per_click).targets(batch, heads.targets(batch.labels)).weights[1]
    shown = batch.labels[SHOWN] > 0
    assert weights[shown].sum() == pytest.approx(len(toy.inputs.train.item), rel=0.05)
    assert (weights[~shown] == 1).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 1), st.integers(0, 10_000))
def test_the_weighted_rows_stand_for_all_rows(keep: float, seed: int) -> None:
    """Σ weight over the kept rows is the number of rows that were there, in expectation."""
    random = np.random.default_rng(seed)
    label = torch.from_numpy((random.random(4000) < 0.1).astype(np.float32))
    drawn = torch.from_numpy(random.random(4000) < keep)
    stays = drawn | (label > 0)
    empty = torch.zeros(1, 0)
    rows = torch.zeros(int(stays.sum()), dtype=torch.int64)
    labels = {"click": label[stays], "play": label[stays] * 30}
    batch = TensorBatch(empty, empty, empty, empty, empty, empty, rows, labels, None, keep, ~drawn[stays])
    heads = HeadPlan(("click", "play"), frozenset(), {}, "ratio")
    weights = Thinning.of(heads.heads, heads.per_click).targets(batch, heads.targets(labels)).weights
    assert float(weights[1].sum()) == pytest.approx(4000, rel=0.25 * np.sqrt(0.05 / keep) + 0.03)
    assert float(weights[0].sum()) == pytest.approx(400 + 3600 * keep, rel=0.25)


# ---- whole trainings -------------------------------------------------------------------------------------------

SMALL = MultitaskConfig(
    heads=("click", "like"), epochs=3, patience=0, batch_size=256, threads=1, learning_rate=3e-3,
    embedding_learning_rate=1e-2, experts=2, expert_hidden=(32, 16), tower_hidden=(16,), calibration="none",
    per_click="never",
)  # fmt: skip


def rates(part, toy: Toy, columns: dict[str, str]) -> dict[str, float]:
    """Head → mean prediction on the validation rows."""
    valid, sums = toy.inputs.valid, dict.fromkeys(columns, 0.0)
    for row in range(len(valid)):
        items = valid.item[valid.first[row] : valid.first[row + 1]].astype(np.int64)
        history = valid.timeline.item[valid.history_start[row] : valid.history_end[row]][::-1].tolist()
        query = toy.query(int(valid.user[row]), history, now=float(valid.time[row]))
        scored = part.score(query, Candidates.of(np.unique(items)))
        for head, column in columns.items():
            sums[head] += float(scored[column].sum())
    return {head: total / len(valid.item) for head, total in sums.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multitask", "three_tower"])
def test_a_net_trained_on_a_fifth_of_the_negatives_is_calibrated_like_one_trained_on_all(kind: str) -> None:
    """Per impression; without the correction clicks would come out 2.5 times too often, likes 4 times."""
    toy = toy_world(requests=30)  # enough rows that a net cannot know a third of them by heart
    inputs = toy.inputs.with_samples(thinned(toy.inputs.train, KEEP), toy.inputs.valid)
    heads = ("click", "like")
    if kind == "multitask":
        parts = [Multitask.fit(SMALL, each, 1) for each in (toy.inputs, inputs)]
        columns = {head: f"p_{head}" for head in heads}
    else:
        config = ThreeTowerConfig(
            heads=heads, per_click="never", epochs=4, batch_size=256, learning_rate=3e-3, embedding_learning_rate=1e-2
        )
        parts = [ThreeTower.fit(config, each, 1) for each in (toy.inputs, inputs)]
        columns = {head: f"pre_{head}" for head in heads}
    whole, part = (rates(each, toy, columns) for each in parts)
    for head in heads:
        observed = float(toy.inputs.valid.labels[head].mean())
        assert whole[head] == pytest.approx(observed, rel=0.2)
        assert part[head] == pytest.approx(observed, rel=0.2)
    kept = len(inputs.train.item) / len(toy.inputs.train.item)
    assert kept < 0.5


def test_the_same_negatives_are_kept_whatever_else_is_in_the_log(toy: Toy) -> None:
    train = toy.inputs.train
    later = train.since(float(train.time[len(train) // 2]))
    one, other = thinned(train, KEEP).since(float(later.time[0])), thinned(later, KEEP)
    assert one.item.tolist() == other.item.tolist()
    assert one.spared.tolist() == other.spared.tolist()
    assert thinned(replace(train, item=train.item[:0], first=train.first * 0), KEEP).spared is None
