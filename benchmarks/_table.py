"""Rows that stand alone, and our ranking net trained on them."""

from dataclasses import dataclass

import numpy as np
import torch

from _columns import Columns
from tamis.features.batch import NetBatch
from tamis.features.layout import Layout
from tamis.metrics import auc
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.heads import HeadPlan, Targets, loss
from tamis.nets.loop import Problem, train
from tamis.nets.multitask import MultitaskNet, Scales
from tamis.nets.plans import MultitaskShape, TrainingPlan


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
