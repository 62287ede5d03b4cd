"""The heads of the ranker on logged impressions: every number a user of the predictions would ask for."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from tamis import metrics
from tamis.data.samples import Samples
from tamis.data.split import Split
from tamis.evaluate.queries import Past
from tamis.evaluate.report import Curve, Row, known
from tamis.nets.labels import AMOUNTS, PLAY
from tamis.rank.fuse import Fuse
from tamis.rank.multitask import Multitask
from tamis.rank.rating import STARS, Rating
from tamis.stages import Scorer
from tamis.types import Candidates, Progress

RATE = "rate"  # the action whose values are stars
BLOCK = 200  # requests between two calls of progress


@dataclass(frozen=True, slots=True)
class Judged:
    """What was found: head → numbers, head → its reliability (of probabilities alone), requests that were used."""

    rows: dict[str, Row] = field(default_factory=dict)
    reliability: dict[str, Curve] = field(default_factory=dict)
    requests: int = 0


def judge_heads(past: Past, split: Split, most_requests: int, progress: Progress) -> Judged:
    """The heads of the first net of the stage "rank" on logged requests, and the stars of its ratings.

    Heads are the columns p_<head> or light_<head>. Probabilities are those for an impression; a head that is trained on
    clicked rows only is judged on clicked rows. Rows of items that the bundle does not know have no prediction and are
    left out.
    """
    steps = [step for stage in past.model.funnel.stages if stage.name == "rank" for step in stage.main.values()]
    rating = next((step for step in steps if isinstance(step, Rating)), None)
    # A fusion scores too, but by the columns of others: alone it has nothing to say.
    ranker = next((step for step in steps if isinstance(step, Scorer) and not isinstance(step, Rating | Fuse)), None)
    judged = _judge(past, ranker, past.samples(split), most_requests, progress) if ranker else Judged()
    if rating is None or rating.facts.dropped:
        return judged
    stars = _judge(past, rating, past.ratings(split), most_requests, progress).rows
    return replace(judged, rows=judged.rows | stars)


def _judge(past: Past, ranker: Scorer, samples: Samples, most_requests: int, progress: Progress) -> Judged:
    """One scorer on some of the requests of `samples`."""
    if isinstance(ranker, Multitask):
        samples = ranker.watch.labelled(samples, past.model.catalog)
    there = samples.item < len(past.model.catalog)
    answerable = np.unique(np.repeat(np.arange(len(samples)), np.diff(samples.first))[there])
    if not len(answerable):
        return Judged()
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
    return _judged((truth, scores, np.concatenate(users)), gated, len(rows))


def _judged(columns: tuple[dict[str, Any], dict[str, Any], Any], gated: tuple[str, ...], requests: int) -> Judged:
    """The numbers of all heads. columns: labels, predictions, users."""
    truth, scores, users = columns
    out = Judged(requests=requests)
    for head, (used, label, p) in _judgeable(truth, scores, gated):
        if head in AMOUNTS or head == RATE:
            out.rows[head] = known(_amount(label, p, "_seconds" if head == PLAY else ""))
        elif 0 < label.sum() < len(label):
            out.rows[head] = known(_binary(label, p, users[used]))
            out.reliability[head] = Curve.of(metrics.reliability(label, p))
    return out


def _judgeable(
    truth: dict[str, Any], scores: dict[str, Any], gated: tuple[str, ...]
) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """(head, (rows it is judged on, their labels, their predictions)) of each head that the log has labels for."""
    for column, score in scores.items():
        head = RATE if column == STARS else column.removeprefix("p_").removeprefix("light_")
        if head in truth:
            used = ~np.isnan(truth[head])
            used &= truth["click"] > 0 if head in gated and "click" in truth else True
            yield head, (used, truth[head][used], score[used].astype(np.float64))


def _binary(label: Any, p: Any, users: Any) -> Row:
    return {
        "auc": metrics.auc(label, p),
        "gauc": metrics.gauc(label, p, users),
        "log_loss": metrics.log_loss(label, p),
        "calibration_error": metrics.calibration_error(label, p),
        "rate": float(label.mean()),
        "predicted": float(p.mean()),
        "rows": float(len(label)),
    }


def _amount(truth: Any, predicted: Any, unit: str) -> Row:
    """Mean absolute error and rank correlation, over all rows that have the label; no correlation with a constant."""
    if len(truth) < 2:
        return {}
    varies = np.ptp(truth) > 0 and np.ptp(predicted) > 0
    return {
        f"mae{unit}": float(np.abs(truth - predicted).mean()),
        "rank_correlation": float(spearmanr(truth, predicted).statistic) if varies else np.nan,
        f"mean{unit}": float(truth.mean()),
        "predicted": float(predicted.mean()),
        "rows": float(len(truth)),
    }
