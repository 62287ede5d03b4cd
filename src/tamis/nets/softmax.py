"""Which of all items comes next: softmax over a catalogue, whole or estimated from a draw.

    loss = −s⁺ + log( e^{s⁺} + Σ_{j ∈ draw, j ≠ +} e^{s_j} / π_j )

The draw of a batch holds all its own positives and `negatives` items drawn evenly; π_j is the chance that item j is in
such a draw. So the sum is an unbiased estimate of the whole catalogue's (Horvitz and Thompson, 1952), popular items,
which are in nearly every draw, weigh no more than others, and with as many negatives as there are items every π is 1
and the loss is the full softmax cross entropy. (Sampled softmax: Jean et al., ACL 2015.)
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.nets.batch import tensor
from tamis.nets.embed import Table

_LOGITS_AT_ONCE: Final = 1 << 20  # numbers of one block of logits: 4 MB, which stay in the cache
_LEAST: Final = 1e-30


class Draw:
    """Draws the items that a batch is told apart from. Called by one thread at a time; same seed, same draws."""

    def __init__(self, targets: NDArray[np.int64], items: int, negatives: int, seed: int) -> None:
        """targets: [n] items that are positives in training, as often as they are.   items: size of the catalogue."""
        self._items, self._negatives = items, negatives
        self._share = np.bincount(targets, minlength=items) / max(1, len(targets))
        self._random = np.random.default_rng((seed, 2))

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return [self._random]

    def of(self, targets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """(items [u] ascending, the place of each target in them [n], −log π [u]) for a batch with these targets."""
        if self._negatives >= self._items:
            return np.arange(self._items), targets, np.zeros(self._items, np.float32)
        drawn = self._random.integers(0, self._items, self._negatives)
        items = np.unique(np.concatenate([targets, drawn]))
        missed = len(targets) * np.log1p(-np.minimum(self._share[items], 1 - 1e-9))
        missed += self._negatives * np.log1p(-1.0 / self._items)
        return items, np.searchsorted(items, targets), -np.log(-np.expm1(missed)).astype(np.float32)


def unit_rows(table: Table, rows: NDArray[np.int64]) -> Tensor:
    """[n, d] the vectors of items, each of length 1; the table has the padding first and then all items."""
    codes = tensor((rows + 1).astype(np.int32)[:, None]).to(table.weight.device)
    vectors: Tensor = table(codes, (1,))
    return nn.functional.normalize(vectors, dim=1)


def cross_entropy(hidden: Tensor, vectors: Tensor, target: Tensor, bias: Tensor) -> Tensor:
    """The mean loss of n rows; see the module.

    hidden: [n, d].   vectors: [u, d] of the items drawn.   target: [n] columns of the positives.   bias: [u] −log π.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, vectors, target, bias)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Block by block the logits are made, turned into their own gradient and used up, so [n, u] never exists."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, vectors: Tensor, target: Tensor, bias: Tensor) -> Tensor:
        hidden_slope, vectors_slope = torch.empty_like(hidden), torch.zeros_like(vectors)
        block = max(32, _LOGITS_AT_ONCE // max(1, len(vectors)))
        loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, len(hidden), block):
            rows, own = hidden[start : start + block], target[start : start + block, None]
            logits = torch.addmm(bias, rows, vectors.t())
            logits.scatter_add_(1, own, -bias[own[:, 0], None])
            share = torch.softmax(logits, 1)
            loss -= share.gather(1, own).clamp(min=_LEAST).log().sum(dtype=torch.float64)
            share.scatter_add_(1, own, share.new_full(own.shape, -1.0))
            torch.mm(share, vectors, out=hidden_slope[start : start + block])
            vectors_slope.addmm_(share.t(), rows)
        ctx.save_for_backward(hidden_slope, vectors_slope)
        ctx.count = max(1, len(hidden))
        mean: Tensor = loss / ctx.count
        return mean.to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        hidden_slope, vectors_slope = ctx.saved_tensors
        scale = slope / ctx.count
        return hidden_slope * scale, vectors_slope * scale, None, None


def ranks(
    users: Tensor, vectors: Tensor, wanted: NDArray[np.int64], known: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """[q] how many items score above each user's wanted one.

    users: [q, d].   vectors: [i, d].   wanted: [q] rows of them.   known: (row, item) pairs that do not compete.
    """
    scores = (users @ vectors.T).numpy(force=True)
    own = scores[np.arange(len(wanted)), wanted].copy()
    scores[known] = -np.inf
    return np.asarray((scores > own[:, None]).sum(1))
