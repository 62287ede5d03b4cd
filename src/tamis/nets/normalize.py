"""Batch normalisation of hidden layers that is gone when the net is served.

    z = W x,   out = s (z − mean) / √(variance + ε) + b        s at first 1, b the layer's own bias

In training mean and variance are those of the batch's rows. In evaluation they are those of the last ten batches or so,
and then the whole is an affine map again, with weights W s / √… and bias b − mean s / √…: a row's score does not depend
on its company, and an exported net has the graph of one without normalisation. (Ioffe and Szegedy, "Batch
normalization: accelerating deep network training by reducing internal covariate shift", ICML 2015.)
"""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn

EPSILON: Final = 1e-5
_KEPT: Final = 0.9  # of the weight of earlier rows, per batch


class BatchNorm(nn.Module):
    """Of one layer of several nets side by side, [e, n, d]: every unit of every net by itself, over the n rows.

    Every row counts alike in the means that are kept, so that a small last batch does not move them.
    """

    def __init__(self, nets: int, units: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(nets, 1, units))
        self.mean: Tensor
        self.variance: Tensor
        self.rows: Tensor
        self.register_buffer("mean", torch.zeros(nets, 1, units))
        self.register_buffer("variance", torch.ones(nets, 1, units))
        self.register_buffer("rows", torch.zeros(()))  # weight of what the kept means were made of

    def forward(self, z: Tensor, bias: Tensor) -> Tensor:
        """[e, n, d] in training, of z = W x [e, n, d] and the bias [e, 1, d].

        A batch of a single row has no spread: it is normalised by the kept means, as in evaluation.
        """
        nets, rows, units = z.shape
        if rows < 2:
            factor, moved = self.affine(bias)
            return z * factor + moved
        flat = z.transpose(0, 1).flatten(1)  # [n, e * d], which torch normalises in one pass
        mean, variance = z.new_zeros(nets * units), z.new_zeros(nets * units)
        affine = self.scale.flatten(), bias.flatten()
        out = nn.functional.batch_norm(flat, mean, variance, *affine, training=True, momentum=1.0, eps=EPSILON)
        self._keep(mean.view_as(self.mean), variance.view_as(self.mean), rows)
        return torch.unflatten(out, 1, (nets, units)).transpose(0, 1)

    def affine(self, bias: Tensor) -> tuple[Tensor, Tensor]:
        """[e, 1, d] twice: the factor of W and the bias of the affine map that the layer is in evaluation."""
        factor = self.scale / torch.sqrt(self.variance + EPSILON)
        return factor, bias - self.mean * factor

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        self.rows.mul_(_KEPT).add_(rows)
        share = rows / self.rows
        self.mean.lerp_(mean, share)
        self.variance.lerp_(variance, share)


def of_layers(layers: Sequence[tuple[int, int]]) -> nn.ModuleList:
    """One for each layer, given as (nets, units)."""
    return nn.ModuleList(BatchNorm(nets, units) for nets, units in layers)


def at(norms: nn.ModuleList, depth: int) -> BatchNorm:
    """That of one layer."""
    return cast(BatchNorm, norms[depth])


def mapped(norms: nn.ModuleList | None, depth: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The weight [e, a, b] and the bias [e, 1, b] that a layer's product is made with, before `normalized`.

    Without normalisation the given ones, in training without the bias, in evaluation those of the affine map.
    """
    if norms is None:
        return weight, bias
    if norms.training:
        return weight, torch.zeros_like(bias)
    factor, moved = at(norms, depth).affine(bias)
    return weight * factor, moved


def normalized(norms: nn.ModuleList | None, depth: int, z: Tensor, bias: Tensor) -> Tensor:
    """What the layer gives, [e, n, b], of the product `mapped` was for."""
    if norms is None or not norms.training:
        return z
    out: Tensor = at(norms, depth)(z, bias)
    return out
