"""Progressive layered extraction (PLE): experts that all heads share beside experts of one head's own, in levels.

    level l, head t:   x_t ← Σ_e softmax_e(G_lt(x_t)) E_le(x_{owner of e})      over the shared experts and t's own
    shared:            x_s ← Σ_e softmax_e(G_ls(x_s)) E_le(x_{owner of e})      over all; not in the last level

In the first level every x is the input (user side, item side), so that level is a mixture of experts whose gates do
not reach other heads' experts. One level is the CGC of the paper. (Tang et al., "Progressive layered extraction (PLE):
a novel multi-task learning model for personalized recommendations", RecSys 2020.)
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from tamis.nets.experts import Experts, blend, drawn, dropped, gates_of
from tamis.nets.layers import uniform
from tamis.nets.normalize import mapped, normalized, of_layers
from tamis.nets.personal import gated
from tamis.nets.spread import Rows


class Ple(nn.Module):
    """`levels` levels with `shared` experts for all of `tasks` and `own` experts for each, of the layers `hidden`."""

    def __init__(
        self,
        widths: tuple[int, int],
        tasks: int,
        experts: tuple[int, int],
        hidden: Sequence[int],
        levels: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        shared, own = experts
        self.experts = tasks * own + shared
        owner = torch.tensor([task for task in range(tasks) for _ in range(own)] + [tasks] * shared)
        group = torch.arange(tasks + 1).unsqueeze(1)
        reach = (owner == group) | (owner == tasks) | (group == tasks)  # [tasks + 1, experts]
        readers = tasks + (levels > 1)
        self.first = Experts(widths, readers, self.experts, hidden, generator)
        self.first.reach = reach[:readers]
        self.deeper = nn.ModuleList(
            Level(owner, reach[: tasks + (level + 1 < levels)], hidden, generator) for level in range(1, levels)
        )
        self.layers = self.first.layers * levels

    def drop(self, gates: float, units: float) -> None:
        """Leaves out these shares of the gates and of the hidden units in training."""
        for level in (self.first, *self.deeper):
            level.gate_dropout, level.dropout = gates, units

    def normalize(self) -> None:
        """Gives every hidden layer of every level batch normalisation."""
        for level in (self.first, *self.deeper):
            level.norms = of_layers(self.first.layers)

    def forward(self, user: Tensor, item: Tensor, rows: Rows | None, personal: Sequence[Tensor] = ()) -> Tensor:
        """[t, n, hidden[-1]] of user [r, …] and item [n, …]. personal: a gate for each of `layers`, or none."""
        return self._through(self.deeper, (user, item), rows, personal)

    def gates(self, user: Tensor, item: Tensor, rows: Rows | None, personal: Sequence[Tensor] = ()) -> Tensor:
        """[n, t, e] the heads' weights of the experts in the last level: ≥ 0, summing to 1, 0 for other heads' own."""
        if not self.deeper:
            return self.first.gates(user, item, rows)
        last = cast(Level, self.deeper[-1])
        return gates_of(last.raw_gates(self._through(self.deeper[:-1], (user, item), rows, personal)), last.reach)

    def _through(
        self, levels: Iterable[nn.Module], sides: tuple[Tensor, Tensor], rows: Rows | None, personal: Sequence[Tensor]
    ) -> Tensor:
        """[g, n, hidden[-1]] what comes out of the first level and these further ones."""
        depth = len(self.first.layers)
        x: Tensor = self.first(*sides, rows, personal[:depth])
        for at, level in enumerate(levels, 1):
            x = level(x, rows, personal[at * depth : (at + 1) * depth])
        return x


class Level(nn.Module):
    """A level after the first: experts that read what their group was given, and a gate for each group it goes to.

    owner: [e] the group of each expert.   reach: [g, e] which experts each group's gate may use.
    """

    def __init__(self, owner: Tensor, reach: Tensor, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        groups, experts = reach.shape
        self.gate_dropout, self.dropout = 0.1, 0.0
        self.norms: nn.ModuleList | None = None
        self.owner: Tensor
        self.reach: Tensor
        self.register_buffer("owner", owner, persistent=False)
        self.register_buffer("reach", reach, persistent=False)
        pairs = list(pairwise((hidden[-1], *hidden)))
        self.weights = nn.ParameterList([uniform((experts, a, b), a, generator) for a, b in pairs])
        self.biases = nn.ParameterList([uniform((experts, 1, b), a, generator) for a, b in pairs])
        self.gate = uniform((groups, hidden[-1], experts), hidden[-1], generator)
        self.gate_bias = uniform((groups, 1, experts), hidden[-1], generator)
        self._chance = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))

    def raw_gates(self, x: Tensor) -> Tensor:
        """[n, g, e] before the softmax."""
        return torch.baddbmm(self.gate_bias, x[: len(self.gate)], self.gate).transpose(0, 1)

    def forward(self, x: Tensor, rows: Rows | None, personal: Sequence[Tensor]) -> Tensor:
        """[g, n, hidden[-1]] of what the groups were given [t + 1, n, hidden[-1]]."""
        raw = self.raw_gates(x)
        out = x.index_select(0, self.owner)
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            folded, added = mapped(self.norms, depth, weight, bias)
            out = torch.baddbmm(added, out.relu() if depth else out, folded)
            out = normalized(self.norms, depth, out, bias)
            out = dropped(out, self.dropout if self.training else 0.0, self._chance)
            if personal:
                out = gated(out, personal[depth], rows)  # a gate is above 0: before the relu is as good as after it
        keep = drawn(raw, self.gate_dropout if self.training else 0.0, self.reach, self._chance)
        return blend(raw, out, keep, self.reach, served=rows is None)
