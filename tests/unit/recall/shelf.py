"""A few items with keys of all kinds, and what users did with them: what channels made of lists are fitted on."""

from dataclasses import replace
from typing import Any

import numpy as np

from tamis.data.dataset import Events
from tamis.features.encode import Encoder
from tamis.features.inputs import Inputs
from tamis.features.online import item_rows
from tamis.features.spec import FeaturesConfig, HistoryConfig
from tamis.features.statistics import Statistics
from tamis.state.protocol import ItemRow
from tamis.types import Action, Catalog, Features, History, Query, item_keys

DAY = 86_400.0
NOW = 100 * DAY
Done = tuple[int, int, Action]
"""(user, item, action)."""


def row(name: str, day: float | None = 1.0, **fields: Any) -> ItemRow:
    """An item published on a day."""
    return ItemRow(item_id=name, publish_time=None if day is None else day * DAY, **fields)


def encoder(width: int) -> Encoder:
    """One without features, for vectors of a width."""
    nothing = Statistics.of(np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0), 0)
    config = FeaturesConfig(item={}, history=HistoryConfig(fields=()))
    return Encoder.fit(config, {"user": {}, "item": {"vector": [[0.0] * width]}, "context": {}}, nothing, nothing)


def inputs(rows: list[ItemRow], done: list[Done] = (), users: int = 4) -> Inputs:  # type: ignore[assignment]
    """Everything was done on day 90, a second after the other."""
    user, item, action = (np.array(column) for column in zip(*done, strict=True)) if done else (np.empty(0, int),) * 3
    time, count = 90 * DAY + np.arange(len(user)), len(user)
    events = Events(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        action=action.astype(np.uint8),
        value=np.zeros(count, np.float32),
        time=time,
        request=np.full(count, -1),
        position=np.zeros(count, np.int16),
    )
    made = encoder(max((len(r.vector or ()) for r in rows), default=0))
    return Inputs(
        encoder=made,
        catalog=Catalog.of(item_keys(r.item_id for r in rows), item_rows(made, rows)),
        users=Features(np.zeros((users, 0), np.int32), np.zeros((users, 0), np.float32)),
        events=events,
        until=NOW,
        train=None,  # type: ignore[arg-type]
        valid=None,  # type: ignore[arg-type]
        user_statistics=Statistics.of(events.user, events.action, time, users),
        item_statistics=Statistics.of(events.item, events.action, time, len(rows)),
        user_keys=item_keys(f"u{number}" for number in range(users)),
    )


def query(catalog: Catalog, past: list[tuple[int, Action]] = (), **changes: Any) -> Query:  # type: ignore[assignment]
    """past: (item, action), newest first."""
    items, actions = (np.array(column) for column in zip(*past, strict=True)) if past else (np.empty(0, int),) * 2
    history = History(items.astype(np.int64), actions.astype(np.uint8), NOW - 1.0 - np.arange(len(items)))
    features = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    given = {"user": -1, "now": NOW, "size": 10, "scene": "", "seed": 1, "history": history, "features": features}
    return Query(**{**given, "catalog": catalog, **changes})


def published(catalog: Catalog, rows: list[ItemRow]) -> Catalog:
    """The catalogue with more items, published since."""
    columns = item_rows(encoder(catalog.columns["vector"][0].shape[1]), rows)
    return replace(
        catalog,
        keys=(catalog.keys[0], item_keys(r.item_id for r in rows)),
        columns={name: (pair[0], columns[name]) for name, pair in catalog.columns.items()},
        closed=np.zeros(len(catalog) + len(rows), np.bool_),
        version=catalog.version + 1,
    )


def closed(catalog: Catalog, *items: int) -> Catalog:
    """The catalogue with some items taken down."""
    down = catalog.closed.copy()
    down[list(items)] = True
    return replace(catalog, closed=down)
