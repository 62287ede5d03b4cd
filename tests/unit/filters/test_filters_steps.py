from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.bloom import Bloom, Generations
from tamis.filters.blocked import Blocked, BlockedConfig
from tamis.filters.excluded import Excluded, ExcludedConfig
from tamis.filters.seen import Seen, SeenConfig
from tamis.types import Candidates, Catalog, Exact, Features, History, Query


def query(**other: Any) -> Query:
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    catalog = Catalog.of(np.arange(100, 110, dtype=np.uint64), {})
    facts: dict[str, Any] = {"history": History.empty(), "catalog": catalog, **other}
    return Query(user=0, now=0.0, size=5, scene="", seed=1, features=features, **facts)


def test_what_was_shown_never_passes() -> None:
    bloom = Bloom(4096, 7)
    bloom.add(np.array([101, 104], np.uint64))
    items = Candidates.of([0, 1, 2, 4])
    for memory in (Exact(np.array([101, 104], np.uint64)), Generations((Bloom(8, 1), bloom))):
        assert Seen(SeenConfig()).keep(query(seen=memory), items).tolist() == [True, False, True, False]
    assert Seen(SeenConfig()).keep(query(), items).all()


def test_a_shown_item_is_known_by_its_key_even_when_it_is_fresh() -> None:
    catalog = query().catalog
    fresh = replace(catalog, keys=(catalog.keys[0], np.array([7, 8], np.uint64)), closed=np.zeros(12, np.bool_))
    asked = query(catalog=fresh, seen=Exact(np.array([8], np.uint64)))
    assert Seen(SeenConfig()).keep(asked, Candidates.of([9, 10, 11])).tolist() == [True, True, False]


def test_items_taken_down_do_not_pass() -> None:
    closed = np.zeros(10, np.bool_)
    closed[3] = True
    asked = query(catalog=replace(query().catalog, closed=closed))
    assert Blocked(BlockedConfig()).keep(asked, Candidates.of([2, 3, 4])).tolist() == [True, False, True]


def test_what_the_caller_excludes_does_not_pass() -> None:
    items = Candidates.of([0, 1, 5, 6])
    asked = query(exclude=np.array([1, 99, 6]))
    assert Excluded(ExcludedConfig()).keep(asked, items).tolist() == [True, False, True, False]
    assert Excluded(ExcludedConfig()).keep(query(), items).all()


@pytest.mark.parametrize(
    ("part", "config"), [(Seen, SeenConfig()), (Blocked, BlockedConfig()), (Excluded, ExcludedConfig())]
)
def test_filters_learn_nothing_and_take_an_empty_table(part: Any, config: Any, tmp_path: Path) -> None:
    fitted = part.fit(config, None, 1)
    fitted.save(tmp_path)
    assert not list(tmp_path.iterdir())
    mask = part.load(config, tmp_path).keep(query(), Candidates.empty())
    assert mask.shape == (0,)
    assert mask.dtype == np.bool_
