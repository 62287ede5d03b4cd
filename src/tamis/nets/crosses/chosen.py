"""The crosses that a configuration names, side by side."""

import torch
from torch import Tensor, nn

from tamis.nets.crosses.bilinear import Bilinear
from tamis.nets.crosses.dcn import Dcn
from tamis.nets.crosses.dcn_v2 import DcnV2
from tamis.nets.crosses.fields import Fields
from tamis.nets.crosses.final_mlp import FinalMlp
from tamis.nets.crosses.fm import Fm
from tamis.nets.crosses.gdcn import Gdcn
from tamis.nets.crosses.senet import Senet
from tamis.nets.crosses.senet_bilinear import SenetBilinear
from tamis.nets.plans import Cross, MultitaskShape
from tamis.nets.spread import Rows

AnyCross = Fm | Dcn | DcnV2 | Gdcn | Senet | Bilinear | SenetBilinear | FinalMlp


class Crosses(nn.Module):
    """Rows [n, fields.width] → what all crosses of `shape.crosses` say of them [n, width], in that order."""

    def __init__(self, fields: Fields, shape: MultitaskShape, generator: torch.Generator) -> None:
        super().__init__()
        blocks = [_cross(name, fields, shape, generator) for name in shape.crosses]
        self.width = sum(block.width for block in blocks)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, user: Tensor | None = None, rows: Rows | None = None) -> Tensor:
        """[n, width]. user: [r, …] the user's half of the rows (`Fields.halves`), each request's once; rows: whose."""
        out = [block(x, user, rows) if isinstance(block, DcnV2) else block(x) for block in self.blocks]
        return torch.cat(out, 1) if len(out) > 1 else out[0]


def _cross(name: Cross, fields: Fields, shape: MultitaskShape, generator: torch.Generator) -> AnyCross:
    depth, rank, experts = shape.cross_depth, shape.cross_rank, shape.cross_experts

    def bilinear() -> Bilinear:
        return Bilinear(fields, shape.bilinear_weights, shape.bilinear_form, generator)

    match name:
        case "fm":
            return Fm(fields)
        case "dcn":
            return Dcn(fields, depth, generator)
        case "dcn_v2":
            return DcnV2(fields, depth, rank, experts, generator)
        case "gdcn":
            return Gdcn(fields, depth, rank, experts, generator)
        case "senet":
            return Senet(fields, shape.senet_reduction, generator)
        case "bilinear":
            return bilinear()
        case "senet_bilinear":
            return SenetBilinear(Senet(fields, shape.senet_reduction, generator), bilinear(), bilinear())
        case "final_mlp":
            return FinalMlp(fields, shape.stream_hidden, shape.stream_heads, generator)
