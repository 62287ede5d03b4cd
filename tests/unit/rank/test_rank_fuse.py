"""The five fusion formulas: FUSE-1 … FUSE-6 of the course specification."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import convert
from tamis.errors import ConfigError, StepError
from tamis.rank.fuse import (
    Fuse,
    FuseConfig,
    click_times_sum,
    conversion_product,
    power_product,
    rank_sum,
    weighted_sum,
)
from tamis.types import Candidates, Catalog, Features, History, Query


def one(value: float) -> np.ndarray:
    return np.array([value])


def query(**columns: Any) -> Query:
    catalog = Catalog.of(np.arange(3, dtype=np.uint64), columns)
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    return Query(0, 0.0, 3, "", 1, History.empty(), features, catalog)


def test_fuse_1_sums() -> None:
    heads, weights = {"like": one(0.2), "collect": one(0.05)}, {"like": 2.0, "collect": 4.0}
    assert weighted_sum(one(0.1), heads, weights)[0] == pytest.approx(0.7, abs=1e-12)
    assert click_times_sum(one(0.1), heads, weights)[0] == pytest.approx(0.16, abs=1e-12)


def test_fuse_2_product_of_powers() -> None:
    got = power_product({"play": one(30.0), "like": one(0.2)}, {"play": 0.1, "like": 2.0}, {"play": 0.5})
    assert got[0] == pytest.approx(2.8, abs=1e-12)


TIME, CLICK, LIKE = np.array([30.0, 10.0, 60.0]), np.array([0.2, 0.5, 0.1]), np.array([0.05, 0.1, 0.02])
WEIGHTS = {"play": 3.0, "click": 1.0, "like": 1.0}


def test_fuse_3_sum_over_ranks() -> None:
    heads = {"play": TIME, "click": CLICK, "like": LIKE}
    got = rank_sum(heads, WEIGHTS, {}, {})
    np.testing.assert_allclose(got, [5 / 3, 1.75, 2.0], atol=1e-12)
    bent = {"play": np.log(TIME), "click": CLICK**3, "like": 100 * LIKE + 7}
    np.testing.assert_array_equal(rank_sum(bent, WEIGHTS, {}, {}), got)


def test_fuse_3_exponents_and_offsets_bend_the_ranks_and_ties_share_one() -> None:
    got = rank_sum({"click": np.array([0.5, 0.5, 0.1])}, {"click": 2.0}, {"click": 2.0}, {"click": 0.5})
    np.testing.assert_allclose(got, [2 / 1.5, 2 / 1.5, 2 / 9.5])


def test_fuse_4_product_of_conversions() -> None:
    heads = {"click": one(0.1), "cart": one(0.2), "pay": one(0.5), "price": one(100.0)}
    assert conversion_product(heads, dict.fromkeys(heads, 1.0))[0] == pytest.approx(1.0, abs=1e-12)
    exponents = {"click": 0.5, "cart": 1.0, "pay": 1.0, "price": 0.5}
    got = conversion_product(heads, exponents)[0]
    assert got == pytest.approx(0.316228, abs=1e-6)
    assert got == pytest.approx(np.exp(sum(a * np.log(heads[name][0]) for name, a in exponents.items())))


def test_fuse_4_a_zero_is_taken_as_very_small() -> None:
    got = conversion_product({"click": np.array([0.0, 0.0]), "pay": np.array([0.1, 0.2])}, {"click": -1.0, "pay": 1.0})
    assert np.isfinite(got).all()
    assert got[1] > got[0] > 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 4),
    st.sampled_from(["click", "like", "play"]),
    st.lists(st.floats(0, 4), min_size=6, max_size=6),
)
def test_fuse_5_no_formula_punishes_a_higher_prediction(seed: int, row: int, raised: str, numbers: list[float]) -> None:
    generator = np.random.default_rng(seed)
    heads = {name: generator.integers(0, 20, 5) / 20 for name in ("click", "like", "play")}
    weights = dict(zip(("click", "like", "play"), numbers[:3], strict=True))
    exponents = dict(zip(("click", "like", "play"), numbers[3:], strict=True))
    more = {**heads, raised: heads[raised] + (np.arange(5) == row) * 0.31}
    rest = {name: weights[name] for name in ("like", "play")}
    formulas: list[Any] = [
        lambda h: weighted_sum(h["click"], h, rest),
        lambda h: click_times_sum(h["click"], h, rest),
        lambda h: power_product(h, weights, exponents),
        lambda h: rank_sum(h, weights, exponents, {}),
        lambda h: conversion_product(h, exponents),
    ]
    for formula in formulas:
        assert formula(more)[row] >= formula(heads)[row] - 1e-12


def test_fuse_5_without_weights_the_sums_are_the_click_rate() -> None:
    heads = {"like": LIKE}
    for formula in (weighted_sum, click_times_sum):
        np.testing.assert_array_equal(formula(CLICK, heads, {"like": 0.0}), CLICK)
        np.testing.assert_array_equal(formula(CLICK, {}, {}), CLICK)


def test_fuse_6_counts_actions_per_impression() -> None:
    """1000 impressions, 100 clicks, 20 likes: 0.14 per impression is 100 + 2 · 20 in all."""
    got = click_times_sum(one(100 / 1000), {"like": one(20 / 100)}, {"like": 2.0})[0]
    assert got == pytest.approx(0.14, abs=1e-12)
    assert got * 1000 == pytest.approx(100 + 2 * 20)


def test_the_part_reads_heads_from_the_table_then_from_the_catalogue() -> None:
    items = Candidates.of([2, 0], p_click=np.array([0.5, 0.1]), p_like=np.array([0.1, 0.2], np.float32))
    score = Fuse(FuseConfig(weights={"like": 2.0})).score(query(), items)["score"]
    np.testing.assert_allclose(score, [0.6, 0.14], atol=1e-7)
    config = FuseConfig(formula="conversion_product", exponents={"click": 1.0, "price": 1.0})
    np.testing.assert_allclose(Fuse(config).score(query(price=np.array([5, 6, 7])), items)["score"], [3.5, 0.5])
    timed = Candidates.of([0, 1], play=np.array([30.0, np.nan]), p_click=np.array([0.1, 0.2]))
    config = FuseConfig(formula="power_product", weights={"play": 0.1})
    np.testing.assert_allclose(Fuse(config).score(query(), timed)["score"], [4.0, 1.0])
    config = FuseConfig(formula="rank_sum", weights={"play": 1.0, "click": 1.0})
    np.testing.assert_allclose(Fuse(config).score(query(), timed)["score"], [1 / 2 + 1 / 3, 1 / 3 + 1 / 2])
    config = FuseConfig(formula="weighted_sum", weights={"play": 0.01})
    np.testing.assert_allclose(Fuse(config).score(query(), timed)["score"], [0.4, 0.2])


def test_a_missing_head_is_named() -> None:
    items = Candidates.of([0], p_click=one(0.5))
    with pytest.raises(StepError, match="'share'"):
        Fuse(FuseConfig(weights={"share": 1.0})).score(query(), items)
    with pytest.raises(StepError, match="'click'"):
        Fuse(FuseConfig()).score(query(), Candidates.of([0]))


def test_a_row_scores_the_same_alone_and_in_company() -> None:
    generator = np.random.default_rng(1)
    items = Candidates.of(np.arange(20), p_click=generator.random(20), p_like=generator.random(20))
    part = Fuse(FuseConfig(weights={"like": 3.0}))
    whole = part.score(query(), items)["score"]
    alone = [part.score(query(), items.take(np.array([row])))["score"][0] for row in range(20)]
    np.testing.assert_array_equal(whole, alone)
    assert len(part.score(query(), items.take(np.empty(0, np.int64)))["score"]) == 0


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    bad = np.array([0.1, np.nan])
    good = np.array([0.1, 0.2])
    for formula in (weighted_sum, click_times_sum):
        with pytest.raises(ValueError, match="click"):
            formula(bad, {}, {})
        with pytest.raises(ValueError, match="like"):
            formula(good, {"like": bad}, {"like": 1.0})
    for call in (
        lambda: power_product({"like": bad}, {"like": 1.0}, {}),
        lambda: rank_sum({"like": bad}, {"like": 1.0}, {}, {}),
        lambda: conversion_product({"like": bad}, {"like": 1.0}),
        lambda: power_product({"like": good}, {"like": -9.0}, {}),
    ):
        with pytest.raises(ValueError, match="like"):
            call()


@pytest.mark.parametrize(
    "section",
    [
        {"formula": "sum"},
        {"weights": {"click": 2.0}},
        {"formula": "rank_sum"},
        {"formula": "power_product"},
        {"formula": "conversion_product", "weights": {"click": 1.0}},
    ],
)
def test_a_formula_without_its_numbers_is_a_config_error(section: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        convert({"kind": "fuse", **section}, FuseConfig)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"weights": {"like": 2.0}, "exponents": {"like": 0.5}}, "click_times_sum reads no exponents, only weights"),
        ({"formula": "power_product", "weights": {"like": 2.0}, "offsets": {"like": 1.0}}, "reads no offsets"),
        ({"formula": "conversion_product", "exponents": {"click": 1.0}, "weights": {"like": 1.0}}, "reads no weights"),
        ({"formula": "rank_sum", "weights": {"like": 1.0}, "offsets": {"lyke": 9.0}}, r"offsets has \['lyke'\]"),
    ],
)
def test_numbers_that_the_formula_would_not_read_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        convert({"kind": "fuse", **section}, FuseConfig)


def test_fuse_learns_nothing(tmp_path: Path) -> None:
    part = Fuse.load(FuseConfig(), tmp_path)
    part.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_factor_multiplies_the_score_and_counts_one_where_its_column_is_missing() -> None:
    plain, guarded = Fuse(FuseConfig()), Fuse(FuseConfig(factors={"pre_shown": 2.0}))
    items = Candidates.of([1, 2], p_click=np.array([0.5, 0.5]), pre_shown=np.array([0.5, np.nan]))
    without = Candidates.of([1, 2], p_click=np.array([0.5, 0.5]))
    base = plain.score(query(), items)["score"]
    assert np.allclose(guarded.score(query(), items)["score"], base * np.array([0.25, 0.0]))
    assert np.array_equal(guarded.score(query(), without)["score"], base)
