"""Weights drawn from a generator of their own, so that a net is the same whatever ran before it."""

import math

import torch
from torch import nn


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
