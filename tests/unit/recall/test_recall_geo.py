from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shelf import closed, inputs, published, query, row

from tamis.config import convert
from tamis.errors import ArtifactError, ConfigError
from tamis.features.geohash import bounds, encode
from tamis.recall.geo import Geo, GeoConfig
from tamis.recall.keyed import Keyed, KeyedConfig
from tamis.types import Action

NEWEST = {"half_life_days": 0.0}
SOUTH, NORTH, WEST, EAST = bounds(int(encode(48.8584, 2.2945, 6)[0]))
HERE = {"lat": (SOUTH + NORTH) / 2, "lon": (WEST + EAST) / 2}
NEXT = {"lat": HERE["lat"], "lon": HERE["lon"] + (EAST - WEST)}


def part(known: Any, **settings: Any) -> Geo:
    return Geo.fit(convert({"kind": "geo", **settings}, GeoConfig), known, 0)


def item(name: str, day: float, place: dict[str, float] = HERE, **fields: Any) -> Any:
    return row(name, day, latitude=place["lat"], longitude=place["lon"], **fields)


def test_geo_2_newest_first_at_most_k_good_enough_and_the_same_for_everybody() -> None:
    days = np.random.default_rng(1).permutation(20).tolist()
    rows = [item(f"i{n}", day, quality=0.9 if n % 3 else 0.2) for n, day in enumerate(days)]
    known = inputs(rows)
    channel = part(known, limit=5, order={**NEWEST, "least_quality": 0.5})
    one = channel.recall(query(known.catalog, context=HERE, user=1)).ids.tolist()
    other = channel.recall(query(known.catalog, context=HERE, user=2)).ids.tolist()
    wanted = sorted((n for n in range(20) if n % 3), key=lambda n: -days[n])[:5]
    assert one == other == wanted


def test_geo_3_the_city_is_shared_and_the_cell_is_not() -> None:
    known = inputs(
        [item("a", 1, HERE, city="Paris"), item("b", 2, NEXT, city="Paris"), item("c", 3, HERE, city="Rome")]
    )
    geo = part(known, order=NEWEST)
    city = Keyed.fit(KeyedConfig(column="city", context="city", positives=()), known, 0)
    here, there = {**HERE, "city": "Paris"}, {**NEXT, "city": "Paris"}
    assert geo.recall(query(known.catalog, context=here)).ids.tolist() == [2, 0]
    assert geo.recall(query(known.catalog, context=there)).ids.tolist() == [1]
    both = [city.recall(query(known.catalog, context=context)).ids.tolist() for context in (here, there)]
    assert both[0] == both[1] == [1, 0]
    assert len(geo.recall(query(known.catalog))) == len(city.recall(query(known.catalog))) == 0


@pytest.mark.parametrize(
    "context",
    [{}, {"lat": 48.0}, {"lat": None, "lon": None}, {"lat": float("nan"), "lon": 2.0}, {"lat": "x", "lon": 2.0},
     {"lat": 0.0, "lon": 0.0}],
)  # fmt: skip
def test_no_position_is_no_cell_not_even_a_default_one(context: dict[str, Any]) -> None:
    known = inputs([item("a", 1), row("b", 2), row("c", 2, latitude=1.0)])
    assert len(part(known).recall(query(known.catalog, context=context))) == 0


def test_neighbouring_cells_are_an_option() -> None:
    known = inputs([item("a", 1, HERE), item("b", 2, NEXT)])
    assert part(known).recall(query(known.catalog, context=HERE)).ids.tolist() == [0]
    assert part(known, around=True).recall(query(known.catalog, context=HERE)).ids.tolist() == [1, 0]


def test_where_the_user_was_stands_in_for_where_he_is_only_when_told_to() -> None:
    known = inputs([item("a", 1, HERE), item("b", 2, HERE), item("c", 3, NEXT)])
    past = [(0, Action.CLICK)]
    assert len(part(known).recall(query(known.catalog, past))) == 0
    channel = part(known, history=5)
    assert channel.recall(query(known.catalog, past)).ids.tolist() == [1]
    assert channel.recall(query(known.catalog, past, context=NEXT)).ids.tolist() == [2]


def test_fresh_items_of_the_cell_come_too_and_closed_ones_do_not() -> None:
    known = inputs([item("a", 1), item("b", 2)])
    catalog = published(known.catalog, [item("f", 3), item("g", 4, NEXT), row("h", 5)])
    channel = part(known, order=NEWEST)
    assert channel.recall(query(catalog, context=HERE)).ids.tolist() == [2, 1, 0]
    assert channel.recall(query(closed(catalog, 2, 1), context=HERE)).ids.tolist() == [0]


def test_cells_of_another_size_need_another_training(tmp_path: Path) -> None:
    known = inputs([item("a", 1)])
    part(known, length=5).save(tmp_path)
    config = GeoConfig(length=5, limit=7)
    assert Geo.load(config, tmp_path).recall(query(known.catalog, context=HERE)).ids.tolist() == [0]
    with pytest.raises(ArtifactError, match="lists were made by"):
        Geo.load(GeoConfig(length=6), tmp_path)


@pytest.mark.parametrize("length", [0, 13])
def test_a_length_that_no_geohash_has_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match="length"):
        convert({"kind": "geo", "length": length}, GeoConfig)
