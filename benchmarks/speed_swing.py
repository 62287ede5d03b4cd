"""The Swing table against recfarm, LibRecommender's core in Rust: the same table of ml-100k, timed in turns.

    python benchmarks/speed_swing.py [--data DIR] [--neighbours K] [--threads T] [--repeats R]

recfarm weighs every user by 1 / √|J_u|, so tamis is asked for `user_power = 0.5` where tables are compared; the plain
table of the course, which no other library trains, is timed beside it. recfarm keeps its table to itself, so its
neighbours are read as its recommendations to users who have one item each; such users make no pair and change nothing.
Both get the same number of threads.
"""

import argparse
import statistics
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numba
import numpy as np
import polars as pl
import recfarm
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, eye, vstack

from _results import DATA, data, result
from speed_itemcf import matrix
from tamis.recall.swing import similar_items


class Sparse(NamedTuple):
    """A matrix as recfarm reads it."""

    sparse_indices: list[int]
    sparse_indptr: list[int]
    sparse_data: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--threads", type=int, default=min(2, numba.config.NUMBA_NUM_THREADS))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    numba.set_num_threads(arguments.threads)
    k = arguments.neighbours
    frame = pl.read_parquet(data("ml-100k", arguments.data) / "ratings.parquet")
    interest = matrix(frame["user_id"].to_numpy(), frame["item_id"].to_numpy())
    similar_items(interest, k)  # compiles
    theirs, ours, plain = [], [], []
    for _ in range(arguments.repeats):
        model = peer(interest, k)
        theirs.append(seconds(lambda model=model: model.compute_swing(arguments.threads)))
        ours.append(seconds(lambda: similar_items(interest, k, user_power=0.5)))
        plain.append(seconds(lambda: similar_items(interest, k)))
    peers, weighted, unweighted = (statistics.median(times) for times in (theirs, ours, plain))
    print(
        f"ml-100k, k = {k}, {arguments.threads} threads, median of {arguments.repeats} turns: recfarm {peers:.3f} s, "
        f"tamis {weighted:.3f} s ({peers / weighted:.1f} times as fast), unweighted {unweighted:.3f} s; "
        f"{compared(interest, k, arguments.threads)}"
    )
    result("Swing table, ml-100k", interest.nnz / weighted, interest.nnz / peers, "entries/s", "≥ 10")


def seconds(work: Any) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def peer(interest: csr_matrix, k: int) -> Any:
    """recfarm's model with the data in it, alpha 1, and room for every pair of users that it wants to remember."""
    consumed = {user: interest[user].indices.tolist() for user in range(interest.shape[0])}
    users, items = interest.shape
    return recfarm.Swing(k, 1.0, users * users, users, items, sparse(interest), sparse(interest.T), consumed, 0.0)


def sparse(interest: Any) -> Sparse:
    rows = csr_matrix(interest)
    rows.sort_indices()
    return Sparse(rows.indices.tolist(), rows.indptr.tolist(), rows.data.tolist())


def compared(interest: csr_matrix, k: int, threads: int) -> str:
    """Whether each item has the same neighbours in both, ties with the last one aside."""
    users, items = interest.shape
    model = peer(csr_matrix(vstack([interest, eye(items, dtype=np.float32)])), k)
    model.compute_swing(threads)
    theirs = model.recommend(list(range(users, users + items)), k, True, False)[0]
    unlike = sum(differ(*rows) for rows in zip(theirs, *similar_items(interest, k, user_power=0.5), strict=True))
    return "same neighbours" if not unlike else f"{unlike} ITEMS DIFFER"


def differ(theirs: list[int], ids: NDArray[np.int32], weights: NDArray[np.float32]) -> bool:
    known = ids >= 0
    clear = known & (weights > weights[-1] * (1 + 1e-4))
    return len(theirs) != known.sum() or not set(ids[clear].tolist()) <= set(theirs)


if __name__ == "__main__":
    main()
