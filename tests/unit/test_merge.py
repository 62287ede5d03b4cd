"""The union of sources and their quotas: acceptance test 1 of the specification 08-02, and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.merge import merged, places, turns, united
from tamis.types import Candidates

lists = st.lists(st.lists(st.integers(0, 40), unique=True, max_size=30), min_size=1, max_size=5)


def arrays(sources: list[list[int]]) -> list[NDArray[np.int64]]:
    return [np.array(ids, np.int64) for ids in sources]


def union(sources: list[list[int]], items: Candidates | None = None) -> Candidates:
    found = [(number, f"s{number}", ids) for number, ids in enumerate(arrays(sources))]
    return united(items or Candidates.empty(), found, 100)


@settings(deadline=None)  # the first call compiles
@given(lists)
def test_the_union_is_in_order_of_the_best_rank_and_knows_all_who_found_a_row(sources: list[list[int]]) -> None:
    table = union(sources)
    assert sorted(table.ids) == sorted({item for ids in sources for item in ids})
    best = {i: min(ids.index(i) for ids in sources if i in ids) for i in table.ids.tolist()}
    finders = {i: [number for number, ids in enumerate(sources) if i in ids] for i in table.ids.tolist()}
    assert table.column("score").tolist() == [-best[i] for i in table.ids.tolist()]
    assert list(best.values()) == sorted(best.values())
    assert table.column("found_by").tolist() == [sum(1 << f for f in finders[i]) for i in table.ids.tolist()]
    assert table.column("channel").tolist() == [finders[i][0] for i in table.ids.tolist()]


def test_rows_that_were_there_stay_in_front_and_gain_what_finds_them_again() -> None:
    old = Candidates.of(
        [7, 8], channel=np.array([3, 3], np.int16), found_by=np.array([8, 1]), score=np.array([-5.0, 9.0])
    )
    table = union([[9, 8, 7]], old)
    assert table.ids.tolist() == [7, 8, 9]
    assert table.column("found_by").tolist() == [9, 1, 1]  # 8 bears the bit of an earlier run: no item found twice
    assert table.column("score").tolist() == [-2, 9, 0]
    assert table.column("channel").tolist() == [3, 3, 0]


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=8), st.integers(0, 5000), st.integers(0, 7))
def test_08_02_t1_places_always_add_up_to_the_total_and_more_for_one_is_no_more_for_any_other(
    quotas: list[int], total: int, which: int
) -> None:
    before = places(quotas, total)
    assert before.sum() == (total if any(quotas) else 0)
    assert (before >= 0).all()
    raised = list(quotas)
    raised[which % len(quotas)] += 500
    after = places(raised, total)
    assert after.sum() == total
    assert after[which % len(quotas)] >= before[which % len(quotas)]
    # Largest remainders may move the rounded place among the others, never a whole share.
    others = np.delete(after - before, which % len(quotas))
    assert (others <= 1).all() or not any(quotas)


def test_08_02_t1_quotas_that_add_up_are_the_places_and_a_new_channel_takes_from_all() -> None:
    assert places([1000, 600, 400], 2000).tolist() == [1000, 600, 400]
    assert places([1000, 600, 400, 500], 2000).tolist() == [800, 480, 320, 400]
    assert places([1, 1, 1], 10).tolist() == [4, 3, 3]


def test_sources_take_turns_in_proportion_to_their_quotas() -> None:
    found = arrays([[1, 2, 3, 4, 5, 6], [11, 12, 13], [21, 22, 23]])
    ids = union([each.tolist() for each in found]).ids
    order = ids[turns(ids, found, np.array([4, 2, 0]))]
    assert order[:6].tolist() == [1, 2, 11, 3, 4, 12]
    assert order[6:].tolist() == [21, 22, 13, 23, 5, 6]  # who had no place left waits in snake order


def test_an_item_that_two_found_takes_one_place_and_the_other_goes_on() -> None:
    found = arrays([[1, 2, 3, 4], [1, 2, 11, 12]])
    ids = union([[1, 2, 3, 4], [1, 2, 11, 12]]).ids
    assert ids[turns(ids, found, np.array([2, 2]))][:4].tolist() == [1, 2, 3, 11]


def test_places_that_a_source_cannot_fill_go_to_the_others() -> None:
    found = {"a": np.array([1]), "b": np.arange(10, 30), "c": np.array([], np.int64)}
    ids = merged(found, np.ones(100, np.bool_), {"a": 5, "b": 2, "c": 3}, 10)
    assert ids.tolist() == [1, *range(10, 19)]


def test_what_a_filter_took_away_costs_no_place() -> None:
    found = {"a": np.arange(10), "b": np.arange(50, 60)}
    allowed = np.ones(100, np.bool_)
    allowed[:4] = False
    assert sorted(merged(found, allowed, {"a": 3, "b": 3}, 6)) == [4, 5, 6, 50, 51, 52]


@settings(deadline=None)  # the first call compiles
@given(lists, st.lists(st.integers(0, 9), min_size=5, max_size=5), st.integers(0, 50), st.sets(st.integers(0, 40)))
def test_no_quota_loses_or_doubles_an_item_or_passes_more_than_the_limit(
    sources: list[list[int]], quotas: list[int], limit: int, closed: set[int]
) -> None:
    allowed = np.ones(100, np.bool_)
    allowed[list(closed)] = False
    found = {f"s{number}": ids for number, ids in enumerate(arrays(sources))}
    there = {item for ids in sources for item in ids} - closed
    ids = merged(found, allowed, {name: quotas[number] for number, name in enumerate(found)}, limit).tolist()
    assert len(ids) == len(set(ids)) == min(limit, len(there))
    assert set(ids) <= there
    for number, place in enumerate(places(quotas[: len(sources)], limit)):
        mine = [item for item in sources[number] if item in there]
        assert len(set(mine) & set(ids)) >= min(place, len(mine))


@pytest.mark.parametrize("sources", [[[]], [[], []], [[5]]])
def test_sources_that_found_nothing_or_one_item_make_a_table_all_the_same(sources: list[list[int]]) -> None:
    table = union(sources)
    assert len(table) == sum(map(len, sources))
    assert set(table.columns) == {"channel", "found_by", "score"}
