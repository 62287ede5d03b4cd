"""What a request of Deep Retrieval costs behind the user tower, beside an index of the same item vectors.

The weights are drawn, which costs what learnt ones do; a beam has 30 items on every path, as many candidates as
the paper advises (ten times the 300 that are kept).
"""

import argparse
import statistics
from time import perf_counter

import numpy as np

from _results import result
from tamis.index.vectors import Vectors, VectorsConfig
from tamis.nets.path_plan import PathShape
from tamis.nets.paths import PathItems, PathNet

LIMIT, VECTOR, PER_PATH, USERS = 300, 32, 30, 200


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--beam", type=int, default=100)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    shape = PathShape.of(3, 0, 64, options.items)
    sizes = [(3, VECTOR, 64), (3, 64), (3, shape.width, 64), (3, 64, shape.width), (3, shape.width)]
    net = PathNet(*(rng.normal(0, 0.5, size).astype(np.float32) for size in sizes))
    vectors, users = (_unit(rng.normal(size=(count, VECTOR))) for count in (options.items, USERS))
    on_path = np.unique(net.beam(users, options.beam)[0])
    places = np.repeat(on_path, PER_PATH)
    starts = np.arange(len(on_path) + 1) * PER_PATH
    items = PathItems(on_path, starts, rng.integers(0, options.items, len(places)).astype(np.int32))
    index = Vectors.build(vectors, VectorsConfig(), LIMIT)

    def deep(user: np.ndarray) -> np.ndarray:
        near = items.on(net.beam(user, options.beam)[0][0])
        return near[np.argsort(-(vectors[near] @ user[0]), kind="stable")[:LIMIT]]

    ours, peer = _median_ms(deep, users), _median_ms(lambda user: index.search(user, LIMIT), users)
    name = f"Deep Retrieval, {options.items} items, K={shape.width}, B={options.beam}, over the index of vectors"
    result(name, ours, peer, "ms", "")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _median_ms(recall, users: np.ndarray) -> float:
    times = []
    for user in users[np.arange(2 * USERS) % USERS]:
        began = perf_counter()
        recall(user[None])
        times.append(1000 * (perf_counter() - began))
    return statistics.median(times[USERS:])


if __name__ == "__main__":
    main()
