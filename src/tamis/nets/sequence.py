"""Attention of a candidate over the user's last actions: DIN's activation unit, scaled dot product, or a plain mean;
and over what it found in his long history.

Entries `x` [r, L, V] belong to requests, queries [n, D] to candidates; an entry's first D numbers are those of the item
in the query's own layout, the rest say what was done and how long ago. An empty history gives zeros.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from tamis.nets import attention_kernels as kernels
from tamis.nets.device import compiled
from tamis.nets.embed import Table
from tamis.nets.layers import linear, uniform
from tamis.nets.parallel import PARTS, Span, side_by_side, spans
from tamis.nets.spread import Rows, spread

Attention = Literal["din", "dot", "mean"]
_FAR: Final = -1e9


def past(table: Table, codes: Tensor) -> tuple[Tensor, Tensor]:
    """([r, L, V] the embeddings of the entries of histories, [r, L] which are there) from their codes [r, L, c]."""
    columns = codes.shape[2]
    entries = table(codes.flatten(0, 1), (1,) * columns)
    return entries.view(*codes.shape[:2], columns * table.size), codes[:, :, 0] != 0


def mean_pool(entries: Tensor, there: Tensor) -> Tensor:
    """[…, V] the mean of the entries [..., L, V] that are there [..., L]; zeros when none is."""
    weight = there.to(entries.dtype)
    return (entries * weight.unsqueeze(-1)).sum(-2) / weight.sum(-1, keepdim=True).clamp(min=1.0)


def dot_weights(scores: Tensor, there: Tensor) -> Tensor:
    """Softmax of scores [..., L] over the entries that are there; the others get exactly 0, all 0 when none is."""
    weight = there.to(scores.dtype)
    return torch.softmax(scores + (1.0 - weight) * _FAR, -1) * weight


def dot_attention(query: Tensor, keys: Tensor, values: Tensor, there: Tensor, scale: float = 1.0) -> Tensor:
    """[n, V]: Σ_l softmax_l(scale · query · key_l) value_l over the entries that are there.

    query: [n, k].   keys: [n or 1, L, k].   values: [n or 1, L, V].   there: [n or 1, L].
    """
    scores = torch.matmul(query.unsqueeze(1), keys.transpose(1, 2)).squeeze(1) * scale
    return torch.matmul(dot_weights(scores, there).unsqueeze(1), values).squeeze(1)


class DotAttention(nn.Module):
    """One head of scaled dot-product attention, candidates as queries; values are the entries themselves."""

    def __init__(self, query_width: int, entry_width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.query = linear(query_width, hidden, generator, bias=False)
        self.key = linear(entry_width, hidden, generator, bias=False)
        self.scale = 1.0 / math.sqrt(hidden)

    def forward(self, query: Tensor, entries: Tensor, there: Tensor, rows: Rows | None) -> Tensor:
        """[n, V] from query [n, D], entries [r, L, V], there [r, L]."""
        mask = there if rows is None else there.index_select(0, rows.row_of)
        keys, values = spread(self.key(entries), rows), spread(entries, rows)
        return dot_attention(self.query(query), keys, values, mask, self.scale)


class DinAttention(nn.Module):
    """Σ_l α(q, x_l) x_l with α the activation unit of DIN: a small net of (q, k, q − k, q∘k), no softmax.

    Its first layer is linear in these four blocks, W₁q + W₂k + W₃(q − k) + W₄(q∘k) + b, which is
    (W₁ + W₃)q + (W₂ − W₃)k + W₄(q∘k) + b: a part per candidate, a part per entry and one product. So the three
    factors are what is learnt (`query`, `key`, `product`), and what was done and when (the rest of an entry) joins the
    part per entry. (Zhou et al., "Deep interest network for click-through rate prediction", 2018.)
    """

    def __init__(self, query_width: int, entry_width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        fan_in = 2 * query_width + entry_width
        self.query = linear(query_width, hidden, generator, fan_in=fan_in)
        self.key = linear(entry_width, hidden, generator, bias=False, fan_in=fan_in)
        self.product = uniform((hidden, query_width), fan_in, generator)
        self.output = uniform((hidden + 1,), hidden, generator)  # the last one is the bias

    def forward(self, query: Tensor, entries: Tensor, there: Tensor, rows: Rows | None) -> Tensor:
        """[n, V] from query [n, D], entries [r, L, V], there [r, L]."""
        if torch.onnx.is_in_onnx_export():
            return self._one_request(query, entries, there)
        if not compiled(query):
            return self.plainly(query, entries, there, None if rows is None else rows.row_of)
        if rows is None:
            rows = Rows.of(torch.zeros(len(query), dtype=torch.int64), 1)
        key_part = self.key(entries)
        given = (entries, key_part, query, self.query(query), self.product, self.output)
        out: Tensor = _Pool.apply(*given, there, rows, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return out

    def plainly(self, query: Tensor, entries: Tensor, there: Tensor, row_of: Tensor | None) -> Tensor:
        """The same by plain operations, with room for every pair of candidate and entry. row_of: [n], None = all 0."""
        hidden, depth = self.product.shape
        key_part = self.key(entries)
        if row_of is not None:
            entries, key_part, there = (each.index_select(0, row_of) for each in (entries, key_part, there))
        left = self.product * query.unsqueeze(1)  # [n, H, D]
        units = torch.matmul(entries[:, :, :depth], left.transpose(1, 2)) + key_part + self.query(query).unsqueeze(1)
        scores = torch.matmul(units.relu(), self.output[:hidden]) + self.output[hidden]
        return torch.matmul((scores * there.to(scores.dtype)).unsqueeze(1), entries).squeeze(1)

    def _one_request(self, query: Tensor, entries: Tensor, there: Tensor) -> Tensor:
        """The same by plain operations, one matrix product for all candidates; r = 1.

        relu(a + key) = max(a, −key) + key: the sum over pairs is never made, and Σ w · key is one number per entry.
        """
        hidden, depth = self.product.shape
        key_part = self.key(entries)[0].t()  # [H, L]
        left = (self.product * query.unsqueeze(1)).reshape(-1, depth)  # [n·H, D]
        pairs = torch.addmm(self.query(query).reshape(-1, 1), left, entries[0, :, :depth].t())
        cut = torch.maximum(pairs.view(-1, hidden, there.shape[1]), -key_part)
        weight = self.output[:-1]
        scores = torch.matmul(weight, cut) + (torch.matmul(weight, key_part) + self.output[-1])
        return torch.matmul(scores * there.to(scores.dtype), entries[0])


class SearchAttention(nn.Module):
    """DIN's activation unit over the entries that each candidate found in the long history; see `features.search`.

    Those entries belong to groups of candidates, not to requests: the compiled kernel takes a group for a request. The
    age of an entry is part of it, so what is long past can weigh less. (SIM: Pi et al., CIKM 2020.)
    """

    def __init__(self, query_width: int, entry_width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.unit = DinAttention(query_width, entry_width, hidden, generator)

    def forward(self, query: Tensor, entries: Tensor, there: Tensor, groups: Sequence[Tensor]) -> Tensor:
        """[n, V] from query [n, D], entries [m, k, V], there [m, k]; zeros for a candidate that found nothing.

        groups: (row_of [n] each candidate's row of entries); in an exported net the three arrays of `tiles.Tiles`.
        """
        if torch.onnx.is_in_onnx_export():
            return self._tiled(query, entries, there, groups)
        if not compiled(query):
            return self.unit.plainly(query, entries, there, groups[0])
        order = torch.argsort(groups[0], stable=True)
        rows = Rows.of(groups[0][order], len(entries))
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        sorted_out: Tensor = self.unit(_Permuted.apply(query, order, place), entries, there, rows)  # type: ignore[no-untyped-call]
        out: Tensor = _Permuted.apply(sorted_out, place, order)  # type: ignore[no-untyped-call]
        return out

    def _tiled(self, query: Tensor, entries: Tensor, there: Tensor, tiles: Sequence[Tensor]) -> Tensor:
        """The same by plain operations, one matrix product per tile; see `DinAttention` for the trick with relu."""
        group_of, rows, place = tiles
        unit = self.unit
        hidden, depth = unit.product.shape
        asked = query[rows]  # [t, g, D]
        own, key_part = entries[group_of], unit.key(entries)[group_of].transpose(1, 2).unsqueeze(1)  # [t, 1, H, k]
        left = (unit.product * asked.unsqueeze(2)).flatten(1, 2)  # [t, g·H, D]
        pairs = torch.matmul(left, own[:, :, :depth].transpose(1, 2)) + unit.query(asked).flatten(1, 2).unsqueeze(2)
        cut = torch.maximum(torch.unflatten(pairs, 1, (-1, hidden)), -key_part)  # [t, g, H, k]
        weight = unit.output[:-1]
        scores = torch.matmul(weight, cut) + (torch.matmul(weight, key_part) + unit.output[-1])
        scores = scores * there[group_of].to(scores.dtype).unsqueeze(1)
        return torch.matmul(scores, own).flatten(0, 1)[place]


class _Permuted(torch.autograd.Function):
    """Rows in another order, with a gradient that is put back in order instead of scattered."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return slope.index_select(0, ctx.back), None, None


class _Pool(torch.autograd.Function):
    """`kernels.pool` with its gradient."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *given, there, rows, learns = arguments
        entries, query, noted = given[0], given[2], len(given[2]) if learns else 0
        widths = kernels.noted_widths(entries.shape[1], given[4].shape[0])
        scores = torch.empty(noted, widths[0], dtype=entries.dtype)
        above = torch.empty(noted, widths[1], dtype=torch.uint8)
        ctx.save_for_backward(*given, scores, above)
        ctx.there, ctx.rows = there.numpy(), rows
        keys, queries, weights = _arrays(ctx, given)
        out = torch.empty(len(query), entries.shape[2], dtype=entries.dtype)
        outs = out.numpy(), scores.numpy(), above.numpy()
        side_by_side(spans(rows.first), lambda _, part: kernels.pool(keys, queries, weights, outs, part))
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        *given, scores, above = ctx.saved_tensors
        keys, queries, weights = _arrays(ctx, given)
        sums = [torch.zeros_like(part) for part in given[:4]]
        weight_sums = [torch.zeros(PARTS, *part.shape, dtype=part.dtype) for part in given[4:]]
        kept = slope.contiguous().numpy(), scores.numpy(), above.numpy()

        def work(i: int, part: Span) -> None:
            own = [total[i] for total in weight_sums]
            filled: Any = tuple(total.numpy() for total in (*sums, *own))
            kernels.pool_gradient(keys, queries, weights, kept, filled, part)

        side_by_side(spans(ctx.rows.first), work)
        return (*sums, *(total.sum(0) for total in weight_sums), None, None, None)


def _arrays(ctx: Any, saved: Sequence[Tensor]) -> tuple[Any, Any, Any]:
    entries, key_part, query, query_part, product, output = (part.detach().contiguous().numpy() for part in saved)
    return (entries, key_part, ctx.there, ctx.rows.first), (query, query_part), (product, output)
