"""Search in long histories against double loops; numbers are those of the specification of SIM and LastN."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tamis.errors import ConfigError
from tamis.features.batch import query_codes, query_found
from tamis.features.layout import Field, Layout
from tamis.features.search import Past, Search, find, last_n, of_kinds
from tamis.types import ACTION_CODE, Catalog, Features, History, Query

CLICK, LIKE = ACTION_CODE["click"], ACTION_CODE["like"]
OFFSET, SIZE = 100, 5  # kinds 101 … 104; 100 is unknown


def layout(long_length: int = 1000, **others: Any) -> Layout:
    fields = (Field(name="item.item_id", start=0, width=1, offset=1, size=60),)
    fields += (Field(name="item.category", start=1, width=1, offset=OFFSET, size=SIZE),)
    fields += (Field(name="item.tags", start=2, width=2, offset=200, size=9),)
    given: dict[str, Any] = {
        "table_size": 400,
        "user_fields": (),
        "item_fields": fields,
        "user_dense": (),
        "item_dense": (),
        "item_dynamic": (),
        "item_ages": {},
        "history_columns": (0, 1),
        "history_action": Field(name="history.action", start=0, width=1, offset=300, size=13),
        "history_age": Field(name="history.age", start=0, width=1, offset=320, size=27),
        "history_length": 3,
        "long_length": long_length,
    }
    return Layout(**{**given, **others})


def catalog(kinds: Any, vectors: Any = None) -> Catalog:
    """Item i has kind kinds[i], 0 = unknown."""
    kinds = np.asarray(kinds)
    codes = np.stack([2 + np.arange(len(kinds)), OFFSET + kinds, kinds * 0, kinds * 0], 1).astype(np.int32)
    vector = np.zeros((len(kinds), 2), np.float32) if vectors is None else np.asarray(vectors, np.float32)
    return Catalog.of(np.arange(len(kinds), dtype=np.uint64), {"codes": codes, "vector": vector}, np.arange(0))


def past(items: Any, ends: list[int] | None = None, now: float = 1e6, actions: Any = None) -> Past:
    """One timeline, of which each request sees what is before its end."""
    items = np.asarray(items, np.int32)
    ends = [len(items)] if ends is None else ends
    action = np.full(len(items), CLICK, np.uint8) if actions is None else np.asarray(actions, np.uint8)
    return Past(
        items,
        action,
        1000.0 * np.arange(len(items)),
        np.zeros(len(ends), np.int64),
        np.array(ends),
        np.full(len(ends), now),
    )


def search(how: str = "hard", entries: int = 4, **others: Any) -> Search:
    made = Search.of(layout(**others), how, "category", entries)
    assert made is not None
    return made


def found_items(found_codes: NDArray[np.int32]) -> list[list[int]]:
    """The items of each row's entries, newest first."""
    return [[int(entry[0]) - 2 for entry in row if entry[0]] for row in found_codes]


@given(
    st.lists(st.integers(0, 7), max_size=40),
    st.lists(st.lists(st.integers(-2, 7), max_size=6), min_size=1, max_size=4),
    st.integers(1, 5),
    st.data(),
)
@settings(deadline=None)
def test_sim_2_each_request_finds_exactly_the_newest_entries_of_each_kind_it_wants(
    kinds: list[int], wanted: list[list[int]], most: int, data: st.DataObject
) -> None:
    """Kinds are 1 … 5 of the codes 2 … 6; other codes are no kind."""
    start = [data.draw(st.integers(0, len(kinds))) for _ in wanted]
    end = [data.draw(st.integers(begin, len(kinds))) for begin in start]
    flat = np.array([kind for row in wanted for kind in row], np.int32)
    first = np.append(0, np.cumsum([len(row) for row in wanted]))
    history = np.array(kinds, np.int32), np.array(start), np.array(end)
    at, row_of, request = of_kinds(flat, first, history, (1, 6), most)
    assert len(at) == len(request) == len(set(row_of.tolist()))
    assert (np.diff(request) >= 0).all()
    for r, row in enumerate(wanted):
        assert len(set(row_of[first[r] : first[r + 1]].tolist())) == len(
            {kind if 2 <= kind <= 6 else 0 for kind in row}
        )
        for n, kind in enumerate(row, first[r]):
            same = [p for p in range(end[r] - 1, start[r] - 1, -1) if kinds[p] == kind and 2 <= kind <= 6][:most]
            assert at[row_of[n]].tolist() == same + [-1] * (most - len(same))
            assert request[row_of[n]] == r


def brute_nearest(entries: NDArray[Any], query: NDArray[Any], most: int) -> list[int]:
    """Positions, newest first, of those with the largest product; of equal ones the newer."""
    if not query.any():
        return []
    there = [p for p in range(len(entries)) if entries[p].any()]
    best = sorted(there, key=lambda p: (-float(entries[p] @ query), -p))[:most]
    return sorted(best, reverse=True)


@given(st.integers(0, 2**31), st.integers(0, 20), st.integers(0, 5), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_sim_3_soft_search_is_the_exact_nearest(seed: int, length: int, shown: int, most: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (30, 2))  # whole numbers: products are exact and often equal
    shelf, items = catalog(np.zeros(30, int), vectors), random.integers(0, 30, length)
    candidates = random.integers(0, 30, shown)
    made = find(
        search("soft", most),
        layout(),
        shelf,
        past(items),
        np.zeros(length, np.int32),
        (candidates, np.array([0, shown])),
    )
    assert made.row_of.tolist() == list(range(shown))
    for n, candidate in enumerate(candidates):
        want = [int(items[p]) for p in brute_nearest(vectors[items], vectors[candidate], most)]
        assert found_items(made.codes)[n] == want


def test_sim_4_the_two_nearest_of_the_example_are_kept() -> None:
    shelf = catalog([1] * 4, [(1, 0), (0, 1), (0.6, 0.8), (1, 0)])
    made = find(
        search("soft", 2), layout(), shelf, past([0, 1, 2]), np.zeros(3, np.int32), (np.array([3]), np.array([0, 1]))
    )
    assert found_items(made.codes) == [[2, 0]]


def hard(past_items: Any, candidates: list[int], kinds: Any, ends: list[int] | None = None, **others: Any) -> Any:
    shelf, history = catalog(kinds), past(past_items, ends)
    asked = np.array(candidates), np.array([0, len(candidates)])
    settings = search(**others)
    return find(settings, layout(), shelf, history, OFFSET + np.asarray(kinds, np.int32)[history.item], asked)


def test_candidates_of_one_kind_share_what_was_found_and_those_of_none_find_nothing() -> None:
    kinds = [1, 1, 2, 0, 3]
    made = hard([0, 2, 3, 1, 0], [1, 2, 0, 3, 4], kinds)
    assert made.row_of[0] == made.row_of[2]
    rows = [found_items(made.codes)[row] for row in made.row_of]
    assert rows == [[0, 1, 0], [2], [0, 1, 0], [], []]
    assert not hard([], [0, 4], kinds).codes.any()


def test_only_so_many_newest_entries_are_searched_and_nothing_from_the_request_on() -> None:
    kinds = [1, 1, 2]
    old_enough = hard([0, 1, 2, 2, 2], [0], kinds, long_length=4)
    assert found_items(old_enough.codes) == [[1]]
    assert found_items(hard([0, 1, 2, 0, 0], [0], kinds, ends=[3]).codes) == [[1, 0]]  # what came later is not seen


def test_sim_6_time_tells_equal_items_apart_and_no_age_falls_outside_its_codes() -> None:
    shelf, place = catalog([1]), layout().history_age
    ages = []
    for now in (-1e9, 0.0, 3600.0, 86_400.0 * 400, 1e12):
        kinds = np.array([OFFSET + 1], np.int32)
        made = find(search(), layout(), shelf, past([0], now=now), kinds, (np.array([0]), np.array([0, 1])))
        ages.append(int(made.codes[0, 0, -1]))
    assert all(place.offset < age < place.offset + place.size for age in ages)
    assert ages[0] == ages[1] == place.offset + 1  # a clock that runs ahead is no error
    assert ages[1] < ages[2] < ages[3] <= ages[4]


def query(items: Any, actions: Any = None, now: float = 1e6, kinds: Any = (1, 1, 2, 3)) -> Query:
    """Whose history is `items`, oldest first as in `past`."""
    line = past(items, actions=actions)
    history = History(line.item[::-1].astype(np.int64), line.action[::-1], line.time[::-1])
    features = Features(np.ones((1, 2), np.int32), np.zeros((1, 0), np.float32))
    return Query(0, now, 5, "feed", 1, history, features, catalog(kinds))


def test_a_query_finds_what_training_found_and_leaves_out_items_that_are_gone() -> None:
    kinds = [1, 1, 2, 3]
    asked = query([0, 2, 1, 3, 0], kinds=kinds)
    offline = hard([0, 2, 1, 3, 0], [1, 3, 2], kinds)
    online = query_found(layout(), asked, np.array([1, 3, 2]), search())
    assert online.codes.tobytes() == offline.codes.tobytes()
    assert online.row_of.tolist() == offline.row_of.tolist()
    gone = replace(
        asked, history=replace(asked.history, items=np.where(asked.history.items == 0, -1, asked.history.items))
    )
    assert found_items(query_found(layout(), gone, np.array([1]), search(long_length=2)).codes) == [[1]]


LAST = {"last_n": (CLICK, LIKE), "last_n_length": 3}


def test_last_n_3_each_action_has_a_list_of_its_own_and_the_oldest_entry_leaves_it() -> None:
    actions = [CLICK, LIKE, CLICK, CLICK, CLICK]
    codes = query_codes(layout(**LAST), query([0, 1, 2, 3, 0], actions))
    assert codes[:, :2].tolist() == [[1, 1]]
    lists = codes[0, 2:].reshape(2, 2, 3)  # action, column, entry
    assert lists[0, 0].tolist() == [2, 5, 4]  # the first click is gone
    assert lists[1, 0].tolist() == [3, 0, 0]
    assert lists[1, 1].tolist() == [OFFSET + 1, 0, 0]


def test_last_n_4_an_empty_history_is_padding() -> None:
    assert not query_codes(layout(**LAST), query([]))[0, 2:].any()


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([CLICK, LIKE, 9])), max_size=15), st.data())
@settings(deadline=None)
def test_lists_of_single_actions_are_those_of_a_plain_loop(entries: list[tuple[int, int]], data: st.DataObject) -> None:
    ends = data.draw(st.lists(st.integers(0, len(entries)), min_size=1, max_size=4))
    line = past([item for item, _ in entries], ends, actions=[action for _, action in entries])
    shelf, shape = catalog([1, 1, 2, 3]), layout(**LAST)
    got = last_n(shape, shelf, line).reshape(len(ends), 2, 2, 3)
    for r, end in enumerate(ends):
        for a, action in enumerate((CLICK, LIKE)):
            want = [item for item, done in entries[:end] if done == action][::-1][:3]
            assert got[r, a, 0].tolist() == [2 + item for item in want] + [0] * (3 - len(want))


def test_a_search_that_cannot_be_made_says_why() -> None:
    assert Search.of(layout(), "none", "category", 3) is None
    with pytest.raises(ConfigError, match="long_length"):
        Search.of(layout(long_length=0), "hard", "category", 3)
    for field in ("brand", "tags"):
        with pytest.raises(ConfigError, match=f"'{field}'.*'category', 'item_id'"):
            Search.of(layout(), "hard", field, 3)
