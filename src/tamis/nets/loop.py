"""The one training loop: whole requests in batches of equal rows, early stopping, the best weights kept."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.errors import ConfigError
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
    """

    rows: NDArray[np.int64]
    batch: Callable[[NDArray[np.int64]], B]
    loss: Callable[[B], Tensor]
    judge: Callable[[], float]
    name: str
    progress: Progress


@dataclass(frozen=True, slots=True)
class Report:
    """How a training went. scores: of each epoch; best: the epoch whose weights were kept, −1 when none was run."""

    scores: tuple[float, ...]
    best: int
    rows: int
    seconds: float


def train(net: nn.Module, problem: Problem[B], plan: TrainingPlan, seed: int) -> Report:
    """Trains `net` in place and leaves it in evaluation mode with its best weights.

    The same seed, data and number of threads give the same weights. Raises ConfigError when the training diverges: a
    net that says NaN must not be published, and no score of it means anything.
    """
    optimizer = Optimizer(net, plan)
    scores: list[float] = []
    best, weights = -1, None
    total, done, began = int(problem.rows.sum()) * plan.epochs, 0, time.perf_counter()
    with torch_threads(plan.threads):
        for epoch in range(plan.epochs if total else 0):
            random = None if plan.in_order else np.random.default_rng((seed, epoch))
            batches = cut(problem.rows, plan.batch_size, random)
            net.train()
            for batch, rows in _fetched(problem, batches, plan.prefetch):
                share = 1.0 - (1.0 - plan.decay_to) * done / total
                optimizer.clear()
                with precision(plan.precision):
                    loss = problem.loss(batch)
                    loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step(share)
                done += rows
                problem.progress(problem.name, done, total)
            net.eval()
            with torch.no_grad():
                _check_finite(net, loss, f"{problem.name}: after {done} of {total} rows")
                scores.append(problem.judge())
            log.info("epoch", net=problem.name, epoch=epoch, score=round(scores[-1], 5))
            if best < 0 or scores[-1] > scores[best] or not plan.patience:
                best = epoch
                weights = _copy(net) if epoch + 1 < plan.epochs else None
            elif epoch - best >= plan.patience:
                break
    if weights is not None and best + 1 < len(scores):
        net.load_state_dict(weights)
    net.eval()
    return Report(tuple(scores), best, done, time.perf_counter() - began)


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


def _fetched(problem: Problem[B], batches: list[NDArray[np.int64]], ahead: bool) -> Iterator[tuple[B, int]]:
    """Each batch with its number of rows, the next one being gathered while this one is used."""
    if not ahead:
        for requests in batches:
            yield problem.batch(requests), int(problem.rows[requests].sum())
        return
    with ThreadPoolExecutor(1) as worker:
        waiting = worker.submit(problem.batch, batches[0])
        for i, requests in enumerate(batches):
            batch = waiting.result()
            if i + 1 < len(batches):
                waiting = worker.submit(problem.batch, batches[i + 1])
            yield batch, int(problem.rows[requests].sum())


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
