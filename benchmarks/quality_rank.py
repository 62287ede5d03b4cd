"""The quality of ranking nets beside their peers, each trained on the same rows in the same run.

    python benchmarks/quality_rank.py [frappe|adult|kuairand …] [--seeds N]

Peers: FuxiCTR (`pip install fuxictr`; left out with a line where it is missing) and torch-rechub.

"frappe" (which app is used in which context). The file holds what was used and nothing else. Each use is joined by two
rows that keep its user and context and have another app, drawn evenly among those that this user never used in that
context (all seven context columns equal); generator seed 2025. All rows are then put in random order by the same
generator and cut 7:2:1 into training, validation and test. FuxiCTR's models have the settings that BARS publishes for
its draw of Frappe (x1): embeddings of 10, batches of 4096, learning rate 1e-3 falling tenfold when the validation AUC
does not rise and a stop after the second such time, embedding regularizer 0.05, dropout 0.4 and batch normalisation;
DCNv2 with 4 cross layers beside 400-400-400, FinalMLP with streams of 400 and 100, 5 heads, and selection by user and
item through 400. Ours were chosen on the validation rows.

"adult" (census; official training and test rows, a tenth of the training rows for early stopping). Two tasks: income
above 50,000, and never married. The marital status, what says it again (relationship) and the sampling weight are left
out. One expert four times as wide is the shared bottom.

"kuairand" (trained to 29 April, tested on 30 April): the ranker of the project template against torch-rechub's MMoE and
PLE and FuxiCTR's DCNv2 and FinalMLP (one net per head) on the same encoded features: codes, numbers made standard, the
history as means of its embeddings. Every net's best epoch is that of the validation rows, those of the last hours of 29
April. "live" and "frozen" test rows: see quality_kuairand.py. Then our net with one thing changed at a time.
"""

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import _fuxictr
import _rechub
from _columns import Columns
from _fuxictr_zoo import installed
from _layout import plain_layout
from _prepared import periods, ranker_of
from _results import data, result
from quality_kuairand import without_the_day
from tamis.data.dataset import Dataset
from tamis.data.samples import Samples
from tamis.data.sources import read_source
from tamis.data.write import import_tables
from tamis.features.batch import NetBatch
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.metrics import auc, gauc
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.heads import HeadPlan, Targets, loss
from tamis.nets.loop import Problem, train
from tamis.nets.multitask import MultitaskNet, Scales, fit_multitask, predict
from tamis.nets.plans import MultitaskShape, TrainingPlan, plan_of
from tamis.project import create, open_project
from tamis.rank.multitask import MultitaskConfig

DRAW = 2025


@dataclass(frozen=True)
class Table:
    """Rows that stand alone: each is a request with one candidate, without a history."""

    layout: Layout
    user: np.ndarray  # [n, fields]
    user_numbers: np.ndarray  # [n, d]
    item: np.ndarray  # [n, fields]
    labels: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.user)

    def part(self, rows: np.ndarray) -> "Table":
        labels = {name: label[rows] for name, label in self.labels.items()}
        return Table(self.layout, self.user[rows], self.user_numbers[rows], self.item[rows], labels)

    def batch(self, rows: np.ndarray) -> NetBatch:
        none = np.zeros((len(rows), 0), np.float32)
        return NetBatch(
            user_codes=self.user[rows],
            user_dense=self.user_numbers[rows],
            history_codes=np.zeros((len(rows), 0, 2), np.int32),
            item_codes=self.item[rows],
            item_dense=none,
            item_dynamic=none,
            row_of=np.arange(len(rows)),
            labels={name: label[rows] for name, label in self.labels.items()},
        )

    def columns(self) -> Columns:
        """The same rows for the peers; code 0 is left for what is absent."""
        sides = ((self.layout.user_fields, self.user), (self.layout.item_fields, self.item))
        codes = {f.name: side[:, f.start].astype(np.int64) - f.offset + 1 for fields, side in sides for f in fields}
        sizes = {f.name: f.size + 1 for fields, _ in sides for f in fields}
        numbers = {name: self.user_numbers[:, at] for at, name in enumerate(self.layout.user_dense)}
        return Columns(codes, self.labels, sizes, numbers=numbers)


def scores(net: MultitaskNet, table: Table) -> dict[str, np.ndarray]:
    """Logits of each head for all rows."""
    net.eval()
    with torch.no_grad():
        batches = (tensors(table.batch(rows)) for rows in np.array_split(np.arange(len(table)), len(table) // 8192 + 1))
        out = torch.cat([net(batch[:6], batch.row_of) for batch in batches], 1).numpy()
    return dict(zip(net.heads, out, strict=True))


def mean_auc(net: MultitaskNet, table: Table) -> float:
    return float(np.mean([auc(table.labels[head], score) for head, score in scores(net, table).items()]))


def trained(shape: MultitaskShape, plan: TrainingPlan, parts: tuple[Table, Table], seed: int) -> MultitaskNet:
    """Our net on the first part, its best epoch by the mean AUC on the second."""
    learn, valid = parts
    heads = HeadPlan(tuple(learn.labels), frozenset(), {}, "ratio")
    none = np.zeros((1, 0), np.float32)
    scales = Scales(learn.user_numbers, none, none)
    net = MultitaskNet(shape, learn.layout, heads.heads, scales, torch.Generator().manual_seed(seed))

    def ready(rows: np.ndarray) -> tuple[TensorBatch, Targets]:
        batch = tensors(learn.batch(rows))
        return batch, heads.targets(batch.labels)

    problem = Problem(
        rows=np.ones(len(learn), np.int64),
        batch=ready,
        loss=lambda pair: loss(net(pair[0][:6], pair[0].row_of), pair[1]),
        judge=lambda: mean_auc(net, valid),
        name="table",
        progress=lambda what, done, total: None,
    )
    report = train(net, problem, plan, seed)
    print("   ", [round(x, 4) for x in report.scores])
    best = report.scores[report.best]
    print(
        f"  {len(report.scores)} epochs, best {report.best + 1}, validation {best:.4f}, {report.seconds:.0f} s",
        flush=True,
    )
    return net


# frappe


def frappe_rows() -> tuple[Table, Table, Table]:
    """Training, validation and test rows of the draw that the module describes."""
    used = pl.read_parquet(data("frappe") / "usage.parquet")
    context = [f"ctx{at}" for at in range(7)]
    random = np.random.default_rng(DRAW)
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


def frappe(seeds: int) -> None:
    learn, valid, test = frappe_rows()
    print(f"frappe: {len(learn):,} training, {len(valid):,} validation and {len(test):,} test rows")
    found: dict[str, list[float]] = {}
    for seed in range(1, seeds + 1):
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
    result(f"frappe AUC, {best_name}, mean of {seeds} seeds", means[best_name], best_peer, "AUC", "above FuxiCTR")


def note(found: dict[str, list[float]], name: str, value: float, seed: int) -> None:
    found.setdefault(name, []).append(value)
    print(f"{name:24} seed {seed} test AUC {value:.4f}", flush=True)


# uci-adult

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
    held = np.random.default_rng(DRAW).random(len(official)) < 0.1
    test = np.flatnonzero((rows["split"] == "test").to_numpy())
    return table.part(official[~held]), table.part(official[held]), table.part(test)


def adult(seeds: int) -> None:
    learn, valid, test = adult_rows()
    print(f"adult: {len(learn):,} training, {len(valid):,} validation and {len(test):,} test rows")
    plan = TrainingPlan(
        epochs=15, batch_size=512, embedding_learning_rate=3e-3, decay_to=0.0, l2=1e-4, patience=4, threads=1
    )
    means: dict[tuple[str, str], float] = {}
    for name, changes in MIXTURES.items():
        shape = replace(MultitaskShape(embedding_size=8, attention="mean", tower_hidden=(16,)), **changes)
        found = []
        for seed in range(1, seeds + 1):
            said = scores(trained(shape, plan, (learn, valid), seed), test)
            found.append([auc(test.labels[head], score) for head, score in said.items()])
        for head, own in zip(test.labels, np.transpose(found), strict=True):
            means[name, head] = float(own.mean())
            print(f"{name:20} {head:14} AUC {own.mean():.4f} ± {own.std(ddof=1) if seeds > 1 else 0:.4f}", flush=True)
    for name in list(MIXTURES)[1:]:
        for head in test.labels:
            result(f"adult {head}, {name}", means[name, head], means["shared bottom", head], "AUC", "> shared bottom")


# KuaiRand

HEADS = ("click", "long_view", "profile_enter", "like")
CHANGES: dict[str, dict[str, Any]] = {
    "no cross": {"crosses": ()},
    "no cross, no wide": {"crosses": (), "wide": False},
    "no wide": {"wide": False},
    "mean of the history": {"attention": "mean"},
    "fm": {"crosses": ("fm",)},
    "dcn": {"crosses": ("dcn",)},
    "dcn_v2 of 4 layers": {"crosses": ("dcn_v2",), "cross_depth": 4},
    "gdcn of 4 layers": {"crosses": ("gdcn",), "cross_depth": 4},
    "senet": {"crosses": ("senet",)},
    "senet_bilinear": {"crosses": ("senet_bilinear",)},
    "final_mlp": {"crosses": ("final_mlp",)},
    "shared bottom": {"experts": 1},
    "PLE": {"mixture": "ple"},
    "LHUC": {"personal_gates": "lhuc"},
    "PPNet": {"personal_gates": "ppnet"},
    "dropout 0.2": {"dropout": 0.2},
    "normalised by batch": {"normalization": "batch"},
    "normalised, dropout 0.2": {"normalization": "batch", "dropout": 0.2},
}
_SINGLE = {
    "embedding_dim": 16,
    "batch_size": 512,
    "epochs": 10,
    "learning_rate": 1e-3,
    "embedding_regularizer": 1e-3,
    "net_regularizer": 0,
}
SINGLE = {
    "DCNv2": {
        **_SINGLE,
        "model_structure": "parallel",
        "num_cross_layers": 3,
        "parallel_dnn_hidden_units": [128, 64],
        "net_dropout": 0.2,
        "batch_norm": True,
    },
    "FinalMLP": {
        **_SINGLE,
        "mlp1_hidden_units": [128, 64],
        "mlp2_hidden_units": [128, 64],
        "mlp1_dropout": 0.2,
        "mlp2_dropout": 0.2,
        "mlp1_batch_norm": True,
        "mlp2_batch_norm": True,
        "use_fs": True,
        "fs_hidden_units": [64],
        "fs1_context": ["context_tab"],
        "fs2_context": ["item_item_id"],
        "num_heads": 4,
    },
}


def kuairand_inputs() -> tuple[MultitaskConfig, Inputs, Inputs, Inputs]:
    """The template's ranker; inputs to train and choose on; those whose `valid` are the test rows, live and frozen."""
    folder = Path(tempfile.mkdtemp()) / "feed"
    create(folder, "kuairand")
    project = open_project(folder)
    import_tables(read_source("kuairand", data("kuairand-pure")), project.data)
    config, dataset = project.config, Dataset.open(project.data)
    inputs, live = periods(config, dataset)
    return ranker_of(config), inputs, live, without_the_day(live, inputs)


def kuairand_columns(parts: list[tuple[Inputs, Samples]]) -> list[Columns]:
    """All rows of each part; numbers with the mean and spread of the first."""
    out, scale = [], None
    for inputs, samples in parts:
        batch, shape = inputs.batch(samples, np.arange(len(samples))), inputs.layout
        codes, bags, sizes, shared = {}, {}, {}, {}
        for fields, side in (
            (shape.user_fields, batch.user_codes[batch.row_of]),
            (shape.item_fields, batch.item_codes),
        ):
            for f in fields:
                own = side[:, f.start : f.start + f.width].astype(np.int64)
                own = np.where(own > 0, own - f.offset + 1, 0)
                (codes if f.width == 1 else bags)[f.name] = own[:, 0] if f.width == 1 else own
                sizes[f.name] = f.size + 1
        past = batch.history_codes[batch.row_of].astype(np.int64)
        of_item = {f.start: f for f in shape.item_fields}
        entry = [*(of_item[column] for column in shape.history_columns), shape.history_action, shape.history_age]
        for at, f in enumerate(entry):
            bags[f"past {f.name}"] = np.where(past[:, :, at] > 0, past[:, :, at] - f.offset + 1, 0)
            sizes[f"past {f.name}"] = f.size + 1
            if f in shape.item_fields and f.width == 1:
                shared[f"past {f.name}"] = f.name
        numbers = np.concatenate([batch.user_dense[batch.row_of], batch.item_dense, batch.item_dynamic], 1)
        scale = scale or (numbers.mean(0), np.maximum(numbers.std(0), 1e-6))
        numbers = np.clip((numbers - scale[0]) / scale[1], -8, 8).astype(np.float32)
        names = (*shape.user_dense, *shape.item_dense, *shape.item_dynamic)
        named = {f"number {at} {name}": numbers[:, at] for at, name in enumerate(names)}
        plain = [{key.replace(".", "_"): value for key, value in part.items()} for part in (codes, bags, sizes, named)]
        shared = {
            key.replace(".", "_"): value.replace(".", "_") for key, value in shared.items()
        }  # torch wants no dots
        labels = {head: samples.labels[head] for head in HEADS}
        out.append(Columns(plain[0], labels, plain[2], plain[1], shared, plain[3]))
    return out


@dataclass(frozen=True)
class Days:
    """The rows of KuaiRand: training, validation, live and frozen test rows, each with its inputs."""

    ranker: MultitaskConfig
    parts: list[tuple[Inputs, Samples]]

    def ours(self, changes: dict[str, Any], seed: int) -> list[dict[str, np.ndarray]]:
        """Scores of the validation and test rows by the template's net with some settings changed.

        Every head is a rate per impression, as with the peers.
        """
        ranker, inputs = self.ranker, self.parts[0][0]
        shape = replace(plan_of(MultitaskShape, ranker), **changes)
        heads = HeadPlan(ranker.heads, frozenset(), ranker.head_weights, ranker.play_loss, ranker.play_limit_seconds)
        plan = replace(plan_of(TrainingPlan, ranker), threads=1)
        net = fit_multitask(shape, plan, heads, inputs, seed).net
        return [predict(net, side, samples) for side, samples in self.parts[1:]]

    def show(self, name: str, said: list[dict[str, np.ndarray]]) -> dict[str, list[float]]:
        """AUC and GAUC of each head on validation, live and frozen rows."""
        out: dict[str, list[float]] = {head: [] for head in HEADS}
        for head, own in out.items():
            for (_, samples), scores in zip(self.parts[1:], said, strict=True):
                users = np.repeat(samples.user, np.diff(samples.first))
                truth = samples.labels[head]
                own += [auc(truth, scores[head]), gauc(truth, scores[head], users)]
            print(f"{name:24} {head:14} " + " ".join(f"{x:.4f}" for x in own), flush=True)
        return out

    def peers(self) -> list[dict[str, list[float]]]:
        columns = kuairand_columns(self.parts)
        out = [self.show(f"torch-rechub {name}", _rechub.predicted(name, columns, seed=1)) for name in ("MMoE", "PLE")]
        for name, settings in SINGLE.items() if installed() else ():
            said: list[dict[str, np.ndarray]] = [{} for _ in columns[1:]]
            for head in HEADS:
                own, _ = _fuxictr.predicted(name, settings, (columns[0], columns[1], tuple(columns[1:])), head, 1)
                for part, score in zip(said, own, strict=True):
                    part[head] = score
            out.append(self.show(f"FuxiCTR {name}", said))
        return out


def kuairand(seeds: int) -> None:
    ranker, inputs, live, frozen = kuairand_inputs()
    days = Days(ranker, [(inputs, inputs.train), (inputs, inputs.valid), (live, live.valid), (frozen, frozen.valid)])
    print("kuairand: " + ", ".join(f"{len(samples.item):,}" for _, samples in days.parts[:3]), "rows")
    print(f"{'':40}validation AUC, GAUC; live AUC, GAUC; frozen AUC, GAUC")
    found = [days.show(f"tamis, seed {seed}", days.ours({}, seed)) for seed in range(1, seeds + 1)]
    peers = days.peers()
    for head in HEADS:
        for at, what in enumerate(("live AUC", "live GAUC", "frozen AUC", "frozen GAUC"), 2):
            mean = float(np.mean([one[head][at] for one in found]))
            result(f"kuairand {head} {what}", mean, max(peer[head][at] for peer in peers), "", "> every peer")
    for name, changes in CHANGES.items():
        days.show(name, days.ours(changes, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shows = {"frappe": (frappe, 2), "adult": (adult, 3), "kuairand": (kuairand, 1)}
    parser.add_argument("only", nargs="*", choices=[*shows, []], default=[])
    parser.add_argument("--seeds", type=int, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only or shows:
        show, seeds = shows[name]
        show(given.seeds or seeds)


if __name__ == "__main__":
    main()
