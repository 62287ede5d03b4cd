"""What the funnel itself costs: a request of 2000 → 500 → 200 → 20 rows less the time of its steps.

Five sources of 500 items, three filters, a scorer each for prerank and rank (ten columns), a fusion, a selector: all of
them return arrays made beforehand, so that what is left is the funnel's own work.

And the exposure filter: 2000 keys against the four full Bloom filters of a user, as the state keeps them by default.
"""

import statistics
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from _results import result
from tamis.bloom import Generations
from tamis.funnel import Funnel, Stage
from tamis.state.fold import row_from_history
from tamis.state.settings import StateConfig
from tamis.types import TIMELINE, Candidates, Catalog, Features, History, Query


@dataclass(frozen=True)
class Give:
    found: Candidates

    def recall(self, query: Query) -> Candidates:
        return self.found


@dataclass(frozen=True)
class Mask:
    bits: np.ndarray

    def keep(self, query: Query, items: Candidates) -> np.ndarray:
        return self.bits[: len(items)]


@dataclass(frozen=True)
class Score:
    columns: dict[str, np.ndarray]

    def score(self, query: Query, items: Candidates) -> dict[str, np.ndarray]:
        return {name: column[: len(items)] for name, column in self.columns.items()}


@dataclass(frozen=True)
class Pick:
    def pick(self, query: Query, items: Candidates) -> np.ndarray:
        return np.arange(min(query.size, len(items)))


def exposure() -> None:
    config, rng = StateConfig(), np.random.default_rng(1)
    shown = np.zeros(config.seen_capacity * config.seen_generations - 1, TIMELINE)
    shown["key"] = rng.integers(0, 2**64, len(shown), dtype=np.uint64)
    seen = Generations(row_from_history(shown, config).seen)
    keys = rng.integers(0, 2**64, 2000, dtype=np.uint64)
    took = []
    for _ in range(2000):
        began = perf_counter()
        seen.contains(keys)
        took.append((perf_counter() - began) * 1000)
    print(f"exposure filter p50 {statistics.median(took):.4f} ms, p99 {np.percentile(took, 99):.4f} ms")
    result("exposure filter, 2000 keys, p50", statistics.median(took), None, "ms", "< 0.1")


def main() -> None:
    rng = np.random.default_rng(1)
    sources = {f"s{n}": Give(Candidates.of(rng.choice(100_000, 500, replace=False))) for n in range(5)}
    bits = rng.random(4000) > 0.02
    heads = {f"p_{n}": rng.random(4000).astype(np.float32) for n in range(10)}
    stages = [
        Stage("recall", {**sources, "a": Mask(bits), "b": Mask(bits), "c": Mask(bits)}, 2000),
        Stage("prerank", {"light": Score({"score": rng.random(4000)})}, 500),
        Stage("rank", {"heads": Score(heads), "fuse": Score({"score": rng.random(4000)})}, 200),
        Stage("rerank", {"diverse": Pick()}, 0),
    ]
    funnel = Funnel(stages)
    empty = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    query = Query(-1, 0.0, 20, "feed", 1, History.empty(), empty, Catalog.of(np.arange(100_000, dtype=np.uint64), {}))
    took = []
    for _ in range(2000):
        began = perf_counter()
        funnel.run(query)
        took.append((perf_counter() - began) * 1000)
    print(f"p50 {statistics.median(took):.3f} ms, p99 {np.percentile(took, 99):.3f} ms")
    result("funnel plumbing p50", statistics.median(took), None, "ms", "< 1")


if __name__ == "__main__":
    main()
    exposure()
