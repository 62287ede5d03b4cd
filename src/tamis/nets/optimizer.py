"""Adam for the layers, and for the fused tables the rows that a batch touched (`row_adam`)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tamis.nets.embed import Table
from tamis.nets.plans import TrainingPlan
from tamis.nets.row_adam import BETAS, EPSILON, rows_of

_FUSED: Final = ("cpu", "cuda")  # devices on which torch moves all layers in one pass


class Optimizer:
    """Moves a net's weights after `backward`: `clear`, forward, `backward`, `step`.

    Layers: torch's Adam. Rows of the `Table`s: Adam on exactly the rows gathered since `clear`;
    the moments of all other rows stand still ("lazy Adam"), and when a batch holds every row it is Adam itself.
    `TrainingPlan.embedding_steps` "all": every embedding moves at every step, so that `l2` pulls rare ones as often as
    frequent ones; a row that no batch holds goes to 0.
    """

    def __init__(self, net: nn.Module, plan: TrainingPlan) -> None:
        self.plan = plan
        self._tables = [rows_of(module, plan) for module in net.modules() if isinstance(module, Table)]
        dense = [weight for weight in net.parameters() if weight.requires_grad]
        fused = all(weight.device.type in _FUSED for weight in dense)
        adam = partial(torch.optim.Adam, lr=plan.learning_rate, betas=BETAS, eps=EPSILON, fused=fused)
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
        """Everything that later steps depend on besides the weights, by name; views where they can be."""
        out: dict[str, NDArray[Any]] = {}
        for layers in self._dense:
            for i, moments in layers.state_dict()["state"].items():
                out |= {f"layer.{i}.{name}": value.numpy(force=True) for name, value in moments.items()}
        for i, rows in enumerate(self._tables):
            out |= {f"table.{i}.moments": rows.state(), f"table.{i}.steps": np.array(rows.steps)}
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
            rows.set_state(state[f"table.{i}.moments"])
            rows.steps = int(state[f"table.{i}.steps"])
