"""KuaiRand for `quality_rank.py`: the template's ranker beside its peers, then with one thing changed at a time."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import _fuxictr
import _rechub
from _columns import Columns
from _fuxictr_zoo import installed
from _prepared import periods, ranker_of
from _results import Figure, data
from quality_kuairand import without_the_day
from tamis.data.dataset import Dataset
from tamis.data.samples import Samples
from tamis.data.sources import read_source
from tamis.data.write import import_tables
from tamis.features.inputs import Inputs
from tamis.metrics import auc, gauc
from tamis.nets.heads import HeadPlan
from tamis.nets.multitask import fit_multitask, predict
from tamis.nets.plans import MultitaskShape, TrainingPlan, plan_of
from tamis.project import create, open_project
from tamis.rank.multitask import MultitaskConfig

Said = list[dict[str, np.ndarray]]  # of each part after the first: head → scores of its rows
Judged = dict[str, list[float]]
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
    "DIN": {
        **_SINGLE,
        "dnn_hidden_units": [128, 64],
        "attention_hidden_units": [36],
        "net_dropout": 0.2,
        "batch_norm": True,
    },
}
RECHUB = ("MMoE", "PLE", "DIN")


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

    def ours(self, changes: dict[str, Any], seed: int) -> Said:
        """Scores of the validation and test rows by the template's net with some settings changed.

        Every head is a rate per impression, as with the peers.
        """
        ranker, inputs = self.ranker, self.parts[0][0]
        shape = replace(plan_of(MultitaskShape, ranker), **changes)
        heads = HeadPlan(ranker.heads, frozenset(), ranker.head_weights, ranker.play_loss, ranker.play_limit_seconds)
        plan = replace(plan_of(TrainingPlan, ranker), threads=1)
        net = fit_multitask(shape, plan, heads, inputs, seed).net
        return [predict(net, side, samples) for side, samples in self.parts[1:]]

    def judged(self, name: str, said: Said) -> Judged:
        """AUC and GAUC of each head on validation, live and frozen rows; printed."""
        out: Judged = {head: [] for head in HEADS}
        for head, own in out.items():
            for (_, samples), scores in zip(self.parts[1:], said, strict=True):
                users = np.repeat(samples.user, np.diff(samples.first))
                truth = samples.labels[head]
                own += [auc(truth, scores[head]), gauc(truth, scores[head], users)]
            print(f"{name:32} {head:14} " + " ".join(f"{x:.4f}" for x in own), flush=True)
        return out

    def peers(self) -> dict[str, Callable[[int], Said]]:
        """Each peer's scores by the seed."""
        columns = kuairand_columns(self.parts)
        out: dict[str, Callable[[int], Said]] = {
            f"torch-rechub {name}": partial(_rechub.predicted, name, columns) for name in RECHUB
        }
        if installed():
            out |= {f"FuxiCTR {name}": partial(_of_heads, name, columns) for name in SINGLE}
        return out


@cache
def kuairand_days() -> Days:
    """The template's ranker and all rows; says how many, and what will stand in the lines of figures."""
    folder = Path(tempfile.mkdtemp()) / "feed"
    create(folder, "kuairand")
    project = open_project(folder)
    import_tables(read_source("kuairand", data("kuairand-pure")), project.data)
    config, dataset = project.config, Dataset.open(project.data)
    inputs, live = periods(config, dataset)
    frozen = without_the_day(live, inputs)
    parts = [(inputs, inputs.train), (inputs, inputs.valid), (live, live.valid), (frozen, frozen.valid)]
    print("kuairand: " + ", ".join(f"{len(samples.item):,}" for _, samples in parts[:3]), "rows")
    print(f"{'':48}validation AUC, GAUC; live AUC, GAUC; frozen AUC, GAUC")
    return Days(ranker_of(config), parts)


def _of_heads(model: str, columns: list[Columns], seed: int) -> Said:
    """FuxiCTR's scores: one net for each head."""
    out: Said = [{} for _ in columns[1:]]
    for head in HEADS:
        parts = columns[0], columns[1], tuple(columns[1:])
        for part, score in zip(out, _fuxictr.predicted(model, SINGLE[model], parts, head, seed)[0], strict=True):
            part[head] = score
    return out


def kuairand(seeds: range) -> Iterator[Figure]:
    """The mean AUC and GAUC of each head over the seeds, live and frozen, against the best peer's mean."""
    days = kuairand_days()
    nets = {"tamis": partial(days.ours, {}), **days.peers()}
    found: dict[str, list[Judged]] = {name: [] for name in nets}
    for seed in seeds:
        for name, net in nets.items():
            began = time.perf_counter()
            found[name].append(days.judged(f"{name}, seed {seed}", net(seed)))
            print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    means = {name: {head: np.mean([one[head] for one in own], 0) for head in HEADS} for name, own in found.items()}
    print(f"mean ± deviation of {len(seeds)} seeds")
    for head in HEADS:
        for name, own in found.items():
            spread = np.std([one[head] for one in own], 0, ddof=1) if len(seeds) > 1 else np.zeros(6)
            both = zip(means[name][head], spread, strict=True)
            print(f"{name:32} {head:14} " + " ".join(f"{mean:.4f} ± {off:.4f}" for mean, off in both), flush=True)
    for head in HEADS:
        for at, what in enumerate(("live AUC", "live GAUC", "frozen AUC", "frozen GAUC"), 2):
            ours, *peers = (float(own[head][at]) for own in means.values())
            yield Figure(f"kuairand {head} {what}, mean of {len(seeds)} seeds", ours, max(peers), "", "> every peer")


def ablation(seeds: range) -> Iterator[Figure]:
    """Our net with one thing changed: its mean live AUC of all heads and seeds, against that of the template."""
    days, template = kuairand_days(), None
    for name, changes in {"the template": {}, **CHANGES}.items():
        found = [days.judged(f"{name}, seed {seed}", days.ours(changes, seed)) for seed in seeds]
        mean = float(np.mean([own[2] for one in found for own in one.values()]))
        template = template or mean
        yield Figure(f"kuairand, {name}, mean live AUC of the heads", mean, template, "AUC", "")
