"""What recall costs per request on one core, channel by channel and all together, in a catalogue of 100,000 items.

    python benchmarks/speed_channels.py [--items N] [--users N] [--epochs E] [--keep FOLDER]

A world of the demo's kind is made and the recall stage of the demo's template is trained on it, with the other channels
that have a model of their own beside it; quality is no matter here, so one epoch is enough. Then the stage, with the
demo's channels and with all, runs as the server runs it, one request after the other in one thread: histories and what
was seen as the store keeps them (Bloom filters), a position, what waits of earlier requests, and `FRESH` items newer
than the bundle, in one snapshot of the catalogue. A channel's time is that of its answer inside the run with all
channels; a stage's has the union, the filters for what was seen, blocked or excluded, and the cut in it.

--keep FOLDER: the project is made there, or taken from there.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
from msgspec import structs

from _results import result
from tamis.artifact import current_name, open_bundle
from tamis.assemble import FunnelConfig, Model, ProjectConfig, StageConfig, load_model
from tamis.bloom import Generations
from tamis.config import convert, override
from tamis.data.dataset import Dataset
from tamis.data.write import import_tables
from tamis.evaluate.queries import NEWEST, Past
from tamis.funnel import Funnel
from tamis.project import Project, create
from tamis.simulate.words import CITIES
from tamis.simulate.world import World, WorldConfig
from tamis.state.fold import row_from_history
from tamis.train import train
from tamis.types import TIMELINE, Catalog, Query, item_keys

FRESH, REQUESTS, ROUNDS = 1000, 300, 3
NETS = ("two_tower", "deep_retrieval", "youtube_dnn", "sequential")
MORE: dict[str, Any] = {
    "ials": {"kind": "ials"},
    "bpr": {"kind": "bpr"},
    "matrix_completion": {"kind": "matrix_completion"},
    "youtube_dnn": {"kind": "youtube_dnn"},
    "sequential": {"kind": "sequential", "length": 50, "batch_size": 3200},
    "deep_retrieval": {"kind": "deep_retrieval"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=None)
    asked = parser.parse_args()
    folder = asked.keep or Path(tempfile.mkdtemp()) / "feed"
    if not current_name(folder / "bundles"):
        build(folder, asked)
    model = load_model(open_bundle(folder / "bundles"))
    queries = list(requests(model, Dataset.open(folder / "data")))
    lengths = [len(np.unique(query.history.items)) for query in queries]
    print(
        f"{len(model.catalog):,} items and {FRESH:,} published since; {len(queries)} requests, {ROUNDS} rounds; "
        f"distinct items in a history {np.percentile(lengths, [10, 50, 90]).round().tolist()} (10 %, median, 90 %)"
    )
    timed(model, queries)


def build(folder: Path, asked: argparse.Namespace) -> None:
    """Makes the world and trains the recall stage on it."""
    if not (folder / "tamis.toml").exists():
        create(folder, "demo")
    project = Project(folder)
    world = WorldConfig(items=asked.items, users=asked.users, authors=asked.items // 15)
    import_tables(World.generate(world).tables(), project.data)
    began = perf_counter()
    trained = train(recall_alone(project.config, asked.epochs), project.data, project.bundles)
    longest = sorted(trained.seconds.items(), key=lambda pair: -pair[1])[:8]
    print(f"trained in {perf_counter() - began:.0f} s: {', '.join(f'{name} {took:.0f}' for name, took in longest)}")


def recall_alone(config: ProjectConfig, epochs: int) -> ProjectConfig:
    """The demo's recall stage with more channels, and no stage behind it."""
    recall = config.funnel.recall
    more = convert({"steps": MORE}, StageConfig).steps
    sources = {name: step for name, step in recall.steps.items() if name not in ("seen", "blocked", "excluded")}
    filters = {name: step for name, step in recall.steps.items() if name not in sources}
    stage = structs.replace(recall, steps={**sources, **more, **filters}, budget_ms=0.0)
    funnel = FunnelConfig(recall=stage, prerank=StageConfig(optional=True), rank=StageConfig(optional=True))
    changes = {f"funnel.recall.steps.{name}.epochs": epochs for name in NETS}
    small = {"evaluate.most_users": 20, "evaluate.most_requests": 10}
    return override(structs.replace(config, funnel=funnel), {**changes, **small})


def requests(model: Model, dataset: Dataset) -> Iterator[Query]:
    """Requests of users with a past, at the end of the log, all with one snapshot of the catalogue."""
    now = dataset.span()[1] + 1
    past = Past.of(model, dataset, now)
    random = np.random.default_rng(1)
    catalog = with_fresh(model, now)
    acted = np.unique(past.events.user)
    for user in random.choice(acted, min(REQUESTS, len(acted)), replace=False).tolist():
        query = past.query(user, now, 20)
        begin, end = past.by_user.starts[user : user + 2].tolist()
        met = np.zeros(end - begin, TIMELINE)
        met["key"] = catalog.keys_of(past.by_user.item[begin:end].astype(np.int64))
        met["time"], met["action"] = past.by_user.time[begin:end], past.by_user.action[begin:end]
        city, latitude, longitude = CITIES[random.integers(WorldConfig().cities)]
        context = {"lat": latitude, "lon": longitude, "city": city}
        waiting = random.choice(len(catalog), 100, replace=False)
        seen = Generations(row_from_history(met, model.config.state).seen)
        yield replace(query, catalog=catalog, seen=seen, context=context, cached=waiting)


def with_fresh(model: Model, now: float) -> Catalog:
    """The bundle's catalogue and copies of some of its items, published in the last hours under other names."""
    old = model.catalog
    rows = [
        structs.replace(model.describe(item), item_id=f"fresh{item}", publish_time=now - 10.0 * item)
        for item in range(FRESH)
    ]
    columns = model.item_rows(rows)
    newest = np.concatenate([len(old) + np.arange(FRESH), old.newest])[:NEWEST]
    return replace(
        old,
        keys=(old.keys[0], item_keys(row.item_id for row in rows)),
        columns={name: (pair[0], columns[name]) for name, pair in old.columns.items()},
        closed=np.zeros(len(old) + FRESH, np.bool_),
        newest=newest,
        version=old.version + 1,
    )


def timed(model: Model, queries: list[Query]) -> None:
    """Prints the milliseconds of the demo's stage, of the stage with all channels, and of each step of that."""
    whole = model.funnel.stages[0]
    demo = replace(whole, steps={name: step for name, step in whole.steps.items() if name not in MORE})
    funnels = {"the demo's channels": Funnel([demo]), "all channels": Funnel([whole])}
    took: dict[str, list[float]] = {}
    rows: dict[str, list[int]] = {}
    for turn in range(ROUNDS + 1):
        for name, funnel in funnels.items():
            for query in queries if turn else queries[:20]:  # the first: kernels are compiled, files are read
                began = perf_counter()
                page = funnel.run(query)
                ended = perf_counter()
                sleep((ended - began) / 5)  # a process of real-time priority is stopped when it never rests
                if broken := [f"{step.step}: {step.error}" for step in page.trace if step.status != "ok"]:
                    raise SystemExit("; ".join(broken))
                found = [(name, 1000 * (ended - began), len(page.items))]
                if name == "all channels":
                    found += [(step.step, step.milliseconds, step.rows_out) for step in page.trace]
                for each, milliseconds, count in found if turn else ():
                    took.setdefault(each, []).append(milliseconds)
                    rows.setdefault(each, []).append(count)
    print(f"{'step':20} {'p50 ms':>7} {'p99 ms':>7} {'rows':>6}")
    for name in sorted(took, key=lambda name: -float(np.median(took[name]))):
        p50, p99 = np.percentile(took[name], [50, 99])
        print(f"{name:20} {p50:7.3f} {p99:7.3f} {np.mean(rows[name]):6.0f}")
    for name in funnels:
        result(f"recall stage, {name}, p50", float(np.median(took[name])), None, "ms", "< 6")
        result(f"recall stage, {name}, p99", float(np.percentile(took[name], 99)), None, "ms")


if __name__ == "__main__":
    main()
