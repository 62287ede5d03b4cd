from dataclasses import replace

import numpy as np
from toy_world import Toy

from tamis.nets.item_vectors import FreshVectors, item_vectors
from tamis.types import Catalog, Features


class Tower:
    """A tower whose vector is the dense features; counts the rows it is given."""

    def __init__(self) -> None:
        self.rows = 0

    def run(self, item_codes, item_dense):
        self.rows += len(item_codes)
        return {"vector": item_dense.astype(np.float32)}


def with_dense(catalog: Catalog, row: int, value: float) -> Catalog:
    """A new snapshot in which one fresh item has other static features."""
    base, fresh = catalog.columns["dense"]
    changed = fresh.copy()
    changed[row] = value
    return replace(catalog, columns={**catalog.columns, "dense": (base, changed)})


def test_vectors_of_a_catalogue_come_in_blocks_and_in_order() -> None:
    dense = np.arange(10_000, dtype=np.float32)[:, None]
    tower = Tower()
    vectors = item_vectors(tower, Features(np.zeros((10_000, 1), np.int32), dense))
    np.testing.assert_array_equal(vectors, dense)
    assert tower.rows == 10_000
    assert item_vectors(tower, Features(np.zeros((0, 1), np.int32), dense[:0])).shape == (0, 1)


def test_each_fresh_item_goes_through_the_tower_once(toy: Toy) -> None:
    tower = Tower()
    fresh = FreshVectors(tower, 240)
    assert len(fresh.of(toy.inputs.catalog)) == 0
    three = toy.with_fresh([0, 1, 2])
    vectors = fresh.of(three)
    np.testing.assert_array_equal(vectors, three.column("dense", np.array([240, 241, 242])))
    assert tower.rows == 3
    assert fresh.of(three) is vectors
    assert tower.rows == 3


def test_only_new_and_changed_items_are_computed_again(toy: Toy) -> None:
    tower = Tower()
    fresh = FreshVectors(tower, 240)
    fresh.of(toy.with_fresh([0, 1, 2]))
    five = toy.with_fresh([0, 1, 2, 3, 4])
    tower.rows = 0
    fresh.of(five)
    assert 2 <= tower.rows <= 5  # the toy's raw numbers may differ between the two lists
    tower.rows = 0
    changed = with_dense(five, 1, 0.25)
    np.testing.assert_array_equal(fresh.of(changed)[1], np.full(vectors_width(five), 0.25))
    assert tower.rows == 1
    tower.rows = 0
    assert len(fresh.of(toy.inputs.catalog)) == 0
    assert tower.rows == 0


def vectors_width(catalog: Catalog) -> int:
    return catalog.columns["dense"][0].shape[1]
