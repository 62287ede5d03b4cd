"""Training speed of the ranking net against torch-rechub: MMoE, and DIN on request-grouped samples.

    python benchmarks/speed_rank.py [--rounds N] [--threads T] [--requests R] [--only mmoe|din|score]

"mixed" is tamis with the setting `precision = "mixed"`, torch-rechub has none; every other row is float32 throughout.

Equal sizes, batch of 2048 rows, Adam with equal learning rates, equal threads; both sides in one process, by turns, the
median of the rounds. "step": forward, backward, update on batches that are ready, the part that a faster loader
cannot change. "trainer": one epoch as a user runs it, through each library's own loader and loop.

MMoE: 16 fields × 16, vocabularies of 10,000 to 100,000, 4 experts 128-64, 2 tasks with towers of 32. "alone": every
row has its own user side, as in torch-rechub; "grouped": 16 candidates share it, as in a log of served pages.
DIN: 4 user fields, 2 item fields and 50 past items with the same 2 fields (8 in torch-rechub's count), attention 36,
layers 256-128, 10 to 16 candidates per request. A click is likely when the candidate's category is among the user's
past ones, which only a net that compares the two can learn. Both are trained on the same rows six times, AUC on
held-out rows after each pass; the best passes are compared.
"score": the exported net, DIN over 100 items, MMoE, 4 heads, 500 candidates, one thread.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.basic.initializers import RandomNormal
from torch_rechub.models.multi_task import MMOE
from torch_rechub.models.ranking import DIN
from torch_rechub.trainers import CTRTrainer, MTLTrainer
from torch_rechub.utils.data import DataGenerator

from _results import result
from tamis.features.batch import NetBatch
from tamis.features.layout import Field, Layout
from tamis.metrics import auc
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.embed import INITIAL_SPREAD
from tamis.nets.heads import HeadPlan, Targets, loss
from tamis.nets.loop import Problem, cut, train
from tamis.nets.multitask import INPUTS, MultitaskNet, Scales, export_multitask
from tamis.nets.optimizer import Optimizer
from tamis.nets.plans import MultitaskShape, Precision, TrainingPlan
from tamis.nets.products import precision
from tamis.nets.session import Session

BATCH = 2048
LEARNING_RATE = 2e-3
WIDTH = 16
Labels = dict[str, np.ndarray]


def layout(user: list[int], item: list[int], history: int, columns: tuple[int, ...]) -> Layout:
    """User and item fields of the given vocabulary sizes, one column each."""
    offset, sides = 1, []
    for name, sizes in (("user", user), ("item", item), ("history", [13, 27])):
        fields = []
        for at, size in enumerate(sizes):
            fields.append(Field(name=f"{name}_{at}", start=at, width=1, offset=offset, size=size))
            offset += size
        sides.append(tuple(fields))
    return Layout(
        table_size=offset,
        user_fields=sides[0],
        item_fields=sides[1],
        user_dense=(),
        item_dense=(),
        item_dynamic=(),
        item_ages={},
        history_columns=columns,
        history_action=sides[2][0],
        history_age=sides[2][1],
        history_length=history,
    )


@dataclass
class Log:
    """Served pages in memory: what `Inputs.batch` gives in training, from plain arrays."""

    layout: Layout
    user: np.ndarray  # [r, user fields]
    history: np.ndarray  # [r, L, columns]
    first: np.ndarray  # [r + 1]
    item: np.ndarray  # [n, item fields]
    labels: Labels

    def batch(self, requests: np.ndarray) -> NetBatch:
        counts = self.first[requests + 1] - self.first[requests]
        row_of = np.repeat(np.arange(len(requests)), counts)
        rows = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows += np.repeat(self.first[requests], counts)
        none = np.zeros((len(rows), 0), np.float32)
        return NetBatch(
            user_codes=self.user[requests],
            user_dense=none[: len(requests)],
            history_codes=self.history[requests],
            item_codes=self.item[rows],
            item_dense=none,
            item_dynamic=none,
            row_of=row_of,
            labels={name: label[rows] for name, label in self.labels.items()},
        )

    def flat(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The same rows as torch-rechub takes them: every field for every row, numbered from 0."""
        row_of = np.repeat(np.arange(len(self.user)), np.diff(self.first))
        columns = {f.name: self.user[row_of, f.start] - f.offset for f in self.layout.user_fields}
        columns |= {f.name: self.item[:, f.start] - f.offset for f in self.layout.item_fields}
        for at, column in enumerate(self.layout.history_columns):
            offset = self.layout.item_fields[column].offset
            columns[f"past_{at}"] = self.history[row_of, :, at] - offset
        return columns, np.stack(list(self.labels.values()), 1)

    def part(self, begin: int, end: int) -> "Log":
        rows = slice(self.first[begin], self.first[end])
        labels = {name: label[rows] for name, label in self.labels.items()}
        first = self.first[begin : end + 1] - self.first[begin]
        return Log(self.layout, self.user[begin:end], self.history[begin:end], first, self.item[rows], labels)


def mmoe_log(requests: int, candidates: int, seed: int = 1) -> Log:
    random = np.random.default_rng(seed)
    sizes = np.geomspace(10_000, 100_000, 16).astype(int)
    shape = layout([int(v) for v in sizes[::2]], [int(v) for v in sizes[1::2]], 0, ())
    rows = requests * candidates
    user = np.stack([random.integers(f.offset, f.offset + f.size, requests) for f in shape.user_fields], 1)
    item = np.stack([random.integers(f.offset, f.offset + f.size, rows) for f in shape.item_fields], 1)
    labels = {name: (random.random(rows) < rate).astype(np.float32) for name, rate in (("click", 0.2), ("like", 0.1))}
    history = np.zeros((requests, 0, 2), np.int32)
    return Log(
        shape, user.astype(np.int32), history, np.arange(requests + 1) * candidates, item.astype(np.int32), labels
    )


def din_log(requests: int, seed: int = 2, items: int = 20_000, categories: int = 20) -> Log:
    """Each user has 3 categories; half of the candidates come from them. Click: 0.7 inside, 0.1 outside."""
    random = np.random.default_rng(seed)
    shape = layout([20_000, 1_000, 100, 50], [items, categories], 50, (0, 1))
    per_category = items // categories
    tastes = random.integers(0, categories, (requests, 3))
    past = np.take_along_axis(tastes, random.integers(0, 3, (requests, 50)), 1)
    counts = random.integers(10, 17, requests)
    row_of = np.repeat(np.arange(requests), counts)
    inside = random.random(len(row_of)) < 0.5
    category = np.where(
        inside, tastes[row_of, random.integers(0, 3, len(row_of))], random.integers(0, categories, len(row_of))
    )
    liked = (category[:, None] == past[row_of]).any(1)
    click = random.random(len(row_of)) < np.where(liked, 0.7, 0.1)
    user = np.stack([random.integers(f.offset, f.offset + f.size, requests) for f in shape.user_fields], 1)
    item_field, category_field = shape.item_fields

    def coded(kind: np.ndarray) -> np.ndarray:
        item = kind + categories * random.integers(0, per_category, kind.shape)  # item i is of category i % categories
        return np.stack([item_field.offset + item, category_field.offset + kind], -1)

    history = np.zeros((requests, 50, 4), np.int32)
    history[:, :, :2] = coded(past)
    history[:, :, 2:] = shape.history_action.offset + 1, shape.history_age.offset + 1
    first = np.concatenate([[0], np.cumsum(counts)])
    labels = {"click": click.astype(np.float32)}
    return Log(shape, user.astype(np.int32), history, first, coded(category).astype(np.int32), labels)


# ours


def our_net(log: Log, shape: MultitaskShape) -> MultitaskNet:
    nothing = np.zeros((1, 0), np.float32)
    scales = Scales(nothing, nothing, nothing)
    return MultitaskNet(shape, log.layout, tuple(log.labels), scales, torch.Generator().manual_seed(1))


def our_plan(log: Log) -> HeadPlan:
    return HeadPlan(tuple(log.labels), frozenset(), {}, "ratio")


def ours_ready(log: Log) -> list[tuple[TensorBatch, Targets]]:
    plan, out = our_plan(log), []
    for requests in cut(np.diff(log.first), BATCH, np.random.default_rng(0)):
        batch = tensors(log.batch(requests))
        out.append((batch, plan.targets(batch.labels)))
    return out


def our_step(net: MultitaskNet, numbers: Precision = "float32") -> Callable[[Any], int]:
    optimizer = Optimizer(net, TrainingPlan(learning_rate=LEARNING_RATE, embedding_learning_rate=LEARNING_RATE))

    def step(pair: tuple[TensorBatch, Targets]) -> int:
        net.train()
        batch, targets = pair
        optimizer.clear()
        with precision(numbers):
            value = loss(net(batch[:6], batch.row_of), targets)
            value.backward()
        optimizer.step()
        value.item()
        return len(batch.row_of)

    return step


def our_epoch(net: MultitaskNet, log: Log, threads: int, numbers: Precision = "float32") -> int:
    plan = our_plan(log)

    def ready(requests: np.ndarray) -> tuple[TensorBatch, Targets]:
        batch = tensors(log.batch(requests))
        return batch, plan.targets(batch.labels)

    problem = Problem(
        rows=np.diff(log.first),
        batch=ready,
        loss=lambda pair: loss(net(pair[0][:6], pair[0].row_of), pair[1]),
        judge=lambda: 0.0,
        name="bench",
        progress=lambda what, done, total: None,
    )
    settings = TrainingPlan(
        batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        embedding_learning_rate=LEARNING_RATE,
        threads=threads,
        precision=numbers,
    )
    return train(net, problem, settings, 1).rows


def our_auc(net: MultitaskNet, log: Log) -> float:
    net.eval()
    scores = []
    with torch.no_grad():
        for start in range(0, len(log.user), 500):
            batch = tensors(log.batch(np.arange(start, min(start + 500, len(log.user)))))
            scores.append(net(batch[:6], batch.row_of)[0].numpy())
    return auc(log.labels["click"], np.concatenate(scores))


# torch-rechub


def peer_fields(log: Log) -> tuple[list[Any], list[Any], list[Any]]:
    start = RandomNormal(0, INITIAL_SPREAD)

    def sparse(field: Field) -> SparseFeature:
        return SparseFeature(field.name, vocab_size=field.size, embed_dim=WIDTH, initializer=start)

    users = [sparse(field) for field in log.layout.user_fields]
    items = [sparse(field) for field in log.layout.item_fields]
    past = []
    for at, column in enumerate(log.layout.history_columns):
        field = log.layout.item_fields[column]
        size = {"vocab_size": field.size, "embed_dim": WIDTH}
        past.append(SequenceFeature(f"past_{at}", pooling="concat", shared_with=field.name, **size))
    return users, items, past


def peer_mmoe(log: Log) -> torch.nn.Module:
    users, items, _ = peer_fields(log)
    tower = [{"dims": [32]} for _ in log.labels]
    return MMOE(users + items, ["classification"] * len(tower), 4, {"dims": [128, 64]}, tower)


def peer_din(log: Log) -> torch.nn.Module:
    users, items, past = peer_fields(log)
    return DIN(users, past, items, mlp_params={"dims": [256, 128]}, attention_mlp_params={"dims": [36]})


def peer_ready(log: Log) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    columns, labels = log.flat()
    order = np.random.default_rng(0).permutation(len(labels))
    pieces = [order[at : at + BATCH] for at in range(0, len(order) - BATCH + 1, BATCH)]
    return [
        ({name: torch.from_numpy(column[rows]) for name, column in columns.items()}, torch.from_numpy(labels[rows]))
        for rows in pieces
    ]


def peer_step(net: torch.nn.Module) -> Callable[[Any], int]:
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    criterion = torch.nn.BCELoss()

    def step(pair: tuple[dict[str, torch.Tensor], torch.Tensor]) -> int:
        net.train()
        columns, labels = pair
        predicted = net(columns).view(len(labels), -1)
        tasks = [criterion(predicted[:, at], labels[:, at]) for at in range(labels.shape[1])]
        value = sum(tasks) / len(tasks)
        net.zero_grad()
        value.backward()
        optimizer.step()
        value.item()
        return len(labels)

    return step


def peer_trainer(net: torch.nn.Module, log: Log) -> Callable[[], int]:
    """One epoch of torch-rechub's own trainer over its own loader."""
    columns, labels = log.flat()
    many = labels.shape[1] > 1
    data = DataGenerator(columns, labels if many else labels[:, 0])
    few = {name: column[:1] for name, column in columns.items()}
    loader, _, _ = data.generate_dataloader(few, labels[:1], few, labels[:1], batch_size=BATCH, num_workers=0)
    settings = {
        "optimizer_params": {"lr": LEARNING_RATE, "weight_decay": 0.0},
        "n_epoch": 1,
        "model_path": tempfile.gettempdir(),
    }
    trainer = MTLTrainer(net, ["classification"] * labels.shape[1], **settings) if many else CTRTrainer(net, **settings)

    def epoch() -> int:
        with quiet():
            trainer.train_one_epoch(loader)
        return len(labels)

    return epoch


def peer_auc(net: torch.nn.Module, log: Log) -> float:
    columns, labels = log.flat()
    net.eval()
    with torch.no_grad():
        scores = [
            net({name: torch.from_numpy(column[at : at + 8192]) for name, column in columns.items()}).numpy()
            for at in range(0, len(labels), 8192)
        ]
    return auc(labels[:, 0], np.concatenate(scores))


# by turns


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def rate(work: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> float:
    """Rows per second."""
    began = clock()
    return work() / (clock() - began)


def steps_by_turns(rounds: int, *sides: tuple[Callable[[Any], int], list[Any]]) -> list[float]:
    """Median rows per second of each side, one step each in turn; the first three rounds warm up."""
    rates: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 3):
        for own, (step, batches) in zip(rates, sides, strict=True):
            own.append(rate(partial(step, batches[turn % len(batches)])))
    return [median(own[3:]) for own in rates]


def row(name: str, peer: float, ours: float) -> None:
    print(f"{name:<28}{peer:>14,.0f}{ours:>14,.0f}{ours / peer:>9.1f} x", flush=True)
    result(name, ours, peer, "rows/s", "≥ 4" if name.startswith("MMoE") else "≥ 6")


def head() -> None:
    print(f"{'rows per second':<28}{'torch-rechub':>14}{'tamis':>14}{'ratio':>11}")


def mmoe(rounds: int, threads: int) -> None:
    shape = MultitaskShape(
        attention="mean",
        experts=4,
        expert_hidden=(128, 64),
        tower_hidden=(32,),
        wide=False,
        embedding_spread=INITIAL_SPREAD,
    )
    alone, grouped = mmoe_log(10 * BATCH, 1), mmoe_log(10 * BATCH // 16, 16)
    peer, theirs = peer_step(peer_mmoe(alone)), peer_ready(alone)
    rates = steps_by_turns(
        rounds,
        (peer, theirs),
        (our_step(our_net(alone, shape)), ours_ready(alone)),
        (our_step(our_net(grouped, shape)), ours_ready(grouped)),
        (our_step(our_net(grouped, shape), "mixed"), ours_ready(grouped)),
    )
    row("MMoE step, alone", rates[0], rates[1])
    row("MMoE step, grouped", rates[0], rates[2])
    row("MMoE step, grouped, mixed", rates[0], rates[3])
    epoch, longer = peer_trainer(peer_mmoe(alone), alone), mmoe_log(50 * BATCH // 16, 16)
    full, mixed = our_net(longer, shape), our_net(longer, shape)
    turns = [
        (
            rate(epoch),
            rate(partial(our_epoch, full, longer, threads)),
            rate(partial(our_epoch, mixed, longer, threads, "mixed")),
        )
        for _ in range(7)
    ]
    theirs, exact, rounded = (median(own) for own in zip(*turns, strict=True))
    row("MMoE trainer, grouped", theirs, exact)
    row("MMoE trainer, grouped, mixed", theirs, rounded)


def din(rounds: int, threads: int, requests: int, epochs: int = 6) -> None:
    shape = MultitaskShape(
        attention="din",
        experts=1,
        expert_hidden=(256, 128),
        tower_hidden=(),
        wide=False,
        embedding_spread=INITIAL_SPREAD,
    )
    log = din_log(requests + requests // 2)
    learn, held = log.part(0, requests), log.part(requests, len(log.user))
    few = learn.part(0, min(requests, 1600))
    peer, ours = peer_step(peer_din(few)), our_step(our_net(few, shape))
    rates = steps_by_turns(rounds, (peer, peer_ready(few)), (ours, ours_ready(few)))
    row("DIN step", rates[0], rates[1])
    theirs, full, mixed = peer_din(learn), our_net(learn, shape), our_net(learn, shape)
    epoch = peer_trainer(theirs, learn)
    turns, scores = [], []
    for _ in range(epochs):
        ours = partial(our_epoch, full, learn, threads), partial(our_epoch, mixed, learn, threads, "mixed")
        turns.append(tuple(rate(side) for side in (epoch, *ours)))
        scores.append((peer_auc(theirs, held), our_auc(full, held), our_auc(mixed, held)))
    rates = [median(own) for own in zip(*turns, strict=True)]
    row("DIN trainer", rates[0], rates[1])
    row("DIN trainer, mixed", rates[0], rates[2])
    print(f"DIN AUC after each pass over {len(learn.item):,} rows (the true probabilities: {best_auc(held):.4f})")
    for name, own in zip(("torch-rechub", "tamis", "tamis, mixed"), zip(*scores, strict=True), strict=True):
        print(f"  {name:<14}" + "".join(f"{score:>8.4f}" for score in own))
    peers, *own = (max(side) for side in zip(*scores, strict=True))
    for name, best in zip(("DIN AUC, best pass", "DIN AUC, best pass, mixed"), own, strict=True):
        result(name, best, peers, "AUC", "within .002")


def best_auc(log: Log) -> float:
    row_of = np.repeat(np.arange(len(log.user)), np.diff(log.first))
    return auc(log.labels["click"], (log.history[row_of, :, 1] == log.item[:, 1:]).any(1).astype(np.float64))


def score(rounds: int) -> None:
    """Candidates per second of the exported net on one thread."""
    random = np.random.default_rng(3)
    shape = MultitaskShape(attention="din", experts=4, expert_hidden=(128, 64), tower_hidden=(32,), attention_hidden=36)
    sides = layout([50_000] * 8, [50_000] * 6, 100, (0, 1, 2))
    log = Log(sides, *(np.zeros((0, 1)),) * 4, {name: np.zeros(0) for name in ("click", "like", "share", "follow")})
    net = our_net(log, shape)

    def codes(fields: tuple[Field, ...], rows: int) -> np.ndarray:
        return np.stack([random.integers(f.offset, f.offset + f.size, rows) for f in fields], 1).astype(np.int32)

    past = np.concatenate([codes(sides.item_fields[:3], 100), codes((sides.history_action, sides.history_age), 100)], 1)
    feed = [codes(sides.user_fields, 1), None, past[None], codes(sides.item_fields, 500), None, None]
    arrays = dict(zip(INPUTS, feed, strict=True))
    for name in ("user_dense", "item_dense", "item_dynamic"):
        arrays[name] = np.zeros((1 if name == "user_dense" else 500, 0), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        export_multitask(net, sides, Path(folder) / "net.onnx")
        session = Session.open(Path(folder) / "net.onnx", threads=1)
        work = [lambda: len(session.run(**arrays)["click"])] * (rounds + 5)
        rates = [(rate(one), rate(one, time.thread_time)) for one in work][5:]
    wall, busy = (median(side) for side in zip(*rates, strict=True))
    print("exported net, DIN over 100, MMoE, 4 heads, 500 candidates, 1 thread, scores per second:")
    print(f"{wall:,.0f} of the wall clock, {busy:,.0f} of processor time")
    result("DIN scores of one thread", wall, None, "1/s", "≥ 40,000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=16_000)
    parser.add_argument("--only", choices=["mmoe", "din", "score"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(1)  # the peer draws its weights from torch's own generator
    if given.only != "score":
        head()
    if given.only in (None, "mmoe"):
        mmoe(given.rounds, given.threads)
    if given.only in (None, "din"):
        din(given.rounds, given.threads, given.requests)
    if given.only in (None, "score"):
        score(given.rounds)


if __name__ == "__main__":
    main()
