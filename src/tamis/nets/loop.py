"""The one training loop: whole requests in batches of equal rows, early stopping, the best weights kept."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.errors import ConfigError
from tamis.features.inputs import NO_JOURNAL, Journal
from tamis.nets import checkpoint
from tamis.nets.device import chosen, placed
from tamis.nets.optimizer import Optimizer
from tamis.nets.plans import TrainingPlan
from tamis.nets.products import precision
from tamis.types import Progress

log = structlog.get_logger(__name__)
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Problem(Generic[B]):
    """What is learnt.

    rows: [r] rows of each training request (1 each when a sample stands alone); requests without rows are skipped.
    batch: the requests with the given positions, ready for `loss`; called in another thread when prefetching.
    loss: a scalar to minimise, the mean over rows.
    judge: the score of the net as it stands, higher is better; called after each epoch in evaluation mode.
    name: for the progress bar and the log.   progress: called as (name, rows done, rows in all).
    streams: the generators that `batch` draws from; None = it keeps other things too, so that a training that was
    interrupted begins anew.   journal: where it notes how far it is.   pieces: see `in_pieces`.
    """

    rows: NDArray[np.int64]
    batch: Callable[[NDArray[np.int64]], B]
    loss: Callable[[B], Tensor]
    judge: Callable[[], float]
    name: str
    progress: Progress
    streams: Sequence[np.random.Generator] | None = None
    journal: Journal = NO_JOURNAL
    pieces: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """How a training went. scores: of each epoch; best: the epoch whose weights were kept, −1 when none was run."""

    scores: tuple[float, ...]
    best: int
    rows: int
    seconds: float


def train(net: nn.Module, problem: Problem[B], plan: TrainingPlan, seed: int) -> Report:
    """Trains `net` in place, on the device that the plan wants, and leaves it on the processor with its best weights.

    It is left in evaluation mode. On the processor the same seed, data and number of threads give the same weights,
    also when the training was killed in between and goes on from its checkpoint. Raises ConfigError when the training
    diverges: a net that says NaN must not be published, and no score of it means anything; and for a device that is
    not there. Raises ArtifactError for the checkpoint of another training.
    """
    course = _Course(net, problem, plan)
    total = int(problem.rows.sum()) * plan.epochs
    with torch_threads(plan.threads):
        while total and course.place.epoch < plan.epochs and not course.ended:
            random = None if plan.in_order else np.random.default_rng((seed, course.place.epoch))
            net.train()
            batches = in_pieces(problem.rows, plan.batch_size, random, problem.pieces)
            loss = course.epoch(batches, total)
            net.eval()
            with torch.no_grad():
                _check_finite(net, loss, f"{problem.name}: after {course.place.done} of {total} rows")
                course.judged(problem.judge())
    course.finish()
    return Report(course.place.scores, course.place.best, course.place.done, time.perf_counter() - course.began)


class _Course(Generic[B]):
    """A training under way: where it stands, the optimizer, the best weights so far."""

    def __init__(self, net: nn.Module, problem: Problem[B], plan: TrainingPlan) -> None:
        self.device = chosen(plan.device)
        self.net, self.problem, self.plan = net.to(self.device), problem, plan
        self.optimizer = Optimizer(net, plan)
        self.place, self.weights = checkpoint.Place(), None
        self.file = problem.journal.checkpoint if problem.streams is not None else None
        self.streams = [*(problem.streams or ()), *checkpoint.streams_of(net)[0]]
        if self.file is not None:
            self.place, self.weights = checkpoint.load(self.file, net, self.optimizer)
            if self.place.streams:
                checkpoint.set_states(self.streams, self.place.streams)
                log.info("training goes on", net=problem.name, epoch=self.place.epoch, rows=self.place.done)
        self.began = self.noted = time.perf_counter()

    @property
    def ended(self) -> bool:
        """True when the score has not risen for too long."""
        place, patience = self.place, self.plan.patience
        return bool(patience) and bool(place.scores) and len(place.scores) - 1 - place.best >= patience

    def epoch(self, batches: Iterator[NDArray[np.int64]], total: int) -> Tensor:
        """Does the batches of an epoch from where it stands; → the loss of the last one."""
        loss, since, rows_since = torch.zeros(()), time.perf_counter(), 0
        wanted = islice(batches, self.place.batch, None)
        for batch, rows, streams in _fetched(self.problem, wanted, self.device, self.plan.prefetch):
            self._note(streams)
            share = 1.0 - (1.0 - self.plan.decay_to) * self.place.done / total
            loss = self._step(batch, share)
            self.place = msgspec.structs.replace(self.place, batch=self.place.batch + 1, done=self.place.done + rows)
            self.problem.progress(self.problem.name, self.place.done, total)
            rows_since += rows
            if self.place.batch % self.problem.journal.steps == 0:
                rate = rows_since / (time.perf_counter() - since)
                told = {"epoch": self.place.epoch, "step": self.place.batch, "loss": round(loss.item(), 5)}
                log.info("training", net=self.problem.name, **told, rows_per_second=round(rate))
                since, rows_since = time.perf_counter(), 0
        return loss

    def _step(self, batch: B, share: float) -> Tensor:
        self.optimizer.clear()
        with precision(self.plan.precision, self.device):
            loss = self.problem.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(share)
        return loss.detach()

    def judged(self, score: float) -> None:
        """An epoch is over."""
        place = self.place
        log.info("epoch", net=self.problem.name, epoch=place.epoch, score=round(score, 5))
        scores = (*place.scores, score)
        if place.best < 0 or score > place.scores[place.best] or not self.plan.patience:
            place = msgspec.structs.replace(place, best=place.epoch)
            later = self.plan.patience and place.epoch + 1 < self.plan.epochs  # weights that could take its place
            self.weights = _copy(self.net) if later else None
        self.place = msgspec.structs.replace(place, epoch=place.epoch + 1, batch=0, scores=scores)
        self._note(checkpoint.states(self.problem.streams or ()))

    def finish(self) -> None:
        """Leaves the best weights, on the processor."""
        if self.weights is not None and self.place.best + 1 < len(self.place.scores):
            self.net.load_state_dict(self.weights)
        self.net.to("cpu").eval()

    def _note(self, streams: tuple[dict[str, Any], ...]) -> None:
        """Writes a checkpoint if it is time. streams: of the batches, as before the next one was made."""
        if self.file is None or time.perf_counter() - self.noted < self.problem.journal.seconds:
            return
        own = checkpoint.states(self.streams[len(self.problem.streams or ()) :])
        checkpoint.save(
            self.file,
            msgspec.structs.replace(self.place, streams=(*streams, *own)),
            self.net,
            self.optimizer,
            self.weights,
        )
        self.noted = time.perf_counter()


def cut(rows: NDArray[np.int64], batch_size: int, random: np.random.Generator | None) -> list[NDArray[np.int64]]:
    """Batches of whole requests in random order with about `batch_size` rows each; every request with rows is in one.

    A request larger than that is a batch of its own. Inside a batch the positions ascend: nearer in memory.
    random: None = the requests in the order they have.
    """
    order = np.flatnonzero(rows)
    order = order if random is None else random.permutation(order)
    part = (np.cumsum(rows[order]) - 1) // batch_size
    pieces = np.split(order, np.flatnonzero(np.diff(part)) + 1)
    return [np.sort(piece) for piece in pieces if len(piece)]


def in_pieces(
    rows: NDArray[np.int64], batch_size: int, random: np.random.Generator | None, pieces: NDArray[np.int64] | None
) -> Iterator[NDArray[np.int64]]:
    """`cut` of each of the pieces in turn, these in random order too; no batch is of two of them.

    pieces: [p + 1] the requests at which they begin, the number of requests last; None = all are one piece.
    """
    if pieces is None:
        yield from cut(rows, batch_size, random)
        return
    every = np.arange(len(pieces) - 1)
    for piece in (every if random is None else random.permutation(every)).tolist():
        begin, end = pieces[piece : piece + 2].tolist()
        for batch in cut(rows[begin:end], batch_size, random):
            yield begin + batch


def _fetched(
    problem: Problem[B], batches: Iterator[NDArray[np.int64]], device: torch.device, ahead: bool
) -> Iterator[tuple[B, int, tuple[dict[str, Any], ...]]]:
    """Each batch, on the device, with its number of rows, the next one being gathered while this one is used.

    Third comes where the streams stood before the batch was made, for who has to make it again.
    """

    def made(requests: NDArray[np.int64]) -> tuple[B, int, tuple[dict[str, Any], ...]]:
        before = checkpoint.states(problem.streams or ())
        return placed(problem.batch(requests), device), int(problem.rows[requests].sum()), before

    if not ahead:
        yield from map(made, batches)
        return
    with ThreadPoolExecutor(1) as worker:

        def begun() -> Future[tuple[B, int, tuple[dict[str, Any], ...]]] | None:
            following = next(batches, None)
            return None if following is None else worker.submit(made, following)

        waiting = begun()
        while waiting is not None:
            batch = waiting.result()
            waiting = begun()
            yield batch


def _check_finite(net: nn.Module, loss: Tensor, where: str) -> None:
    if not math.isfinite(loss.item()) or not all(weight.isfinite().all() for weight in net.parameters()):
        raise ConfigError(
            f"{where} the loss is {loss.item():g} and some weights are not finite numbers; "
            "wanted a lower learning_rate or embedding_learning_rate"
        )


def _copy(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """torch runs with `count` threads inside the block, and numbers too small for their format count as 0.

    Saturated heads give such numbers by the million, and each costs a hundred times what another number does.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
