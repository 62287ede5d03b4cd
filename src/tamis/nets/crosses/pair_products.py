"""The inner products of all pairs of fields, only the ones asked for, in one compiled walk over the rows."""

from typing import Any, Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.nets.device import compiled
from tamis.nets.parallel import side_by_side, spans

_FAST: Final = {"reassoc", "contract", "nsz", "nnan", "arcp"}
A = NDArray[Any]


def pair_products(x: Tensor, right: Tensor) -> Tensor:
    """[n, f(f − 1)/2] ⟨field i of x, right j⟩ for i < j, by i, then j.

    x: [n, ≥ f·d] the fields side by side.   right: [f − 1, n, d], of the fields from the second on.
    """
    if not compiled(x):
        return _plainly(x, right)
    out: Tensor = _PairProducts.apply(x, right)  # type: ignore[no-untyped-call]
    return out


def _plainly(x: Tensor, right: Tensor) -> Tensor:
    others, size = int(right.shape[0]), int(right.shape[2])  # numbers in the exported graph, not computed by it
    left = torch.unflatten(x[:, : others * size], 1, (others, size))
    every = torch.matmul(left, right.permute(1, 2, 0)).flatten(1)
    pairs = torch.triu_indices(others, others)
    return every.index_select(1, (pairs[0] * others + pairs[1]).to(x.device))


class _PairProducts(torch.autograd.Function):
    """See `pair_products`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, right: Tensor) -> Tensor:
        x, right = x.contiguous(), right.contiguous()
        ctx.save_for_backward(x, right)
        others = len(right)
        out = torch.empty(len(x), others * (others + 1) // 2, dtype=x.dtype)
        given = x.numpy(), right.numpy()
        side_by_side(spans(np.arange(len(x) + 1)), lambda _, part: products(*given, out.numpy(), part))
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        x, right = ctx.saved_tensors
        of_x, of_right = torch.empty_like(x), torch.empty_like(right)
        given, filled = (x.numpy(), right.numpy(), slope.contiguous().numpy()), (of_x.numpy(), of_right.numpy())
        side_by_side(spans(np.arange(len(x) + 1)), lambda _, part: products_gradient(*given, filled, part))
        return of_x, of_right


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def products(x: A, right: A, out: A, part: tuple[int, int]) -> None:
    """Fills the rows part[0] : part[1] of what `pair_products` gives."""
    others, _, size = right.shape
    zero = x.dtype.type(0)
    for n in range(part[0], part[1]):
        at = 0
        for i in range(others):
            own = x[n, i * size : (i + 1) * size]
            for j in range(i, others):
                other, total = right[j, n], zero
                for k in range(size):
                    total += own[k] * other[k]
                out[n, at] = total
                at += 1


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def products_gradient(x: A, right: A, slope: A, slopes: tuple[A, A], part: tuple[int, int]) -> None:
    """slopes = (of x, of right), filled for the rows part[0] : part[1]. slope: [n, pairs] of the products."""
    of_x, of_right = slopes
    others, _, size = right.shape
    for n in range(part[0], part[1]):
        of_x[n] = 0
        for j in range(others):
            of_right[j, n] = 0
        at = 0
        for i in range(others):
            own, back = x[n, i * size : (i + 1) * size], of_x[n, i * size : (i + 1) * size]
            for j in range(i, others):
                other, given, weight = right[j, n], of_right[j, n], slope[n, at]
                at += 1
                for k in range(size):
                    back[k] += weight * other[k]
                    given[k] += weight * own[k]
