from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.errors import StepError
from tamis.types import Candidates, Catalog, Exact, item_key, item_keys


def catalog(base: int, fresh: int) -> Catalog:
    keys = np.arange(base + fresh, dtype=np.uint64)
    values = np.arange(base + fresh, dtype=np.float64) * 10
    start = Catalog.of(keys[:base], {"publish_time": values[:base]})
    return replace(start, keys=(keys[:base], keys[base:]), columns={"publish_time": (values[:base], values[base:])})


@given(st.integers(0, 5), st.integers(0, 5), st.data())
def test_a_column_reads_the_same_across_base_and_fresh(base: int, fresh: int, data) -> None:
    items = np.array(data.draw(st.lists(st.integers(0, base + fresh - 1)) if base + fresh else st.just([])), np.int64)
    both = catalog(base, fresh)
    assert both.column("publish_time", items).tolist() == (items * 10.0).tolist()
    assert both.keys_of(items).tolist() == items.tolist()
    assert len(both) == base + fresh


def test_an_unknown_column_lists_what_there_is() -> None:
    with pytest.raises(StepError, match="publish_time"):
        catalog(1, 0).column("colour", np.array([0]))


def test_newest_defaults_to_the_publish_time() -> None:
    assert catalog(4, 0).newest.tolist() == [3, 2, 1, 0]


def test_a_column_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(StepError, match="2 rows"):
        Candidates.of([1, 2, 3], score=np.zeros(2))


def test_item_keys_are_stable_over_time() -> None:
    assert item_key("42") == 8_820_412_187_630_416_983
    assert item_keys(["42", "é"]).tolist() == [item_key("42"), item_key("é")]
    assert item_keys([]).dtype == np.uint64


@given(st.sets(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1)))
def test_exact_membership_is_exact(inside, asked) -> None:
    exact = Exact(np.array(sorted(inside), np.uint64))
    got = exact.contains(np.array([*asked, *inside], np.uint64))
    assert got.tolist() == [key in inside for key in asked] + [True] * len(inside)
