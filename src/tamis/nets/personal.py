"""Personal gates: the user's side decides how much each hidden unit counts, once per request.

    h_l = relu(layer_l(a_{l−1})),   g_l = 2σ(W_l relu(V_l s + c_l) + b_l),   a_l = h_l ∘ g_l        s = the user's side

Every layer has a gate net of its own, and all of them read the user's side itself, so none depends on another. The
factor 2 lets a gate amplify as well as attenuate; W and b start at 0, where every gate is 1 and the net is the ungated
one. "lhuc" gates the layers of the experts; "ppnet" gates, for each head apart, what its tower reads and the layers of
the tower, and sends no gradient into the embeddings that all heads share. (Swietojanski, Li and Renals, "Learning
hidden unit contributions", TASLP 2016; PPNet: Chang et al., "PEPNet", KDD 2023.)
"""

from collections.abc import Sequence
from typing import Any, Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.nets.device import compiled
from tamis.nets.layers import linear
from tamis.nets.parallel import side_by_side, spans
from tamis.nets.spread import Rows, spread

_FAST: Final = {"reassoc", "contract", "nsz", "nnan", "arcp"}
A = NDArray[Any]


class PersonalGates(nn.Module):
    """User sides [r, …] → for each gated layer [r, a, d] inside (0, 2): a nets side by side with d units each.

    layers: (a, d) of each gated layer.   hidden: width of the hidden layer of each gate net.
    apart: the gates send no gradient back to what they read.
    """

    def __init__(
        self, inputs: int, layers: Sequence[tuple[int, int]], hidden: int, apart: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.layers, self.hidden, self.apart = tuple(layers), hidden, apart
        self.first = linear(inputs, len(self.layers) * hidden, generator)
        self.last = nn.ModuleList(linear(hidden, a * d, generator) for a, d in self.layers)
        for layer in self.last:
            for weight in layer.parameters():
                nn.init.zeros_(weight)

    def forward(self, user: Tensor) -> list[Tensor]:
        """One [r, a, d] for each gated layer."""
        hidden = torch.relu(self.first(user.detach() if self.apart else user))
        parts = range(0, hidden.shape[1], self.hidden)
        gates = [layer(hidden[:, at : at + self.hidden]) for layer, at in zip(self.last, parts, strict=True)]
        return [2.0 * torch.sigmoid(torch.unflatten(gate, 1, of)) for gate, of in zip(gates, self.layers, strict=True)]


def gated(x: Tensor, gate: Tensor, rows: Rows | None) -> Tensor:
    """[a, n, d] each row of x times the gate [r, a, d] of its request; of the only request when `rows` is None."""
    if rows is None:
        return x * gate.transpose(0, 1)
    if not compiled(x):
        return x * spread(gate, rows).transpose(0, 1)
    out: Tensor = _Gated.apply(x, gate, rows)  # type: ignore[no-untyped-call]
    return out


class _Gated(torch.autograd.Function):
    """See `gated`; a request's gate is read, and its gradient summed, without a copy for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, rows: Rows) -> Tensor:
        x, gate = x.contiguous(), gate.contiguous()
        ctx.save_for_backward(x, gate)
        ctx.first = rows.first
        out = torch.empty_like(x)
        given = x.numpy(), gate.numpy(), rows.first
        side_by_side(spans(rows.first), lambda _, part: apply_gates(*given, out.numpy(), part))
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gate = ctx.saved_tensors
        of_x, of_gate = torch.empty_like(x), torch.empty_like(gate)
        given, filled = (x.numpy(), gate.numpy(), slope.contiguous().numpy()), (of_x.numpy(), of_gate.numpy())
        side_by_side(spans(ctx.first), lambda _, part: gate_gradients(given, ctx.first, filled, part))
        return of_x, of_gate, None


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def apply_gates(x: A, gate: A, first: NDArray[np.int64], out: A, part: tuple[int, int]) -> None:
    """out[a, j] = x[a, j] · gate[i, a] for the rows j of the requests i in part[0] : part[1]."""
    for a in range(len(x)):
        for i in range(part[0], part[1]):
            own = gate[i, a]
            for j in range(first[i], first[i + 1]):
                row, filled = x[a, j], out[a, j]
                for k in range(len(row)):
                    filled[k] = row[k] * own[k]


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def gate_gradients(given: tuple[A, A, A], first: NDArray[np.int64], slopes: tuple[A, A], part: tuple[int, int]) -> None:
    """given = (x, gate, slope of the output) → slopes = (of x, of gate), filled for the requests part[0] : part[1]."""
    x, gate, slope = given
    of_x, of_gate = slopes
    for a in range(len(x)):
        for i in range(part[0], part[1]):
            own, total = gate[i, a], of_gate[i, a]
            total[:] = 0
            for j in range(first[i], first[i + 1]):
                row, back, filled = x[a, j], slope[a, j], of_x[a, j]
                for k in range(len(row)):
                    filled[k] = back[k] * own[k]
                    total[k] += back[k] * row[k]
