"""Labels of plays, the length curve and the groups of durations: the course's numbers, and what must hold for any."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import test_rank_multitask
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import Toy

from tamis.assemble import TrainConfig
from tamis.checks import unknown_actions
from tamis.config import convert
from tamis.data.samples import Samples
from tamis.errors import ConfigError, DataError
from tamis.nets.heads import HeadPlan, loss
from tamis.nets.labels import check_labels, nothing_in, taught, unlearnable
from tamis.prerank.three_tower import ThreeTowerConfig
from tamis.rank.multitask import Multitask, MultitaskConfig
from tamis.rank.watch_time import DurationGroups, LengthCurve, WatchTime
from tamis.types import WATCH_HEADS, Candidates, Catalog, item_keys

SECONDS = st.floats(0.1, 3600)
EVERYTHING = Candidates(np.arange(240))


def shelf(durations: list[float]) -> Catalog:
    keys = item_keys(f"i{i}" for i in range(len(durations)))
    return Catalog.of(keys, {"duration_seconds": np.array(durations, np.float32)})


def played(toy: Toy, items: list[int], seconds: list[float]) -> Samples:
    labels = {"play": np.array(seconds, np.float32)}
    return replace(toy.inputs.train, item=np.array(items, np.int32), labels=labels)


def labels_of(toy: Toy, seconds: list[float], durations: list[float], share: float = 0.8) -> dict[str, list[float]]:
    samples, catalog = played(toy, list(range(len(seconds))), seconds), shelf(durations)
    watch = WatchTime.fit(WATCH_HEADS, share, 3600.0, samples, catalog)
    found = watch.labelled(samples, catalog).labels
    return {head: found[head].tolist() for head in WATCH_HEADS}


def test_four_of_ten_minutes_are_a_completion_of_two_fifths(toy: Toy) -> None:
    labels = labels_of(toy, [240.0, 900.0], [600.0, 600.0])["completion"]
    assert labels == pytest.approx([0.4, 1.0])  # who plays it again has not completed it more than once


def test_cross_entropy_of_a_completion_is_least_at_the_label_and_never_negative() -> None:
    plan = HeadPlan(("completion",), frozenset(), {}, "ratio")
    targets = plan.targets({"completion": torch.tensor([0.4], dtype=torch.float64)})
    at = [float(loss(torch.logit(torch.tensor([[p]], dtype=torch.float64)), targets)) for p in (0.73, 0.4, 0.39, 0.41)]
    assert at[:2] == pytest.approx([0.911484, 0.673012], abs=1e-6)
    assert min(at) == at[1] > 0


def test_eight_and_a_half_of_ten_minutes_are_finished_and_seven_and_a_half_are_not(toy: Toy) -> None:
    seconds = [510.0, 450.0, 480.0]
    assert labels_of(toy, seconds, [600.0] * 3)["finished"] == [1.0, 0.0, 1.0]  # just the share is enough
    assert labels_of(toy, seconds, [600.0] * 3, share=0.82)["finished"] == [1.0, 0.0, 0.0]


def test_what_was_not_played_or_has_no_duration_teaches_nothing(toy: Toy) -> None:
    labels = labels_of(toy, [0.0, 30.0, 30.0, 30.0], [60.0, np.nan, 0.0, 60.0])
    for head in WATCH_HEADS:
        assert np.isnan(labels[head]).tolist() == [True, True, True, False]


def test_a_label_that_is_missing_weighs_nothing_and_costs_nothing() -> None:
    plan = HeadPlan(("completion",), frozenset(), {"completion": 3.0}, "ratio")
    targets = plan.targets({"completion": torch.tensor([torch.nan, 0.5])})
    assert targets.weights.tolist() == [[0.0, 3.0]]
    z = torch.zeros(1, 2, requires_grad=True)
    loss(z, targets).backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_equal_quantiles_at_every_duration(toy: Toy) -> None:
    """Long videos are played longer, but the quantile of a play knows nothing of that: its mean is ½ everywhere."""
    random = np.random.default_rng(1)
    durations = np.repeat([10.0, 60.0, 300.0, 1200.0], 300)
    seconds = durations * random.beta(2, 3, 1200)
    label = np.array(labels_of(toy, seconds.tolist(), durations.tolist())["play_quantile"])
    for one in np.unique(durations):
        assert label[durations == one].mean() == pytest.approx(0.5, abs=0.01)
        order = np.argsort(seconds[durations == one])
        assert (np.diff(label[durations == one][order]) >= 0).all()


def test_a_quantile_leads_back_to_its_seconds() -> None:
    random = np.random.default_rng(2)
    durations = np.repeat([10.0, 100.0], 500)
    seconds = durations * random.random(1000)
    groups = DurationGroups.fit(durations, seconds)
    back = groups.seconds_at(durations, groups.quantile(durations, seconds))
    np.testing.assert_allclose(back, seconds, atol=3)  # the table knows hundredths
    ends = groups.seconds_at(np.array([10.0, 100.0, np.nan, 0.0]), np.ones(4))
    assert ends.tolist() == pytest.approx([seconds[:500].max(), *[seconds.max()] * 3])  # no duration: of all plays


@given(
    durations=st.lists(SECONDS, min_size=1, max_size=400),
    asked=st.lists(SECONDS, min_size=1, max_size=20),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_groups_of_any_durations_give_shares_in_the_order_of_the_plays(
    durations: list[float], asked: list[float], seed: int
) -> None:
    length = np.array(durations)
    groups = DurationGroups.fit(length, length * np.random.default_rng(seed).random(len(length)) + 1e-3)
    for duration in (*asked[:3], np.nan):
        plays = np.sort(np.array(asked))
        shares = groups.quantile(np.full(len(plays), duration), plays)
        assert ((shares >= 0) & (shares <= 1) & (np.diff(shares, prepend=0) >= 0)).all()
        seconds = groups.seconds_at(np.full(3, duration), np.array([0.0, 0.5, 1.0]))
        assert (np.diff(seconds) >= 0).all()


def test_the_length_curve_ignores_the_dip_of_the_shortest() -> None:
    """The course's points: the first bucket lies below the second, and the fitted curve does not follow it."""
    points = [0.43, 0.50, 0.46, 0.43, 0.43, 0.39, 0.35, 0.32, 0.28, 0.26, 0.22, 0.17, 0.13, 0.11, 0.095, 0.08]
    durations = np.repeat(np.arange(1, 17) * 15.0, 100)
    curve = LengthCurve.fit(durations, np.repeat(points, 100))
    values = curve.of(np.arange(1, 500))
    assert (values > 0).all()
    assert (np.diff(values) <= 0).all()
    assert curve.of(np.array([15.0, 30.0])) == pytest.approx([0.465, 0.465], abs=0.01)
    assert curve.of(np.array([240.0, 1e6])) == pytest.approx([0.08, 0.08], abs=0.01)


@given(st.lists(st.tuples(SECONDS, st.floats(0, 1)), min_size=1, max_size=300), st.lists(SECONDS, max_size=20))
@settings(max_examples=40, deadline=None)
def test_any_length_curve_is_positive_and_never_rises(plays: list[tuple[float, float]], asked: list[float]) -> None:
    curve = LengthCurve.fit(*np.array(plays).T)
    values = curve.of(np.sort(np.array(asked)))
    assert (values > 0).all()
    assert (np.diff(values) <= 1e-12).all()


def test_an_unbiased_completion_over_the_curve_is_1_at_every_length(toy: Toy) -> None:
    random = np.random.default_rng(3)
    durations = np.exp(random.uniform(np.log(10), np.log(600), 20_000))
    seconds = durations * random.random(20_000) ** (0.3 + durations / 100)  # falls with the length
    samples, catalog = played(toy, list(range(20_000)), seconds.tolist()), shelf(durations.tolist())
    watch = WatchTime.fit(WATCH_HEADS, 0.8, 3600.0, samples, catalog)
    for head in ("completion", "finished"):
        label = watch.labelled(samples, catalog).labels[head].astype(np.float64)
        name, ratio = watch.beside(head, label, durations)
        assert name == f"{head}_ratio"
        for low, high in ((10, 14), (14, 20), (20, 40), (40, 80), (80, 160), (160, 300), (300, 600)):
            bucket = (durations >= low) & (durations < high)
            assert ratio[bucket].mean() == pytest.approx(1.0, abs=0.06)


def test_equal_predictions_over_the_average_of_their_length_give_equal_ratios() -> None:
    curve = LengthCurve(np.array([10.0, 100.0]), np.array([0.5, 0.1]), 0.3)
    watch = WatchTime(("completion",), 0.8, 3600.0, {"completion": curve})
    _, ratio = watch.beside("completion", np.array([0.25, 0.05, 0.3]), np.array([10.0, 100.0, np.nan]))
    assert ratio.tolist() == pytest.approx([0.5, 0.5, 1.0])


def test_items_of_one_duration_and_a_single_play_have_a_curve_and_groups(toy: Toy) -> None:
    for seconds in ([5.0], [5.0, 10.0, 0.0]):
        durations = [20.0] * len(seconds)
        samples, catalog = played(toy, list(range(len(seconds))), seconds), shelf(durations)
        watch = WatchTime.fit(WATCH_HEADS, 0.8, 3600.0, samples, catalog)
        assert watch.groups is not None
        assert watch.groups.seconds_at(np.array([20.0]), np.array([0.0])).tolist() == [5.0]
        assert watch.curves["completion"].of(np.array([20.0])) == pytest.approx(np.mean([s for s in seconds if s]) / 20)


def test_heads_without_a_play_are_dropped_with_the_reason(toy: Toy) -> None:
    samples, catalog = played(toy, [0, 1], [0.0, 3.0]), shelf([60.0, np.nan])
    watch = WatchTime.fit(WATCH_HEADS, 0.8, 3600.0, samples, catalog)
    reasons = unlearnable(WATCH_HEADS, watch.labelled(samples, catalog))
    assert set(reasons) == set(WATCH_HEADS)
    assert all("no row was played" in reason for reason in reasons.values())
    for head in WATCH_HEADS:
        assert watch.beside(head, np.zeros(2), np.array([60.0, np.nan]))[1].tolist() == [0.0, 0.0]


def test_a_head_that_all_plays_have_is_dropped_with_the_reason(toy: Toy) -> None:
    samples, catalog = played(toy, [0, 1, 2], [60.0, 50.0, 0.0]), shelf([60.0, 60.0, 60.0])
    watch = WatchTime.fit(("finished",), 0.8, 3600.0, samples, catalog)
    dropped = unlearnable(("finished",), watch.labelled(samples, catalog))
    assert dropped == {"finished": "every row of 2 has it"}
    assert "finished: every row of 2 has it; wanted rows that have it and rows that do not" in nothing_in(dropped)


@pytest.mark.parametrize(
    ("head", "value", "wanted"),
    [
        ("click", 0.5, "0 or 1"),
        ("click", np.nan, "0 or 1"),
        ("like", 2.0, "0 or 1"),
        ("play", -3.0, "seconds of at least 0"),
        ("play", np.nan, "seconds of at least 0"),
        ("play", np.inf, "seconds of at least 0"),
        ("completion", 1.5, "a share from 0 to 1"),
        ("finished", 0.5, "0 or 1"),
    ],
)
def test_a_label_outside_its_range_is_named_with_head_and_row(toy: Toy, head: str, value: float, wanted: str) -> None:
    label = np.array([0.0, 1.0, value, 1.0], np.float32)
    samples = replace(toy.inputs.train, labels={head: label})
    with pytest.raises(DataError, match=rf"head '{head}', row 2 of 4: .*{wanted}"):
        check_labels(("share", head), samples)
    with pytest.raises(DataError, match="row 2"):
        unlearnable((head,), samples)


def test_a_wrong_label_among_the_validation_rows_is_refused_too(toy: Toy) -> None:
    broken = replace(
        toy.inputs.valid, labels={**toy.inputs.valid.labels, "click": toy.inputs.valid.labels["click"] * 2}
    )
    with pytest.raises(DataError, match="'click'"):
        Multitask.fit(MultitaskConfig(heads=("click",)), replace(toy.inputs, valid=broken), 1)


def test_rows_that_teach_a_head(toy: Toy) -> None:
    labels = {"click": np.array([1, 0, 1], np.float32), "like": np.array([1, 0, 0], np.float32)}
    labels["finished"] = np.array([np.nan, 1, 0], np.float32)
    samples = replace(toy.inputs.train, labels=labels)
    assert taught("like", ("like",), samples).tolist() == [True, False, True]
    assert taught("like", (), samples).tolist() == [True, True, True]
    assert taught("finished", (), samples).tolist() == [False, True, True]


CONFIG = msgspec.structs.replace(test_rank_multitask.CONFIG, heads=("click", "play", *WATCH_HEADS), epochs=6)


@pytest.fixture(scope="module")
def world(toy: Toy) -> Toy:
    """The toy world where clicks in the user's cluster are watched nearly to the end and others hardly at all."""
    parts, durations = {}, toy.inputs.catalog.column("duration_seconds", np.arange(240)).astype(np.float64)
    for name in ("train", "valid"):
        samples = getattr(toy.inputs, name)
        row_user = np.repeat(samples.user, np.diff(samples.first))
        inside = toy.user_cluster[row_user] == toy.item_cluster[samples.item]
        share = np.where(inside, 0.95, 0.2) * np.where(durations[samples.item] < 100, 1.0, 0.7)
        seconds = (samples.labels["click"] * share * durations[samples.item]).astype(np.float32)
        parts[name] = replace(samples, labels={**samples.labels, "play": seconds})
    return replace(toy, inputs=replace(toy.inputs, **parts))


@pytest.fixture(scope="module")
def part(world: Toy) -> Multitask:
    return Multitask.fit(CONFIG, world.inputs, 1)


def test_watch_heads_learn_what_is_watched_and_write_their_columns(world: Toy, part: Multitask) -> None:
    columns = part.score(world.query(1, [int(item) for item in world.likes(1)[:4]]), EVERYTHING)
    assert tuple(columns) == (
        *("p_click", "play", "completion", "completion_ratio", "p_finished", "finished_ratio"),
        *("play_quantile", "play_quantile_seconds"),
    )
    assert set(columns) == set(CONFIG.columns)
    inside, durations = world.item_cluster == 1, world.inputs.catalog.column("duration_seconds", np.arange(240))
    for name in ("completion", "p_finished", "completion_ratio", "play_quantile"):
        assert columns[name][inside].mean() > columns[name][~inside].mean()
    for name in ("completion", "p_finished", "play_quantile"):
        assert ((columns[name] > 0) & (columns[name] < 1)).all()
    assert columns["completion"][inside].mean() == pytest.approx(0.8, abs=0.15)
    assert columns["play_quantile_seconds"][inside & (durations > 200)].mean() > 100
    assert set(part.calibrators) == {"click", "finished"}


def test_predictions_over_the_curve_are_those_of_the_curve(world: Toy, part: Multitask) -> None:
    columns = part.score(world.query(2, []), EVERYTHING)
    durations = world.inputs.catalog.column("duration_seconds", np.arange(240))
    want = columns["completion"] / part.watch.curves["completion"].of(durations)
    np.testing.assert_array_equal(columns["completion_ratio"], want)


def test_an_item_without_a_duration_gets_finite_columns(world: Toy, part: Multitask) -> None:
    catalog = world.inputs.catalog
    base, fresh = catalog.columns["duration_seconds"]
    blank = replace(catalog, columns={**catalog.columns, "duration_seconds": (np.full_like(base, np.nan), fresh)})
    columns = part.score(world.query(2, [], blank), EVERYTHING)
    assert all(np.isfinite(column).all() for column in columns.values())
    mean = part.watch.curves["completion"].mean
    np.testing.assert_allclose(columns["completion_ratio"], columns["completion"] / mean)


def test_a_saved_part_has_its_curves_and_groups(world: Toy, part: Multitask, tmp_path: Path) -> None:
    part.save(tmp_path)
    again = Multitask.load(CONFIG, tmp_path)
    query = world.query(4, [1, 2])
    for name, column in part.score(query, EVERYTHING).items():
        assert again.score(query, EVERYTHING)[name].tobytes() == column.tobytes()


def test_without_plays_the_watch_heads_are_dropped_and_their_columns_are_0(toy: Toy) -> None:
    quick = MultitaskConfig(heads=("click", *WATCH_HEADS), epochs=1, threads=1, expert_hidden=(16,), tower_hidden=())
    part = Multitask.fit(quick, toy.inputs, 1)
    assert set(part.facts.dropped) == set(WATCH_HEADS)
    columns = part.score(toy.query(1, []), EVERYTHING)
    for name in set(quick.columns) - {"p_click"}:
        assert not columns[name].any()


def test_only_the_ranker_takes_watch_heads() -> None:
    with pytest.raises(ConfigError, match="completion"):
        convert({"kind": "three_tower", "heads": ["click", "completion"]}, ThreeTowerConfig)
    assert not [*unknown_actions(MultitaskConfig(heads=("click", "finished")))]
    assert len([*unknown_actions(TrainConfig(interest_actions=("click", "finished")))]) == 1
