"""Training two towers for recall: each positive against the items of its batch.

    loss = −log( e^{s⁺} / (e^{s⁺} + Σ e^{s⁻}) ),   s = cos(user, item) / temperature − β·log p(item)

p is the frequency with which an item turns up in a batch: popular items are often a negative only because they are
popular, and the correction undoes that. It belongs to training; what is served is the plain cosine.
(Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019; Yang et al.,
"Mixed negative sampling", WWW 2020.)
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.samples import Samples
from tamis.features.inputs import Inputs
from tamis.nets.batch import tensor
from tamis.nets.draws import Drawer, acted_rows
from tamis.nets.loop import Problem, Report, train
from tamis.nets.tower import IdHider, Towers, export_towers, numbers_of
from tamis.nets.tower_plan import ContrastPlan, without_judge
from tamis.types import Catalog

_MASKED: Final = -1e4  # finite: a row with every negative masked must still have a gradient
_ITEMS_AT_ONCE: Final = 8192


class ContrastBatch(NamedTuple):
    """One step's tensors; see draws.Draw for the last five."""

    user_codes: Tensor  # [r, ·]
    user_dense: Tensor
    history_codes: Tensor
    item_codes: Tensor  # [u, ·] of the distinct items
    item_dense: Tensor
    request_of: Tensor  # [p]
    column_of: Tensor  # [p]
    log_frequency: Tensor  # [u]
    log_times: Tensor  # [u]
    known: Tensor  # [r, u]


def fit_two_towers(inputs: Inputs, plan: ContrastPlan, seed: int, folder: Path) -> Report:
    """Trains both towers on the positives of `inputs.train` and writes user.onnx and item.onnx into `folder`."""
    towers = Towers(inputs.layout, plan.towers, numbers_of(inputs), seed)
    drawer = Drawer(
        inputs.train,
        acted_rows(inputs.train, plan.positives),
        inputs.since,
        (plan.extra_negatives, plan.extra_exponent),
        seed,
    )
    maker = BatchMaker(inputs, drawer, plan, seed)
    judge = _Judge(inputs, plan)
    problem = Problem(
        rows=drawer.per_request,
        batch=maker.batch,
        loss=lambda batch: batch_loss(towers, batch, plan),
        judge=lambda: judge.recall(towers),
        name="two towers",
        progress=inputs.progress,
    )
    report = train(towers, problem, without_judge(plan.training, len(judge.requests)), seed)
    export_towers(towers, inputs.layout, folder)
    return report


def batch_loss(towers: Towers, batch: ContrastBatch, plan: ContrastPlan) -> Tensor:
    """The mean loss of the batch's positives."""
    users = towers.users(batch.user_codes, batch.user_dense, batch.history_codes)
    return list_loss(users, towers.items(batch.item_codes, batch.item_dense), batch, plan)


def list_loss(users: Tensor, items: Tensor, batch: ContrastBatch, plan: ContrastPlan) -> Tensor:
    """The same from the vectors of the batch's users [r, d] and items [u, d]."""
    # One product makes the logits of all negatives, each as often as it was drawn; a positive counts once.
    bias = batch.log_times - plan.log_q * batch.log_frequency
    logits = torch.addmm(bias, users / plan.temperature, items.T)
    positive = logits[batch.request_of, batch.column_of] - batch.log_times[batch.column_of]
    negatives = torch.logsumexp(logits.masked_fill(batch.known, _MASKED), 1)
    return nn.functional.softplus(negatives[batch.request_of] - positive).mean()


class BatchMaker:
    """Gathers the arrays of a batch; called by one thread at a time."""

    def __init__(self, inputs: Inputs, drawer: Drawer, plan: ContrastPlan, seed: int) -> None:
        self.inputs = inputs
        self.drawer = drawer
        self.ids = IdHider(inputs, plan.training.unknown_share, seed)

    def batch(self, requests: NDArray[np.int64]) -> ContrastBatch:
        draw = self.drawer.draw(requests)
        sides = self.inputs.batch(self.inputs.train, requests)
        items = self.inputs.catalog.features(draw.items)
        self.ids.hide(sides.user_codes, items.codes)
        return ContrastBatch(
            tensor(sides.user_codes),
            tensor(sides.user_dense),
            tensor(sides.history_codes),
            tensor(items.codes),
            tensor(items.dense),
            tensor(draw.request_of),
            tensor(draw.column_of),
            tensor(draw.log_frequency),
            tensor(draw.log_times),
            tensor(draw.known),
        )


class _Judge:
    """Recall@k of some validation positives, all items competing that were there before training ended."""

    def __init__(self, inputs: Inputs, plan: ContrastPlan) -> None:
        self.inputs, self.k = inputs, plan.judge_k
        self.rows, self.starts = positives_of(inputs.valid, plan)
        requests = np.flatnonzero(np.diff(self.starts))
        self.requests = requests[:: max(1, len(requests) // plan.judge_requests)]

    def recall(self, towers: Towers) -> float:
        """Share of the positives among their user's k best items; 0 without validation rows."""
        if not len(self.requests):
            return 0.0
        catalog, found, count = self.inputs.catalog, 0, 0
        there = self.inputs.items_there
        vectors = vectors_of(towers, catalog, there)
        for part in blocks(self.requests, 256):
            batch = self.inputs.batch(self.inputs.valid, part)
            users = towers.users(tensor(batch.user_codes), tensor(batch.user_dense), tensor(batch.history_codes))
            scores = (users @ vectors.T).numpy()
            for row, request in enumerate(part):
                wanted = self.inputs.valid.item[self.rows[self.starts[request] : self.starts[request + 1]]]
                better = (scores[row] > scores[row, np.searchsorted(there, wanted)][:, None]).sum(axis=1)
                found += int((better < self.k).sum())
                count += len(wanted)
        return found / count


def positives_of(samples: Samples, plan: ContrastPlan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(positive rows, [r + 1] where each request's begin); none when the samples lack the actions."""
    known = any(name in samples.labels for name in plan.positives)
    rows = np.flatnonzero(acted_rows(samples, plan.positives)) if known else np.empty(0, np.int64)
    return rows, np.searchsorted(rows, samples.first)


def vectors_of(towers: Towers, catalog: Catalog, items: NDArray[np.int64]) -> Tensor:
    """[n, vector_size] of some items of the catalogue, at least one."""
    parts = (catalog.features(part) for part in blocks(items, _ITEMS_AT_ONCE))
    return torch.cat([towers.items(tensor(part.codes), tensor(part.dense)) for part in parts])


def blocks(values: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """The values in pieces of `size`."""
    return [values[start : start + size] for start in range(0, len(values), size)]
