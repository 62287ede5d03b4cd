"""Weights drawn from a generator of their own, so that a net is the same whatever ran before it."""

import math

import torch
from torch import Tensor, nn

from tamis.nets.products import cast, product


def uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """Weights inside ±1/√fan_in."""
    bound = 1.0 / math.sqrt(max(1, fan_in))
    return nn.Parameter((torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound)


def linear(
    inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True, fan_in: int | None = None
) -> nn.Linear:
    """A linear layer drawn from `generator`.

    fan_in: inputs of the whole layer when this is one of several parts that are added up.
    """
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.weight = uniform((outputs, inputs), fan_in or inputs, generator)
    if bias:
        layer.bias = uniform((outputs,), fan_in or inputs, generator)
    return layer


class Affine(nn.Module):
    """[n, inputs] → [n, outputs], a linear layer whose products are made as `products.precision` asks."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = uniform((outputs, inputs), inputs, generator)
        self.bias = uniform((outputs,), inputs, generator)

    def forward(self, x: Tensor) -> Tensor:
        """[n, outputs]."""
        left, right = cast(x), cast(self.weight)
        if left.dtype == x.dtype:
            return nn.functional.linear(x, self.weight, self.bias)
        return product(left, right.t()).add_(self.bias)
