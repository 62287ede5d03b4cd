"""Adam for the rows of a fused table, those that a batch touched or all of them.

The moments of rows that do not move stand still ("lazy Adam"). Beside a table in the processor's memory the loops of
`kernels` read and write only the rows that move; beside one on another device torch's own operations do the same.
"""

import math
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.nets import kernels
from tamis.nets.device import compiled
from tamis.nets.embed import Table, Taken, starts_of
from tamis.nets.parallel import Span, side_by_side, spans
from tamis.nets.plans import TrainingPlan

BETAS = (0.9, 0.999)
EPSILON = 1e-8
Rates = tuple[float, float, float, float, float]


class RowAdam(Protocol):
    """The optimizer of one table. steps: how many were made."""

    table: Table
    steps: int

    def step(self, share: float) -> None:
        """Moves the rows gathered since the last step by their gradients; share: of the learning rate."""

    def state(self) -> NDArray[Any]:
        """[rows, 2, size] the moments; a view where it can be."""

    def set_state(self, moments: NDArray[Any]) -> None:
        """Puts back what `state` gave. Raises ValueError or RuntimeError for another shape."""


def rows_of(table: Table, plan: TrainingPlan) -> RowAdam:
    """The optimizer of a table where it is."""
    return _CompiledRows(table, plan) if compiled(table.weight) else _PlainRows(table, plan)


def _rates(table: Table, plan: TrainingPlan, steps: int, share: float) -> Rates:
    """As `kernels.adam_rows` wants them, for the step that makes it `steps`."""
    line = table.first_order
    rate = share * (plan.wide_learning_rate if line else plan.embedding_learning_rate)
    root = math.sqrt(1.0 - BETAS[1] ** steps)
    return (rate * root / (1.0 - BETAS[0] ** steps), EPSILON * root, *BETAS, 0.0 if line else plan.l2)


def _moves_all(table: Table, plan: TrainingPlan) -> bool:
    return plan.embedding_steps == "all" and not table.first_order


class _CompiledRows:
    """Beside a table in the processor's memory."""

    def __init__(self, table: Table, plan: TrainingPlan) -> None:
        rows, size = table.weight.shape
        self.table = table
        self._plan = plan
        self._weight: NDArray[np.floating] = table.weight.detach().numpy()
        self._moments = kernels.by_cache_line((rows, 2, size), self._weight.dtype)
        self._place = np.zeros(rows, np.int32)
        self._distinct = np.empty(0, np.int32)
        self._sums = np.empty((0, size), self._weight.dtype)
        self.steps = 0

    def state(self) -> NDArray[Any]:
        return self._moments

    def set_state(self, moments: NDArray[Any]) -> None:
        self._moments[:] = moments

    def step(self, share: float) -> None:
        count = self._sum_gradients()
        distinct, sums = self._distinct[:count], self._sums[:count]
        self._place[distinct] = 0
        if self.table.moving is not None:
            free = self.table.moving[distinct]
            distinct, sums = distinct[free], sums[free]
        self.steps += 1
        rates = _rates(self.table, self._plan, self.steps, share)

        def work(_: int, part: Span) -> None:
            rows = slice(*part)
            kernels.adam_rows(self._weight, self._moments, distinct[rows], sums[rows], rates)

        side_by_side(spans(np.arange(len(distinct) + 1)) if len(distinct) else [], work)

    def _sum_gradients(self) -> int:
        """Fills the distinct codes and the sum of each one's gradients; how many there are."""
        every = _moves_all(self.table, self._plan)
        room, taken = len(self._place), sum(each.codes.numel() for each in self.table.taken)
        room = room if every else min(taken, room)
        if room > len(self._distinct):
            self._distinct = np.empty(room, np.int32)
            self._sums = np.empty((room, self._sums.shape[1]), self._sums.dtype)
        count = len(self._place) - 1 if every else 0
        self._distinct[:count] = self._place[1 : count + 1] = np.arange(1, count + 1)
        self._sums[:count] = 0
        for codes, widths, leaf in self.table.taken:
            if leaf.grad is not None:
                marks = (self._place, self._distinct, count)
                slope = leaf.grad.numpy()
                count = kernels.sum_by_code(codes.numpy(), starts_of(widths), slope, self._sums, marks)
        self.table.taken.clear()
        return count


class _PlainRows:
    """Beside a table on another device."""

    def __init__(self, table: Table, plan: TrainingPlan) -> None:
        rows, size = table.weight.shape
        self.table = table
        self._plan = plan
        self._moments = table.weight.new_zeros(rows, 2, size)
        moving = table.moving
        self._moving = None if moving is None else torch.from_numpy(moving).to(table.weight.device)
        self.steps = 0

    def state(self) -> NDArray[Any]:
        moments: NDArray[Any] = self._moments.numpy(force=True)
        return moments

    def set_state(self, moments: NDArray[Any]) -> None:
        self._moments.copy_(torch.from_numpy(moments))

    @torch.no_grad()
    def step(self, share: float) -> None:
        self.steps += 1
        weight = self.table.weight
        gradients = [_by_code(each, self.table.size) for each in self.table.taken if each.leaf.grad is not None]
        self.table.taken.clear()
        codes = torch.cat([each for each, _ in gradients]) if gradients else weight.new_empty(0, dtype=torch.int64)
        slopes = torch.cat([each for _, each in gradients]) if gradients else weight.new_empty(0, self.table.size)
        if _moves_all(self.table, self._plan):
            distinct, place = torch.arange(len(weight), device=weight.device), codes
        else:
            distinct, place = torch.unique(codes, return_inverse=True)
        sums = torch.zeros(len(distinct), self.table.size, dtype=weight.dtype, device=weight.device)
        sums.index_add_(0, place, slopes)
        if self._moving is not None:
            free = self._moving[distinct]
            distinct, sums = distinct[free], sums[free]
        step, epsilon, beta1, beta2, l2 = _rates(self.table, self._plan, self.steps, share)
        own, moments = weight[distinct], self._moments[distinct]
        gradient = sums + l2 * own
        first = beta1 * moments[:, 0] + (1.0 - beta1) * gradient
        second = beta2 * moments[:, 1] + (1.0 - beta2) * gradient.square()
        self._moments.index_copy_(0, distinct, torch.stack([first, second], 1))
        weight.index_copy_(0, distinct, own - step * first / (second.sqrt() + epsilon))


def _by_code(taken: Taken, size: int) -> tuple[Tensor, Tensor]:
    """([n · c] the codes, [n · c, size] the gradient of each one's row); of code 0, which never moves, all zeros."""
    codes, widths, leaf = taken
    field_of = torch.from_numpy(np.repeat(np.arange(len(widths)), np.diff(starts_of(widths)))).to(codes.device)
    there = (codes != 0).to(leaf.dtype)
    count = torch.zeros(len(codes), len(widths), dtype=leaf.dtype, device=codes.device)
    count.index_add_(1, field_of, there)
    share = there / count.clamp(min=1.0).index_select(1, field_of)
    slope = torch.unflatten(leaf.grad, 1, (len(widths), size)).index_select(1, field_of)  # type: ignore[arg-type]
    return codes.flatten().long(), (slope * share.unsqueeze(2)).flatten(0, 1)
