"""uci-adult for `quality_rank.py`: two tasks, mixtures of experts against a shared bottom."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl

from _layout import plain_layout
from _results import Figure, data
from _table import Table, scores, trained
from tamis.metrics import auc
from tamis.nets.plans import MultitaskShape, TrainingPlan

_DRAW = 2025
_NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
_WORK = ("workclass", "occupation")
_PERSON = ("education", "race", "sex", "native_country")
MIXTURES = {
    "shared bottom": {"experts": 1, "expert_hidden": (256, 32)},
    "MMoE, 4 experts": {"experts": 4, "expert_hidden": (64, 32)},
    "PLE, 2 + 1 each": {"mixture": "ple", "experts": 2, "head_experts": 1, "expert_hidden": (64, 32)},
}


def adult_rows() -> tuple[Table, Table, Table]:
    rows = pl.read_parquet(data("uci-adult") / "adult.parquet")
    codes = {name: rows[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in (*_PERSON, *_WORK)}
    sizes = {name: int(of.max()) + 1 for name, of in codes.items()}
    shape = plain_layout(
        {name: sizes[name] for name in _PERSON}, {name: sizes[name] for name in _WORK}, numbers=_NUMBERS
    )
    numbers = rows.select(
        pl.col(name).log1p() if name.startswith("capital") else pl.col(name).cast(pl.Float64) for name in _NUMBERS
    )
    labels = {
        "income": (rows["income"] == ">50K").to_numpy().astype(np.float32),
        "never_married": (rows["marital_status"] == "Never-married").to_numpy().astype(np.float32),
    }
    user, item = (
        np.stack([codes[f.name] + f.offset for f in fields], 1).astype(np.int32)
        for fields in (shape.user_fields, shape.item_fields)
    )
    table = Table(shape, user, numbers.to_numpy().astype(np.float32), item, labels)
    official = np.flatnonzero((rows["split"] == "train").to_numpy())
    held = np.random.default_rng(_DRAW).random(len(official)) < 0.1
    test = np.flatnonzero((rows["split"] == "test").to_numpy())
    return table.part(official[~held]), table.part(official[held]), table.part(test)


def adult(seeds: range) -> Iterator[Figure]:
    """Each mixture's mean test AUC of each task, against the shared bottom's."""
    learn, valid, test = adult_rows()
    print(f"adult: {len(learn):,} training, {len(valid):,} validation and {len(test):,} test rows")
    plan = TrainingPlan(
        epochs=15, batch_size=512, embedding_learning_rate=3e-3, decay_to=0.0, l2=1e-4, patience=4, threads=1
    )
    means: dict[tuple[str, str], float] = {}
    for name, changes in MIXTURES.items():
        shape = replace(MultitaskShape(embedding_size=8, attention="mean", tower_hidden=(16,)), **changes)
        found = []
        for seed in seeds:
            said = scores(trained(shape, plan, (learn, valid), seed), test)
            found.append([auc(test.labels[head], score) for head, score in said.items()])
        for head, own in zip(test.labels, np.transpose(found), strict=True):
            means[name, head] = float(own.mean())
            print(
                f"{name:20} {head:14} AUC {own.mean():.4f} ± {own.std(ddof=1) if len(seeds) > 1 else 0:.4f}", flush=True
            )
    for name in list(MIXTURES)[1:]:
        for head in test.labels:
            yield Figure(
                f"adult {head}, {name}", means[name, head], means["shared bottom", head], "AUC", "> shared bottom"
            )
