"""Mixture of experts with one gate per task (MMoE), all experts in one product, the user's half once per request.

    x_e = E_e(v),   g_t = softmax(G_t(v)),   h_t = Σ_e g_te · x_e        v = (user side, item side)

With one expert this is a shared bottom. (Ma et al., "Modeling task relationships in multi-task learning with
multi-gate mixture-of-experts", KDD 2018; gate dropout: Zhao et al., "Recommending what video to watch next", 2019.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from tamis.nets.layers import linear, uniform
from tamis.nets.spread import Rows, spread

POLARIZED = 0.95
DEAD = 0.01


def mix(gates: Tensor, experts: Tensor) -> Tensor:
    """[t, n, h] each task's weighted sum of the experts. gates: [n, t, e].   experts: [n, e, h]."""
    return torch.bmm(gates, experts).transpose(0, 1)


def drop_gates(gates: Tensor, keep: Tensor) -> Tensor:
    """Gates [n, t, e] without the experts that are not kept, the rest rescaled to sum 1.

    keep: [n, t, e] bool. Where no expert is kept the gates stay as they are.
    """
    kept = gates * keep
    total = kept.sum(-1, keepdim=True)
    alive = total > 0
    return torch.where(alive, kept / torch.where(alive, total, 1.0), gates)


@dataclass(frozen=True, slots=True)
class GateUse:
    """How the gates spread their weight, over rows.

    largest: [t] mean of the largest weight.   share: [t][e] mean weight of each expert.
    """

    largest: tuple[float, ...]
    share: tuple[tuple[float, ...], ...]

    @staticmethod
    def of(gates: Tensor) -> "GateUse":
        """From gates [n, t, e], n > 0."""
        share = gates.mean(0).tolist()
        return GateUse(tuple(gates.max(-1).values.mean(0).tolist()), tuple(tuple(row) for row in share))

    @property
    def polarized(self) -> tuple[int, ...]:
        """Tasks whose gate nearly always picks a single expert."""
        return tuple(task for task, weight in enumerate(self.largest) if weight > POLARIZED and len(self.share[0]) > 1)

    @property
    def dead(self) -> tuple[int, ...]:
        """Experts that no task uses."""
        return tuple(e for e, column in enumerate(zip(*self.share, strict=True)) if max(column) < DEAD)


class Experts(nn.Module):
    """`experts` nets of the layers `hidden` each, and a gate for each of `tasks`.

    The first layer of all experts and all gates is split in a user half, computed per request, and an item half.
    """

    def __init__(
        self, widths: tuple[int, int], tasks: int, experts: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        user, item = widths
        self.tasks, self.experts, self.hidden = tasks, experts, tuple(hidden)
        self.gate_dropout = 0.1
        self.user_first = linear(user, experts * hidden[0], generator, fan_in=user + item)
        self.item_first = linear(item, experts * hidden[0], generator, bias=False, fan_in=user + item)
        self.user_gate = linear(user, tasks * experts, generator, fan_in=user + item)
        self.item_gate = linear(item, tasks * experts, generator, bias=False, fan_in=user + item)
        pairs = list(pairwise(hidden))
        self.deeper = nn.ParameterList([uniform((experts, a, b), a, generator) for a, b in pairs])
        self.biases = nn.ParameterList([uniform((experts, 1, b), a, generator) for a, b in pairs])
        self._chance = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))

    def forward(self, user: Tensor, item: Tensor, rows: Rows | None) -> Tensor:
        """[t, n, hidden[-1]] of user [r, …] and item [n, …]."""
        outputs = self.outputs(user, item, rows)
        if self.experts == 1:
            return outputs.expand(self.tasks, -1, -1)
        gates = self.gates(user, item, rows)
        if self.training and self.gate_dropout > 0:
            keep = torch.rand(gates.shape, generator=self._chance) >= self.gate_dropout
            gates = drop_gates(gates, keep)
        return mix(gates, outputs.transpose(0, 1))

    def outputs(self, user: Tensor, item: Tensor, rows: Rows | None) -> Tensor:
        """[e, n, hidden[-1]] what each expert says."""
        first = _halves(self.user_first(user), item, self.item_first.weight, rows).relu_()
        out = first.view(-1, self.experts, self.hidden[0]).transpose(0, 1)
        for weight, bias in zip(self.deeper, self.biases, strict=True):
            out = torch.baddbmm(bias, out, weight).relu_()
        return out

    def gates(self, user: Tensor, item: Tensor, rows: Rows | None) -> Tensor:
        """[n, t, e] each task's weights of the experts: ≥ 0, summing to 1."""
        raw = _halves(self.user_gate(user), item, self.item_gate.weight, rows)
        return torch.softmax(raw.view(-1, self.tasks, self.experts), -1)


def _halves(user: Tensor, item: Tensor, weight: Tensor, rows: Rows | None) -> Tensor:
    """[n, d] the user's half spread to its rows plus item @ weight.T, in one pass."""
    if rows is None:
        return torch.addmm(user, item, weight.t())
    return spread(user, rows).addmm_(item, weight.t())
