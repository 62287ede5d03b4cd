"""A bundle without training: a tiny catalogue, a deterministic funnel, and an application over them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from litestar import Litestar
from numpy.typing import NDArray

from tamis.artifact import Bundle, BundleWriter, open_bundle
from tamis.data.ids import Ids
from tamis.errors import NotFound, RequestError
from tamis.funnel import Funnel, Stage
from tamis.serving.app import create
from tamis.serving.engine import Engine
from tamis.serving.limits import Gate
from tamis.serving.reload import warm_up
from tamis.serving.service import Fleet, Service
from tamis.serving.workers import end_with_parent, fleet_folder, launched, log_as_json, watch_bundles
from tamis.state.memory import Memory
from tamis.state.protocol import ItemRow, State
from tamis.types import ACTIONS, Candidates, Catalog, Columns, Features, Query, item_keys

ITEMS = 60
NOW = 1_700_000_000.0


class Newest:
    """The newest items."""

    def recall(self, query: Query) -> Candidates:
        return Candidates.of(query.catalog.newest[:200])


class Popular:
    """Items of the bundle, the lowest number first."""

    def recall(self, query: Query) -> Candidates:
        return Candidates.of(np.arange(min(30, query.catalog.base)))


class Near:
    """The items numbered after the last one that the user did something with."""

    def recall(self, query: Query) -> Candidates:
        known = query.history.items[query.history.items >= 0]
        if not len(known):
            return Candidates.empty()
        near = known[0] + np.arange(1, 4)
        return Candidates.of(near[near < len(query.catalog)])


class Allowed:
    """Not shown before, not closed, not excluded."""

    def keep(self, query: Query, items: Candidates) -> NDArray[np.bool_]:
        shown = query.seen.contains(query.catalog.keys_of(items.ids))
        return ~(shown | query.catalog.closed[items.ids] | np.isin(items.ids, query.exclude))


class Fresh:
    """Near items first, then by publish time."""

    def score(self, query: Query, items: Candidates) -> Columns:
        published = query.catalog.column("publish_time", items.ids)
        last = query.history.items[0] if len(query.history) else -100
        near = (items.ids > last) & (items.ids <= last + 3)
        return {"score": published + 1e12 * near, "click": 1.0 / (1.0 + items.ids)}


class Slow:
    """Keeps the processor waiting."""

    def __init__(self, milliseconds: float) -> None:
        self.seconds = milliseconds / 1000

    def score(self, query: Query, items: Candidates) -> Columns:
        time.sleep(self.seconds)
        return {"slow": np.zeros(len(items))}


class Broken:
    """An outage."""

    def recall(self, query: Query) -> Candidates:
        raise OSError("the store is away")


class Top:
    """What was asked for, best first."""

    def pick(self, query: Query, items: Candidates) -> NDArray[np.intp]:
        return np.arange(min(query.size, len(items)))


def funnel(extra: Mapping[str, Any] | None = None) -> Funnel:
    sources = {"near": Near(), "newest": Newest(), "popular": Popular(), **(extra or {}), "allowed": Allowed()}
    return Funnel(
        [
            Stage("recall", sources, limit=200),
            Stage("rank", {"fresh": Fresh()}, limit=50),
            Stage("rerank", {"top": Top()}, limit=0),
        ]
    )


@dataclass
class FakeModel:
    """See serving.model.Model."""

    name: str = "one"
    items: int = ITEMS
    funnel: Funnel = field(default_factory=funnel)
    kinds: Mapping[str, str] = field(default_factory=lambda: {"newest": "newest", "near": "itemcf"})
    history_actions: NDArray[np.bool_] = field(default_factory=lambda: np.ones(len(ACTIONS), np.bool_))
    width: int = 3
    broken_items: tuple[str, ...] = ()

    @cached_property
    def item_ids(self) -> Ids:
        return Ids.of([f"i{number}" for number in range(self.items)])

    @cached_property
    def user_ids(self) -> Ids:
        return Ids.of([f"u{number}" for number in range(20)])

    @cached_property
    def catalog(self) -> Catalog:
        rows = [ItemRow(item_id=f"i{n}", publish_time=NOW - 1000.0 * (n + 1)) for n in range(self.items)]
        return Catalog.of(item_keys(row.item_id for row in rows), self.item_rows(rows))

    def check(self, side: str, values: Mapping[str, Any]) -> None:
        if values.get("tags") == "no list":
            raise RequestError("tags: wanted a list", "tags")

    def query_features(self, user: int, profile: Mapping[str, Any], counts: NDArray[Any], moment: Any) -> Features:
        return Features(np.array([[user + 1]], np.int32), np.array([[counts.sum()]], np.float32))

    def item_rows(self, rows: Sequence[ItemRow]) -> Mapping[str, NDArray[Any]]:
        if any(row.item_id in self.broken_items for row in rows):
            raise ValueError("this item cannot be encoded")
        times = [np.nan if row.publish_time is None else row.publish_time for row in rows]
        return {
            "codes": np.zeros((len(rows), 2), np.int32),
            "dense": np.array([[row.quality or 0.0] for row in rows], np.float32).reshape(len(rows), 1),
            "publish_time": np.array(times, np.float64),
            "vector": np.array([row.vector or (0.0,) * self.width for row in rows], np.float32).reshape(-1, self.width),
        }

    def similar(self, item: int, size: int, catalog: Catalog) -> tuple[NDArray[Any], NDArray[Any]]:
        if item == self.items - 1:
            raise NotFound("no neighbours", "item_id")
        near = np.flatnonzero(~catalog.closed)
        near = near[near != item][:size] if item >= self.items else near[near > item][:size]
        return near, 1.0 / (1.0 + np.arange(len(near)))

    def describe(self, item: int) -> ItemRow:
        return ItemRow(item_id=f"i{item}", author="somebody", publish_time=NOW - 1000.0 * (item + 1))


def engine(model: FakeModel | None = None, state: State | None = None) -> Engine:
    return Engine(model or FakeModel(), state or Memory(), clock=lambda: NOW)


def service(threads: int = 2, queue: int = 32, deadline_ms: float = 2000.0, **options: Any) -> Service:
    return Service(Gate("rank", threads, queue, deadline_ms), Gate("store", 2, 64, 2000.0), **options)


def write_bundle(root: Path, items: int = ITEMS, works: bool = True, slow_ms: float = 0.0) -> Bundle:
    """A finished bundle that `load_fake` can load, not published yet. slow_ms: sleep in the rank stage."""
    writer = BundleWriter(root)
    facts = {"items": items, "works": works, "slow_ms": slow_ms}
    (writer.folder("fake") / "model.json").write_bytes(msgspec.json.encode(facts))
    return writer.finish({"code_version": "0", "config_digest": "0", "seed": 0, "trained_to": 0.0})


def load_fake(state: State) -> Any:
    """A loader of the bundles that `write_bundle` writes."""

    def load(path: Path) -> Engine:
        bundle = open_bundle(path)
        made = msgspec.json.decode((bundle.folder("fake") / "model.json").read_bytes())
        model = FakeModel(name=bundle.name, items=made["items"])
        if made["slow_ms"]:
            stages = list(model.funnel.stages)
            stages[1] = Stage("rank", {**stages[1].steps, "slow": Slow(made["slow_ms"])}, limit=50)
            model.funnel = Funnel(stages)
        if not made["works"]:
            model.funnel = Funnel([Stage("recall", {"unusable": Unusable()}, limit=10)])
        fresh = Engine(model, state)
        warm_up(fresh, users=2)
        return fresh

    return load


class Unusable:
    """A source that cannot work at all: it gives an item twice."""

    def recall(self, query: Query) -> Candidates:
        return Candidates.of([0, 0])


class Launch(msgspec.Struct):
    """What `create_app` is told."""

    bundles: str
    workers: int


def create_app() -> Litestar:
    """What `workers.run` starts when the tests ask for it: fake bundles over a state in memory."""
    launch = msgspec.json.decode(launched(), type=Launch)
    log_as_json()
    end_with_parent()
    state = Memory()
    made = service(fleet=Fleet(fleet_folder(), launch.workers))
    watch = watch_bundles(made, Path(launch.bundles), load_fake(state), 0.1)
    return create(made, on_shutdown=(watch.stop, made.close, state.close))
