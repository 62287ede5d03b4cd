"""The layers of DCN V2 with full matrices: x_{l+1} = x_0 ∘ (W_l x_l + b_l) + x_l, forward and backward.

Between the matrix products everything is one walk over the rows. The first layer reads what the request gave to each of
its rows: W_0 x_0 = U u + V i with u the user's columns and i the item's, and U u is computed once per request, as are
both of its gradients. Under mixed precision the products read and give bfloat16, which the walks turn into float32 and
back on their way: as whole passes these copies would take as long as the products.

Letters: n rows, r requests, d width of a row.
"""

from functools import partial
from typing import Any, Final

import numba
import numpy as np
import torch
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from tamis.nets.crosses.fields import Fields
from tamis.nets.parallel import PARTS, Span, side_by_side, spans
from tamis.nets.products import cast, product
from tamis.nets.spread import Rows

_FAST: Final = {"reassoc", "contract", "nsz", "nnan", "arcp"}
A = NDArray[Any]


def layers(
    x: Tensor, shared: tuple[Tensor, Rows] | None, fields: Fields, weights: list[Tensor], biases: list[Tensor]
) -> Tensor:
    """[n, d] what the layers make of the rows x [n, d].

    shared: [r, …] the user's half of the rows (`Fields.halves`), each request's once, and whose rows are whose.
    weights: [d, d] each.   biases: [d] each.
    """
    user, rows = shared or (None, None)
    out: Tensor = _Layers.apply(x, user, rows, fields, *weights, *biases)  # type: ignore[no-untyped-call]
    return out


class _Layers(torch.autograd.Function):
    """See `layers`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, user: Tensor | None, rows: Rows | None, fields: Fields, *weights_and_biases: Tensor
    ) -> Tensor:
        depth = len(weights_and_biases) // 2
        weights = [cast(weight) for weight in weights_and_biases[:depth]]
        halves = [bias.view(1, -1) for bias in weights_and_biases[depth:]]
        first = np.arange(len(x) + 1) if rows is None else rows.first
        x = x.contiguous()
        out, slim, inputs, maps = x, cast(x), [], []
        for layer, weight in enumerate(weights):
            if layer == 0 and user is not None:
                of_user, weight = fields.halves(weight)
                halves[0] = product(cast(user), of_user.t()).add_(halves[0])
                slim = fields.halves(slim)[1]
            inputs.append(slim)
            maps.append(slim @ weight.t())
            before, out = out, torch.empty_like(x)
            slim = out if slim.dtype == x.dtype else torch.empty_like(out, dtype=slim.dtype)
            given = bits(x), bits(before), bits(maps[-1]), bits(halves[layer])
            made = bits(out), bits(slim)[: 0 if slim is out else len(x)]
            side_by_side(spans(first), partial(_walk, given, made, first))
        ctx.save_for_backward(x, user, *weights, *inputs, *maps, *halves)
        ctx.depth, ctx.first, ctx.fields = depth, first, fields
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        x, user, *saved = ctx.saved_tensors
        depth, fields = ctx.depth, ctx.fields
        weights, inputs, maps, halves = (saved[at : at + depth] for at in range(0, 4 * depth, depth))
        of_x, of_user, slope = torch.zeros_like(x), None, slope.contiguous()
        of_weights, of_biases = [slope] * depth, [slope] * depth
        for layer in reversed(range(depth)):
            by_request = layer == 0 and user is not None
            of_map, sums = _through(ctx, layer, (x, maps[layer], halves[layer], slope), of_x, by_request)
            of_biases[layer] = sums.sum(0)
            of_weights[layer] = (of_map.t() @ inputs[layer]).to(x.dtype)
            if by_request:
                for_user, for_item = fields.halves(weights[0])
                slim = sums.to(for_user.dtype)
                of_user = product(slim, for_user)
                of_weights[0] = fields.joined(product(slim.t(), user.to(slim.dtype)), of_weights[0])
                fields.add_item(of_x, (of_map @ for_item).to(x.dtype))
            elif layer == 0:
                of_x.add_((of_map @ weights[0]).to(x.dtype))
            elif of_map.dtype == x.dtype:
                slope = torch.addmm(slope, of_map, weights[layer])
            else:
                # In place: for one more array of this size malloc maps new pages, at four times the product's cost.
                slope = (of_map @ weights[layer]).float().add_(slope)
        return of_x, of_user, None, None, *of_weights, *of_biases


def _walk(given: tuple[A, A, A, A], made: tuple[A, A], first: NDArray[np.int64], _: int, part: Span) -> None:
    cross(given, made, first, part)


def _through(ctx: Any, layer: int, given: tuple[Tensor, ...], of_x: Tensor, by_request: bool) -> tuple[Tensor, Tensor]:
    """Adds one layer's gradient to of_x; → that of its map [n, d], as the products read it, and that one's sums.

    The sums are [r, d] of each request or [PARTS, d].
    """
    of_map = torch.empty_like(given[1])
    sums = torch.zeros(len(ctx.first) - 1 if by_request else PARTS, of_x.shape[1], dtype=of_x.dtype)
    (x, maps, half, above) = given
    arrays, filled = (bits(x), bits(maps), bits(half), bits(above)), (bits(of_map), bits(of_x), bits(sums))
    straight = 1.0 if layer == 0 else 0.0  # the first layer's x_l is x_0 itself

    def work(i: int, part: Span) -> None:
        cross_gradient(arrays, straight, filled, ctx.first, part, -1 if by_request else i)

    side_by_side(spans(ctx.first), work)
    return of_map, sums


def bits(x: Tensor) -> A:
    """The tensor's memory as NumPy sees it; a bfloat16, which it does not know, as the uint16 of the same bits."""
    x = x.detach().contiguous()
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


def _read(row: A, out: A) -> None:
    """out = row, from float or from the bits of bfloat16; compiled, `_reader`'s choice by type."""
    out[:] = (row.astype(np.uint32) << 16).view(np.float32) if row.dtype == np.uint16 else row


def _write(row: A, out: A) -> None:
    """out = row, to float or, rounded to the nearest, to the bits of bfloat16; compiled, `_writer`'s choice by type."""
    if out.dtype == np.uint16:
        wide = row.view(np.uint32)
        out[:] = (wide + 0x7FFF + (wide >> 16 & 1)) >> 16
    else:
        out[:] = row


@overload(_read)
def _reader(row: A, out: A) -> Any:
    def short(row: A, out: A) -> None:
        wide = out.view(np.uint32)
        for k in range(len(row)):
            wide[k] = np.uint32(row[k]) << np.uint32(16)

    def same(row: A, out: A) -> None:
        for k in range(len(row)):
            out[k] = row[k]

    return short if row.dtype == numba.uint16 else same


@overload(_write)
def _writer(row: A, out: A) -> Any:
    def short(row: A, out: A) -> None:
        wide = row.view(np.uint32)
        for k in range(len(row)):
            odd = (wide[k] >> np.uint32(16)) & np.uint32(1)
            out[k] = np.uint16((wide[k] + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    def same(row: A, out: A) -> None:
        for k in range(len(row)):
            out[k] = row[k]

    return short if out.dtype == numba.uint16 else same


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def cross(given: tuple[A, A, A, A], outs: tuple[A, A], first: NDArray[np.int64], part: tuple[int, int]) -> None:
    """out = x ∘ (maps + half) + before for the rows of the requests part[0] : part[1].

    given: (x [n, d], before [n, d], maps [n, d] as float or bits, half [r, d] or [1, d] for all).
    outs: (out [n, d], the same as bits [n, d] or [0, d]).   first: [r + 1] where each request's rows begin.
    """
    (x, before, maps, half), (out, slim) = given, outs
    row = np.empty(x.shape[1], x.dtype)
    for i in range(part[0], part[1]):
        own = half[i if len(half) > 1 else 0]
        for j in range(first[i], first[i + 1]):
            _read(maps[j], row)
            left, added, made = x[j], before[j], out[j]
            for k in range(len(row)):
                made[k] = left[k] * (row[k] + own[k]) + added[k]
            if len(slim):
                _write(made, slim[j])


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def cross_gradient(
    given: tuple[A, A, A, A],
    straight: float,
    filled: tuple[A, A, A],
    first: NDArray[np.int64],
    part: tuple[int, int],
    place: int,
) -> None:
    """The gradient of `cross`: fills (of maps [n, d], of x [n, d], sums [r or parts, d]); the last two are added to.

    given: (x, maps, half as in `cross`, slope [n, d] of `out`).   straight: how often `before` is x itself.
    place: the row of `sums` for all requests; −1 = each has its own.
    """
    (x, maps, half, slope), (of_maps, of_x, sums) = given, filled
    row, back, more = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype), x.dtype.type(straight)
    for i in range(part[0], part[1]):
        own, total = half[i if len(half) > 1 else 0], sums[i if place < 0 else place]
        for j in range(first[i], first[i + 1]):
            _read(maps[j], row)
            left, above, of_left = x[j], slope[j], of_x[j]
            for k in range(len(row)):
                value = above[k] * left[k]
                back[k] = value
                total[k] += value
                of_left[k] += above[k] * (row[k] + own[k] + more)
            _write(back, of_maps[j])
