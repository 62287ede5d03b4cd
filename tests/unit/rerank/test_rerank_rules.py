"""Scatter rules against the examples of the course specification (section 6.6), and an independent checker."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.config import convert
from tamis.errors import ConfigError, StepError
from tamis.features.encode import stable_codes
from tamis.rerank.mmr import Mmr, MmrConfig
from tamis.rerank.rules import (
    BoostConfig,
    FirstConfig,
    FrequencyConfig,
    Rule,
    RunConfig,
    Scatter,
    ScatterConfig,
    SlotConfig,
)
from tamis.types import Candidates, Catalog, Features, History, Query

IMAGE, VIDEO = 1, 2


def query(columns: dict[str, Any], size: int) -> Query:
    n = len(next(iter(columns.values())))
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    catalog = Catalog.of(np.arange(n, dtype=np.uint64), columns)
    return Query(0, 0.0, size, "", 1, History.empty(), features, catalog)


class Shelf:
    """Named notes with a reward and flags; picks come back as names, the table ordered by reward as the funnel does."""

    def __init__(self, notes: list[tuple[str, float, int, int, int]]) -> None:
        notes = sorted(notes, key=lambda note: -note[1])
        self.names = [name for name, *_ in notes]
        self.reward = np.array([reward for _, reward, *_ in notes])
        columns = np.array([note[2:] for note in notes], np.int64).T
        self.columns = dict(zip(("type", "promo", "shop"), columns, strict=True))

    def pick(self, size: int, rules: dict[str, Rule], **other: Any) -> tuple[str, dict[str, int]]:
        part = Scatter(ScatterConfig(rules=rules, **other))
        items = Candidates.of(np.arange(len(self.names)), score=self.reward)
        picks, relaxed = part.pick_ruled(query(self.columns, size), items)
        return " ".join(self.names[i] for i in picks), dict(relaxed)


RUN: dict[str, Rule] = {"run": RunConfig(column="type", at_most=5)}
COURSE: dict[str, Rule] = {
    "run": RunConfig(column="type", at_most=5, priority=1),
    "promoted": FrequencyConfig(column="promo", window=9, priority=2),
    "first": FirstConfig(column="shop", first=1, at_most=0, priority=3),
    "screen": FirstConfig(column="shop", first=4, at_most=1, priority=4),
}


def ordinary(count: int) -> list[tuple[str, float, int, int, int]]:
    return [(f"O{i}", 0.90 - i / 100, IMAGE if i % 2 else VIDEO, 0, 0) for i in range(1, count + 1)]


def test_1_at_most_five_of_a_type_in_a_row() -> None:
    notes = [(f"I{i}", 1.0 - i / 100, IMAGE, 0, 0) for i in range(1, 9)] + [
        ("V1", 0.5, VIDEO, 0, 0),
        ("V2", 0.4, VIDEO, 0, 0),
    ]
    assert Shelf(notes).pick(10, RUN) == ("I1 I2 I3 I4 I5 V1 I6 I7 I8 V2", {})


def test_2_one_promoted_note_in_nine() -> None:
    shelf = Shelf([("P1", 1.0, IMAGE, 1, 0), ("P2", 0.99, VIDEO, 1, 0), *ordinary(10)])
    assert shelf.pick(12, COURSE)[0] == "P1 O1 O2 O3 O4 O5 O6 O7 O8 P2 O9 O10"


def test_3_no_shop_card_on_top_and_one_on_the_first_screen() -> None:
    shelf = Shelf([(f"E{i}", r, IMAGE, 0, 1) for i, r in ((1, 1.0), (2, 0.95), (3, 0.93))] + ordinary(8))
    assert shelf.pick(7, COURSE) == ("O1 E1 O2 O3 E2 E3 O4", {})


def test_4_at_a_dead_end_a_rule_is_dropped_and_counted() -> None:
    notes = [(f"I{i}", 1.0 - i / 100, IMAGE, 0, 0) for i in range(1, 15)] + [("V1", 0.1, VIDEO, 0, 0)]
    names, relaxed = Shelf(notes).pick(14, RUN)
    assert names == "I1 I2 I3 I4 I5 V1 I6 I7 I8 I9 I10 I11 I12 I13"
    assert relaxed == {"run": 3}  # positions 12, 13 and 14


def test_4_the_least_important_rule_goes_first_and_the_others_still_hold() -> None:
    """Both rules forbid all but one note each; the note that breaks only the lesser rule is taken."""
    notes = [("A1", 0.9, IMAGE, 1, 0), ("A2", 0.8, IMAGE, 1, 0), ("A3", 0.7, IMAGE, 2, 0)]
    rules: dict[str, Rule] = {
        "type": RunConfig(column="type", at_most=1, priority=1),
        "promo": RunConfig(column="promo", at_most=1, priority=2),
    }
    assert Shelf(notes).pick(2, rules) == ("A1 A3", {"type": 1})
    swapped: dict[str, Rule] = {name: rules[name] for name in ("promo", "type")}
    assert Shelf(notes).pick(2, swapped) == ("A1 A3", {"type": 1})


def test_4_among_equals_the_rule_listed_last_goes_first() -> None:
    notes = [("A", 0.9, IMAGE, 1, 0), ("B", 0.8, VIDEO, 1, 0), ("C", 0.7, IMAGE, 2, 0)]
    type_, promo = RunConfig(column="type", at_most=1), RunConfig(column="promo", at_most=1)
    assert Shelf(notes).pick(2, {"type": type_, "promo": promo}) == ("A B", {"promo": 1})
    assert Shelf(notes).pick(2, {"promo": promo, "type": type_}) == ("A C", {"type": 1})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.booleans())
def test_5_no_rule_is_ever_broken_when_there_is_enough_of_each_kind(seed: int, diverse: bool) -> None:
    generator = np.random.default_rng(seed)
    n, size = 120, 20
    columns = {
        "type": generator.integers(1, 3, n),
        "promo": (generator.random(n) < 0.2).astype(np.int64),
        "shop": (generator.random(n) < 0.3).astype(np.int64),
        "vector": generator.normal(size=(n, 4)).astype(np.float32),
    }
    items = Candidates.of(generator.permutation(n), score=np.sort(generator.random(n))[::-1].copy())
    part: Any = Mmr(MmrConfig(trade_off=0.4, rules=COURSE)) if diverse else Scatter(ScatterConfig(rules=COURSE))
    picks, relaxed = part.pick_ruled(query(columns, size), items)
    assert not relaxed
    page = items.ids[picks]
    kinds, promo, shop = (columns[name][page] for name in ("type", "promo", "shop"))
    for at in range(size):
        assert len(set(kinds[max(0, at - 5) : at + 1])) > 1 or at < 5
        assert promo[max(0, at - 8) : at + 1].sum() <= 1
    assert shop[0] == 0
    assert shop[:4].sum() <= 1
    if not diverse:
        assert_each_pick_is_the_best_allowed(items.ids, page, columns)


def assert_each_pick_is_the_best_allowed(ids: np.ndarray, page: np.ndarray, columns: dict[str, Any]) -> None:
    """Rules only: at each position no better row that follows the rules was passed over."""
    for at in range(len(page)):
        before = page[:at]
        kinds, promo, shop = (columns[name] for name in ("type", "promo", "shop"))
        for item in ids[: ids.tolist().index(page[at])]:
            if item in before:
                continue
            run = at >= 5 and (kinds[before[-5:]] == kinds[item]).all()
            promoted = promo[item] == 1 and promo[before[-8:]].any()
            card = shop[item] == 1 and (at == 0 or (at < 4 and shop[before].sum() >= 1))
            assert run or promoted or card


def test_7_a_boosted_note_ranks_by_its_boosted_reward() -> None:
    shelf = Shelf([("A", 0.9, IMAGE, 0, 0), ("P", 0.6, IMAGE, 1, 0), ("B", 0.8, IMAGE, 0, 0)])
    assert shelf.pick(3, {}, boosts={"promo": BoostConfig(column="promo", factor=1.4)})[0] == "A P B"
    assert shelf.pick(3, {}, boosts={"promo": BoostConfig(column="promo", factor=1.6)})[0] == "P A B"
    for factor in (1.0, 0.5, -2.0):
        with pytest.raises(ConfigError, match="factor"):
            convert({"kind": "scatter", "boosts": {"x": {"column": "promo", "factor": factor}}}, ScatterConfig)


def test_a_boost_lifts_scores_below_zero_too() -> None:
    part = Scatter(ScatterConfig(boosts={"x": BoostConfig(column="promo", factor=2.0)}))
    items = Candidates.of([0, 1], score=np.array([-0.7, -1.0]))
    assert part.pick(query({"promo": np.array([0, 1])}, 2), items).tolist() == [1, 0]


def test_a_slot_takes_the_best_row_of_its_kind() -> None:
    shelf = Shelf(
        [("I1", 0.9, IMAGE, 0, 0), ("I2", 0.8, IMAGE, 0, 0), ("V1", 0.3, VIDEO, 0, 0), ("V2", 0.2, VIDEO, 0, 0)]
    )
    assert shelf.pick(4, {"slot": SlotConfig(column="type", value=VIDEO, position=2)}) == ("I1 V1 I2 V2", {})
    assert shelf.pick(4, {"slot": SlotConfig(column="shop", position=1)}) == ("I1 I2 V1 V2", {"slot": 1})


def test_none_is_no_kind_and_a_value_by_name_is_one() -> None:
    authors = stable_codes(["", "", "ann", "ann", "bob"])
    items = Candidates.of(np.arange(5), score=np.arange(5, 0.0, -1))
    any_author = Scatter(ScatterConfig(rules={"x": RunConfig(column="author", at_most=1)}))
    assert any_author.pick(query({"author": authors}, 5), items).tolist() == [0, 1, 2, 4, 3]
    only_bob = Scatter(ScatterConfig(rules={"x": FirstConfig(column="author", value="bob", first=5, at_most=0)}))
    assert only_bob.pick(query({"author": authors}, 4), items).tolist() == [0, 1, 2, 3]
    only_ann = Scatter(ScatterConfig(rules={"x": FirstConfig(column="author", value="ann", first=5, at_most=0)}))
    assert only_ann.pick(query({"author": authors}, 3), items).tolist() == [0, 1, 4]


def test_a_column_of_the_table_goes_before_one_of_the_catalogue() -> None:
    items = Candidates.of([0, 1, 2], score=np.array([3.0, 2.0, 1.0]), type=np.array([1, 1, 2]))
    part = Scatter(ScatterConfig(rules={"x": RunConfig(column="type", at_most=1)}))
    assert part.pick(query({"type": np.array([1, 2, 2])}, 3), items).tolist() == [0, 2, 1]


def test_a_rule_on_a_column_that_is_not_there_is_a_broken_promise() -> None:
    items = Candidates.of([0], score=np.array([1.0]))
    with pytest.raises(StepError, match="colour"):
        Scatter(ScatterConfig(rules={"x": RunConfig(column="colour", at_most=1)})).pick(
            query({"type": np.zeros(1)}, 1), items
        )
    with pytest.raises(StepError, match="2-dimensional"):
        Scatter(ScatterConfig(rules={"x": RunConfig(column="vector", at_most=1)})).pick(
            query({"vector": np.zeros((1, 2))}, 1), items
        )


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "run", "column": "a", "at_most": 0},
        {"kind": "frequency", "column": "a", "window": 2, "at_most": 2},
        {"kind": "first", "column": "a", "first": 0, "at_most": 0},
        {"kind": "slot", "column": "a", "position": 0},
        {"kind": "run", "column": "a"},
        {"kind": "runs", "column": "a", "at_most": 1},
    ],
)
def test_rules_that_make_no_sense_are_config_errors(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        convert({"kind": "scatter", "rules": {"x": rule}}, ScatterConfig)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 15), st.integers(1, 20), st.integers(0, 8))
def test_the_list_is_never_short_whatever_the_rules(seed: int, n: int, size: int, limit: int) -> None:
    generator = np.random.default_rng(seed)
    columns = {name: generator.integers(0, 3, 15) for name in ("type", "promo", "shop")}
    items = Candidates.of(generator.permutation(15)[:n], score=np.sort(generator.random(n))[::-1].copy())
    part = Scatter(ScatterConfig(rules={**COURSE, "slot": SlotConfig(column="shop", position=2)}, limit=limit))
    picks = part.pick(query(columns, size), items)
    assert len(picks) == min(limit or size, n)
    assert len(set(picks.tolist())) == len(picks)


def test_scatter_learns_nothing_and_orders_a_table_without_scores(tmp_path: Path) -> None:
    part = Scatter.load(ScatterConfig(), tmp_path)
    part.save(tmp_path)
    assert not list(tmp_path.iterdir())
    assert part.pick(query({"type": np.zeros(4)}, 3), Candidates.of([3, 1, 2])).tolist() == [0, 1, 2]


def test_numbers_with_a_fraction_are_of_one_kind_only_where_they_are_equal() -> None:
    minutes = {"minutes": np.array([1.2, 1.9, np.nan, np.nan, 1.9, 0.0, -0.0], np.float32)}
    items = Candidates.of(np.arange(7), score=-np.arange(7.0))
    part = Scatter(ScatterConfig(rules={"run": RunConfig(column="minutes", at_most=1)}))
    assert part.pick(query(minutes, 7), items).tolist() == [0, 1, 2, 3, 4, 5, 6]  # what is missing has no kind
    assert part.pick(query(minutes, 7), items.take(np.array([1, 4, 5]))).tolist() == [0, 2, 1]
    slot = Scatter(ScatterConfig(rules={"slot": SlotConfig(column="minutes", value=1, position=1)}))
    picks, relaxed = slot.pick_ruled(query(minutes, 1), items)
    assert picks.tolist() == [0]
    assert relaxed == {"slot": 1}  # no row is of kind 1


def test_likeness_is_of_columns_with_one_number_per_row() -> None:
    columns = {"minutes": np.array([1.2, 1.9, 1.2, np.nan]), "codes": np.ones((4, 2), np.int64)}
    items = Candidates.of(np.arange(4), score=np.array([4.0, 3.0, 3.5, 2.0]))
    part = Mmr(MmrConfig(trade_off=0.4, likeness={"minutes": 1.0}))
    assert part.pick(query(columns, 3), items).tolist() == [0, 1, 3]
    with pytest.raises(StepError, match="column 'codes' is 2-dimensional"):
        Mmr(MmrConfig(likeness={"codes": 1.0})).pick(query(columns, 3), items)
