"""Training speed of the ranking net against torch-rechub and FuxiCTR: MMoE, DCN-V2, DIN; speed of the served form.

    python benchmarks/speed_rank.py [--rounds N] [--threads T] [--requests R] [--only mmoe|dcn|din|score]

FuxiCTR is left out with a line where it is missing (`pip install fuxictr`). "mixed" is tamis with the setting
`precision = "mixed"`, the others have none; every other row is float32 throughout.

Equal sizes, batch of 2048 rows, Adam with equal learning rates, equal threads; all in one process, by turns, the median
of the rounds. "step": forward, backward, update on batches that are ready, the part that a faster loader cannot change.
"trainer": one epoch as a user runs it, through each library's own loader and loop.

MMoE: 16 fields × 16, vocabularies of 10,000 to 100,000, 4 experts 128-64, 2 tasks with towers of 32. "alone": every
row has its own user side, as in the peers; "grouped": 16 candidates share it, as in a log of served pages.
DCN-V2: the same fields but for one of each side that has 40 codes; two layers of full matrices beside layers of
256-128, normalised by batch on every side. A click is a draw by the product of what hangs at these two codes, which
only a cross can learn.
DIN: 4 user fields, 2 item fields and 50 past items with the same 2 fields (8 in torch-rechub's count), attention 36,
layers 256-128, 10 to 16 candidates per request. A click is likely when the candidate's category is among the user's
past ones, which only a net that compares the two can learn.
DCN-V2 and DIN are trained on the same rows six times by each library, AUC on held-out rows after each pass; the best
passes are compared.
"score": the exported net, DIN over 100 items, MMoE, 4 heads, 500 candidates, one thread.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.basic.initializers import RandomNormal
from torch_rechub.models.multi_task import MMOE
from torch_rechub.models.ranking import DCNv2
from torch_rechub.trainers import CTRTrainer, MTLTrainer
from torch_rechub.utils.data import DataGenerator

import _fuxictr_nets
import _rechub
from _fuxictr_zoo import installed
from _logs import Log, click_chance, dcn_log, din_log, layout, mmoe_log
from _results import result
from _turns import epochs_by_turns, rate, steps_by_turns
from tamis.features.layout import Field
from tamis.metrics import auc
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.embed import INITIAL_SPREAD
from tamis.nets.heads import HeadPlan, Targets, loss
from tamis.nets.loop import Problem, _Course, cut, torch_threads
from tamis.nets.multitask import INPUTS, MultitaskNet, Scales, export_multitask
from tamis.nets.optimizer import Optimizer
from tamis.nets.plans import MultitaskShape, Precision, TrainingPlan
from tamis.nets.products import precision
from tamis.nets.session import Session

BATCH = 2048
LEARNING_RATE = 2e-3
WIDTH = 16


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


def our_trainer(net: MultitaskNet, log: Log, threads: int, numbers: Precision = "float32") -> Callable[[], int]:
    """One epoch after the other of one training: the optimizer keeps what it knows, as the peers' do."""
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
        patience=0,
    )
    course, rows = _Course(net, problem, settings), int(problem.rows.sum())

    def epoch() -> int:
        with torch_threads(threads):
            net.train()
            course.epoch(cut(problem.rows, BATCH, np.random.default_rng((1, course.place.epoch))), rows)
            net.eval()
            course.judged(0.0)
        return rows

    return epoch


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


def peer_dcn(log: Log) -> torch.nn.Module:
    users, items, _ = peer_fields(log)
    return DCNv2(users + items, 2, {"dims": [256, 128]}, use_low_rank_mixture=False)


def peer_din(log: Log) -> torch.nn.Module:
    users, items, past = peer_fields(log)
    return _rechub.din(users, past, items, [256, 128])


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


# FuxiCTR


def fuxi_columns(log: Log) -> _fuxictr_nets.Columns:
    """The fields of the log as FuxiCTR's models want to know them."""
    sides = (("user", log.layout.user_fields), ("item", log.layout.item_fields))
    sizes = {field.name: field.size for _, fields in sides for field in fields}
    item = [field.name for field in log.layout.item_fields]
    past = {f"past_{at}": item[column] for at, column in enumerate(log.layout.history_columns)}
    return _fuxictr_nets.Columns(sizes, item, past, log.layout.history_length, list(log.labels), WIDTH, INITIAL_SPREAD)


@dataclass
class Fuxi:
    """A model of FuxiCTR with its own loader and loop."""

    net: Any
    log: Log

    @property
    def step(self) -> Callable[[Any], int]:
        return lambda batch: _fuxictr_nets.step(self.net, batch)

    def ready(self) -> list[dict[str, torch.Tensor]]:
        out = []
        for columns, labels in peer_ready(self.log):
            out.append(columns | {name: labels[:, at] for at, name in enumerate(self.log.labels)})
        return out

    def trainer(self) -> Callable[[], int]:
        """One epoch of FuxiCTR's own loop over its own loader."""
        columns, labels = self.log.flat()
        arrays = columns | {name: labels[:, at] for at, name in enumerate(self.log.labels)}
        return _fuxictr_nets.trainer(self.net, arrays, BATCH)

    def auc(self, log: Log) -> float:
        columns, labels = log.flat()
        tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
        return auc(labels[:, 0], _fuxictr_nets.predicted(self.net, tensors))


def fuxi(model: str, log: Log) -> list[Fuxi]:
    """FuxiCTR's model of that name, or nothing where it is missing."""
    if not installed():
        return []
    return [Fuxi(_fuxictr_nets.net(model, fuxi_columns(log), LEARNING_RATE), log)]


# by turns


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


TARGETS = {"MMoE": "≥ 4", "DCN-V2": "≥ 4", "DIN": "≥ 6"}


def row(name: str, peers: Sequence[float], ours: float) -> None:
    """A line and a result for each peer. peers: rows per second of torch-rechub and, where installed, FuxiCTR."""
    ratios = "".join(f"{peer:>14,.0f}{ours / peer:>8.1f} x" for peer in peers)
    print(f"{name:<30}{ours:>12,.0f}{ratios}", flush=True)
    for peer, rate_ in zip(PEERS, peers, strict=False):
        result(f"{name}, {peer}", ours, rate_, "rows/s", TARGETS[name.split()[0]])


PEERS = ("torch-rechub", "FuxiCTR")


def head() -> None:
    print(f"{'rows per second':<30}{'tamis':>12}" + "".join(f"{peer:>14}{'ratio':>10}" for peer in PEERS))


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
    others = fuxi("MMoE", alone)
    rates = steps_by_turns(
        rounds,
        (our_step(our_net(alone, shape)), ours_ready(alone)),
        (our_step(our_net(grouped, shape)), ours_ready(grouped)),
        (our_step(our_net(grouped, shape), "mixed"), ours_ready(grouped)),
        (peer_step(peer_mmoe(alone)), peer_ready(alone)),
        *((other.step, other.ready()) for other in others),
    )
    for name, ours in zip(("alone", "grouped", "grouped, mixed"), rates, strict=False):
        row(f"MMoE step, {name}", rates[3:], ours)
    trainers("MMoE", shape, peer_mmoe(alone), alone, others, mmoe_log(50 * BATCH // 16, 16), threads)


def trainers(
    name: str,
    shape: MultitaskShape,
    peer: torch.nn.Module,
    alone: Log,
    others: list[Fuxi],
    grouped: Log,
    threads: int,
) -> None:
    """Epochs by turns: tamis over `grouped` in both precisions, the peers over `alone`."""
    full, mixed = our_net(grouped, shape), our_net(grouped, shape)
    works = [
        our_trainer(full, grouped, threads),
        our_trainer(mixed, grouped, threads, "mixed"),
        peer_trainer(peer, alone),
        *(other.trainer() for other in others),
    ]
    exact, rounded, *peers = epochs_by_turns(5, works)
    row(f"{name} trainer, grouped", peers, exact)
    row(f"{name} trainer, grouped, mixed", peers, rounded)


def compared(
    name: str, shape: MultitaskShape, peer: Callable[[Log], torch.nn.Module], parts: tuple[Log, Log, Log], threads: int
) -> None:
    """Trains all on the same rows by turns: rows per second, and AUC on held-out rows after each pass.

    parts: the rows that all learn from, those that are held out, and a few for single steps.
    """
    learn, held, few = parts
    rounds = 20
    model = name.replace("-", "").replace("V", "v")
    steps = fuxi(model, few)
    rates = steps_by_turns(
        rounds,
        (our_step(our_net(few, shape)), ours_ready(few)),
        (our_step(our_net(few, shape), "mixed"), ours_ready(few)),
        (peer_step(peer(few)), peer_ready(few)),
        *((other.step, other.ready()) for other in steps),
    )
    row(f"{name} step", rates[2:], rates[0])
    row(f"{name} step, mixed", rates[2:], rates[1])
    theirs, full, mixed, others = peer(learn), our_net(learn, shape), our_net(learn, shape), fuxi(model, learn)
    works = [
        our_trainer(full, learn, threads),
        our_trainer(mixed, learn, threads, "mixed"),
        peer_trainer(theirs, learn),
        *(other.trainer() for other in others),
    ]
    turns, scores = [], []
    for _ in range(PASSES):
        turns.append([rate(work) for work in works])
        own = our_auc(full, held), our_auc(mixed, held)
        scores.append((*own, peer_auc(theirs, held), *(other.auc(held) for other in others)))
    rates = [median(own) for own in zip(*turns, strict=True)]
    row(f"{name} trainer", rates[2:], rates[0])
    row(f"{name} trainer, mixed", rates[2:], rates[1])
    told(name, len(learn.item), list(zip(*scores, strict=True)))


PASSES = 6


def told(name: str, rows: int, scores: list[tuple[float, ...]]) -> None:
    """Prints and notes the AUC after each pass: tamis, tamis mixed, then the peers."""
    print(f"{name}: AUC after each pass over {rows:,} rows")
    for who, own in zip(("tamis", "tamis, mixed", *PEERS), scores, strict=False):
        print(f"  {who:<14}" + "".join(f"{score:>8.4f}" for score in own))
    ours, mixed, *peers = (max(own) for own in scores)
    for form, best in (("", ours), (", mixed", mixed)):
        for who, peer in zip(PEERS, peers, strict=False):
            result(f"{name} AUC, best pass{form}, {who}", best, peer, "AUC", "within .002 or above")


def dcn(threads: int) -> None:
    shape = MultitaskShape(
        attention="mean",
        experts=1,
        expert_hidden=(256, 128),
        tower_hidden=(),
        wide=False,
        crosses=("dcn_v2",),
        cross_place="beside",
        normalization="batch",
        embedding_spread=INITIAL_SPREAD,
    )
    batch = BATCH // 16
    log = dcn_log(75 * batch)
    held = log.part(50 * batch, len(log.user))
    user = np.repeat(held.user, np.diff(held.first), 0)
    best = auc(held.labels["click"], click_chance(log.layout, user, held.item))
    compared("DCN-V2", shape, peer_dcn, (log.part(0, 50 * batch), held, log.part(0, 10 * batch)), threads)
    print(f"  the true chances: {best:.4f}")


def din(threads: int, requests: int) -> None:
    shape = MultitaskShape(
        attention="din",
        experts=1,
        expert_hidden=(256, 128),
        tower_hidden=(),
        wide=False,
        embedding_spread=INITIAL_SPREAD,
    )
    log = din_log(requests + requests // 2)
    held = log.part(requests, len(log.user))
    few = log.part(0, min(requests, 1600))
    compared("DIN", shape, peer_din, (log.part(0, requests), held, few), threads)
    print(f"  the true chances: {best_auc(held):.4f}")


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
    parser.add_argument("--only", choices=["mmoe", "dcn", "din", "score"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(1)  # the peer draws its weights from torch's own generator
    if given.only != "score":
        head()
    if given.only in (None, "mmoe"):
        mmoe(given.rounds, given.threads)
    if given.only in (None, "dcn"):
        dcn(given.threads)
    if given.only in (None, "din"):
        din(given.threads, given.requests)
    if given.only in (None, "score"):
        score(given.rounds)


if __name__ == "__main__":
    main()
