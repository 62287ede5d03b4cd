from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tamis.config import convert
from tamis.data.dataset import Events
from tamis.errors import ConfigError
from tamis.recall.newest import Newest, NewestConfig
from tamis.recall.popular import Popular, PopularConfig
from tamis.types import Action, Catalog, Features, History, Query

DAY = 86_400.0


def query(catalog: Catalog, now: float = 100 * DAY) -> Query:
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    return Query(
        user=-1, now=now, size=5, scene="", seed=1, history=History.empty(), features=features, catalog=catalog
    )


def catalog(published: list[float]) -> Catalog:
    return Catalog.of(np.arange(len(published), dtype=np.uint64), {"publish_time": np.array(published)})


def inputs(events: list[tuple[int, Action, float]], items: int = 6, until: float = 10 * DAY) -> Any:
    n = len(events)
    log = Events(
        user=np.zeros(n, np.int32),
        item=np.array([item for item, _, _ in events], np.int32),
        action=np.array([action for _, action, _ in events], np.uint8),
        value=np.zeros(n, np.float32),
        time=np.array([time for _, _, time in events]),
        request=np.full(n, -1),
        position=np.zeros(n, np.int16),
    )
    return SimpleNamespace(
        events=log, until=until, catalog=catalog([0.0] * items), interest_actions=("click", "like", "collect", "share")
    )


def test_an_action_of_one_half_life_ago_counts_half() -> None:
    log = [
        (1, Action.CLICK, 10 * DAY),
        (2, Action.CLICK, 8 * DAY),
        (2, Action.LIKE, 8 * DAY),
        (3, Action.CLICK, 8 * DAY),
    ]
    part = Popular.fit(PopularConfig(half_life_days=2), inputs(log), seed=1)
    found = part.recall(query(catalog([0.0] * 6)))
    assert found.ids.tolist() == [1, 2, 3]
    np.testing.assert_allclose(found.column("score"), [1.0, 1.0, 0.5])


def test_without_decay_only_counts_matter_and_shows_are_no_interest() -> None:
    log = [(4, Action.CLICK, 0.0), (4, Action.SHARE, DAY), (1, Action.CLICK, 9 * DAY)]
    log += [(2, Action.IMPRESSION, 9 * DAY)] * 5 + [(3, Action.HIDE, 9 * DAY)]
    found = Popular.fit(PopularConfig(half_life_days=0), inputs(log), seed=1).recall(query(catalog([0.0] * 6)))
    assert found.ids.tolist() == [4, 1]
    assert found.column("score").tolist() == [2.0, 1.0]


def test_popular_is_cut_at_its_limit_and_empty_without_events(tmp_path: Path) -> None:
    log = [(item, Action.CLICK, 0.0) for item in range(6)]
    part = Popular.fit(PopularConfig(limit=2), inputs(log), seed=1)
    part.save(tmp_path)
    again = Popular.load(PopularConfig(limit=4), tmp_path)
    assert part.recall(query(catalog([0.0] * 6))).ids.tolist() == [0, 1]
    assert again.recall(query(catalog([0.0] * 6))).ids.tolist() == [0, 1, 2, 3]
    assert len(Popular.fit(PopularConfig(), inputs([]), seed=1).recall(query(catalog([0.0] * 6)))) == 0


def test_a_negative_half_life_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="half_life_days"):
        convert({"kind": "popular", "half_life_days": -1}, PopularConfig)


def test_newest_comes_newest_first_and_cut_at_its_limit() -> None:
    part = Newest(NewestConfig(limit=2))
    assert part.recall(query(catalog([10.0, 30.0, 20.0]))).ids.tolist() == [1, 2]
    assert Newest(NewestConfig(limit=0)).recall(query(catalog([10.0, 30.0, 20.0]))).ids.tolist() == [1, 2, 0]


def test_what_is_too_old_or_not_published_yet_is_left_out() -> None:
    shelf = catalog([90 * DAY, 99 * DAY, 101 * DAY, np.nan])
    assert Newest(NewestConfig(max_age_days=5)).recall(query(shelf)).ids.tolist() == [1]
    assert set(Newest(NewestConfig()).recall(query(shelf)).ids.tolist()) == {0, 1, 3}


def test_an_item_published_after_the_bundle_can_be_found() -> None:
    base = catalog([1.0, 2.0])
    fresh = replace(
        base,
        keys=(base.keys[0], np.array([77], np.uint64)),
        columns={"publish_time": (np.array([1.0, 2.0]), np.array([3.0]))},
        closed=np.zeros(3, np.bool_),
        newest=np.array([2, 1, 0]),
    )
    assert Newest(NewestConfig(limit=1)).recall(query(fresh)).ids.tolist() == [2]


def test_newest_of_an_empty_catalogue_is_empty(tmp_path: Path) -> None:
    part = Newest.load(NewestConfig(), tmp_path)
    part.save(tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(part.recall(query(catalog([])))) == 0
