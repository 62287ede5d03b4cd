"""How far the orders of pre-ranking and ranking agree."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tamis.evaluate.agreement import Agreement
from tamis.filters.blocked import Blocked, BlockedConfig
from tamis.funnel import Stage
from tamis.types import Candidates, Catalog, Features, History, Query

ROWS = 300
EMPTY = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))


@dataclass(frozen=True)
class By:
    """Scores by a function of the item numbers."""

    of: Any

    def score(self, query: Query, items: Candidates) -> dict[str, np.ndarray]:
        return {"score": np.asarray(self.of(items.ids), np.float64)}


@dataclass(frozen=True)
class Without:
    """Lets all but some items through."""

    gone: tuple[int, ...]

    def keep(self, query: Query, items: Candidates) -> np.ndarray:
        return ~np.isin(items.ids, self.gone)


def numbers(light: Any, full: Any, rows: int = ROWS, limit: int = 100, **more: Any) -> dict[str, float]:
    catalog = Catalog.of(np.arange(ROWS, dtype=np.uint64), {})
    query = Query(-1, 0.0, 20, "", 1, History.empty(), EMPTY, catalog)
    stages = Stage("prerank", {"light": By(light)}, limit), Stage("rank", {"full": By(full), **more}, 10)
    agreement = Agreement.of(stages)
    assert agreement is not None
    return agreement.numbers(query, Candidates.of(np.random.default_rng(1).permutation(rows)))


def test_equal_orders_agree_wholly_and_opposite_ones_not_at_all() -> None:
    same = numbers(lambda ids: -ids, lambda ids: 1 / (1.0 + ids))
    assert same == {"overlap@10": 1, "overlap@50": 1, "overlap@200": 1, "kept@50": 1, "rank_correlation": 1}
    other = numbers(lambda ids: -ids, lambda ids: ids)
    assert other == pytest.approx(
        {"overlap@10": 0, "overlap@50": 0, "overlap@200": 0.5, "kept@50": 0, "rank_correlation": -1}
    )


def test_what_pre_ranking_cuts_is_missed_by_so_much() -> None:
    """The ranker's best 50 are 75 … 124 in the order of pre-ranking, which lets 100 through."""
    got = numbers(lambda ids: -ids, lambda ids: -np.abs(ids - 99.6))
    assert got["kept@50"] == pytest.approx(0.5)
    assert got["overlap@10"] == 0.0
    assert got["overlap@200"] == pytest.approx(1.0)


def test_numbers_that_so_few_rows_do_not_have_are_left_out() -> None:
    assert set(numbers(lambda ids: ids, lambda ids: ids, rows=60)) == {"overlap@10", "overlap@50", "rank_correlation"}
    assert set(numbers(lambda ids: ids, lambda ids: ids, rows=60, limit=55)) >= {"kept@50"}
    assert numbers(lambda ids: ids, lambda ids: ids, rows=1) == {}
    assert numbers(lambda ids: ids, lambda ids: ids, rows=0) == {}


def test_rows_that_the_ranker_drops_count_for_neither() -> None:
    got = numbers(lambda ids: -ids, lambda ids: -ids, gone=Without(tuple(range(40))))
    assert got["overlap@10"] == 1
    assert got["rank_correlation"] == pytest.approx(1)


def test_stages_that_do_not_score_have_nothing_to_compare() -> None:
    light, filters = Stage("prerank", {"light": By(np.negative)}, 5), {"blocked": Blocked(BlockedConfig())}
    assert Agreement.of((light, Stage("rank", filters, 5))) is None
    assert Agreement.of((light,)) is None


def test_the_report_says_how_the_two_agree(tiny: Any) -> None:
    row = tiny.trained.report.stages["prerank"]
    assert 0 <= row["overlap@10"] <= row["overlap@200"] <= 1
    assert row["rank_correlation"] > 0
    assert not any(name.startswith("overlap") for name in tiny.trained.report.stages["rank"])
