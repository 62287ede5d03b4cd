"""Deep and cross network, second version: each layer multiplies the row by a linear map of itself.

    x_{l+1} = x_0 ∘ (W_l x_l + b_l) + x_l                     W_l [d, d], b_l [d]; d² + d weights a layer
    W_l = U_l V_lᵀ                                            of rank k: U_l, V_l [d, k]; 2dk + d weights
    W_l x = Σ_e g_e(x) U_le tanh(C_le tanh(V_leᵀ x))          mixture: g = softmax of a linear map, C_le [k, k]

(Wang et al., "DCN V2: improved deep & cross network", WWW 2021.)
"""

import torch
from torch import Tensor, nn

from tamis.nets.crosses.fields import Fields
from tamis.nets.layers import Affine, linear, uniform


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
        self.width = fields.width
        self.maps = nn.ModuleList(linear_map(self.width, rank, experts, generator) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width]."""
        out = x
        for of_layer in self.maps:
            out = torch.addcmul(out, x, of_layer(out))
        return out
