"""Channels as rankers of the whole catalogue, beside published figures and beside peers on the same split.

    python benchmarks/quality_recall.py [DATASET …] [--only MODEL]

A data set is a function that gives a Task: a split by one of the public protocols, the figures published for it, and
models by name. To add a row, add a model to its task: a function from the Split to scores of blocks of users. Settings
were chosen on a part of the training data (see docs/results.md), never on the test.
"""

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from _results import data, result
from tamis.evaluate.protocols import Interactions, Score, Split, given_split, judge, random_split, time_split
from tamis.recall.bpr import BPRConfig, rank_pairs
from tamis.recall.ease import EASEConfig, regressed
from tamis.recall.graph_filter import GraphFilterConfig, filtered
from tamis.recall.ials import IALSConfig, factorise
from tamis.recall.itemcf import similar_items
from tamis.recall.neighbours import Neighbours

Model = Callable[[Split], Score]


@dataclass(frozen=True)
class Task:
    """published: name → (recall@k, ndcg@k), NaN where it was not given.   wanted: what to be above, the same."""

    protocol: str
    split: Split
    k: int
    models: Mapping[str, Model]
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    wanted: tuple[float, float] = (float("nan"), float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--only", default="", help="only models whose name contains this")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # implicit converts its own input and warns of it
    for name in arguments.datasets:
        task = DATASETS[name]()
        chosen = {name: model for name, model in task.models.items() if arguments.only in name}
        run(name, task, chosen)


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
    models: dict[str, Model] = {
        "popular": popular,
        **peers(),
        "ItemCF 100": itemcf(100),
        "iALS 64": ials(vector_size=64, unseen_weight=0.3, ridge=0.03),
        "BPR 64": bpr(vector_size=64, learning_rate=0.02, ridge=0.02),
        "EASE": ease(ridge=300.0),
        "graph filter 64": graph_filter(
            components=64, neighbours=200, user_power=0.5, item_power=0.5, output_power=0.5
        ),
    }
    return Task("is_positive, last 20 % of time, cold dropped", time_split(ml_1m(), 0.2), 10, models)


def ml_1m_random() -> Task:
    models: dict[str, Model] = {
        "popular": popular,
        **peers(),
        "ItemCF 100": itemcf(100),
        "iALS 128": ials(vector_size=128, unseen_weight=0.15, ridge=0.02),
        "BPR 64": bpr(vector_size=64),
        "EASE": ease(ridge=300.0),
        "graph filter 256": graph_filter(components=256),
    }
    return Task("is_positive, random 8:1:1 by user, seed 42", random_split(ml_1m(), seed=42), 10, models)


def movietweetings() -> Task:
    frame = pl.read_parquet(data("movietweetings-100k") / "ratings.parquet")
    rows = Interactions.of(frame["user_id"].to_numpy(), frame["imdb_id"].to_numpy(), frame["timestamp"].to_numpy())
    models: dict[str, Model] = {
        "popular": popular,
        **peers(),
        "ItemCF 100": itemcf(100),
        "iALS 64": ials(vector_size=64, unseen_weight=0.1, ridge=0.01),
        "BPR 64": bpr(vector_size=64),
        "graph filter 256": graph_filter(components=256),
    }
    return Task("every rating counts, last 20 % of time, cold dropped", time_split(rows, 0.2), 10, models)


def ml_1m() -> Interactions:
    """The ratings of 4 and 5."""
    frame = pl.read_parquet(data("ml-1m-rebuilt") / "interactions.parquet").filter(pl.col("is_positive"))
    return Interactions.of(frame["user_id"].to_numpy(), frame["item_id"].to_numpy(), frame["timestamp"].to_numpy())


DATASETS: dict[str, Callable[[], Task]] = {
    "gowalla": gowalla,
    "ml-100k": ml_100k,
    "ml-1m-time": ml_1m_time,
    "ml-1m-random": ml_1m_random,
    "movietweetings": movietweetings,
}


def popular(split: Split) -> Score:
    counts = np.asarray(split.matrix().sum(axis=0)).ravel()
    return lambda users: np.broadcast_to(counts, (len(users), len(counts)))


def itemcf(neighbours: int, **options: Any) -> Model:
    def fit(split: Split) -> Score:
        return by_table(split, Neighbours(*similar_items(split.matrix(), neighbours, **options)))

    return fit


def graph_filter(**options: Any) -> Model:
    return lambda split: by_table(split, filtered(split.matrix(), GraphFilterConfig(**options)))


def ease(**options: Any) -> Model:
    return lambda split: by_table(split, regressed(split.matrix(), EASEConfig(**options)))


def ials(**options: Any) -> Model:
    return lambda split: by_vectors(*factorise(split.matrix(), IALSConfig(**options), seed=1))


def bpr(**options: Any) -> Model:
    return lambda split: by_vectors(*rank_pairs(split.matrix(), BPRConfig(**options), seed=1))


def peers() -> dict[str, Model]:
    """implicit's models, at its defaults and at settings that suit these sets better."""
    return {
        "implicit cosine 100": implicit_cosine(100),
        "implicit ALS 64, defaults": implicit_als(factors=64),
        "implicit ALS 64, alpha 10": implicit_als(factors=64, alpha=10.0, regularization=1.0),
        "implicit BPR 64": implicit_bpr(factors=64, iterations=200),
    }


def implicit_cosine(neighbours: int) -> Model:
    def fit(split: Split) -> Score:
        from implicit.nearest_neighbours import CosineRecommender

        model = CosineRecommender(K=neighbours + 1, num_threads=1)
        model.fit(split.matrix(), show_progress=False)
        known = split.matrix()
        return lambda users: (known[users] @ model.similarity).toarray()

    return fit


def implicit_als(**options: Any) -> Model:
    def fit(split: Split) -> Score:
        from implicit.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(random_state=1, num_threads=1, **options)
        model.fit(split.matrix(), show_progress=False)
        return by_vectors(model.user_factors, model.item_factors)

    return fit


def implicit_bpr(**options: Any) -> Model:
    def fit(split: Split) -> Score:
        from implicit.bpr import BayesianPersonalizedRanking

        model = BayesianPersonalizedRanking(random_state=1, num_threads=1, **options)
        model.fit(split.matrix(), show_progress=False)
        return by_vectors(model.user_factors, model.item_factors)

    return fit


def by_table(split: Split, table: Neighbours) -> Score:
    """Σ over the items that a user has of interest · weight, as the channels that walk through a table score."""
    known, there = split.matrix(), table.ids >= 0
    rows = np.repeat(np.arange(len(table)), there.sum(axis=1))
    weights = csr_matrix((table.weights[there], (rows, table.ids[there])), shape=(len(table),) * 2)
    return lambda users: (known[users] @ weights).toarray()


def by_vectors(users: Any, items: Any) -> Score:
    return lambda asked: users[asked] @ items.T


if __name__ == "__main__":
    main()
