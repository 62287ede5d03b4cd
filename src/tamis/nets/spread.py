"""What is computed once per request, handed to the request's rows."""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.nets.device import compiled


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows belong to which request: row j to row_of[j], request i's are first[i] : first[i + 1].

    None stands for it when there is only one request (serving).
    """

    row_of: Tensor  # [n] int64, ascending
    first: NDArray[np.int64]  # [r + 1]; empty off the processor, where no loop walks them

    @staticmethod
    def of(row_of: Tensor, requests: int) -> "Rows":
        """From `NetBatch.row_of`. Raises ValueError when it does not ascend inside 0 … requests − 1."""
        if not compiled(row_of):
            return Rows(row_of, np.empty(0, np.int64))
        numbers = row_of.numpy()
        if len(numbers) and (numbers[0] < 0 or numbers[-1] >= requests or (np.diff(numbers) < 0).any()):
            raise ValueError(f"row_of: wanted ascending numbers of {requests} requests")
        return Rows(row_of, np.searchsorted(numbers, np.arange(requests + 1)))


def spread(side: Tensor, rows: Rows | None) -> Tensor:
    """[n, d] each row's request's vector, from [r, d]; the only request's vector [1, d] when `rows` is None."""
    if rows is None:
        return side
    if not compiled(side):
        return side.index_select(0, rows.row_of)
    out: Tensor = _Spread.apply(side, rows)  # type: ignore[no-untyped-call]
    return out


class _Spread(torch.autograd.Function):
    """index_select whose gradient is a sum over neighbouring rows instead of a scatter."""

    @staticmethod
    def forward(ctx: Any, side: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return side.index_select(0, rows.row_of)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        out = torch.empty(len(ctx.rows.first) - 1, *slope.shape[1:], dtype=slope.dtype)
        _sum_runs(slope.contiguous().flatten(1).numpy(), ctx.rows.first, out.flatten(1).numpy())
        return out, None


@numba.njit(cache=True, nogil=True)
def _sum_runs(values: NDArray[Any], first: NDArray[np.int64], out: NDArray[Any]) -> None:
    """out[i] = Σ values[first[i] : first[i + 1]]."""
    for i in range(len(first) - 1):
        out[i] = 0
        for row in range(first[i], first[i + 1]):
            for k in range(values.shape[1]):
                out[i, k] += values[row, k]
