"""The ItemCF neighbour table against implicit's CosineRecommender: the same table, timed in turns in one process.

    python benchmarks/speed_itemcf.py [--data DIR] [--neighbours K] [--threads T] [--repeats R] [--large] [--case TEXT]

Both are given the same matrix and the same number of threads. A warm-up call compiles the numba kernels first (or reads
them from its cache) and its time is printed. Tables are compared item by item: weights to 1e-6, and the sets of
neighbours wherever a weight is clearly above the last one, so that only ties may differ.
"""

import argparse
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numba
import numpy as np
import polars as pl
from implicit.nearest_neighbours import CosineRecommender
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from _results import DATA, data, result
from tamis.recall.itemcf import similar_items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--threads", type=int, default=min(2, numba.config.NUMBA_NUM_THREADS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--large", action="store_true", help="also ten times the users and items of ml-1m")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # implicit converts its own input and warns of it
    numba.set_num_threads(arguments.threads)
    k, threads = arguments.neighbours, arguments.threads
    print(f"k = {k}, {threads} threads, median of {arguments.repeats} turns, seconds")
    print(f"{'data':34} {'users':>7} {'items':>7} {'entries':>10} {'warm-up':>8} {'implicit':>9} {'tamis':>7}  ratio")
    for name, interest in matrices(arguments.data, arguments.large):
        if arguments.case not in name:
            continue
        warm, peer, ours = turns(interest, k, threads, arguments.repeats)
        print(
            f"{name:34} {interest.shape[0]:7} {interest.shape[1]:7} {interest.nnz:10} "
            f"{warm:8.2f} {peer:9.3f} {ours:7.3f} {peer / ours:6.2f}   {compared(interest, k, threads)}"
        )
        wanted = "≥ 1.5" if name.startswith("ten times") else "≥ 3" if name.startswith("ml-1m") else ""
        result(f"ItemCF table, {name}", interest.nnz / ours, interest.nnz / peer, "entries/s", wanted)


def turns(interest: csr_matrix, k: int, threads: int, repeats: int) -> tuple[float, float, float]:
    """(first call of ours, median of implicit, median of ours), timed alternately."""
    began = perf_counter()
    similar_items(interest, k)
    warm = perf_counter() - began
    theirs, ours = [], []
    for _ in range(repeats):
        began = perf_counter()
        fitted(interest, k, threads)
        theirs.append(perf_counter() - began)
        began = perf_counter()
        similar_items(interest, k)
        ours.append(perf_counter() - began)
    return warm, statistics.median(theirs), statistics.median(ours)


def fitted(interest: csr_matrix, k: int, threads: int) -> Any:
    """implicit's table; its K counts the item itself."""
    model = CosineRecommender(K=k + 1, num_threads=threads)
    model.fit(interest, show_progress=False)
    return model


def compared(interest: csr_matrix, k: int, threads: int) -> str:
    """What the two tables have in common, and what a cap on the users' lists costs."""
    theirs = table(fitted(interest, k, threads).similarity, k)
    ours = similar_items(interest, k)
    off = float(np.abs(theirs[1] - ours[1]).max(initial=0))
    unlike = sum(
        set(a[w > w[-1] + 1e-6].tolist()) != set(b[w > w[-1] + 1e-6].tolist())
        for a, b, w in zip(theirs[0], ours[0], ours[1], strict=True)
    )
    began = perf_counter()
    capped = similar_items(interest, k, user_limit=200)[0]
    took = perf_counter() - began
    known = ours[0] >= 0
    kept = np.mean(
        [len(np.intersect1d(a[m], b)) / m.sum() for a, b, m in zip(ours[0], capped, known, strict=True) if m.any()]
    )
    same = "same neighbours" if off < 1e-6 and not unlike else f"{unlike} ITEMS DIFFER, weights by {off:.1e}"
    return f"{same}; user_limit 200: {took:.3f} s, {kept:.0%} of the neighbours"


def table(similarity: csr_matrix, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """implicit's sparse table as ids and weights without the items themselves, most similar first."""
    items = similarity.shape[0]
    ids, weights = np.full((items, k), -1, np.int32), np.zeros((items, k), np.float32)
    for item in range(items):
        row = slice(similarity.indptr[item], similarity.indptr[item + 1])
        others, values = similarity.indices[row], similarity.data[row]
        use = (others != item) & (values > 0)
        order = np.argsort(-values[use], kind="stable")[:k]
        ids[item, : len(order)], weights[item, : len(order)] = others[use][order], values[use][order]
    return ids, weights


def matrices(folder: Path, large: bool) -> Iterator[tuple[str, csr_matrix]]:
    """(name, interest [users, items]) of each case.   folder: of the data sets."""
    ml = pl.read_parquet(data("ml-1m-rebuilt", folder) / "interactions.parquet")
    positive = ml["is_positive"].to_numpy()
    users, items = ml["user_id"].to_numpy(), ml["item_id"].to_numpy()
    yield "ml-1m, all interactions", matrix(users, items)
    yield "ml-1m, positive only", matrix(users[positive], items[positive])
    yield "ml-1m, all 1 and positive 2", matrix(users, items, 1.0 + positive)
    drawn = np.random.default_rng(2).integers(1, 6, len(users))  # the rebuilt set does not know its lower stars
    yield "ml-1m, interest 1 to 4 drawn", matrix(users, items, np.minimum(drawn, 4.0))
    yield "ml-1m, ratings 1 to 5 drawn", matrix(users, items, drawn.astype(np.float64))
    gowalla = folder / "gowalla-ngcf" / "train.parquet"
    if gowalla.exists():
        frame = pl.read_parquet(gowalla)
        yield "gowalla-ngcf, train", matrix(frame["user_id"].to_numpy(), frame["item_id"].to_numpy())
    if large:
        generator = np.random.default_rng(1)
        copies = [users.astype(np.int64) + copy * 10_000 for copy in range(10)]
        shelves = [items.astype(np.int64) + generator.integers(0, 10, len(items)) * 10_000 for _ in range(10)]
        yield "ten times ml-1m, shelves drawn", matrix(np.concatenate(copies), np.concatenate(shelves))


def matrix(users: NDArray[Any], items: NDArray[Any], values: NDArray[Any] | None = None) -> csr_matrix:
    """Interest as a canonical CSR matrix of the users and items that occur."""
    rows, columns = (np.unique(ids, return_inverse=True)[1] for ids in (users, items))
    entries = np.ones(len(rows), np.float32) if values is None else values.astype(np.float32)
    interest = csr_matrix((entries, (rows, columns)))
    interest.sum_duplicates()
    if values is None:
        interest.data[:] = 1
    return interest


if __name__ == "__main__":
    main()
