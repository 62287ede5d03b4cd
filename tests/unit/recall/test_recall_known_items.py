from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.index.vectors import VectorsConfig
from tamis.recall.ascending import distinct, outside, rows_among
from tamis.recall.known_items import KnownItems
from tamis.types import Catalog

ANGLES = np.array([0.0, 0.1, 0.3, 0.7, 1.5])
NONE = np.empty(0, np.int64)


def known(items: list[int]) -> KnownItems:
    angles = ANGLES[: len(items)]
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    return KnownItems.build(np.array(items, np.int64), vectors, 0, None, (VectorsConfig(), 1))


def catalog(items: int) -> Catalog:
    return Catalog.of(np.arange(items, dtype=np.uint64), {})


USER = np.array([[1.0, 0.0]], np.float32)


def test_the_nearest_come_first_under_their_own_numbers() -> None:
    found = known([2, 5, 7, 8, 11]).nearest(USER, 3, NONE, catalog(12))
    assert found.ids.tolist() == [2, 5, 7]
    np.testing.assert_allclose(found.column("similarity"), np.cos(ANGLES[:3]), rtol=1e-6)


def test_items_left_out_do_not_use_up_the_limit() -> None:
    found = known([2, 5, 7, 8, 11]).nearest(USER, 3, np.array([5, 2, 2, 99, -1]), catalog(12))
    assert found.ids.tolist() == [7, 8, 11]
    assert len(known([2, 5]).nearest(USER, 3, np.array([5, 2]), catalog(12))) == 0


def test_no_limit_is_all_and_nothing_is_beyond_the_catalogue() -> None:
    assert known([2, 5, 7, 8, 11]).nearest(USER, 0, NONE, catalog(12)).ids.tolist() == [2, 5, 7, 8, 11]
    assert known([2, 5, 7, 8, 11]).nearest(USER, 0, NONE, catalog(8)).ids.tolist() == [2, 5, 7]


def test_similar_is_by_cosine_without_the_item_itself() -> None:
    ids, cosines = known([2, 5, 7, 8, 11]).similar(7, 2)
    assert ids.tolist() == [5, 2]
    np.testing.assert_allclose(cosines, np.cos([0.2, 0.3]), rtol=1e-6)
    assert known([2, 5]).similar(2, 10)[0].tolist() == [5]


def test_similar_to_what_is_not_known_is_nothing() -> None:
    for part, item, size in ((known([2, 5]), 3, 5), (known([2, 5]), -1, 5), (known([2, 5]), 2, 0), (known([]), 0, 5)):
        assert len(part.similar(item, size)[0]) == 0


def test_without_any_item_nothing_is_found() -> None:
    assert len(known([]).nearest(USER, 3, NONE, catalog(5))) == 0


@given(st.sets(st.integers(0, 30)), st.lists(st.integers(-1, 40)))
def test_rows_are_places_among_the_items(items: set[int], numbers: list[int]) -> None:
    ascending = sorted(items)
    rows = rows_among(np.array(ascending, np.int64), np.array(numbers, np.int64))
    assert rows.tolist() == [ascending.index(number) if number in items else -1 for number in numbers]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    part = known([2, 5, 7])
    part.save(tmp_path)
    again = KnownItems.load(tmp_path)
    assert again.items.tolist() == [2, 5, 7]
    np.testing.assert_array_equal(again.index.main, part.index.main)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(-2, 9), max_size=12), st.lists(st.integers(-3, 10), max_size=12))
def test_what_is_outside_of_a_column_of_distinct_numbers(some: list[int], numbers: list[int]) -> None:
    column = distinct(np.array(some, np.int64))
    assert column.tolist() == sorted(set(some))
    assert outside(column, np.array(numbers, np.int64)).tolist() == [number not in some for number in numbers]
