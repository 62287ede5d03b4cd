"""What the multi-task net says and how it is judged: a tower per head, one fused cross-entropy for all of them.

Binary heads learn P(action) from 0/1 labels. The play head learns time: with t seconds watched (0 when not clicked)
and p = σ(z),

    "ratio":     −(t/(1+t) · ln p + 1/(1+t) · ln(1−p))       e^z = E[y]/(1 − E[y]) with y = t/(1+t)
    "weighted":  −(t · ln p + ln(1−p))                       e^z = E[t]

and e^z is the predicted time. The second is the first times 1 + t, so both are cross-entropy with a soft label and a
weight. (Covington, Adams and Sargin, "Deep neural networks for YouTube recommendations", RecSys 2016.)

Which of the two. The course prints the first, and once with its denominators 1 + t struck out, which is the second.
They estimate different things: of plays of 0 and 10 seconds, equally many, the second says 5, their mean, and the first
0.83, for E[y] / (1 − E[y]) ≤ E[t]. "weighted" is the mean time per impression, in seconds that may be added up; one
very long play moves it as it moves a mean. "ratio" says less than the mean, hardly heeds whether a long play was longer
still, and is good for order only. Neither is multiplied by p_click again: a row without a click is in both, with t = 0.

Shares (completion, quantile of play time) are cross-entropy with the share as soft label, which is least where p is the
mean share. A label of NaN weighs nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tamis.data.samples import Samples
from tamis.nets.labels import PLAY
from tamis.nets.layers import uniform
from tamis.nets.personal import gated
from tamis.nets.spread import Rows

PlayLoss = Literal["ratio", "weighted"]


class Towers(nn.Module):
    """One small net per task, computed together: [t, n, inputs] → logits [t, n]."""

    def __init__(self, tasks: int, inputs: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        widths = (inputs, *hidden, 1)
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList([uniform((tasks, a, b), a, generator) for a, b in pairs])
        self.biases = nn.ParameterList([uniform((tasks, 1, b), a, generator) for a, b in pairs])

    def forward(self, x: Tensor, personal: Sequence[Tensor] = (), rows: Rows | None = None) -> Tensor:
        """[t, n]. personal: gates [r, t, d] of what each layer reads, or none; rows: whose."""
        last = len(self.weights) - 1
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if personal:
                x = gated(x, personal[depth], rows)
            x = torch.baddbmm(bias, x, weight)
            if depth < last:
                x = x.relu_()
        return x.squeeze(-1)

    def start_at(self, logits: Sequence[float]) -> None:
        """Sets the last biases, so that training begins at the heads' mean rates."""
        with torch.no_grad():
            self.biases[-1].copy_(torch.tensor(logits).view(-1, 1, 1))


@dataclass(frozen=True, slots=True)
class Targets:
    """What the logits [t, n] should be: labels inside [0, 1] and the weight of each."""

    labels: Tensor  # [t, n]
    weights: Tensor  # [t, n], 0 = this head does not learn from this row


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """heads: in order of the outputs.   per_click: heads that learn from clicked rows only.

    weights: of the heads in the loss, 1 where none is given.   play_loss: see the module.
    play_limit_seconds: times are cut to this, so that one phone left alone does not outweigh all other rows.
    """

    heads: tuple[str, ...]
    per_click: frozenset[str]
    weights: Mapping[str, float]
    play_loss: PlayLoss
    play_limit_seconds: float = math.inf

    def targets(self, labels: Mapping[str, Tensor]) -> Targets:
        """The targets of one batch from its labels [n]."""
        wanted, weights = [], []
        for head in self.heads:
            label = labels[head]
            weight = self.weights.get(head, 1.0) * (~label.isnan()).to(label.dtype)
            label = label.nan_to_num(0.0)
            if head in self.per_click:
                weight = weight * (labels["click"] > 0)
            if head == PLAY:
                seconds = label.clamp(0.0, self.play_limit_seconds)
                label = seconds / (1.0 + seconds)
                weight = weight * (1.0 + seconds) if self.play_loss == "weighted" else weight
            wanted.append(label)
            weights.append(weight)
        return Targets(torch.stack(wanted), torch.stack(weights))


def loss(logits: Tensor, targets: Targets) -> Tensor:
    """Σ over heads of weight · cross-entropy, mean over the n rows; a row that a head skips counts 0 for it."""
    total = nn.functional.binary_cross_entropy_with_logits(logits, targets.labels, targets.weights, reduction="sum")
    return total / max(1, logits.shape[1])


def starts(heads: HeadPlan, samples: Samples) -> list[float]:
    """Each head's log-odds over the training rows that it learns from: where its bias should begin."""
    learnt = torch.zeros(len(heads.heads), dtype=torch.float64)
    weighed = torch.zeros_like(learnt)
    for labels in samples.label_pieces():
        targets = heads.targets({name: torch.from_numpy(np.array(label)) for name, label in labels.items()})
        weight = targets.weights.double()
        learnt += (targets.labels.double() * weight).sum(1)
        weighed += weight.sum(1)
    rate = learnt / weighed.clamp(min=1e-9)
    logits: list[float] = torch.logit(rate.clamp(1e-4, 1.0 - 1e-4)).tolist()
    return logits
