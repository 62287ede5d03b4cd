"""What the two remedies against position bias are worth where the truth is known: the demo world.

    python benchmarks/ablate_position.py [--users N] [--seeds N] [--candidates N]

In this world the item at place k of a page is looked at with probability max(0.35, (1 + k)^−0.35), so clicks further
down say less. The ranker is trained on the days before the held-out ones with each value of `position`; then, for
held-out requests, it orders candidates drawn evenly from the catalogue. True rate@10: the mean true click probability,
at the first place, of the ten it puts first. AUC: of the logged clicks of the held-out day, where the bias still is,
the position being unknown to the net.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from msgspec import structs

from _prepared import periods, ranker_of
from _results import result
from tamis import metrics
from tamis.data.dataset import Dataset
from tamis.data.write import import_tables
from tamis.features.encode import with_ages
from tamis.features.inputs import Inputs
from tamis.project import create, open_project
from tamis.rank.multitask import Multitask
from tamis.simulate.world import World, WorldConfig

REQUESTS, LOGGED = 400, 3000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=1000)
    asked = parser.parse_args()
    world = World.generate(WorldConfig(users=asked.users))
    folder = Path(tempfile.mkdtemp()) / "feed"
    create(folder, "demo")
    import_tables(world.tables(), folder / "data")
    config, dataset = open_project(folder).config, Dataset.open(folder / "data")
    inputs, test = periods(config, dataset)
    step = ranker_of(config)
    trial = Trial(world, dataset, inputs, test, asked.candidates)
    print(f"ten best by the truth itself: {trial.oracle():.4f}; drawn: {trial.drawn():.4f}", flush=True)
    found: dict[str, float] = {}
    for position in ("none", "feature", "tower"):
        scores = []
        for seed in range(1, asked.seeds + 1):
            part = Multitask.fit(structs.replace(step, position=position), inputs, seed)
            scores.append((trial.true_rate(part), trial.logged_auc(part)))
        (rate, auc), (spread, _) = np.mean(scores, 0), np.std(scores, 0)
        print(f"{position:<8} true rate@10 {rate:.4f} ±{spread:.4f}  AUC of logged clicks {auc:.4f}", flush=True)
        found[position] = float(rate)
        result(f"demo world, position {position}", found[position], found["none"], "true rate@10")


class Trial:
    """Held-out requests, each with candidates and what the user would truly do with them."""

    def __init__(self, world: World, dataset: Dataset, inputs: Inputs, test: Inputs, candidates: int) -> None:
        self.inputs, self.test = inputs, test
        random, samples = np.random.default_rng(1), test.valid
        self.asked = np.sort(random.permutation(len(samples))[:REQUESTS])
        self.logged = np.sort(random.permutation(len(samples))[:LOGGED])
        there = inputs.items_there
        self.items = np.stack([np.sort(random.choice(there, candidates, replace=False)) for _ in self.asked])
        users = World.numbers([dataset.user_ids.external(int(user)) for user in samples.user[self.asked]])
        names = [dataset.item_ids.external(int(item)) for item in self.items.ravel()]
        numbers = World.numbers(names).reshape(self.items.shape)
        self.truth = world.preference(users, numbers, samples.time[self.asked])["click"]

    def oracle(self) -> float:
        return float(np.sort(self.truth, 1)[:, -10:].mean())

    def drawn(self) -> float:
        return float(self.truth.mean())

    def true_rate(self, part: Multitask) -> float:
        rates = []
        for request, items, truth in zip(self.asked, self.items, self.truth, strict=True):
            best = np.argsort(-self._clicks(part, int(request), items), kind="stable")[:10]
            rates.append(truth[best].mean())
        return float(np.mean(rates))

    def logged_auc(self, part: Multitask) -> float:
        samples, labels, scores = self.test.valid, [], []
        for request in self.logged:
            rows = slice(int(samples.first[request]), int(samples.first[request + 1]))
            labels.append(samples.labels["click"][rows])
            scores.append(self._clicks(part, int(request), samples.item[rows].astype(np.int64)))
        return metrics.auc(np.concatenate(labels), np.concatenate(scores))

    def _clicks(self, part: Multitask, request: int, items: np.ndarray) -> np.ndarray:
        """[n] the click head's logits of items at the moment of a held-out request."""
        moment = self.test.batch(self.test.valid, np.array([request]))
        catalog, layout = self.inputs.catalog, part.facts.layout
        features, dynamic = catalog.features(items), np.array(catalog.column("dynamic", items))
        raw = {name: catalog.column(name, items) for name in layout.item_ages}
        with_ages(layout, dynamic, raw, self.test.valid.time[request])
        asked = replace(moment, item_codes=features.codes, item_dense=features.dense, item_dynamic=dynamic)
        return part.session.answer(asked)["click"]


if __name__ == "__main__":
    main()
