"""Deep and cross network, first version: each layer multiplies the row by one number.

    x_{l+1} = x_0 (x_lᵀ w_l) + b_l + x_l        w_l, b_l [d]; 2d weights a layer

L layers are polynomials of degree L + 1 in x_0. The product x_0 x_lᵀ is never made. (Wang et al., "Deep & cross network
for ad click predictions", ADKDD 2017.)
"""

import torch
from torch import Tensor, nn

from tamis.nets.crosses.fields import Fields
from tamis.nets.layers import uniform


class Dcn(nn.Module):
    """Rows [n, fields.width] → as many numbers."""

    def __init__(self, fields: Fields, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        self.width = fields.width
        self.weights = uniform((depth, self.width), self.width, generator)
        self.biases = nn.Parameter(torch.zeros(depth, self.width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, width]."""
        out = x
        for layer in range(len(self.weights)):
            along = torch.mv(out, self.weights[layer])
            out = torch.addcmul(out + self.biases[layer], x, along.unsqueeze(1))
        return out
