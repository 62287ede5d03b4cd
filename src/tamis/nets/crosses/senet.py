"""Squeeze and excitation: one weight inside (0, 1) per field, so that fields that say little are turned down.

    z_i = mean of e_i,   a = relu(W₁ z + b₁) [max(1, f // reduction)],   s = σ(W₂ a + b₂) [f],   e'_i = s_i e_i

Everything inside one field gets the same weight. (Hu et al., "Squeeze-and-excitation networks", CVPR 2018; for fields:
Huang et al., "FiBiNET", RecSys 2019.)
"""

import torch
from torch import Tensor, nn

from tamis.nets.crosses.fields import Fields
from tamis.nets.layers import linear


class Senet(nn.Module):
    """Rows [n, fields.width] → the re-weighted fields side by side [n, fields.embedded]."""

    def __init__(self, fields: Fields, reduction: int, generator: torch.Generator) -> None:
        super().__init__()
        self.fields, self.width = fields, fields.embedded
        inner = max(1, fields.count // reduction)
        self.squeeze = linear(fields.count, inner, generator)
        self.excite = linear(inner, fields.count, generator)

    def weights(self, x: Tensor) -> Tensor:
        """[n, fields] the weight of each field."""
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(self.fields.of(x).mean(2)))))

    def forward(self, x: Tensor) -> Tensor:
        """[n, embedded]."""
        return (self.fields.of(x) * self.weights(x).unsqueeze(2)).flatten(1)
