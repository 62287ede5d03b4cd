"""A world's log as the four raw tables, as if they had been read from somebody's export."""

from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.data.tables import SCHEMAS, RawTables
from tamis.simulate.behaviour import REACTIONS
from tamis.simulate.population import Items, Population, category_names
from tamis.simulate.sessions import FLAGS, Log
from tamis.simulate.settings import WorldConfig
from tamis.simulate.words import CITIES, DEVICES, GENDERS

SCENE: Final = "feed"


def raw_tables(config: WorldConfig, population: Population, log: Log) -> RawTables:
    """The four tables: users and items in the order of their numbers, requests and events in the order of time.

    External ids are a letter and the number: u000123, i000456, a000012, r00000789. An impression has the time of its
    request; the other events follow as the user works down the page.
    """
    requests = _requests(population, log)
    events = _events(config, log, requests["request_id"])
    return RawTables.of(_users(population), _items(config, population), requests, events)


def external_ids(letter: str, numbers: NDArray[Any], digits: int = 6) -> pl.Series:
    """The external ids of numbers, for instance u000123."""
    return letter + pl.Series(numbers.astype(np.int64)).cast(pl.String).str.zfill(digits)


def _names(names: tuple[str, ...], numbers: NDArray[Any]) -> pl.Series:
    """The names of numbers; null for −1."""
    index = pl.Series(np.where(numbers < 0, len(names), numbers))
    return pl.Series([*names, None], dtype=pl.String).gather(index)


def _users(population: Population) -> pl.DataFrame:
    users = population.users
    return pl.DataFrame(
        {
            "user_id": external_ids("u", np.arange(len(users))),
            "gender": _names(GENDERS, users.gender),
            "age": users.age.astype(np.int64),
            "city": _names(tuple(place[0] for place in CITIES), users.city),
            "device": _names(DEVICES, users.device),
            "register_time": users.register_time,
        }
    )


def _items(config: WorldConfig, population: Population) -> pl.DataFrame:
    items, schema = population.items, SCHEMAS["items"]
    category = _names(category_names(config), items.category)
    columns = {
        "item_id": external_ids("i", np.arange(len(items))),
        "author": external_ids("a", items.author),
        "category": category,
        "keywords": _keywords(population.words, items),
        "text": category.alias("text"),
        "vector": pl.Series(items.vector),
        "city": _names(tuple(place[0] for place in CITIES), items.city),
        "latitude": items.latitude.astype(np.float64),
        "longitude": items.longitude.astype(np.float64),
        "duration_seconds": np.round(items.duration.astype(np.float64), 1),
        "publish_time": items.publish_time,
        "quality": items.shown_quality.astype(np.float64),
    }
    frame = pl.DataFrame(columns).with_columns(
        pl.col("latitude", "longitude").fill_nan(None),
        text=pl.col("keywords").list.join(" ") + ", a piece of " + pl.col("category"),
    )
    return frame.select(pl.col(name).cast(kind) for name, kind in schema.items())


def _keywords(words: tuple[str, ...], items: Items) -> pl.Series:
    flat = pl.Series(words, dtype=pl.String).gather(items.keywords.ravel().astype(np.int64))
    return flat.reshape(items.keywords.shape).cast(pl.List(pl.String))


def _requests(population: Population, log: Log) -> pl.DataFrame:
    users = population.users
    return pl.DataFrame(
        {
            "request_id": external_ids("r", np.arange(len(log)), 8),
            "user_id": external_ids("u", log.user),
            "time": log.time,
            "scene": pl.repeat(SCENE, len(log), eager=True, dtype=pl.String),
            "city": _names(tuple(place[0] for place in CITIES), users.city[log.user]),
            "device": _names(DEVICES, users.device[log.user]),
        }
    )


def _events(config: WorldConfig, log: Log, request_ids: pl.Series) -> pl.DataFrame:
    """All that was done before the end of the log, sorted by time, then request and place."""
    rows, size = len(log), log.items.shape[1]
    request, position = np.divmod(np.arange(rows * size), size)
    parts = [(request, position, log.time[request], np.zeros(len(request)), "impression")]
    for name in (*FLAGS, "play"):
        request, position = np.nonzero(log.play > 0 if name == "play" else log.flag(name))
        seconds = log.play[request, position].astype(np.float64)
        moment = REACTIONS[name].moment if name in REACTIONS else float(name in ("play", "long_view"))
        time = np.round(log.time[request] + log.reached[request, position] + moment * seconds, 3)
        parts.append((request, position, time, seconds if name == "play" else np.zeros(len(time)), name))
    request, position, time, value = (np.concatenate([part[column] for part in parts]) for column in range(4))
    names = pl.Series([part[4] for part in parts], dtype=SCHEMAS["events"]["action"])
    action = names.gather(np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts]))
    # Stable, and the parts come in the order in which things happen: the impression, the click, what follows from it.
    order = np.lexsort((position, request, time))
    order = order[time[order] < config.end_time]
    request, position = request[order], position[order]
    return pl.DataFrame(
        {
            "user_id": external_ids("u", log.user[request]),
            "item_id": external_ids("i", log.items[request, position]),
            "action": action.gather(order),
            "time": time[order],
            "value": value[order],
            "request_id": request_ids.gather(request),
            "event_id": external_ids("e", np.arange(len(order)), 9),
            "position": position.astype(np.int64),
            "scene": pl.repeat(SCENE, len(order), eager=True, dtype=pl.String),
        }
    )
