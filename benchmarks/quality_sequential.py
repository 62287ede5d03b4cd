"""The sequential channel on ml-1m, leave one out, full ranking over unseen items, beside published figures.

    python benchmarks/quality_sequential.py [--epochs N] [--threads N] [--narrow]

All ratings count, in the order of `order_in_user`. Each user's last interaction is the test, the one before it says
when to stop and is in the history of the test; the rest is trained on. What answers is the exported net. Settings were
chosen on the validation items (docs/results.md), never on the test. Published figures break ties of time differently,
which alone moves them.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from _results import data, result
from tamis.evaluate.protocols import Interactions, Split, judge, leave_one_out
from tamis.nets.door import nets_module
from tamis.nets.next_item_plans import Sequences, SequentialPlan
from tamis.nets.session import Session
from tamis.recall.sequential import SequentialConfig
from tamis.types import silent

PUBLISHED: Final = {
    "SASRec, original code": (0.1993, 0.1078),
    "BERT4Rec, RecTools": (0.2921, 0.1618),
    "SASRec with sampled softmax, Meta": (0.2853, 0.1603),
    "SASRec, RecTools": (0.3058, 0.1779),
    "HSTU, Meta": (0.3097, 0.1720),
    "eSASRec": (0.3133, 0.1772),
    "HSTU large, Meta": (0.3294, 0.1893),
    "HSTU large, RecTools": (0.3642, 0.2164),
}


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--narrow", action="store_true", help="the default widths (64, 128) in place of (128, 256)")
    arguments = parser.parse_args(words)
    frame = pl.read_parquet(data("ml-1m-rebuilt") / "interactions.parquet")
    columns = (frame[name].to_numpy() for name in ("user_id", "item_id", "order_in_user"))
    split = leave_one_out(Interactions.of(*columns))
    config = SequentialConfig(epochs=arguments.epochs, threads=arguments.threads)
    plan = config.plan() if arguments.narrow else replace(config.plan(), vector_size=128, hidden_size=256)
    print(f"{'':44} recall@10   ndcg@10 {'minutes':>8}")
    for name, (recall, ndcg) in PUBLISHED.items():
        print(f"{'published: ' + name:44} {recall:9.4f} {ndcg:9.4f}")
    users, items, minutes = answers(split, plan)
    figures = judge(lambda asked: users[asked] @ items.T, split.held_out(), (10,))
    recall, ndcg = figures["recall@10"], figures["ndcg@10"]
    print(f"{f'sequential {plan.vector_size}, {config.epochs} epochs':44} {recall:9.4f} {ndcg:9.4f} {minutes:8.1f}")
    peer = PUBLISHED["SASRec, RecTools"]
    result("ml-1m leave one out recall@10, sequential over SASRec of RecTools", recall, peer[0], "", "> 0.306")
    result("ml-1m leave one out ndcg@10, sequential over SASRec of RecTools", ndcg, peer[1], "", "> 0.178")


def answers(split: Split, plan: SequentialPlan) -> tuple[NDArray[Any], NDArray[Any], float]:
    """(users [u, d], items [i, d], minutes of training): a vector for each user as of his test."""
    rows = np.concatenate([split.train, split.valid])
    rows = rows[np.lexsort((split.data.time[rows], split.data.user[rows]))]
    users = np.arange(split.data.users)
    starts = np.searchsorted(split.data.user[rows], np.append(users, len(users)))
    learnt = starts[:-1] + np.bincount(split.data.user[split.train], minlength=len(users))
    sequences = Sequences(split.data.item[rows], starts, learnt, split.data.items)
    with tempfile.TemporaryDirectory() as folder:
        began = perf_counter()
        vectors, report = nets_module("sequential").fit_sequential(sequences, plan, 7, Path(folder), silent)
        minutes = (perf_counter() - began) / 60
        print("validation ndcg@10 by epoch:", " ".join(f"{score:.4f}" for score in report.scores), flush=True)
        net = Session.open(Path(folder) / "user.onnx")
    histories = (sequences.items[begin:end][-plan.length :] for begin, end in pairwise(starts))
    said = [net.run(entries=vectors[history])["vector"][0] for history in histories]
    return np.stack(said), vectors, minutes


if __name__ == "__main__":
    main(sys.argv[1:])
