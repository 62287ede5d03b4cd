"""Frappe for `quality_rank.py`: which app is used in which context."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

import _fuxictr
from _fuxictr_zoo import installed
from _layout import plain_layout
from _results import Figure, data
from _table import Table, mean_auc, trained
from tamis.metrics import auc
from tamis.nets.plans import MultitaskShape, TrainingPlan

_DRAW = 2025


def frappe_rows() -> tuple[Table, Table, Table]:
    """Training, validation and test rows of the draw that the module describes."""
    used = pl.read_parquet(data("frappe") / "usage.parquet")
    context = [f"ctx{at}" for at in range(7)]
    random = np.random.default_rng(_DRAW)
    codes = {name: used[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ["user", *context, "app"]}
    cost = used["app_cost"].rank("dense").to_numpy().astype(np.int64) - 1
    apps = int(codes["app"].max()) + 1
    cost_of = np.zeros(apps, np.int64)
    cost_of[codes["app"]] = cost
    assert (cost_of[codes["app"]] == cost).all()  # an app costs the same wherever it is used
    where = used.select(pl.struct(["user", *context]).rank("dense")).to_series().to_numpy().astype(np.int64)
    taken = np.unique(where * apps + codes["app"])
    app, source = [codes["app"]], [np.arange(len(used))]
    for _ in range(2):
        drawn, open_rows = np.empty(len(used), np.int64), np.arange(len(used))
        while len(open_rows):
            drawn[open_rows] = random.integers(0, apps, len(open_rows))
            open_rows = open_rows[np.isin(where[open_rows] * apps + drawn[open_rows], taken)]
        app.append(drawn)
        source.append(np.arange(len(used)))
    rows, item = np.concatenate(source), np.concatenate(app)
    user = {name: codes[name] for name in ["user", *context]}
    shape = plain_layout(
        {name: int(of.max()) + 1 for name, of in user.items()}, {"app": apps, "cost": int(cost.max()) + 1}
    )
    both = np.stack([item, cost_of[item]], 1)
    table = Table(
        shape,
        np.stack([of[rows] + f.offset for f, of in zip(shape.user_fields, user.values(), strict=True)], 1).astype(
            np.int32
        ),
        np.zeros((len(rows), 0), np.float32),
        (both + [f.offset for f in shape.item_fields]).astype(np.int32),
        {"click": np.repeat([1.0, 0.0, 0.0], len(used)).astype(np.float32)},
    )
    order = random.permutation(len(table))
    cuts = (len(table) * np.array([0.7, 0.9])).astype(int)
    learn, valid, test = (table.part(part) for part in np.split(order, cuts))
    return learn, valid, test


_BARS = {
    "embedding_dim": 10,
    "batch_size": 4096,
    "epochs": 100,
    "learning_rate": 1e-3,
    "embedding_regularizer": 0.05,
    "net_regularizer": 0,
}
FUXI = {
    "DCNv2": {
        **_BARS,
        "model_structure": "parallel",
        "num_cross_layers": 4,
        "parallel_dnn_hidden_units": [400, 400, 400],
        "net_dropout": 0.4,
        "batch_norm": True,
    },
    "FinalMLP": {
        **_BARS,
        "mlp1_hidden_units": [400],
        "mlp2_hidden_units": [100],
        "mlp1_dropout": 0.4,
        "mlp2_dropout": 0.4,
        "mlp1_batch_norm": True,
        "mlp2_batch_norm": True,
        "use_fs": True,
        "fs_hidden_units": [400],
        "fs1_context": ["user"],
        "fs2_context": ["app"],
        "num_heads": 5,
    },
}

OURS: dict[str, dict[str, Any]] = {"tamis, no cross": {}, "tamis, dcn_v2": {"crosses": ("dcn_v2",)}}
OUR_SHAPE = MultitaskShape(
    embedding_size=12,
    embedding_spread=1e-4,
    attention="mean",
    experts=1,
    expert_hidden=(256, 128),
    tower_hidden=(),
    dropout=0.4,
    normalization="batch",
    wide=False,
)
OUR_PLAN = TrainingPlan(
    epochs=20,
    batch_size=4096,
    decay_to=0.0,
    l2=0.05,
    embedding_steps="all",
    patience=20,
    threads=1,
)


def frappe(seeds: range) -> Iterator[Figure]:
    """The mean test AUC of the better of our two nets, against the better peer's."""
    learn, valid, test = frappe_rows()
    print(f"frappe: {len(learn):,} training, {len(valid):,} validation and {len(test):,} test rows")
    found: dict[str, list[float]] = {}
    for seed in seeds:
        for name, shape in OURS.items():
            net = trained(replace(OUR_SHAPE, **shape), OUR_PLAN, (learn, valid), seed)
            note(found, name, mean_auc(net, test), seed)
        if installed():
            parts = learn.columns(), valid.columns(), (test.columns(),)
            for name, settings in FUXI.items():
                (score,), best = _fuxictr.predicted(name, settings, parts, "click", seed)
                print(f"  validation {best:.4f}")
                note(found, f"FuxiCTR {name}", auc(test.labels["click"], score), seed)
    print("published on another draw: DCNv2 .9845, FinalMLP .9861")
    means = {name: float(np.mean(own)) for name, own in found.items()}
    best_peer = max((mean for name, mean in means.items() if name.startswith("FuxiCTR")), default=None)
    best_name = max((name for name in means if name.startswith("tamis")), key=means.__getitem__)
    yield Figure(
        f"frappe AUC, {best_name}, mean of {len(seeds)} seeds", means[best_name], best_peer, "AUC", "above FuxiCTR"
    )


def note(found: dict[str, list[float]], name: str, value: float, seed: int) -> None:
    found.setdefault(name, []).append(value)
    print(f"{name:24} seed {seed} test AUC {value:.4f}", flush=True)
