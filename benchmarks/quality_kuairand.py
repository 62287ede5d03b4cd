"""KuaiRand (train to 29 April, test 30 April): the funnel's report, against popularity and a logistic regression.

The regression sees the same encoded features of the same rows: one-hot codes (history as a bag) and all numbers.
Usage: python benchmarks/quality_kuairand.py [--keep FOLDER]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from _results import data, result
from tamis import metrics, views
from tamis.data.samples import Samples
from tamis.data.sources import read_source
from tamis.data.split import by_time
from tamis.data.write import import_tables
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.project import Dataset, create, open_project

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
    split = by_time(dataset, config.split)
    configs = (config.features, config.samples, config.train.interest_actions)
    train = prepare(dataset, Moment(split.test_since, split.test_since), configs, encoder=project.model.encoder)
    test = prepare(dataset, Moment(split.test_since, split.test_until), configs, encoder=project.model.encoder)
    users = np.repeat(test.valid.user, np.diff(test.valid.first))
    inside, outside = matrix(train, train.train), matrix(test, test.valid)
    for head in HEADS:
        label, truth = train.train.labels[head], test.valid.labels[head]
        rate = item_rate(train.train.item, label, test.valid.item)
        regression = LogisticRegression(C=0.1, max_iter=300).fit(inside, label).predict_proba(outside)[:, 1]
        rows = {"popularity": rate, "logistic regression": regression}
        for name, score in rows.items():
            print(
                f"{head:14} {name:20} AUC {metrics.auc(truth, score):.4f} GAUC {metrics.gauc(truth, score, users):.4f}"
            )
        ours = report.heads[head]
        print(f"{head:14} {'tamis':20} AUC {ours['auc']:.4f} GAUC {ours['gauc']:.4f}")
        result(f"kuairand {head} AUC", ours["auc"], metrics.auc(truth, regression), "AUC", "above the regression")
        result(f"kuairand {head} GAUC", ours["gauc"], metrics.gauc(truth, regression, users), "GAUC", "above")


def matrix(inputs: Inputs, samples: Samples) -> csr_matrix:
    """All rows as a sparse matrix: one column per code, history entries as a bag, numbers standardised as they are."""
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
