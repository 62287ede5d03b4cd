"""Training two towers for recall: each positive against the items of its batch.

A user with several vectors scores an item by the nearest of them, in training as in serving: a positive teaches the
vector that is nearest to it, and a negative pushes away the vector that came too near. (Cen et al., KDD 2020.) Or each
kind of action is an objective with a vector of its own, which only positives of that kind teach.
What a positive costs is in `losses`, how much an item weighs as a negative in `negatives`, who may be one in `draws`,
the second task of the item tower in `self_supervised`.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tamis.data.samples import Samples
from tamis.errors import ConfigError
from tamis.features.inputs import Inputs
from tamis.nets.batch import tensor
from tamis.nets.draws import Draw, Drawer, acted_rows
from tamis.nets.hard import HardDraws
from tamis.nets.judge import RecallJudge
from tamis.nets.loop import Problem, Report, train
from tamis.nets.losses import Cosines, mean_loss
from tamis.nets.negatives import log_weights
from tamis.nets.self_supervised import ViewMaker, view_loss
from tamis.nets.tower import IdHider, Towers, export_towers, numbers_of
from tamis.nets.tower_plan import ContrastPlan, without_judge
from tamis.nets.weights import begin_with


class ContrastBatch(NamedTuple):
    """One step's tensors."""

    user_codes: Tensor  # [r, ·]
    user_dense: Tensor
    history_codes: Tensor
    item_codes: Tensor  # [u, ·] of the distinct items
    item_dense: Tensor
    request_of: Tensor  # [p] see draws.Draw; with objectives the row of the user's vector, request · objectives + kind
    column_of: Tensor  # [p]
    log_weight: Tensor  # [r, u] see negatives.log_weights
    correction: Tensor  # [p] see losses.Cosines
    views: Tensor | None  # [2m, ·] see self_supervised.ViewMaker; None without that task


def fit_two_towers(inputs: Inputs, plan: ContrastPlan, seed: int, folder: Path) -> Report:
    """Trains both towers on the positives of `inputs.train` and writes user.onnx and item.onnx into `folder`.

    Where they begin with the weights of an earlier training, they see the new rows once: more would be learnt by heart.
    Raises ConfigError when the rows have none of the positives, or not each of them and they are objectives.
    """
    towers = Towers(inputs.layout, plan.towers, numbers_of(inputs), seed)
    if inputs.earlier and inputs.earlier.begin:
        begin_with(towers, inputs.earlier, inputs.encoder)
        plan = replace(plan, training=replace(plan.training, epochs=1))
    elif plan.objectives:
        _check_objectives(inputs.train, plan.positives)
    report = learn(towers, inputs, plan, seed)
    export_towers(towers, inputs.layout, folder)
    return report


def learn(towers: Towers, inputs: Inputs, plan: ContrastPlan, seed: int) -> Report:
    """Trains the towers as they are; those of the best epoch are left."""
    drawer = Drawer(
        inputs.train,
        acted_rows(inputs.train, plan.positives),
        inputs.since,
        (plan.extra_negatives, plan.extra_exponent),
        seed,
    )
    maker = BatchMaker(inputs, drawer, plan, seed)
    judge = RecallJudge(inputs, plan)
    problem = Problem(
        rows=drawer.per_request,
        batch=maker.batch,
        loss=lambda batch: batch_loss(towers, batch, plan),
        judge=lambda: judge.recall(towers),
        name="two towers",
        progress=inputs.progress,
        streams=maker.streams,
        journal=inputs.journal,
        pieces=inputs.pieces,
    )
    return train(towers, problem, without_judge(plan.training, len(judge.requests)), seed)


def batch_loss(towers: Towers, batch: ContrastBatch, plan: ContrastPlan) -> Tensor:
    """The mean loss of the batch's positives."""
    users = towers.users(batch.user_codes, batch.user_dense, batch.history_codes)
    loss = contrast_loss(users, towers.items(batch.item_codes, batch.item_dense), batch, plan)
    if batch.views is None:
        return loss
    return loss + plan.views.weight * view_loss(towers, batch.views, plan.views.temperature)


def contrast_loss(users: Tensor, items: Tensor, batch: ContrastBatch, plan: ContrastPlan) -> Tensor:
    """The same without the second task, from the vectors of the batch's users [r, d] or [r, k, d] and items [u, d]."""
    log_weight = batch.log_weight
    if plan.objectives and users.dim() == 3:
        log_weight, users = log_weight.repeat_interleave(users.shape[1], 0), users.flatten(0, 1)
    own, negative = items[batch.column_of], users @ items.T
    if users.dim() == 2:
        positive = (users[batch.request_of] * own).sum(1)
    else:
        positive = (users[batch.request_of] * own[:, None]).sum(2).amax(1)
        negative = negative.amax(1)
    return mean_loss(Cosines(positive, negative, log_weight, batch.request_of, batch.correction), plan.loss)


class BatchMaker:
    """Gathers the arrays of a batch; called by one thread at a time."""

    def __init__(self, inputs: Inputs, drawer: Drawer, plan: ContrastPlan, seed: int) -> None:
        self.inputs, self.drawer, self.plan = inputs, drawer, plan
        self.ids = IdHider(inputs, plan.training.unknown_share, seed)
        hard = inputs.earlier.dropped() if plan.hard_share and inputs.earlier else None
        self.hard = HardDraws(hard, plan.hard_negatives, seed) if hard else None
        self.views = ViewMaker(inputs, plan.views, seed) if plan.views.weight else None

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        makers = (self.drawer, self.ids, self.hard, self.views)
        return [stream for maker in makers if maker for stream in maker.streams]

    def batch(self, requests: NDArray[np.int64]) -> ContrastBatch:
        """All positives of these requests."""
        users = self.inputs.train.user[requests]
        draw = self.drawer.draw(requests, self.hard.draw(users) if self.hard else None)
        sides = self.inputs.batch(self.inputs.train, requests)
        items = self.inputs.catalog.features(draw.items)
        self.ids.hide(sides.user_codes, items.codes)
        request_of, positive = self._taught(draw)
        return ContrastBatch(
            tensor(sides.user_codes),
            tensor(sides.user_dense),
            tensor(sides.history_codes),
            tensor(items.codes),
            tensor(items.dense),
            tensor(request_of),
            tensor(draw.column_of[positive]),
            tensor(log_weights(draw, self.plan.log_q, self.plan.hard_share)),
            tensor(-self.plan.log_q * draw.log_frequency[draw.column_of[positive]]),
            self.views.batch() if self.views else None,
        )

    def _taught(self, draw: Draw) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row of the user's vector that is taught, which positive of the draw it is taught by), pair by pair."""
        if not self.plan.objectives:
            return draw.request_of, np.arange(len(draw.request_of))
        positive, kind = np.nonzero(_kinds(self.inputs.train, draw.row, self.plan.positives))
        return draw.request_of[positive] * len(self.plan.positives) + kind, positive


def _kinds(samples: Samples, rows: NDArray[np.int64], actions: tuple[str, ...]) -> NDArray[np.bool_]:
    """[p, actions] True where the row carries the action."""
    none = np.zeros(len(rows), np.bool_)
    return np.stack([samples.labels[name][rows] > 0 if name in samples.labels else none for name in actions], 1)


def _check_objectives(samples: Samples, actions: tuple[str, ...]) -> None:
    """Raises ConfigError for an action that no row carries: a vector that nothing teaches would be searched for."""
    did = {name for labels in samples.label_pieces() for name in actions if name in labels and labels[name].any()}
    never = [name for name in actions if name not in did]
    if len(samples.item) and never:
        raise ConfigError(f"objectives: nobody did {never} in the training rows; leave it out of positives")
