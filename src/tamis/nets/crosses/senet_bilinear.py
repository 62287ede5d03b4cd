"""The crosses of FiBiNet: bilinear over the fields as they are, and over the fields that SENet has re-weighted.

    [bilinear(e), bilinear'(senet(e))]

The third branch of the paper, the embeddings themselves, is what the experts read anyway. The two bilinear crosses have
their own weights. (Huang et al., "FiBiNET", RecSys 2019.)
"""

import torch
from torch import Tensor, nn

from tamis.nets.crosses.bilinear import Bilinear
from tamis.nets.crosses.senet import Senet


class SenetBilinear(nn.Module):
    """Rows [n, fields.width] → [n, 2 · width of one bilinear cross]."""

    def __init__(self, senet: Senet, plain: Bilinear, weighted: Bilinear) -> None:
        super().__init__()
        self.senet, self.plain, self.weighted = senet, plain, weighted
        self.width = plain.width + weighted.width

    def forward(self, x: Tensor) -> Tensor:
        """[n, width]."""
        return torch.cat([self.plain(x), self.weighted(self.senet(x))], 1)
