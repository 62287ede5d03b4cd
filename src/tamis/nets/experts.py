"""Mixture of experts with one gate per task (MMoE), all experts in one product, the user's half once per request.

    x_e = E_e(v),   g_t = softmax(G_t(v)),   h_t = Σ_e g_te · x_e        v = (user side, item side)

With one expert this is a shared bottom. (Ma et al., "Modeling task relationships in multi-task learning with
multi-gate mixture-of-experts", KDD 2018; gate dropout: Zhao et al., "Recommending what video to watch next", 2019.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tamis.nets import mixture_kernels as kernels
from tamis.nets.device import compiled
from tamis.nets.layers import linear, uniform
from tamis.nets.normalize import at, mapped, normalized
from tamis.nets.parallel import side_by_side, spans
from tamis.nets.personal import gated
from tamis.nets.products import cast, product
from tamis.nets.spread import Rows, spread

POLARIZED = 0.95
DEAD = 0.01


def mix(gates: Tensor, experts: Tensor) -> Tensor:
    """[t, n, h] each task's weighted sum of the experts. gates: [n, t, e].   experts: [n, e, h]."""
    return torch.bmm(gates, experts).transpose(0, 1)


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

    reach: [t, e] which experts each task's gate may use; None = all.   layers: (experts, units) of each hidden layer.
    gate_dropout, dropout: shares of the gates and of the hidden units that are left out in training.
    norms: one for each hidden layer, see `nets.normalize`; None = no normalisation.
    """

    def __init__(
        self, widths: tuple[int, int], tasks: int, experts: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        user, item = widths
        self.tasks, self.experts, self.hidden = tasks, experts, tuple(hidden)
        self.layers = tuple((experts, units) for units in hidden)
        self.gate_dropout, self.dropout = 0.1, 0.0
        self.reach: Tensor | None
        self.register_buffer("reach", None, persistent=False)
        self.norms: nn.ModuleList | None = None
        self.user_first = linear(user, experts * hidden[0], generator, fan_in=user + item)
        self.item_first = linear(item, experts * hidden[0], generator, bias=False, fan_in=user + item)
        self.user_gate = linear(user, tasks * experts, generator, fan_in=user + item)
        self.item_gate = linear(item, tasks * experts, generator, bias=False, fan_in=user + item)
        pairs = list(pairwise(hidden))
        self.deeper = nn.ParameterList([uniform((experts, a, b), a, generator) for a, b in pairs])
        self.biases = nn.ParameterList([uniform((experts, 1, b), a, generator) for a, b in pairs])
        self._chance = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))

    def forward(self, user: Tensor, item: Tensor, rows: Rows | None, personal: Sequence[Tensor] = ()) -> Tensor:
        """[t, n, hidden[-1]] of user [r, …] and item [n, …]. personal: a gate for each of `layers`, or none."""
        if self.experts == 1:
            return self.outputs(user, item, rows, personal).expand(self.tasks, -1, -1)
        raw = self._raw_gates(user, item, rows)
        keep = drawn(raw, self.gate_dropout if self.training else 0.0, self.reach, self._chance)
        return blend(raw, self._before_relu(user, item, rows, personal), keep, self.reach, served=rows is None)

    def outputs(self, user: Tensor, item: Tensor, rows: Rows | None, personal: Sequence[Tensor] = ()) -> Tensor:
        """[e, n, hidden[-1]] what each expert says."""
        return self._before_relu(user, item, rows, personal).relu()

    def gates(self, user: Tensor, item: Tensor, rows: Rows | None, personal: Sequence[Tensor] = ()) -> Tensor:
        """[n, t, e] each task's weights of the experts: ≥ 0, summing to 1. They do not depend on `personal`."""
        return gates_of(self._raw_gates(user, item, rows), self.reach)

    def _raw_gates(self, user: Tensor, item: Tensor, rows: Rows | None) -> Tensor:
        raw: Tensor = spread(self.user_gate(user), rows) + self.item_gate(item)
        return raw.view(-1, self.tasks, self.experts)

    def _before_relu(self, user: Tensor, item: Tensor, rows: Rows | None, personal: Sequence[Tensor]) -> Tensor:
        """[e, n, hidden[-1]] the last layer of all experts; a personal gate is above 0 and so as good before a relu."""
        if not self.deeper:
            only = self._first_before_relu(user, item, rows).view(-1, self.experts, self.hidden[0])
            out = self._dropped(only.transpose(0, 1))
            return gated(out, personal[0], rows) if personal else out
        first = self._first(user, item, rows)
        if personal:
            first = gated(first.unsqueeze(0), personal[0].flatten(1).unsqueeze(1), rows).squeeze(0)
        x = self._dropped(first)
        for depth in range(1, len(self.hidden)):
            bias = self.biases[depth - 1]
            weight, added = mapped(self.norms, depth, self.deeper[depth - 1], bias)
            out = fan_out(x, weight, added) if depth == 1 else torch.baddbmm(added, out.relu(), weight)
            out = self._dropped(normalized(self.norms, depth, out, bias))
            if personal:
                out = gated(out, personal[depth], rows)
        return out

    def _first(self, user: Tensor, item: Tensor, rows: Rows | None) -> Tensor:
        """[n, e * hidden[0]] what the first layer says."""
        if rows is None or (self.norms is not None and self.training):
            return self._first_before_relu(user, item, rows).relu()
        of_user, of_item, bias = self._first_map()
        return meet(nn.functional.linear(user, of_user, bias), item, of_item, rows)

    def _first_before_relu(self, user: Tensor, item: Tensor, rows: Rows | None) -> Tensor:
        of_user, of_item, bias = self._first_map()
        out = spread(nn.functional.linear(user, of_user, bias), rows)
        if self.norms is None or not self.training:
            return out + nn.functional.linear(item, of_item)
        out = torch.unflatten(out + product(cast(item), cast(of_item).t()), 1, (self.experts, -1)).transpose(0, 1)
        out = normalized(self.norms, 0, out, self.user_first.bias.view(self.experts, 1, -1))
        return out.transpose(0, 1).flatten(1)

    def _first_map(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The first layer's weights of the user's and the item's side and its bias, as for `mapped`."""
        of_user, of_item, bias = self.user_first.weight, self.item_first.weight, self.user_first.bias
        if self.norms is None:
            return of_user, of_item, bias
        if self.training:
            return of_user, of_item, None
        factor, moved = at(self.norms, 0).affine(bias.view(self.experts, 1, -1))
        rate = factor.view(-1, 1)
        return of_user * rate, of_item * rate, moved.flatten()

    def _dropped(self, x: Tensor) -> Tensor:
        return dropped(x, self.dropout if self.training else 0.0, self._chance)


def drawn(raw: Tensor, dropout: float, reach: Tensor | None, chance: torch.Generator) -> Tensor:
    """[n, t, e] which gates count: each is dropped with the chance `dropout`, and all beyond `reach` are.

    Where nothing would be left, what is in reach stays. Empty [0, t, e] when all count.   raw: [n, t, e].
    """
    keep = torch.empty(0, *raw.shape[1:], dtype=torch.bool, device=raw.device)
    if dropout > 0:
        keep = (torch.rand(raw.shape, generator=chance) >= dropout).to(raw.device)
    if reach is None:
        return keep
    if not dropout > 0:
        return reach.expand(raw.shape).contiguous()
    keep &= reach
    return torch.where(keep.any(-1, keepdim=True), keep, reach)


def dropped(x: Tensor, share: float, chance: torch.Generator) -> Tensor:
    """x with each number set to 0 with the chance `share`, the others enlarged to keep the mean.

    Before a relu as good as after it: no factor is below 0.
    """
    if not share > 0:
        return x
    factors = torch.empty_like(x, device="cpu").bernoulli_(1.0 - share, generator=chance).div_(1.0 - share)
    return x * factors.to(x.device)


def gates_of(raw: Tensor, reach: Tensor | None) -> Tensor:
    """[n, t, e] the softmax of raw gates, over the experts in reach."""
    return torch.softmax(raw if reach is None else raw.masked_fill(~reach, -torch.inf), -1)


def blend(raw: Tensor, before: Tensor, keep: Tensor, reach: Tensor | None, served: bool) -> Tensor:
    """[t, n, h] each task's mixture of relu(before [e, n, h]) by softmax(raw [n, t, e]) over the kept experts.

    served: by plain operations that can be exported, over all in reach.
    """
    if served:
        return mix(gates_of(raw, reach), before.relu().transpose(0, 1))
    if not compiled(raw):
        every = keep | ~keep.any(-1, keepdim=True) if len(keep) else None
        return mix(gates_of(raw, every), before.relu().transpose(0, 1))
    out: Tensor = _Mix.apply(raw, before, keep)  # type: ignore[no-untyped-call]
    return out


def meet(user: Tensor, item: Tensor, weight: Tensor, rows: Rows) -> Tensor:
    """relu(user[row_of] + item @ weight.T): the first layer from its user half [r, d] and the item side [n, …]."""
    if not compiled(item):
        return (spread(user, rows) + product(cast(item), cast(weight).t())).relu()
    out: Tensor = _Meet.apply(user, item, weight, rows)  # type: ignore[no-untyped-call]
    return out


def fan_out(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[e, n, b]: bias[e] + x_e @ weight[e] with x [n, e * a] holding the experts side by side."""
    if not compiled(x):
        return product(cast(x).view(-1, *weight.shape[:2]).transpose(0, 1), cast(weight), bias)
    out: Tensor = _FanOut.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Meet(torch.autograd.Function):
    """See `meet`; the sum, the relu and both their gradients are one pass each."""

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, weight: Tensor, rows: Rows) -> Tensor:
        left, right = cast(item), cast(weight)
        out = product(left, right.t())
        half, sums = user.numpy(), out.numpy()
        side_by_side(spans(rows.first), lambda _, part: kernels.meet(half, sums, rows.first, part))
        ctx.rows = rows
        ctx.save_for_backward(left, right, out)
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        item, weight, out = ctx.saved_tensors
        first = ctx.rows.first
        of_sum, of_user = torch.empty_like(out), torch.empty(len(first) - 1, out.shape[1], dtype=out.dtype)
        given, slopes = out.numpy(), (of_sum.numpy(), of_user.numpy())
        back = slope.contiguous().numpy()
        side_by_side(spans(first), lambda _, part: kernels.meet_gradient(given, back, slopes, first, part))
        slim = of_sum.to(item.dtype)
        return of_user, product(slim, weight), product(slim.t(), item), None


class _FanOut(torch.autograd.Function):
    """See `fan_out`; the gradient of x is written side by side, without a transposing copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        left, right = cast(x), cast(weight)
        ctx.save_for_backward(left, right)
        return product(left.view(-1, *weight.shape[:2]).transpose(0, 1), right, bias)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        experts, inputs = weight.shape[:2]
        slim = slope.to(x.dtype)
        of_x = torch.empty_like(x)
        for e in range(experts):
            torch.mm(slim[e], weight[e].t(), out=of_x[:, e * inputs : (e + 1) * inputs])
        of_weight = product(x.view(-1, experts, inputs).permute(1, 2, 0), slim)
        return of_x.to(slope.dtype), of_weight, slope.sum(1, keepdim=True)


class _Mix(torch.autograd.Function):
    """`mix` of relu(experts) by softmax(raw) with dropped gates, in one pass; see `kernels.mix`."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, experts: Tensor, keep: Tensor) -> Tensor:
        rows, tasks, _ = raw.shape
        mixed, gates = torch.empty(tasks, rows, experts.shape[2], dtype=raw.dtype), torch.empty_like(raw)
        raws, inputs, kept = raw.contiguous().numpy(), experts.contiguous().numpy(), keep.numpy()
        outs = mixed.numpy(), gates.numpy()
        side_by_side(spans(np.arange(rows + 1)), lambda _, part: kernels.mix(raws, inputs, kept, outs, part))
        ctx.save_for_backward(gates, experts)
        return mixed

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        gates, experts = ctx.saved_tensors
        of_raw, of_experts = torch.empty_like(gates), torch.empty_like(experts)
        weights, inputs, back = gates.numpy(), experts.contiguous().numpy(), slope.contiguous().numpy()
        slopes = of_raw.numpy(), of_experts.numpy()
        every = spans(np.arange(len(gates) + 1))
        side_by_side(every, lambda _, part: kernels.mix_gradient(weights, inputs, back, slopes, part))
        return of_raw, of_experts, None
