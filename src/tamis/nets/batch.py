"""A `NetBatch` as tensors, sharing its memory."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.features.batch import NetBatch


class TensorBatch(NamedTuple):
    """The fields of `NetBatch`, same names and shapes. `batch[:7]` is what a net's `forward` takes."""

    user_codes: Tensor
    user_dense: Tensor
    history_codes: Tensor
    item_codes: Tensor
    item_dense: Tensor
    item_dynamic: Tensor
    row_of: Tensor
    labels: Mapping[str, Tensor]
    log_odds: Tensor | None
    keep_negatives: float
    spared: Tensor | None
    found: tuple[Tensor, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a net of the candidates' side reads: `batch[:6]`, and what a search found if there was one."""
        return (*self[:6], *self.found)

    def as_drawn(self, logits: Tensor) -> Tensor:
        """Logits [heads, n] of these rows, given those [heads, n] of rows with evenly drawn negatives."""
        return logits if self.log_odds is None else logits + self.log_odds


def tensors(batch: NetBatch) -> TensorBatch:
    """The same batch as tensors."""
    return TensorBatch(
        tensor(batch.user_codes),
        tensor(batch.user_dense),
        tensor(batch.history_codes),
        tensor(batch.item_codes),
        tensor(batch.item_dense),
        tensor(batch.item_dynamic),
        tensor(batch.row_of),
        {name: tensor(label) for name, label in batch.labels.items()},
        None if batch.log_odds is None else tensor(batch.log_odds),
        batch.keep_negatives,
        None if batch.spared is None else tensor(batch.spared),
        () if batch.found is None else (tensor(batch.found.codes), tensor(batch.found.row_of)),
    )


def tensor(array: NDArray[Any]) -> Tensor:
    """The array as a tensor over the same memory; a copy only if it is read-only or has gaps."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
