"""Bilinear crosses of all pairs of fields.

    inner form       f_ij = e_iᵀ W e_j               one number per pair i < j
    Hadamard form    f_ij = e_i ∘ (W e_j)            d numbers per pair; their sum is the inner form

    weights    "all": one W for all pairs   "each": one for every field j (the first is never on the right)
               "interaction": one for every pair, f(f − 1)/2 · d² numbers: for few fields

The number of pairs grows with the square of the fields, so the Hadamard form too is for few. (Huang et al., "FiBiNET:
combining feature importance and bilinear feature interaction", RecSys 2019, which has W on the left field.)
"""

import torch
from torch import Tensor, nn

from tamis.nets.crosses.fields import Fields
from tamis.nets.crosses.pair_products import pair_products
from tamis.nets.layers import uniform
from tamis.nets.plans import BilinearForm, BilinearWeights


class Bilinear(nn.Module):
    """Rows [n, ≥ fields.embedded] → [n, pairs] (inner) or [n, pairs · size] (Hadamard), pairs by i, then j."""

    def __init__(
        self, fields: Fields, weights: BilinearWeights, form: BilinearForm, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.fields, self.form = fields, form
        self.width = fields.pairs * (1 if form == "inner" else fields.size)
        count = {"all": 1, "each": fields.count - 1, "interaction": fields.pairs}[weights]
        self.weights = uniform((count, fields.size, fields.size), fields.size, generator)
        self.per_pair = weights == "interaction"
        pairs = torch.triu_indices(fields.count, fields.count, 1)
        self.left: Tensor
        self.right: Tensor
        self.register_buffer("left", pairs[0], persistent=False)
        self.register_buffer("right", pairs[1], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width]."""
        fields = self.fields.of(x).transpose(0, 1)
        turned = self.weights.transpose(1, 2)
        if not self.per_pair:
            right = torch.matmul(fields[1:], turned)  # [f − 1, n, d]
            if self.form == "inner":
                return pair_products(x, right)
            right = right.index_select(0, self.right - 1)
        else:
            right = torch.bmm(fields.index_select(0, self.right), turned)  # [pairs, n, d]
        each = fields.index_select(0, self.left) * right
        return each.sum(2).t() if self.form == "inner" else each.transpose(0, 1).flatten(1)
