"""Deep Retrieval beside the two towers and ItemCF: what each finds of the held-out positives, and what it reads for it.

    python benchmarks/quality_deep_retrieval.py [--set demo|ml-1m] [--epochs N] [--alpha A] [--kept S]

Each held-out user asks once; recall@k is the share of what he then acted on, mean over users, before anything that he
has seen is left out. Deep Retrieval is trained once and asked with several beams, and all items are ordered by its own
vectors as well ("exhaustive"), which is what a beam gives up.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from msgspec import structs

from _results import result
from ablate_two_tower import project
from tamis.assemble import load_model, part_of
from tamis.config import override
from tamis.data.split import by_time
from tamis.evaluate.offline import _relevant, _some
from tamis.evaluate.queries import Past
from tamis.features.prepare import Moment, prepare
from tamis.recall.deep_retrieval import DeepRetrieval, DeepRetrievalConfig
from tamis.train import train
from tamis.types import Query

KS, BEAMS, KEEP = (50, 200, 500), (10, 25, 50, 100), ("popular", "seen", "blocked", "excluded")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", choices=("demo", "ml-1m"), default="demo")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--alpha", type=float, default=DeepRetrievalConfig().alpha)
    parser.add_argument("--kept", type=int, default=DeepRetrievalConfig().kept)
    asked = parser.parse_args()
    config, dataset, folder = project(asked.set)
    split = by_time(dataset, config.split)
    configs = (config.features, config.samples, config.train.interest_actions)
    inputs = prepare(dataset, Moment(split.valid_since, split.test_since), configs)
    steps = config.funnel.recall.steps
    without = {f"funnel.recall.steps.{name}": None for name in steps if name not in KEEP}
    without |= {f"funnel.{stage}.steps": {} for stage in ("prerank", "rank", "rerank")}
    model = load_model(train(override(config, without), folder / "data", folder / "bundles").bundle)
    past = Past.of(model, dataset, split.test_until)
    wanted = _relevant(past, split.test_since, config.evaluate.positive)
    users = _some(sorted(wanted), 1000, config.train.seed)
    queries = [(past.query(user, wanted[user][0], 20), wanted[user][1]) for user in users]

    def judge(name: str, recall: Callable[[Query], np.ndarray]) -> None:
        found: dict[int, list[float]] = {k: [] for k in KS}
        rows, times = [], []
        for query, items in queries:
            began = time.perf_counter()
            ids = recall(query)
            times.append(time.perf_counter() - began)
            rows.append(len(ids))
            for k in KS:
                found[k].append(float(np.isin(items, ids[:k]).mean()))
        figures = "  ".join(f"{np.mean(found[k]):.4f}" for k in KS)
        print(f"{name:<30}{figures}  {np.mean(rows):7.0f} rows  {1000 * np.median(times):.2f} ms", flush=True)
        result(f"{name}, {asked.set}", float(np.mean(found[KS[-1]])), unit=f"recall@{KS[-1]}")

    print(f"{asked.set}: {len(inputs.catalog)} items, {len(users)} users; recall@50, 200, 500")
    for name in ("itemcf", "two_tower"):
        step = steps[name]
        step = structs.replace(step, epochs=asked.epochs) if name == "two_tower" else step
        part = part_of(step).fit(step, inputs, config.train.seed)
        judge(name, lambda query, part=part: part.recall(query).ids)
    step = DeepRetrievalConfig(limit=0, epochs=asked.epochs, alpha=asked.alpha, kept=asked.kept)
    deep = DeepRetrieval.fit(step, inputs, config.train.seed)
    for beam in BEAMS:
        part = replace(deep, config=structs.replace(step, beam=beam))
        judge(f"deep_retrieval, beam {beam}", lambda query, part=part: part.recall(query).ids)
    judge("exhaustive, its own vectors", lambda query: np.argsort(-(deep.vectors @ deep.user_vector(query)[0])))


if __name__ == "__main__":
    main()
