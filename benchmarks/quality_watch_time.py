"""Heads of watch time on KuaiRand (train to 29 April, test 30 April): error and rank correlation of the seconds played.

    python benchmarks/quality_watch_time.py [--seeds N]

One ranker with the settings of the template and the heads of watch time, once for each reading of the time's loss, so
that all heads share all but themselves. What each says of the seconds: `play` as it is; completion × duration; the
quantile by its table; and beside them two rules without a net, the training mean and the training median of plays of
that duration (30 groups). Over all rows of the test day, and over those that were played, which is what completion and
quantile are trained for. MAE in seconds, Spearman's correlation, and XAUC, the share of pairs in the right order (of
200,000 drawn).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from msgspec import structs
from scipy.stats import spearmanr

from _prepared import periods, ranker_of
from _results import data, result
from tamis.data.dataset import Dataset
from tamis.data.sources import read_source
from tamis.data.write import import_tables
from tamis.features.inputs import Inputs
from tamis.project import create, open_project
from tamis.rank.multitask import Multitask, play_seconds
from tamis.rank.watch_time import DurationGroups

HEADS = ("click", "like", "long_view", "play", "completion", "finished", "play_quantile")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    seeds = range(1, parser.parse_args().seeds + 1)
    folder = Path(tempfile.mkdtemp()) / "feed"
    create(folder, "kuairand")
    import_tables(read_source("kuairand", data("kuairand-pure")), folder / "data")
    config, dataset = open_project(folder).config, Dataset.open(folder / "data")
    inputs, test = periods(config, dataset)
    step = ranker_of(config)
    truth = test.valid.labels["play"].astype(np.float64)
    durations = inputs.catalog.column("duration_seconds", test.valid.item).astype(np.float64)
    found: dict[str, list[tuple[float, ...]]] = {
        name: [judge(truth, s)] for name, s in rules(inputs, durations).items()
    }
    print(f"{len(truth)} rows, {np.mean(truth > 0):.3f} of them played, {np.mean(durations > 0):.3f} with a duration")
    for kind in ("ratio", "weighted"):
        for seed in seeds:
            part = Multitask.fit(structs.replace(step, heads=HEADS, play_loss=kind), inputs, seed)
            for name, seconds in answers(part, test, durations).items():
                if kind == "ratio" or name == "play":
                    found.setdefault(f"{name}, {kind}" if name == "play" else name, []).append(judge(truth, seconds))
    for name, rows in found.items():
        print(f"{name:<24}" + "  ".join(f"{value:8.4f}" for value in np.mean(rows, 0)))
        every = np.mean(rows, 0)
        result(f"kuairand seconds, {name}", float(every[1]), float(found["mean of the duration"][0][1]), "Spearman")


def rules(inputs: Inputs, durations: np.ndarray) -> dict[str, np.ndarray]:
    """The mean (over all rows) and the median (of plays) of the training rows of items that long."""
    seconds = inputs.train.labels["play"].astype(np.float64)
    length = inputs.catalog.column("duration_seconds", inputs.train.item).astype(np.float64)
    known = length > 0
    edges = np.unique(np.quantile(length[known], np.linspace(0, 1, 31)[1:-1]))
    group = np.searchsorted(edges, length[known], "right")
    mean = np.bincount(group, seconds[known], len(edges) + 1) / np.maximum(
        np.bincount(group, minlength=len(edges) + 1), 1
    )
    asked = np.searchsorted(edges, np.nan_to_num(durations), "right")
    played = known & (seconds > 0)
    groups = DurationGroups.fit(length[played], seconds[played])
    half = np.full(len(durations), 0.5)
    return {
        "mean of the duration": np.where(durations > 0, mean[asked], seconds.mean()),
        "median of the duration": groups.seconds_at(durations, half),
    }


def answers(part: Multitask, test: Inputs, durations: np.ndarray) -> dict[str, np.ndarray]:
    """What each head says of the seconds of all rows of the test day, by the exported net."""
    parts = []
    for request in range(len(test.valid)):
        batch = test.batch(test.valid, np.array([request]))
        parts.append(part.session.answer(batch))
    logits = {head: np.concatenate([one[head] for one in parts]).astype(np.float64) for head in parts[0]}
    length = np.where(durations > 0, durations, np.nanmean(durations))
    share = {head: 1 / (1 + np.exp(-logits[head])) for head in ("completion", "play_quantile")}
    return {
        "play": play_seconds(logits["play"], part.config.play_limit_seconds),
        "completion × duration": share["completion"] * length,
        "play_quantile": part.watch.beside("play_quantile", share["play_quantile"], durations)[1],
    }


def judge(truth: np.ndarray, seconds: np.ndarray) -> tuple[float, ...]:
    """MAE, Spearman and XAUC over all rows, then over the played ones."""
    return (*_judge(truth, seconds), *_judge(truth[truth > 0], seconds[truth > 0]))


def _judge(truth: np.ndarray, seconds: np.ndarray) -> tuple[float, float, float]:
    one, other = np.random.default_rng(1).integers(0, len(truth), (2, 200_000))
    differ = truth[one] != truth[other]
    one, other = one[differ], other[differ]
    right = np.sign(seconds[one] - seconds[other]) * np.sign(truth[one] - truth[other])
    return (
        float(np.abs(truth - seconds).mean()),
        float(spearmanr(truth, seconds).statistic),
        float((right + 1).mean() / 2),
    )


if __name__ == "__main__":
    main()
