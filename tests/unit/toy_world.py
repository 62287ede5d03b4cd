"""A tiny clustered world as training inputs: each user likes one cluster of items, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.data.dataset import Events
from tamis.data.samples import Samples, Timeline
from tamis.features.encode import Encoder
from tamis.features.inputs import Inputs
from tamis.features.online import query_features
from tamis.features.spec import (
    Age,
    Category,
    Count,
    FeaturesConfig,
    HistoryConfig,
    Hour,
    Id,
    Number,
    Rate,
    Scene,
    Tags,
    Vector,
)
from tamis.features.statistics import Statistics
from tamis.types import ACTION_CODE, ACTIONS, Catalog, History, Query, item_keys

DAY = 86_400.0
CLUSTERS = 6
CLICK, LIKE, IMPRESSION = ACTION_CODE["click"], ACTION_CODE["like"], ACTION_CODE["impression"]
FEATURES = FeaturesConfig(
    user={"user_id": Id(), "age": Number(column="age"), "clicks": Count(action="click", as_of="now")},
    context={"hour": Hour(), "scene": Scene()},
    item={
        "item_id": Id(),
        "category": Category(column="category"),
        "tags": Tags(column="tags", width=2),
        "duration": Number(column="duration_seconds", log1p=True),
        "content": Vector(column="vector"),
        "ctr": Rate(action="click"),
        "shown": Count(action="impression"),
        "age": Age(),
    },
    history=HistoryConfig(length=8, fields=("item_id", "category"), actions=("click",)),
)


@dataclass(frozen=True)
class Toy:
    """The inputs, and the truth behind them: the cluster of each user and item."""

    inputs: Inputs
    user_cluster: np.ndarray
    item_cluster: np.ndarray

    def query(self, user: int, history: list[int], catalog: Catalog | None = None, now: float | None = None) -> Query:
        """A request of a user (−1 unknown) whose last clicks, newest first, were `history`."""
        inputs = self.inputs
        now = inputs.until if now is None else now
        counts = np.zeros(len(ACTIONS), np.float32)
        counts[CLICK] = len(history)
        features = query_features(inputs.encoder, user, {"age": 30}, counts, (now, "feed", {}))
        clicks = np.asarray(history, np.int64)
        times = now - 60.0 * (1 + np.arange(len(history)))
        past = History(clicks, np.full(len(clicks), CLICK, np.uint8), times)
        return Query(user, now, 20, "feed", 1, past, features, catalog or inputs.catalog)

    def likes(self, cluster: int) -> np.ndarray:
        """Items of a cluster."""
        return np.flatnonzero(self.item_cluster == cluster)

    def with_fresh(self, clusters: list[int]) -> Catalog:
        """The catalogue with one more item per given cluster: known attributes, unseen ids, no events."""
        raw = raw_items(np.random.default_rng(5), np.asarray(clusters))
        old, encoder = self.inputs.catalog, self.inputs.encoder
        columns = encoder.items(np.full(len(clusters), -1), raw)
        return replace(
            old,
            keys=(old.keys[0], item_keys(f"fresh{i}" for i in range(len(clusters)))),
            columns={name: (old.columns[name][0], columns[name]) for name in old.columns},
            closed=np.zeros(len(old) + len(clusters), np.bool_),
            version=old.version + 1,
        )


def raw_items(random: np.random.Generator, clusters: np.ndarray) -> dict[str, list]:
    centres = np.random.default_rng(77).normal(size=(CLUSTERS, 4))
    return {
        "category": [f"c{cluster}" for cluster in clusters],
        "tags": [[f"t{cluster}", f"n{random.integers(5)}"] for cluster in clusters],
        "duration_seconds": random.uniform(5, 300, len(clusters)).tolist(),
        "publish_time": (random.uniform(0, 3, len(clusters)) * DAY).tolist(),
        "vector": (centres[clusters] + 0.5 * random.normal(size=(len(clusters), 4))).tolist(),
    }


def own_cluster(users: NDArray[Any], items: NDArray[Any], times: NDArray[Any]) -> NDArray[Any]:
    """A click's chance from the clusters of user and item: 0.8 where they are the same, else 0.03."""
    return np.where(users == items, 0.8, 0.03)


@dataclass(frozen=True)
class Rules:
    """What a world of another kind does in its own way.

    chance: of a click, from the clusters of user and item and the moment.   raw: the items' attributes by cluster.
    weights: [items] how often each is shown; None = all alike.   days: from the first request to the last; 0 = as many
    as a user has requests.   train_share: of the requests, by time; the rest validates.
    """

    chance: Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]] = own_cluster
    raw: Callable[[np.random.Generator, NDArray[Any]], dict[str, list[Any]]] = raw_items
    features: FeaturesConfig = field(default_factory=lambda: FEATURES)
    weights: NDArray[np.float64] | None = None
    days: int = 0
    train_share: float = 0.85


def toy_world(
    users: int = 120, items: int = 240, requests: int = 10, shown: int = 10, seed: int = 3, rules: Rules | None = None
) -> Toy:
    """Each user makes `requests` requests on as many days and is shown `shown` random items each time.

    Click: 0.8 in the user's cluster, 0.03 elsewhere. Like, if clicked: 0.7 for items with an even number, else 0.1.
    """
    rules = rules or Rules()
    random = np.random.default_rng(seed)
    user_cluster, item_cluster = np.arange(users) % CLUSTERS, random.integers(0, CLUSTERS, items)
    raw = {"user": {"age": random.integers(15, 60, users).tolist()}, "item": rules.raw(random, item_cluster)}
    days = rules.days or requests
    time = np.sort(random.uniform(4, 4 + days, users * requests)) * DAY
    user = random.permutation(np.repeat(np.arange(users), requests)).astype(np.int32)
    drawn = [random.choice(items, shown, replace=False, p=rules.weights) for _ in user]
    item = np.concatenate(drawn).astype(np.int32)
    row_user, row_time = np.repeat(user, shown), np.repeat(time, shown)
    click = random.random(len(item)) < rules.chance(user_cluster[row_user], item_cluster[item], row_time)
    like = click & (random.random(len(item)) < np.where(item % 2 == 0, 0.7, 0.1))
    rows = [(np.arange(len(item)), IMPRESSION), (np.flatnonzero(click), CLICK), (np.flatnonzero(like), LIKE)]
    events = _events(rows, row_user, item, row_time)
    statistics = (
        Statistics.of(events.user, events.action, events.time, users),
        Statistics.of(events.item, events.action, events.time, items),
    )
    context = {"scene": ["feed"]}
    encoder = Encoder.fit(rules.features, {**raw, "context": context}, *statistics)
    samples = _samples((user, time, item, shown), click, like, users)
    cut = int(rules.train_share * len(user))
    until = (4 + days) * DAY
    counts = statistics[1].counts(np.arange(items), until)
    columns = encoder.items(np.arange(items), raw["item"], counts)
    inputs = Inputs(
        encoder=encoder,
        catalog=Catalog.of(item_keys(f"i{i}" for i in range(items)), columns),
        users=encoder.users(np.arange(users), raw["user"]),
        events=events,
        until=until,
        train=part_of(samples, 0, cut),
        valid=part_of(samples, cut, len(user)),
        user_statistics=statistics[0],
        item_statistics=statistics[1],
    )
    return Toy(inputs, user_cluster, item_cluster)


def _events(rows, user, item, time) -> Events:
    at = np.concatenate([which for which, _ in rows])
    action = np.concatenate([np.full(len(which), code, np.uint8) for which, code in rows])
    order = np.argsort(time[at], kind="stable")
    at, action, count = at[order], action[order], len(order)
    zeros = np.zeros(count, np.float32)
    return Events(
        user[at], item[at], action, zeros, time[at], np.full(count, -1, np.int64), np.full(count, -1, np.int16)
    )


def _samples(shown_rows, click, like, users: int) -> Samples:
    user, time, item, shown = shown_rows
    row_user, row_time = np.repeat(user, shown), np.repeat(time, shown)
    order = np.lexsort((row_time[click], row_user[click]))
    owner, moment = row_user[click][order], row_time[click][order]
    starts = np.searchsorted(owner, np.arange(users + 1))
    timeline = Timeline(item[click][order], np.full(len(order), CLICK, np.uint8), moment, starts)
    ends = [starts[u] + np.searchsorted(moment[starts[u] : starts[u + 1]], t) for u, t in zip(user, time, strict=True)]
    return Samples(
        user=user,
        time=time,
        scene=np.zeros(len(user), np.int32),
        scenes=("feed",),
        context=pl.DataFrame({"row": np.arange(len(user))}),
        history_start=starts[user],
        history_end=np.asarray(ends, np.int64),
        first=np.arange(len(user) + 1) * shown,
        item=item,
        position=np.tile(np.arange(shown, dtype=np.int16), len(user)),
        labels={"click": click.astype(np.float32), "like": like.astype(np.float32)},
        timeline=timeline,
    )


def part_of(samples: Samples, begin: int, end: int) -> Samples:
    """The requests begin : end of the samples."""
    rows = slice(int(samples.first[begin]), int(samples.first[end]))
    return replace(
        samples,
        user=samples.user[begin:end],
        time=samples.time[begin:end],
        scene=samples.scene[begin:end],
        context=samples.context[begin:end],
        history_start=samples.history_start[begin:end],
        history_end=samples.history_end[begin:end],
        first=samples.first[begin : end + 1] - samples.first[begin],
        item=samples.item[rows],
        position=samples.position[rows],
        labels={name: label[rows] for name, label in samples.labels.items()},
    )
