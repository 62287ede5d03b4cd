"""Neighbours of an item: as many as asked for, open ones only, fresh items too."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tamis.artifact import open_bundle
from tamis.assemble import Model, load_model
from tamis.errors import NotFound
from tamis.funnel import Funnel, Stage
from tamis.recall.item_table import ItemTable
from tamis.recall.itemcf import ItemCF, ItemCFConfig
from tamis.recall.neighbours import Neighbours
from tamis.serving.engine import Engine
from tamis.serving.wire import ItemRequest
from tamis.state.memory import Memory
from tamis.types import Catalog


def model_of(ids: list[list[int]]) -> Any:
    """A model of nothing but a table of neighbours."""
    table = np.array(ids, np.int32)
    weights = np.linspace(1, 0.1, table.size, dtype=np.float32).reshape(table.shape)
    part = ItemCF(ItemCFConfig(), ItemTable(Neighbours(table, weights), np.empty(0, np.uint8)))
    return SimpleNamespace(funnel=Funnel([Stage("recall", {"itemcf": part}, 10)]))


def catalog(items: int, *closed: int) -> Catalog:
    made = Catalog.of(np.arange(items, dtype=np.uint64), {})
    made.closed[list(closed)] = True
    return made


def test_closed_neighbours_give_their_places_to_the_next() -> None:
    model = model_of([[1, 2, 3, 4, 5, 6, 7], *[[-1] * 7] * 7])
    for size, closed, wanted in ((2, (1, 2, 3), [4, 5]), (2, (), [1, 2]), (7, (4,), [1, 2, 3, 5, 6, 7])):
        ids, scores = Model.similar(model, 0, size, catalog(8, *closed))
        assert ids.tolist() == wanted
        assert len(scores) == len(ids)
        assert (np.diff(scores) < 0).all()


def test_no_open_neighbour_is_not_found() -> None:
    with pytest.raises(NotFound):
        Model.similar(model_of([[1, 2], [-1, -1], [-1, -1]]), 0, 2, catalog(3, 1, 2))


def test_a_fresh_item_has_neighbours_and_closed_ones_are_made_up_for(tiny: Any) -> None:
    engine = Engine(load_model(open_bundle(tiny.project.bundles)), Memory())
    engine.put_item("fresh", ItemRequest(category="music"))
    near = [item.item_id for item in engine.similar("fresh", 10).items]
    assert len(set(near)) == 10
    for item in near[:8]:
        engine.delete_item(item)
    again = [item.item_id for item in engine.similar("fresh", 10).items]
    assert len(again) == 10
    assert again[:2] == near[8:]
