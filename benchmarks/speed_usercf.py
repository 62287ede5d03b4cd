"""The UserCF neighbour table of ml-1m against implicit on the transposed matrix, timed in turns in one process.

    python benchmarks/speed_usercf.py [--data DIR] [--neighbours K] [--threads T] [--repeats R] [--large] [--case TEXT]

Each entry of the peer's matrix [items, users] is √(1 / ln(1 + n_l)), so its CosineRecommender does the work of UserCF,
but for another denominator. For the comparison of neighbours its ItemItemRecommender, plain dot products, is given the
entries divided by √|J_u|, which makes them UserCF's own similarity.
"""

import argparse
import statistics
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import numba
import numpy as np
from implicit.nearest_neighbours import CosineRecommender, ItemItemRecommender
from scipy.sparse import csr_matrix

from _results import DATA, result
from speed_itemcf import matrices, table
from tamis.recall.usercf import similar_users


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--threads", type=int, default=min(2, numba.config.NUMBA_NUM_THREADS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="also ten times the users and items of ml-1m")
    parser.add_argument("--case", default="", help="only cases with this in their name")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # implicit converts its own input and warns of it
    numba.set_num_threads(arguments.threads)
    k, threads = arguments.neighbours, arguments.threads
    for name, interest in matrices(arguments.data, arguments.large):
        if "ml-1m" not in name or interest.data.max() > 1 or arguments.case not in name:
            continue
        weighted = peers_matrix(interest)
        similar_users(interest, k, rows=range(1))  # compiles
        theirs, ours = [], []
        for _ in range(arguments.repeats):
            began = perf_counter()
            fitted(CosineRecommender, weighted, k, threads)
            theirs.append(perf_counter() - began)
            began = perf_counter()
            similar_users(interest, k)
            ours.append(perf_counter() - began)
        peer, tamis = statistics.median(theirs), statistics.median(ours)
        print(
            f"{name}: k = {k}, {threads} threads, median of {arguments.repeats} turns: implicit {peer:.3f} s, "
            f"tamis {tamis:.3f} s, {peer / tamis:.1f} times as fast; {compared(interest, weighted, k, threads)}"
        )
        wanted = "≥ 1.5" if name.startswith("ten times") else "≥ 3"
        result(f"UserCF table, {name}", interest.nnz / tamis, interest.nnz / peer, "entries/s", wanted)


def peers_matrix(interest: csr_matrix) -> csr_matrix:
    """[items, users] √ of the popularity weight."""
    by_item = csr_matrix(interest.T)
    readers = np.diff(by_item.indptr)
    return csr_matrix((np.repeat(np.log1p(readers) ** -0.5, readers), by_item.indices, by_item.indptr), by_item.shape)


def fitted(kind: Any, weighted: csr_matrix, k: int, threads: int) -> Any:
    """implicit's table; its K counts the user himself, who need not be his own nearest by dot products."""
    model = kind(K=k + 1, num_threads=threads)
    model.fit(weighted, show_progress=False)
    return model


def compared(interest: csr_matrix, weighted: csr_matrix, k: int, threads: int) -> str:
    """Whether both have the same neighbours, ties with the last one aside."""
    scaled = weighted.copy()
    scaled.data /= np.sqrt(np.diff(interest.indptr))[scaled.indices]
    theirs = table(fitted(ItemItemRecommender, scaled, k, threads).similarity, k)
    ours = similar_users(interest, k)
    off = float(np.abs(theirs[1] - ours[1]).max(initial=0))
    unlike = sum(
        set(a[w > w[-1] + 1e-6].tolist()) != set(b[w > w[-1] + 1e-6].tolist())
        for a, b, w in zip(theirs[0], ours[0], ours[1], strict=True)
    )
    return "same neighbours" if off < 1e-6 and not unlike else f"{unlike} USERS DIFFER, weights by {off:.1e}"


if __name__ == "__main__":
    main()
