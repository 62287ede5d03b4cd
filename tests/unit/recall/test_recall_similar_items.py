from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shelf import closed, inputs, published, query, row
from toy_world import Toy

from tamis.errors import ConfigError
from tamis.features.inputs import Inputs
from tamis.recall.similar_items import SimilarItems, SimilarItemsConfig
from tamis.recall.two_tower import TwoTower, TwoTowerConfig
from tamis.types import Action, Catalog

CLICK, LIKE = Action.CLICK, Action.LIKE
ROWS = [row("a"), row("b"), row("c"), row("d")]


@dataclass(frozen=True)
class Likeness:
    """A channel that knows what it was told: item → (other, likeness), best first."""

    told: dict[int, list[tuple[int, float]]]

    def similar(self, item: int, size: int, catalog: Catalog | None = None) -> tuple[Any, Any]:
        pairs = self.told.get(item, [])[:size]
        return np.array([i for i, _ in pairs], np.int64), np.array([w for _, w in pairs], np.float32)


def over(known: Inputs, told: dict[int, list[tuple[int, float]]]) -> Inputs:
    parts = {"other": Likeness(told)}
    return replace(known, part=parts.__getitem__)


def fitted(told: dict[int, list[tuple[int, float]]], **changes: Any) -> SimilarItems:
    config = SimilarItemsConfig(**{"over": "other", "neighbours": 2, **changes})
    return SimilarItems.fit(config, over(inputs(ROWS), told), 0)


TOLD = {0: [(1, 0.9), (2, 0.5), (3, 0.4)], 2: [(1, 0.3), (3, -0.2)], 3: [(0, 0.8)]}


def test_the_likeness_of_what_was_liked_adds_up_by_interest(tmp_path: Path) -> None:
    channel = fitted(TOLD)
    asked = query(inputs(ROWS).catalog, [(0, CLICK), (0, LIKE), (2, CLICK)])
    found = channel.recall(asked)
    assert found.ids.tolist() == [1]  # 2 was met, 3 is the third neighbour of 0 and unlike 2
    np.testing.assert_allclose(found.column("score"), [2 * 0.9 + 0.3], rtol=1e-6)
    assert fitted(TOLD, neighbours=3).recall(asked).ids.tolist() == [1, 3]
    channel.save(tmp_path)
    again = SimilarItems.load(channel.config, tmp_path)
    np.testing.assert_array_equal(again.recall(asked).column("score"), found.column("score"))
    assert again.similar(0, 5)[0].tolist() == [1, 2]


def test_strangers_fresh_items_one_item_and_everything_seen_give_a_smaller_answer() -> None:
    channel, known = fitted(TOLD), inputs(ROWS)
    catalog = published(known.catalog, [row("e")])
    for past in ([], [(-1, CLICK)], [(1, CLICK)], [(4, CLICK)], [(number, CLICK) for number in range(4)]):
        assert len(channel.recall(query(catalog, past))) == 0
    assert channel.recall(query(closed(catalog, 2), [(3, CLICK)])).ids.tolist() == [0]
    assert channel.similar(4, 5, catalog)[0].tolist() == channel.similar(-1, 5)[0].tolist() == []
    for rows in (ROWS[:1], []):
        alone = SimilarItems.fit(SimilarItemsConfig(over="other"), over(inputs(rows), {}), 0)
        assert len(alone.recall(query(inputs(rows).catalog, [(0, CLICK)] if rows else []))) == 0
    assert len(fitted({}).recall(query(known.catalog, [(0, CLICK)]))) == 0


def test_what_it_is_made_of_has_to_be_there_and_to_know_items_like_an_item() -> None:
    known = inputs(ROWS)
    with pytest.raises(ConfigError, match="'other': no step of that name"):
        SimilarItems.fit(SimilarItemsConfig(over="other"), known, 0)
    with pytest.raises(ConfigError, match="over: 'other' does not know items like an item"):
        SimilarItems.fit(SimilarItemsConfig(over="other"), replace(known, part=lambda name: object()), 0)


def test_over_two_towers_it_finds_the_cluster_of_each_item_that_was_liked(toy: Toy) -> None:
    towers = TwoTower.fit(TwoTowerConfig(limit=40, epochs=5, batch_size=128, patience=0, vector_size=16), toy.inputs, 1)
    channel = SimilarItems.fit(SimilarItemsConfig(limit=40), replace(toy.inputs, part=lambda name: towers), 1)
    found = channel.recall(toy.query(-1, [*toy.likes(0)[:3].tolist(), *toy.likes(3)[:3].tolist()])).ids
    shares = [(toy.item_cluster[found] == cluster).mean() for cluster in (0, 3)]
    assert sum(shares) > 0.8
    assert min(shares) > 0.25
