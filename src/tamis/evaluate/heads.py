"""The heads of the ranker on logged impressions: every number a user of the predictions would ask for."""

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tamis import metrics
from tamis.data.split import Split
from tamis.evaluate.queries import Past
from tamis.evaluate.report import Row, known
from tamis.nets.labels import AMOUNTS, PLAY
from tamis.rank.multitask import Multitask
from tamis.stages import Scorer
from tamis.types import Candidates, Progress

BLOCK = 200  # requests between two calls of progress


def judge_heads(past: Past, split: Split, most_requests: int, progress: Progress) -> tuple[dict[str, Row], int]:
    """(head → numbers, requests used). Only the first scorer of the stage "rank" is judged, on its columns p_<head>.

    Probabilities are those for an impression; a head that is trained on clicked rows only is judged on clicked rows.
    Rows of items that the bundle does not know have no prediction and are left out.
    """
    steps = [step for stage in past.model.funnel.stages if stage.name == "rank" for step in stage.steps.values()]
    ranker = next((step for step in steps if isinstance(step, Scorer)), None)
    if ranker is None:
        return {}, 0
    samples = past.samples(split)
    if isinstance(ranker, Multitask):
        samples = ranker.watch.labelled(samples, past.model.catalog)
    there = samples.item < len(past.model.catalog)
    answerable = np.unique(np.repeat(np.arange(len(samples)), np.diff(samples.first))[there])
    if not len(answerable):
        return {}, 0
    rows = np.random.default_rng(past.model.config.train.seed).permutation(answerable)[:most_requests]
    predicted: dict[str, list[Any]] = {}
    labels: dict[str, list[Any]] = {}
    users: list[Any] = []
    for done, row in enumerate(np.sort(rows)):
        span = np.arange(int(samples.first[row]), int(samples.first[row + 1]))
        span = span[there[span]]
        ids, inverse = np.unique(samples.item[span].astype(np.int64), return_inverse=True)
        columns = ranker.score(past.request(samples, int(row)), Candidates.of(ids))
        for name, column in columns.items():
            predicted.setdefault(name, []).append(column[inverse])
        for name, label in samples.labels.items():
            labels.setdefault(name, []).append(label[span])
        users.append(np.full(len(span), samples.user[row]))
        if done % BLOCK == 0:
            progress("evaluate heads", done, len(rows))
    progress("evaluate heads", len(rows), len(rows))
    truth = {name: np.concatenate(parts) for name, parts in labels.items()}
    scores = {name: np.concatenate(parts) for name, parts in predicted.items()}
    gated = ranker.facts.per_click if isinstance(ranker, Multitask) else ()
    judged = _judge(truth, scores, np.concatenate(users), gated)
    return {head: known(row) for head, row in judged.items()}, len(rows)


def _judge(truth: dict[str, Any], scores: dict[str, Any], users: Any, gated: tuple[str, ...]) -> dict[str, Row]:
    report: dict[str, Row] = {}
    for column, score in scores.items():
        head = column.removeprefix("p_")
        if head not in truth:
            continue
        used = ~np.isnan(truth[head])
        used &= truth["click"] > 0 if head in gated and "click" in truth else True
        label, p = truth[head][used], score[used].astype(np.float64)
        if head in AMOUNTS:
            report[head] = _amount(label, p, "_seconds" if head == PLAY else "")
        elif 0 < label.sum() < len(label):
            report[head] = {
                "auc": metrics.auc(label, p),
                "gauc": metrics.gauc(label, p, users[used]),
                "log_loss": metrics.log_loss(label, p),
                "calibration_error": metrics.calibration_error(label, p),
                "rate": float(label.mean()),
                "predicted": float(p.mean()),
                "rows": float(len(label)),
            }
    return report


def _amount(truth: Any, predicted: Any, unit: str) -> Row:
    """Mean absolute error and rank correlation, over all rows that have the label."""
    if len(truth) < 2:
        return {}
    return {
        f"mae{unit}": float(np.abs(truth - predicted).mean()),
        "rank_correlation": float(spearmanr(truth, predicted).statistic),
        f"mean{unit}": float(truth.mean()),
        "predicted": float(predicted.mean()),
        "rows": float(len(truth)),
    }
