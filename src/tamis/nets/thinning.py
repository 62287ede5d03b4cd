"""How heads learn from rows whose negatives were thinned out (`data.samples.thinned`), so that they say the truth.

With a share α of the negatives a head that fits its rows says p' with odds 1/α times too large. The correction

    p = α·p' / ((1 − p') + α·p')        (`rank.calibrate.undo_downsampling`), or in logits  z = z' + ln α

is made where the head learns: its logits are compared with the labels after adding −ln α, so that what is judged,
exported and calibrated is z. It is exact where each negative was kept with the same probability, so heads differ:

- A binary head per impression skips the `spared` rows that it is negative for, and is corrected.
- A head per click learns from clicked rows, which are all there, and needs nothing.
- Any other head (time, "shown") cannot tell negatives apart by its own label, or has none: for it a row without any
  label counts 1/α, as it stands for so many. That is exact for every loss, only with more noise.

(He et al., "Practical lessons from predicting clicks on ads at Facebook", 2014.)
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tamis.data.unshown import SHOWN
from tamis.nets.batch import TensorBatch
from tamis.nets.heads import Targets
from tamis.nets.labels import PLAY
from tamis.types import ACTIONS

BINARY: Final = frozenset(ACTIONS) - {PLAY, "rate"}


@dataclass(frozen=True, slots=True)
class Thinning:
    """What thinned rows mean to each of the heads, in the order of the logits."""

    heads: tuple[str, ...]
    per_click: frozenset[str]

    @staticmethod
    def of(heads: Sequence[str], per_click: Collection[str]) -> "Thinning":
        """For heads some of which are rates per click."""
        return Thinning(tuple(heads), frozenset(per_click))

    def drawn(self, batch: TensorBatch, logits: Tensor) -> Tensor:
        """Logits [heads, n] of rows as they were drawn, given what the heads say of rows as they are."""
        logits = batch.as_drawn(logits)
        if batch.keep_negatives == 1.0:
            return logits
        return logits - math.log(batch.keep_negatives) * self._binary().to(logits.device)

    def targets(self, batch: TensorBatch, targets: Targets) -> Targets:
        """The targets, with weights as the module says."""
        if batch.spared is None:
            return targets
        nothing = torch.ones(len(batch.row_of), dtype=torch.bool)
        for name in batch.labels.keys() & {*ACTIONS, SHOWN}:
            label = batch.labels[name]
            nothing &= label > 0 if name == SHOWN else ~(label > 0)  # rows drawn from the catalogue were not thinned
        times = torch.where(nothing, 1.0 / batch.keep_negatives, 1.0)
        weights = targets.weights.clone()
        for row, head in enumerate(self.heads):
            if head in self.per_click:
                continue
            if head in BINARY:
                weights[row] *= ~(batch.spared & (batch.labels[head] == 0))
            else:
                weights[row] *= times
        return Targets(targets.labels, weights)

    def starts(self, logits: Sequence[float], keep: float) -> list[float]:
        """Log-odds of rows as they were drawn → those of rows as they are."""
        shift = math.log(keep) * self._binary().squeeze(1)
        return [logit + moved for logit, moved in zip(logits, shift.tolist(), strict=True)]

    def _binary(self) -> Tensor:
        """[heads, 1] 1 for binary heads per impression."""
        return torch.tensor([[float(head in BINARY and head not in self.per_click)] for head in self.heads])
