"""Adam for the layers, and for the fused table only the rows that a batch touched, unless the plan wants all."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tamis.nets import kernels
from tamis.nets.embed import Table
from tamis.nets.parallel import Span, side_by_side, spans
from tamis.nets.plans import TrainingPlan

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Optimizer:
    """Moves a net's weights after `backward`: `clear`, forward, `backward`, `step`.

    Layers: torch's Adam. Rows of the `Table`s: Adam on exactly the rows gathered since `clear`;
    the moments of all other rows stand still ("lazy Adam"), and when a batch holds every row it is Adam itself.
    `TrainingPlan.embedding_steps` "all": every embedding moves at every step, so that `l2` pulls rare ones as often as
    frequent ones; a row that no batch holds goes to 0.
    """

    def __init__(self, net: nn.Module, plan: TrainingPlan) -> None:
        self.plan = plan
        self._tables = [_Rows(module, plan) for module in net.modules() if isinstance(module, Table)]
        dense = [weight for weight in net.parameters() if weight.requires_grad]
        adam = partial(torch.optim.Adam, lr=plan.learning_rate, betas=BETAS, eps=EPSILON, fused=True)
        self._dense = [adam(dense)] if dense else []  # torch refuses to move nothing

    def clear(self) -> None:
        """Forgets gradients and gathered rows."""
        for layers in self._dense:
            layers.zero_grad()
        for rows in self._tables:
            rows.table.taken.clear()

    def step(self, share: float = 1.0) -> None:
        """Moves every weight that has a gradient; `share` scales the learning rates of this step."""
        for layers in self._dense:
            for group in layers.param_groups:
                group["lr"] = self.plan.learning_rate * share
            layers.step()
        for rows in self._tables:
            rows.step(share)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that later steps depend on besides the weights, by name; views, not copies."""
        out: dict[str, NDArray[Any]] = {}
        for layers in self._dense:
            for i, moments in layers.state_dict()["state"].items():
                out |= {f"layer.{i}.{name}": value.numpy() for name, value in moments.items()}
        for i, rows in enumerate(self._tables):
            out |= {f"table.{i}.moments": rows.moments, f"table.{i}.steps": np.array(rows.steps)}
        return out

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Puts back what `state` gave for a net of the same shape. Raises KeyError or ValueError for another one."""
        for layers in self._dense:
            kept: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in state.items():
                kind, number, *name = key.split(".")
                if kind == "layer":
                    kept.setdefault(int(number), {})[name[0]] = torch.from_numpy(value)
            layers.load_state_dict({**layers.state_dict(), "state": kept})
        for i, rows in enumerate(self._tables):
            rows.moments[:] = state[f"table.{i}.moments"]
            rows.steps = int(state[f"table.{i}.steps"])


class _Rows:
    """The optimizer state of one table."""

    def __init__(self, table: Table, plan: TrainingPlan) -> None:
        rows, size = table.weight.shape
        self.table = table
        self._plan = plan
        self._weight: NDArray[np.floating] = table.weight.detach().numpy()
        self.moments = kernels.by_cache_line((rows, 2, size), self._weight.dtype)
        self._place = np.zeros(rows, np.int32)
        self._distinct = np.empty(0, np.int32)
        self._sums = np.empty((0, size), self._weight.dtype)
        self.steps = 0

    def step(self, share: float) -> None:
        count = self._sum_gradients()
        distinct, sums = self._distinct[:count], self._sums[:count]
        self._place[distinct] = 0
        if self.table.moving is not None:
            free = self.table.moving[distinct]
            distinct, sums = distinct[free], sums[free]
        self.steps += 1
        plan, line = self._plan, self.table.first_order
        rate = share * (plan.wide_learning_rate if line else plan.embedding_learning_rate)
        root = math.sqrt(1.0 - BETAS[1] ** self.steps)
        adam = (rate * root / (1.0 - BETAS[0] ** self.steps), EPSILON * root, *BETAS, 0.0 if line else plan.l2)

        def work(_: int, part: Span) -> None:
            rows = slice(*part)
            kernels.adam_rows(self._weight, self.moments, distinct[rows], sums[rows], adam)

        side_by_side(spans(np.arange(len(distinct) + 1)) if len(distinct) else [], work)

    def _sum_gradients(self) -> int:
        """Fills the distinct codes and the sum of each one's gradients; how many there are."""
        every = self._plan.embedding_steps == "all" and not self.table.first_order
        room, taken = len(self._place), sum(codes.size for codes, _, _ in self.table.taken)
        room = room if every else min(taken, room)
        if room > len(self._distinct):
            self._distinct = np.empty(room, np.int32)
            self._sums = np.empty((room, self._sums.shape[1]), self._sums.dtype)
        count = len(self._place) - 1 if every else 0
        self._distinct[:count] = self._place[1 : count + 1] = np.arange(1, count + 1)
        self._sums[:count] = 0
        for codes, starts, leaf in self.table.taken:
            if leaf.grad is not None:
                marks = (self._place, self._distinct, count)
                count = kernels.sum_by_code(codes, starts, leaf.grad.numpy(), self._sums, marks)
        self.table.taken.clear()
        return count
