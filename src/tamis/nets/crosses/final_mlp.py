"""Two streams of layers that see the same row through other eyes, and meet in a product.

    stream s of (user, item):   x_s = layers_s(x ∘ 2σ(gate_s(half s of x)))        what matters to this user, this item
    head k of the fusion:       f_k = x_ukᵀ W_k x_ik                               x_s cut in `heads` equal parts

Given are x_u, x_i and all f_k; the straight line that reads them has the linear terms of the paper's fusion.
(Mao et al., "FinalMLP: an enhanced two-stream MLP model for CTR prediction", AAAI 2023.)
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from tamis.nets.crosses.fields import Fields
from tamis.nets.layers import Affine, linear, uniform


class Stream(nn.Module):
    """Gate and layers of one stream."""

    def __init__(self, half: int, width: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.first = linear(half, hidden[-1], generator)
        self.gate = Affine(hidden[-1], width, generator)
        self.layers = nn.ModuleList(Affine(a, b, generator) for a, b in pairwise((width, *hidden)))

    def forward(self, half: Tensor, x: Tensor) -> Tensor:
        """[n, hidden[-1]]."""
        out = x * (2.0 * torch.sigmoid(self.gate(torch.relu(self.first(half)))))
        for layer in self.layers:
            out = torch.relu(layer(out))
        return out


class FinalMlp(nn.Module):
    """Rows [n, fields.width] → [n, 2 · hidden[-1] + heads]. heads: divides hidden[-1]."""

    def __init__(self, fields: Fields, hidden: Sequence[int], heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.fields, self.cut = fields, (heads, hidden[-1] // heads)
        self.width = 2 * hidden[-1] + heads
        user = fields.user * fields.size + fields.user_numbers
        self.user = Stream(user, fields.width, hidden, generator)
        self.item = Stream(fields.width - user, fields.width, hidden, generator)
        self.weights = uniform((heads, self.cut[1], self.cut[1]), self.cut[1], generator)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width]."""
        of_user, of_item = self.fields.halves(x)
        user, item = self.user(of_user, x), self.item(of_item, x)
        left, right = (torch.unflatten(side, 1, self.cut).transpose(0, 1) for side in (user, item))
        products = (torch.bmm(left, self.weights) * right).sum(2).t()
        return torch.cat([user, item, products], 1)
