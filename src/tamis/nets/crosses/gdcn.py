"""Gated deep and cross network: DCN V2 whose layers say for each number how much of the cross is let through.

    x_{l+1} = x_0 ∘ (W_l x_l + b_l) ∘ σ(V_l x_l + a_l) + x_l        2 (d² + d) weights a layer

High orders make more crosses than are useful; the gate passes the useful ones. (Wang et al., "Towards deeper, lighter
and interpretable cross network for CTR prediction", CIKM 2023; the gate's bias a_l is ours.)
"""

import torch
from torch import Tensor, nn

from tamis.nets.crosses.dcn_v2 import linear_map
from tamis.nets.crosses.fields import Fields


class Gdcn(nn.Module):
    """Rows [n, fields.width] → as many numbers. rank, experts: as in `DcnV2`, of both maps of a layer."""

    def __init__(self, fields: Fields, depth: int, rank: int, experts: int, generator: torch.Generator) -> None:
        super().__init__()
        self.width = fields.width
        self.maps = nn.ModuleList(linear_map(self.width, rank, experts, generator) for _ in range(depth))
        self.gates = nn.ModuleList(linear_map(self.width, rank, experts, generator) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width]."""
        out = x
        for of_layer, gate in zip(self.maps, self.gates, strict=True):
            out = torch.addcmul(out, x * of_layer(out), torch.sigmoid(gate(out)))
        return out
