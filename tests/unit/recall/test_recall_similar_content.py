from typing import Any

import numpy as np
from shelf import closed, inputs, published, query, row

from tamis.index.vectors import VectorsConfig
from tamis.recall.similar_content import SimilarContent, SimilarContentConfig, nearest
from tamis.types import Action

CLICK, LIKE = Action.CLICK, Action.LIKE


def item(name: str, *vector: float) -> Any:
    return row(name, vector=vector or None)


ROWS = [item("a", 2, 0), item("b", 3, 1), item("c", 0, 1), item("d"), item("e", -1, 0)]


def test_the_neighbours_of_what_was_liked_add_up() -> None:
    known = inputs(ROWS)
    answer = SimilarContent.fit(SimilarContentConfig(neighbours=1), known, 0).recall(
        query(known.catalog, [(0, CLICK), (0, LIKE), (2, CLICK)])
    )
    assert answer.ids.tolist() == [1]
    np.testing.assert_allclose(answer.column("score"), [2 * 3 / 10**0.5 + 1 / 10**0.5], rtol=1e-6)


def test_a_fresh_item_is_found_by_its_own_vector_where_it_is_near_enough() -> None:
    known = inputs(ROWS)
    catalog = published(known.catalog, [item("f", 9, 1), item("g", 1, 2), item("h")])
    channel = SimilarContent.fit(SimilarContentConfig(neighbours=1), known, 0)
    assert channel.recall(query(catalog, [(0, CLICK)])).ids.tolist() == [5, 1]
    assert channel.recall(query(closed(catalog, 5), [(0, CLICK)])).ids.tolist() == [1]
    assert channel.recall(query(catalog, [(5, CLICK)])).ids.tolist() == [6]  # liked while fresh: fresh ones near it


def test_fresh_vectors_are_prepared_once_per_snapshot() -> None:
    known = inputs(ROWS)
    channel = SimilarContent.fit(SimilarContentConfig(neighbours=1), known, 0)
    catalog = published(known.catalog, [item("f", 9, 1), item("g", 1, 2)])
    items, units = channel.fresh.of(catalog, len(ROWS))
    assert items.tolist() == [5, 6]
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, rtol=1e-6)
    channel.recall(query(catalog, [(0, CLICK)]))
    assert channel.fresh.of(catalog, len(ROWS))[1] is units
    assert channel.fresh.of(closed(catalog, 5), len(ROWS))[0].tolist() == [6]


def test_no_history_no_vector_and_one_item_give_nothing() -> None:
    known = inputs(ROWS)
    channel = SimilarContent.fit(SimilarContentConfig(), known, 0)
    for past in ([], [(-1, CLICK)], [(3, CLICK)]):
        assert len(channel.recall(query(known.catalog, past))) == 0
    for rows in ([item("a", 1, 2)], [item("a")], []):
        few = inputs(rows)
        past = [(0, CLICK)] if rows else []
        assert len(SimilarContent.fit(SimilarContentConfig(), few, 0).recall(query(few.catalog, past))) == 0


def test_similar_answers_for_old_and_for_fresh_items() -> None:
    known = inputs(ROWS)
    catalog = published(known.catalog, [item("f", 9, 1)])
    channel = SimilarContent.fit(SimilarContentConfig(neighbours=1), known, 0)
    assert channel.similar(0, 5)[0].tolist() == [1]
    ids, cosines = channel.similar(5, 2, catalog)
    assert ids.tolist() == [0, 1]
    assert (np.diff(cosines) < 0).all()
    assert channel.similar(5, 0, catalog)[0].tolist() == channel.similar(0, -1)[0].tolist() == []
    assert channel.similar(3, 5, catalog)[0].tolist() == []
    assert channel.similar(99, 5, catalog)[0].tolist() == []


def test_an_index_finds_what_a_search_of_all_finds() -> None:
    vectors = np.random.default_rng(2).normal(size=(300, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = vectors @ vectors.T
    np.fill_diagonal(near, -2)
    wanted = -np.sort(-near, axis=1)[:, :5]
    for kind in ("exact", "flat"):
        table = nearest(vectors, 5, VectorsConfig(kind=kind), 0)
        np.testing.assert_allclose(table.weights, wanted, atol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(near, table.ids.astype(np.int64), 1), wanted, atol=1e-6)


def test_items_with_the_same_vector_are_neighbours_and_never_themselves() -> None:
    table = nearest(np.ones((4, 1), np.float32), 2, VectorsConfig(), 0)
    assert all(number not in row for number, row in enumerate(table.ids.tolist()))
    assert (table.ids >= 0).all()
