"""The fused embedding table: every categorical feature of both sides in one array, gathered once per side."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.features.layout import Field
from tamis.nets import kernels
from tamis.nets.device import compiled

INITIAL_SPREAD = 0.05
_EVEN = 4  # rows of a table are as wide as a multiple of it
_LEAST_SHARE = 1e-6  # a root has no slope at 0


class Taken(NamedTuple):
    """What was gathered from a table, and where its gradient will be."""

    codes: Tensor  # [n, sum(widths)] int32
    widths: tuple[int, ...]
    leaf: Tensor  # [n, len(widths) * size]


class Table(nn.Module):
    """`rows` embeddings of width `size`, drawn with standard deviation `spread`; row 0 is padding and stays zero.

    `forward` gathers outside of autograd: its result is a leaf that asks for a gradient, and is kept with its codes in
    `taken`. After `backward`, `optimizer.Optimizer.step` sums the leaves' gradients by code and moves only
    those rows. The table's own `weight` therefore never holds a gradient.

    moving: [rows] True for the rows that may move; None = all.
    first_order: the rows are not embeddings but the weights of a linear model, which the optimizer moves faster.
    """

    def __init__(self, rows: int, size: int, generator: torch.Generator, spread: float = INITIAL_SPREAD) -> None:
        super().__init__()
        self.first_order = False
        weight = torch.from_numpy(kernels.by_cache_line((rows, size), np.float32))
        weight.normal_(0.0, spread, generator=generator)
        weight[0] = 0.0
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.moving: NDArray[np.bool_] | None = None
        self.taken: list[Taken] = []

    @property
    def size(self) -> int:
        """Width of one embedding."""
        return int(self.weight.shape[1])

    def forward(self, codes: Tensor, widths: Sequence[int]) -> Tensor:
        """[n, len(widths) * size]: per field the mean of its embeddings, absent codes (0) left out; zeros if all are.

        codes: [n, sum(widths)] int32, the fields side by side.   widths: columns of each field (`widths_of`).
        """
        if torch.onnx.is_in_onnx_export():
            return self._gather_plainly(codes, widths)
        codes = codes.contiguous()
        if compiled(self.weight):
            out = torch.empty(len(codes), len(widths) * self.size, dtype=self.weight.dtype)
            kernels.gather(self.weight.detach().numpy(), codes.numpy(), starts_of(widths), out.numpy())
        else:
            out = self._gather_plainly(codes, widths)
        if self.training and torch.is_grad_enabled():
            out.requires_grad_()
            self.taken.append(Taken(codes, tuple(widths), out))
        return out

    def _gather_plainly(self, codes: Tensor, widths: Sequence[int]) -> Tensor:
        rows = nn.functional.embedding(codes, self.weight)  # [n, c, d]
        if all(width == 1 for width in widths):
            return rows.flatten(1)
        there = (codes != 0).to(rows.dtype)
        pooled, start = [], 0
        for width, fields in groupby(widths):  # neighbours of one width at once: a graph of few nodes is a fast one
            count = len(list(fields))
            part = rows[:, start : start + count * width]
            if width > 1:
                known = torch.unflatten(there[:, start : start + count * width], 1, (count, width))
                part = torch.unflatten(part, 1, (count, width)).sum(2) / known.sum(2).clamp(min=1.0).unsqueeze(-1)
            pooled.append(part.flatten(1))
            start += count * width
        return torch.cat(pooled, 1)


class CodeWeights(Table):
    """A linear model of codes: `outputs` weights for every code, all 0 at first."""

    def __init__(self, rows: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__(rows, -(-outputs // _EVEN) * _EVEN, generator, 0.0)
        self.outputs, self.first_order = outputs, True

    def sums(self, codes: Tensor, widths: Sequence[int]) -> Tensor:
        """[n, outputs] the sum over the fields of the weights of their codes; see `Table.forward`."""
        each: Tensor = self(codes, widths).unflatten(1, (len(widths), self.size))
        return each[:, :, : self.outputs].sum(1)


def starts_of(widths: Sequence[int]) -> NDArray[np.int64]:
    """[fields + 1] the column at which each field begins, the number of columns last."""
    return np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)


def widths_of(fields: Sequence[Field]) -> tuple[int, ...]:
    """Columns of each field, in the order in which they lie side by side in the codes."""
    return tuple(field.width for field in fields)


class Standardize(nn.Module):
    """Numbers with mean 0 and spread 1, as seen in training; the figures travel with the exported net.

    A column that never changed in training is passed as 0. Results are cut to ±`limit` spreads.

    powers: u² and √u of every number besides, where u = Φ(x) inside (0, 1) is the share of a normal distribution below
    it, so that a net is given curves that it would have to learn. (Covington, Adams and Sargin, "Deep neural networks
    for YouTube recommendations", RecSys 2016, where u is the number's quantile.)
    """

    def __init__(self, values: NDArray[np.float32], limit: float = 8.0, *, powers: bool = False) -> None:
        super().__init__()
        mean = values.mean(0, dtype=np.float64) if len(values) else np.zeros(values.shape[1])
        spread = values.std(0, dtype=np.float64) if len(values) else np.zeros(values.shape[1])
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6)
        self.limit, self.powers = limit, powers
        self.width = values.shape[1] * (3 if powers else 1)  # numbers that come out
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))

    def forward(self, values: Tensor) -> Tensor:
        """[n, d] → [n, width]: the numbers, then with `powers` their squares and their roots."""
        numbers: Tensor = ((values - self.mean) * self.scale).clamp(-self.limit, self.limit)
        if not self.powers:
            return numbers
        share = (0.5 + 0.5 * torch.erf(numbers / math.sqrt(2.0))).clamp(min=_LEAST_SHARE)
        return torch.cat([numbers, share.square(), share.sqrt()], 1)
