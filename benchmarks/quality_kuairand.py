"""KuaiRand (train to 29 April, test 30 April): the funnel's report, against popularity and a logistic regression.

The regression sees the same encoded features of the same training rows: one-hot codes (history as a bag) and all
numbers, scaled; its strength C is chosen on the same validation rows. AUC differences come with a 95 % interval
(bootstrap over users).

"live": the user's counts and history are those of the moment, as the server has them. "frozen": they are those of the
day's beginning. A user has few rows a day, so in "live" a row's counts tell what his earlier labels were, and the GAUC
of a model that believes in them suffers: a user with one click and one skip, clicked first, has the higher rate at the
skip. Ranking a page compares rows of one moment; "frozen" is the GAUC that speaks of that.

Usage: python benchmarks/quality_kuairand.py [--keep FOLDER]
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MaxAbsScaler

from _prepared import periods
from _results import data, result
from tamis import metrics, views
from tamis.data.dataset import Dataset
from tamis.data.samples import Samples
from tamis.data.sources import read_source
from tamis.data.write import import_tables
from tamis.features.inputs import Inputs
from tamis.project import create, open_project
from tamis.rank.multitask import Multitask

HEADS = ("click", "long_view", "like", "profile_enter")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, default=None)
    folder = parser.parse_args().keep or Path(tempfile.mkdtemp()) / "feed"
    if not (folder / "tamis.toml").exists():
        create(folder, "kuairand")
    project = open_project(folder)
    if not project.data.exists():
        import_tables(read_source("kuairand", data("kuairand-pure")), project.data)
    report = project.train().report
    console = Console(width=180)
    console.print(views.report(report))
    config, dataset = project.config, Dataset.open(project.data)
    train, live = periods(config, dataset, encoder=project.model.encoder)
    frozen = without_the_day(live, train)
    users = np.repeat(live.valid.user, np.diff(live.valid.first))
    scale = MaxAbsScaler()
    rows = scale.fit_transform(matrix(train, train.train))
    choice, *tests = (scale.transform(matrix(side, side.valid)) for side in (train, live, frozen))
    ranker = next(s for stage in project.model.funnel.stages for s in stage.steps.values() if isinstance(s, Multitask))
    ours = [predicted(ranker, side) for side in (live, frozen)]
    for head in HEADS:
        label, truth = train.train.labels[head], live.valid.labels[head]
        rate = item_rate(train.train.item, label, live.valid.item)
        best = max(
            (LogisticRegression(C=c, max_iter=500).fit(rows, label) for c in (0.003, 0.01, 0.03, 0.1)),
            key=lambda fitted: metrics.auc(train.valid.labels[head], fitted.decision_function(choice)),
        )
        for name, test, columns in zip(("live", "frozen"), tests, ours, strict=True):
            scores = {
                "popularity": rate,
                f"regression, C = {best.C:g}": best.decision_function(test),
                "tamis": columns[head],
            }
            for who, score in scores.items():
                auc, gauc = metrics.auc(truth, score), metrics.gauc(truth, score, users)
                print(f"{head:14} {name:7} {who:22} AUC {auc:.4f} GAUC {gauc:.4f}")
            _, peer, own = scores.values()
            low, high = interval(truth, own, peer, users)
            wanted = f"above the regression; difference {low:+.4f} to {high:+.4f}"
            result(f"kuairand {head} AUC, {name}", metrics.auc(truth, own), metrics.auc(truth, peer), "AUC", wanted)
            gaucs = (metrics.gauc(truth, own, users), metrics.gauc(truth, peer, users))
            result(f"kuairand {head} GAUC, {name}", *gaucs, "GAUC", "above the regression")


def without_the_day(live: Inputs, train: Inputs) -> Inputs:
    """`live` with the user's counts and history as they were when the day began."""
    timeline, users = train.valid.timeline, live.valid.user
    ends = timeline.start(users + 1)
    samples = replace(live.valid, timeline=timeline, history_start=timeline.start(users), history_end=ends)
    return replace(live, user_statistics=train.user_statistics, pairs=train.pairs, valid=samples, _sides={})


def predicted(ranker: Multitask, inputs: Inputs) -> dict[str, np.ndarray]:
    """Each head's logits of all rows of `inputs.valid`, by the exported net, request by request."""
    parts = []
    for request in range(len(inputs.valid)):
        batch = inputs.batch(inputs.valid, np.array([request]))
        parts.append(ranker.session.answer(batch))
    return {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}


def interval(truth: np.ndarray, ours: np.ndarray, peer: np.ndarray, users: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the AUC difference over 200 draws of the users with replacement."""
    random, rows = np.random.default_rng(1), [np.flatnonzero(users == user) for user in np.unique(users)]
    gaps = []
    for _ in range(200):
        drawn = np.concatenate([rows[i] for i in random.integers(0, len(rows), len(rows))])
        gaps.append(metrics.auc(truth[drawn], ours[drawn]) - metrics.auc(truth[drawn], peer[drawn]))
    return float(np.quantile(gaps, 0.025)), float(np.quantile(gaps, 0.975))


def matrix(inputs: Inputs, samples: Samples) -> csr_matrix:
    """All rows as a sparse matrix: one column per code, history entries as a bag, numbers as they are."""
    batch = inputs.batch(samples, np.arange(len(samples)))
    width = inputs.layout.table_size
    history = batch.history_codes.reshape(len(batch.history_codes), -1)[batch.row_of]
    shown = one_hot(np.concatenate([batch.user_codes[batch.row_of], batch.item_codes], axis=1), width)
    bag = one_hot(history, width).sqrt() * 0.3
    dense = np.concatenate([batch.user_dense[batch.row_of], batch.item_dense, batch.item_dynamic], axis=1)
    return hstack([shown, bag, csr_matrix(dense)]).tocsr()


def one_hot(codes: np.ndarray, width: int) -> csr_matrix:
    rows = np.repeat(np.arange(len(codes)), codes.shape[1])
    ones = (codes.ravel() > 0).astype(np.float32)
    return csr_matrix((ones, (rows, codes.ravel())), shape=(len(codes), width))


def item_rate(items: np.ndarray, label: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Each item's smoothed rate on the training rows."""
    size = int(max(items.max(), asked.max())) + 1
    shown = np.bincount(items, minlength=size)
    acted = np.bincount(items, label, minlength=size)
    return ((acted + 20 * label.mean()) / (shown + 20))[asked]


if __name__ == "__main__":
    main()
