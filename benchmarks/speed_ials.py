"""iALS against implicit's AlternatingLeastSquares: the same loss, the same start, timed in turns in one process.

    python benchmarks/speed_ials.py [--threads T] [--rounds R] [--repeats N]

Both take three steps of conjugate gradients per solution, from the same vectors, with the weights that make the two
losses the same number: implicit's confidence c is the weight c − 1 of a seen pair beside 1 of every pair. The loss is
computed by one function for both, after every round.

implicit has the function twice: compiled in `implicit.cpu._als`, which its models use and which is timed here, and as a
loop of Python under the same name in `implicit.cpu.als`, many times as slow.
"""

import argparse
import statistics
import warnings
from time import perf_counter
from typing import Any

import numba
import numpy as np
import polars as pl
from implicit.cpu import _als as peer
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from _results import data, result
from tamis.recall.blocks import one_thread
from tamis.recall.least_squares import alternate, both_sides, drawn, quadratic

CONFIDENCE, RIDGE, STEPS = 10.0, 1.0, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=min(2, numba.config.NUMBA_NUM_THREADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    numba.set_num_threads(arguments.threads)
    print(
        f"{arguments.threads} threads, {arguments.rounds} rounds, median of {arguments.repeats} turns, seconds a round"
    )
    print(f"{'data':14} {'d':>4} {'implicit':>9} {'tamis':>8} {'ratio':>6}   loss of implicit, of tamis")
    for name, matrix in matrices().items():
        for width in (64, 128, 256):
            compare(name, matrix, width, arguments)


def compare(name: str, matrix: csr_matrix, width: int, arguments: argparse.Namespace) -> None:
    seen = matrix.copy()
    seen.data[:] = CONFIDENCE - 1
    sides = both_sides(seen, np.full(matrix.nnz, CONFIDENCE, np.float32))
    ridges = tuple(np.full(count, RIDGE, np.float32) for count in matrix.shape)
    start = drawn(matrix.shape, width, 1)
    settings = (1.0, arguments.rounds, STEPS)
    alternate(sides, ridges, start, (1.0, 1, STEPS), lambda rounds: None)  # compiles
    theirs, ours = [], []
    for _ in range(arguments.repeats):
        began = perf_counter()
        x, y = of_peer(matrix, start, arguments)
        theirs.append((perf_counter() - began) / arguments.rounds)
        began = perf_counter()
        a, b = alternate(sides, ridges, start, settings, lambda rounds: None)
        ours.append((perf_counter() - began) / arguments.rounds)
    losses = quadratic(sides[0], x, y, ridges, 1.0), quadratic(sides[0], a, b, ridges, 1.0)
    his, mine = statistics.median(theirs), statistics.median(ours)
    same = "the same" if abs(losses[0] - losses[1]) < 1e-4 * abs(losses[0]) else "NOT THE SAME"
    print(
        f"{name:14} {width:4} {his:9.3f} {mine:8.3f} {his / mine:6.2f}   {losses[0]:.1f}, {losses[1]:.1f}: {same}",
        flush=True,
    )
    result(f"iALS round, {name}, d = {width}, equal loss", 1 / mine, 1 / his, "rounds/s", "≥ 1")


def of_peer(matrix: csr_matrix, start: tuple[NDArray[Any], ...], arguments: argparse.Namespace) -> tuple[Any, Any]:
    """implicit's own loop, with one BLAS thread as it asks its users for."""
    weights = (matrix * CONFIDENCE).astype(np.float32)
    across = weights.T.tocsr()
    x, y = (side.copy() for side in start)
    with one_thread():
        for _ in range(arguments.rounds):
            peer.least_squares_cg(weights, x, y, RIDGE, num_threads=arguments.threads, cg_steps=STEPS)
            peer.least_squares_cg(across, y, x, RIDGE, num_threads=arguments.threads, cg_steps=STEPS)
    return x, y


def matrices() -> dict[str, csr_matrix]:
    gowalla = pl.read_parquet(data("gowalla-ngcf") / "train.parquet")
    ml = pl.read_parquet(data("ml-1m-rebuilt") / "interactions.parquet")
    frames = {"gowalla-ngcf": gowalla, "ml-1m": ml}
    return {name: matrix(frame["user_id"].to_numpy(), frame["item_id"].to_numpy()) for name, frame in frames.items()}


def matrix(users: NDArray[Any], items: NDArray[Any]) -> csr_matrix:
    """Ones where a user met an item, of the users and items that occur."""
    rows, columns = (np.unique(ids, return_inverse=True)[1] for ids in (users, items))
    ones = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)))
    ones.sum_duplicates()
    ones.data[:] = 1
    return ones


if __name__ == "__main__":
    main()
