"""What each choice of the two towers is worth: recall of held-out positives, for popular and for rare items.

    python benchmarks/ablate_two_tower.py [--set demo|ml-1m] [--groups losses,log_q,…] [--seeds N] [--epochs N]

Every row is trained for the same number of epochs on the days before the held-out ones, without early stopping, and
differs from the first row of its group in what its name says. For each held-out request the whole catalogue is ranked
by the served vectors, without what the user had done or been shown; recall@100 is the share of the request's positives
that are found. head: the items that half of the training positives are of; tail: all others. Mean and, with several
seeds, the standard deviation over them.

groups: losses, log_q, interests, objectives (one vector of the user's for each kind of action), masks (of the
self-supervised task), weights (of it), hard (negatives that the funnel of a bundle trained a day earlier cut; it is
trained first, all parts of it) and warm (one pass over the last day that begins with that bundle, against the same pass
alone and against all days).
"""

import argparse
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs

from _prepared import periods
from _results import data, result
from tamis.assemble import Model, ProjectConfig, load_model
from tamis.config import override
from tamis.data.dataset import DAY_SECONDS, Dataset
from tamis.data.sources import read_source
from tamis.data.split import by_time
from tamis.data.write import import_tables
from tamis.evaluate.dropped import dropped_items
from tamis.features.earlier import Earlier
from tamis.features.inputs import Inputs
from tamis.project import create, open_project
from tamis.recall.two_tower import SelfSupervisedConfig, TwoTower, TwoTowerConfig
from tamis.simulate.world import World, WorldConfig
from tamis.train import since, train

Change = dict[str, Any]
K, MOST = 100, 4000
FOUR = ("click", "like", "collect", "share")


def masked(mask: str, weight: float = 0.1) -> Change:
    return {"self_supervised": SelfSupervisedConfig(weight=weight, mask=mask)}


GROUPS: dict[str, dict[str, Change]] = {
    "losses": {
        "listwise": {},
        "pointwise 1:3": {"loss": "pointwise"},
        "pairwise hinge": {"loss": "pairwise_hinge"},
        "pairwise logistic": {"loss": "pairwise_logistic"},
    },
    "log_q": {
        "logQ 1": {},
        "logQ 0.25": {"log_q": 0.25},
        "logQ 0": {"log_q": 0.0},
        "logQ 1, batch alone": {"extra_negatives": 0},
        "logQ 0, batch alone": {"extra_negatives": 0, "log_q": 0.0},
    },
    "interests": {f"{count} interests": {"interests": count} for count in (1, 2, 4)},
    "objectives": {
        "one for clicks": {},
        "one for all four": {"positives": FOUR},
        "four objectives": {"positives": FOUR, "objectives": True},
    },
    "masks": {"none": {}} | {mask: masked(mask) for mask in ("random", "dropout", "complementary", "correlated")},
    "weights": {f"weight {weight}": masked("correlated", weight) for weight in (0.0, 0.03, 0.1, 0.3, 1.0)},
    "hard": {f"hard share {share}": {"hard_share": share} for share in (0.0, 0.01, 0.1, 0.5)},
    "warm": {"all days": {}, "last day alone": {"epochs": 1}, "last day, warm": {"epochs": 1}},
}


class Trial:
    """A data set, ready to be trained on and judged by."""

    def __init__(self, config: ProjectConfig, dataset: Dataset) -> None:
        self.config, self.dataset = config, dataset
        self.split = by_time(dataset, config.split)
        self.inputs, self.test = periods(config, dataset, self.split)
        step = next(s for s in config.funnel.recall.steps.values() if isinstance(s, TwoTowerConfig))
        self.step = structs.replace(step, patience=0)
        self._judge_by()

    def _judge_by(self) -> None:
        samples, events = self.test.valid, self.inputs.events
        acted = samples.labels["click"] > 0
        owner = np.repeat(np.arange(len(samples)), np.diff(samples.first))
        asked = np.unique(owner[acted])
        asked = np.sort(np.random.default_rng(1).permutation(asked)[:MOST])
        self.asked = asked
        rows = np.flatnonzero(acted & np.isin(owner, asked))
        self.owner, self.item = np.searchsorted(asked, owner[rows]), samples.item[rows].astype(np.int64)
        met = events.take(np.argsort(events.user, kind="stable"))
        starts = np.searchsorted(met.user, np.arange(len(self.dataset.users) + 1))
        self.met = [np.unique(met.item[starts[u] : starts[u + 1]]) for u in samples.user[asked]]
        counts = np.bincount(
            self.inputs.train.item[self.inputs.train.labels["click"] > 0], minlength=len(self.dataset.items)
        )
        order = np.argsort(-counts, kind="stable")
        half = np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)
        self.head = np.isin(np.arange(len(counts)), order[:half])

    def fit(self, change: Change, seed: int, inputs: Inputs) -> TwoTower:
        return TwoTower.fit(structs.replace(self.step, **change), inputs, seed)

    def recall(self, part: TwoTower) -> tuple[float, float, float]:
        """Recall@K of all, head and tail positives."""
        vectors, found = part.index.main, np.zeros(len(self.item), np.bool_)
        new = np.ones(len(self.item), np.bool_)
        for start in range(0, len(self.asked), 200):
            block = np.arange(start, min(start + 200, len(self.asked)))
            batch = self.test.batch(self.test.valid, self.asked[block])
            users = part.user_tower.run(
                user_codes=batch.user_codes, user_dense=batch.user_dense, history_codes=batch.history_codes
            )["vector"].reshape(len(block), -1, vectors.shape[1])
            scores = np.max([users[:, k] @ vectors.T for k in range(users.shape[1])], axis=0)
            for row, request in enumerate(block.tolist()):
                mine = np.flatnonzero(self.owner == request)
                new[mine] = ~np.isin(self.item[mine], self.met[request])
                scores[row, self.met[request]] = -np.inf
                least = np.partition(scores[row], -K)[-K]
                found[mine] = scores[row, self.item[mine]] >= least
        head = self.head[self.item]
        return tuple(float(found[new & kind].mean()) for kind in (np.ones_like(head), head, ~head))  # type: ignore[return-value]


@cache
def project(name: str) -> tuple[ProjectConfig, Dataset, Path]:
    """The configuration and the data set of that name, made anew in a temporary folder."""
    folder = Path(tempfile.mkdtemp()) / "feed"
    create(folder, "demo" if name == "demo" else "movielens")
    tables = (
        World.generate(WorldConfig()).tables() if name == "demo" else read_source("movielens", data("ml-1m-rebuilt"))
    )
    import_tables(tables, folder / "data")
    made = open_project(folder)
    return made.config, Dataset.open(made.data), folder


@cache
def bundle_before(name: str) -> Model:
    """All parts, trained as if it were a day earlier."""
    config, dataset, folder = project(name)
    split = by_time(dataset, config.split)
    earlier = override(config, {"split.test_since": split.test_since - DAY_SECONDS, "evaluate.most_users": 50})
    return load_model(train(earlier, folder / "data", folder / "bundles").bundle)


def inputs_of(trial: Trial, name: str, group: str, row: str, seed: int) -> Inputs:
    """What a row learns from."""
    inputs = trial.inputs
    if group == "warm" and row != "all days":
        inputs = since(inputs, trial.split.valid_since - DAY_SECONDS)
    if group not in ("hard", "warm") or row in ("all days", "last day alone"):
        return inputs
    model = bundle_before(name)
    folder = sorted((project(name)[2] / "bundles").glob("*/recall.two_tower"))[-1]
    dropped = cache(lambda: dropped_items(model, trial.dataset, inputs.train, (trial.config.train.traced_users, seed)))
    return replace(inputs, earlier=Earlier(model.name, folder, model.encoder, group == "warm", dropped))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", choices=("demo", "ml-1m"), default="demo")
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    asked = parser.parse_args()
    config, dataset, _ = project(asked.set)
    trial = Trial(config, dataset)
    for group in asked.groups.split(","):
        print(f"{group}, {asked.set}, {asked.epochs} epochs, {asked.seeds} seeds: recall@{K} of all / head / tail")
        for row, change in GROUPS[group].items():
            begun, scores = time.perf_counter(), []
            for seed in range(1, asked.seeds + 1):
                inputs = inputs_of(trial, asked.set, group, row, seed)
                scores.append(trial.recall(trial.fit({"epochs": asked.epochs} | change, seed, inputs)))
            means, spreads = np.mean(scores, 0), np.std(scores, 0)
            figures = "  ".join(f"{mean:.4f} ±{spread:.4f}" for mean, spread in zip(means, spreads, strict=True))
            took = (time.perf_counter() - begun) / asked.seeds
            print(f"  {row:<22}{figures}  {took:.0f} s each", flush=True)
            result(f"two towers, {asked.set}, {group}: {row}", float(means[0]), unit=f"recall@{K}")


if __name__ == "__main__":
    main()
