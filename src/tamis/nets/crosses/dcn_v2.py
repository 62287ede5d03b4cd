"""Deep and cross network, second version: each layer multiplies the row by a linear map of itself.

    x_{l+1} = x_0 ∘ (W_l x_l + b_l) + x_l                     W_l [d, d], b_l [d]; d² + d weights a layer
    W_l = U_l V_lᵀ                                            of rank k: U_l, V_l [d, k]; 2dk + d weights
    W_l x = Σ_e g_e(x) U_le tanh(C_le tanh(V_leᵀ x))          mixture: g = softmax of a linear map, C_le [k, k]

(Wang et al., "DCN V2: improved deep & cross network", WWW 2021.)
"""

import torch
from torch import Tensor, nn

from tamis.nets.crosses.fields import Fields
from tamis.nets.crosses.layers_of_dcn import layers
from tamis.nets.device import compiled
from tamis.nets.layers import Affine, linear, uniform
from tamis.nets.products import cast, product
from tamis.nets.spread import Rows


class LowRank(nn.Module):
    """[n, d] → [n, d] through `rank` numbers, or a mixture of `experts` such maps with a gate."""

    def __init__(self, width: int, rank: int, experts: int, generator: torch.Generator) -> None:
        super().__init__()
        self.experts, self.rank = experts, rank
        self.down = uniform((width, experts * rank), width, generator)
        self.up = uniform((experts * rank, width), rank, generator)
        self.bias = uniform((width,), width, generator)
        if experts > 1:
            self.core = uniform((experts, rank, rank), rank, generator)
            self.gate = linear(width, experts, generator)

    def forward(self, x: Tensor) -> Tensor:
        """[n, d]."""
        hidden = torch.mm(x, self.down)
        if self.experts > 1:
            apart = torch.tanh(hidden).view(-1, self.experts, self.rank).transpose(0, 1)
            inner = torch.tanh(torch.bmm(apart, self.core)).transpose(0, 1)
            hidden = (inner * torch.softmax(self.gate(x), 1).unsqueeze(2)).flatten(1)
        return torch.addmm(self.bias, hidden, self.up)


def linear_map(width: int, rank: int, experts: int, generator: torch.Generator) -> Affine | LowRank:
    """[n, d] → [n, d] by a full matrix (rank 0) or a `LowRank` one."""
    return LowRank(width, rank, experts, generator) if rank else Affine(width, width, generator)


class DcnV2(nn.Module):
    """Rows [n, fields.width] → as many numbers. rank, experts: of the matrices; rank 0 = full ones."""

    def __init__(self, fields: Fields, depth: int, rank: int, experts: int, generator: torch.Generator) -> None:
        super().__init__()
        self.fields, self.width = fields, fields.width
        self.maps = nn.ModuleList(linear_map(self.width, rank, experts, generator) for _ in range(depth))

    def forward(self, x: Tensor, user: Tensor | None = None, rows: Rows | None = None) -> Tensor:
        """[n, width]. user: [r, …] the user's half of the rows, each request's once; rows: whose.

        With full matrices and `user` the first layer's product with that half is made once per request.
        """
        full = [of_layer for of_layer in self.maps if isinstance(of_layer, Affine)]
        if not full:
            out = x
            for of_layer in self.maps:
                out = torch.addcmul(out, x, of_layer(out))
            return out
        weights: list[Tensor] = [of_layer.weight for of_layer in full]
        biases: list[Tensor] = [of_layer.bias for of_layer in full]
        if user is not None and rows is None:
            return self._one_request(x, user, weights, biases)
        if not compiled(x):
            return _layers(x, x, weights, biases)
        shared = None
        if user is not None and rows is not None and 2 * len(user) <= len(x):
            shared = user, rows
        return layers(x, shared, self.fields, weights, biases)

    def _one_request(self, x: Tensor, user: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        """The same by plain operations, all rows of the only user [1, …]."""
        of_user, of_item = self.fields.halves(weights[0])
        base = torch.addmm(biases[0], user, of_user.t())
        out = torch.addcmul(x, x, torch.mm(self.fields.halves(x)[1], of_item.t()) + base)
        return _layers(x, out, weights[1:], biases[1:])


def _layers(x: Tensor, out: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    for weight, bias in zip(weights, biases, strict=True):
        out = torch.addcmul(out, x, product(cast(out), cast(weight).t()) + bias)
    return out
