"""Channels as rankers of the whole catalogue, beside published figures and beside peers on the same split.

    python benchmarks/quality_recall.py [DATASET …] [--only MODEL] [--choose]

A data set is a function that gives a Task: a split by one of the public protocols, the figures published for it, and
models by name. To add a row, add a model to its task: a function from the Split to scores of blocks of users. Settings
were chosen on a part of the training data (see docs/results.md), never on the test; --choose judges there.

Questions of another shape have a script of their own, which is started from here by the name of its set as well:

    citeulike-t             quality_cold.py         items that nobody has met, from their words alone
    ml-1m-sequential        quality_sequential.py   what comes next, leave one out
    foursquare-nyc          quality_lists.py        do places help?
    hetrec-lastfm           quality_lists.py        do friends help?
"""

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

import quality_cold
import quality_lists
import quality_sequential
from _models import Model, bpr, completion, ease, graph_filter, ials, implicit_als, itemcf, peers, popular
from _parts import served
from _results import data, result
from tamis.evaluate.protocols import Interactions, Split, given_split, judge, random_split, time_split
from tamis.recall.sequential import SequentialConfig
from tamis.recall.two_tower import TwoTowerConfig
from tamis.recall.usercf import UserCFConfig
from tamis.recall.youtube_dnn import YoutubeDnnConfig


@dataclass(frozen=True)
class Task:
    """published: name → (recall@k, ndcg@k), NaN where it was not given.   wanted: what to be above, the same.

    late: settings are chosen on the last part of the training time, not on drawn rows.
    """

    protocol: str
    split: Split
    k: int
    models: Mapping[str, Model]
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    wanted: tuple[float, float] = (float("nan"), float("nan"))
    late: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=list(DATASETS), choices=[*DATASETS, *SCRIPTS])
    parser.add_argument("--only", default="", help="only models whose name contains this; for the tables of this file")
    parser.add_argument("--choose", action="store_true", help="judge on a fifth of the training rows; the same")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # implicit converts its own input and warns of it
    for name in arguments.datasets:
        if name in SCRIPTS:
            SCRIPTS[name]()
            continue
        task = DATASETS[name]()
        task = for_choosing(task) if arguments.choose else task
        chosen = {name: model for name, model in task.models.items() if arguments.only in name}
        run(name, task, chosen)


def for_choosing(task: Task) -> Task:
    """The same models on the training rows alone: a fifth of each user's, or the last fifth of the time, is asked for.

    There are no published figures for that.
    """
    split = task.split
    columns = (getattr(split.data, name)[split.train] for name in ("user", "item", "time", "value"))
    rows = Interactions(*columns, split.data.users, split.data.items)
    inner = time_split(rows, 0.2) if task.late else random_split(rows, (0.8, 0.0, 0.2), 1)
    return replace(task, protocol=f"CHOOSING SETTINGS, {task.protocol}", split=inner, published={})


def run(name: str, task: Task, models: Mapping[str, Model]) -> None:
    """Prints one table, and a RESULT for the best of ours."""
    held_out = task.split.held_out()
    print(f"\n{name}: {task.protocol}; {len(held_out.users)} users ask, {len(task.split.train)} rows to learn from")
    print(f"{'':44} {f'recall@{task.k}':>9} {f'ndcg@{task.k}':>9} {'seconds':>8}", flush=True)
    for model, (recall, ndcg) in task.published.items():
        print(f"{'published: ' + model:44} {recall:9.4f} {ndcg:9.4f}")
    reached: dict[str, tuple[float, float]] = {}
    for model, fit in models.items():
        began = perf_counter()
        score = fit(task.split)
        took = perf_counter() - began
        figures = judge(score, held_out, (task.k,))
        reached[model] = figures[f"recall@{task.k}"], figures[f"ndcg@{task.k}"]
        print(f"{model:44} {reached[model][0]:9.4f} {reached[model][1]:9.4f} {took:8.1f}", flush=True)
    for at, metric in enumerate(("recall", "ndcg")):
        ours = {model: values[at] for model, values in reached.items() if not model.startswith("implicit")}
        theirs = [values[at] for model, values in reached.items() if model.startswith("implicit")]
        theirs += [values[at] for values in task.published.values() if np.isfinite(values[at])]
        if ours and theirs:
            best = max(ours, key=lambda model: ours[model])
            wanted = f"> {task.wanted[at]}" if np.isfinite(task.wanted[at]) else "> 1"
            result(f"{name} {metric}@{task.k}, {best} over the best other", ours[best], max(theirs), "", wanted)


def gowalla() -> Task:
    """The public split of the graph-recommendation papers."""
    folder = data("gowalla-ngcf")
    frames = (pl.read_parquet(folder / f"{part}.parquet") for part in ("train", "test"))
    parts = (Interactions.of(f["user_id"].to_numpy(), f["item_id"].to_numpy(), shape=(29_858, 40_981)) for f in frames)
    return Task(
        "given split (NGCF)",
        given_split(*parts),
        20,
        {
            "popular": popular,
            "implicit ALS 128, defaults": implicit_als(factors=128),
            "implicit ALS 128, alpha 10": implicit_als(factors=128, alpha=10.0, regularization=1.0),
            "ItemCF 100": itemcf(100),
            "ItemCF 100, iuf": itemcf(100, iuf=True),
            "iALS 256": ials(vector_size=256, unseen_weight=0.01, ridge=0.006),
            "graph filter 1024": graph_filter(components=1024, neighbours=200),
            "graph filter 1024, powers one half": graph_filter(
                components=1024, neighbours=200, user_power=0.5, item_power=0.5, output_power=0.5
            ),
        },
        {
            "ItemCF": (0.1570, 0.1214),
            "LightGCN": (0.1820, 0.1547),
            "GF-CF": (0.1849, 0.1518),
            "UltraGCN": (0.1862, 0.1580),
            "SimpleX": (0.1872, float("nan")),
            "BSPM": (0.1920, 0.1597),
        },
        (0.187, 0.158),
    )


def ml_100k() -> Task:
    frame = pl.read_parquet(data("ml-100k") / "ratings.parquet")
    rows = Interactions.of(frame["user_id"].to_numpy(), frame["item_id"].to_numpy(), frame["timestamp"].to_numpy())
    models: dict[str, Model] = {
        "popular": popular,
        **peers(),
        "ItemCF 100": itemcf(100),
        "iALS 128": ials(vector_size=128, unseen_weight=0.15, ridge=0.02),
        "BPR 64": bpr(vector_size=64, epochs=30),
        "EASE": ease(ridge=300.0),
        "graph filter 32": graph_filter(components=32, neighbours=500),
    }
    nan = float("nan")
    published = {"BiVAE": (nan, 0.475), "BPR": (nan, 0.442), "LightGCN": (nan, 0.420), "SAR": (nan, 0.382)}
    protocol = "every rating counts, random 75/25 by user, seed 42"
    return Task(protocol, random_split(rows, (0.75, 0.0, 0.25), 42), 10, models, published, (nan, 0.475))


def ml_1m_time() -> Task:
    liked, passed = ml_1m()
    split = time_split(liked, 0.2)
    before = passed.time < split.data.time[split.test].min()
    models: dict[str, Model] = {
        "popular": popular,
        **peers(),
        "ItemCF 100": itemcf(100),
        "UserCF 200": served(UserCFConfig(limit=0, neighbours=200)),
        "matrix completion 32": completion(passed.user[before], passed.item[before]),
        "iALS 128": ials(vector_size=128, unseen_weight=0.5, ridge=0.02),
        "BPR 64": bpr(vector_size=64, learning_rate=0.02, ridge=0.02),
        "EASE": ease(ridge=300.0),
        "graph filter 64": graph_filter(
            components=64, neighbours=200, user_power=0.5, item_power=0.5, output_power=0.5
        ),
        "two towers 64": served(TwoTowerConfig(**TOWERS, epochs=6)),
        "YouTube-DNN 64": served(YoutubeDnnConfig(**YOUTUBE, epochs=3)),
        "sequential 64": served(SequentialConfig(limit=0, patience=0, epochs=6)),
    }
    return Task("is_positive, last 20 % of time, cold dropped", split, 10, models, late=True)


def ml_1m_random() -> Task:
    liked, passed = ml_1m()
    models: dict[str, Model] = {
        "popular": popular,
        **peers(),
        "ItemCF 100": itemcf(100),
        "UserCF 200": served(UserCFConfig(limit=0, neighbours=200), drawn=True),
        "matrix completion 32": completion(passed.user, passed.item),
        "iALS 128": ials(vector_size=128, unseen_weight=0.15, ridge=0.02),
        "BPR 64": bpr(vector_size=64),
        "EASE": ease(ridge=300.0),
        "graph filter 256": graph_filter(components=256),
        "two towers 64": served(TwoTowerConfig(**TOWERS, epochs=6), drawn=True),
        "YouTube-DNN 64": served(YoutubeDnnConfig(**YOUTUBE, epochs=3), drawn=True),
    }
    return Task("is_positive, random 8:1:1 by user, seed 42", random_split(liked, seed=42), 10, models)


def movietweetings() -> Task:
    frame = pl.read_parquet(data("movietweetings-100k") / "ratings.parquet")
    rows = Interactions.of(frame["user_id"].to_numpy(), frame["imdb_id"].to_numpy(), frame["timestamp"].to_numpy())
    models: dict[str, Model] = {
        "popular": popular,
        **peers(),
        "ItemCF 100": itemcf(100),
        "iALS 64": ials(vector_size=64, unseen_weight=0.1, ridge=0.03),
        "BPR 64": bpr(vector_size=64),
        "graph filter 64": graph_filter(components=64, neighbours=500),
    }
    return Task("every rating counts, last 20 % of time, cold dropped", time_split(rows, 0.2), 10, models)


def ml_1m() -> tuple[Interactions, Interactions]:
    """(the ratings of 4 and 5, the lower ones of the same users and items)."""
    frame = pl.read_parquet(data("ml-1m-rebuilt") / "interactions.parquet")
    good, low = (frame.filter(pl.col("is_positive") == wanted) for wanted in (True, False))
    low = low.join(good, on="user_id", how="semi").join(good, on="item_id", how="semi")
    shape, numbers = [], []
    for name in ("user_id", "item_id"):
        known = np.unique(good[name])
        shape.append(len(known))
        numbers.append([np.searchsorted(known, part[name]) for part in (good, low)])
    parts = zip(*numbers, (good["timestamp"].to_numpy(), low["timestamp"].to_numpy()), strict=True)
    liked, passed = (Interactions.of(*columns, shape=(shape[0], shape[1])) for columns in parts)
    return liked, passed


TOWERS: dict[str, Any] = {"limit": 0, "vector_size": 64, "embedding_size": 64, "patience": 0}
YOUTUBE: dict[str, Any] = {"limit": 0, "user_examples": 0, "patience": 0}

DATASETS: dict[str, Callable[[], Task]] = {
    "gowalla": gowalla,
    "ml-100k": ml_100k,
    "ml-1m-time": ml_1m_time,
    "ml-1m-random": ml_1m_random,
    "movietweetings": movietweetings,
}

SCRIPTS: dict[str, Callable[[], None]] = {
    "citeulike-t": lambda: quality_cold.main([]),
    "ml-1m-sequential": lambda: quality_sequential.main([]),
    "foursquare-nyc": lambda: quality_lists.main(["foursquare-nyc"]),
    "hetrec-lastfm": lambda: quality_lists.main(["hetrec-lastfm"]),
}


if __name__ == "__main__":
    main()
