"""The rating net: how many stars a user gives an item, as a number and as one class per star.

    fields and mean of the history ─┬ shared layers ─┬ number = mean + line + weights of all codes
    numbers, standardised          ─┘                └ logits of the classes, likewise

A number taught by its squared error and the mean of the classes estimate the same thing; their average errs less than
either, and is the net's answer. A number taught by its absolute error is a median, and is the answer alone.

Both heads share the layers. The history's entries are looked up in the rows of the items themselves, and an absent
entry is no part of the mean. The line and the weights of single codes (a user, an item, a genre) beside the layers are
the "wide" half; a user who is strict and a film that is liked need no crossing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.picks import spaced
from tamis.features.inputs import Inputs
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.device import device_of, placed
from tamis.nets.embed import CodeWeights, Standardize, Table, widths_of
from tamis.nets.export import export
from tamis.nets.layers import linear
from tamis.nets.loop import Problem, Report, train
from tamis.nets.multitask import INPUTS, example_of
from tamis.nets.plans import TrainingPlan
from tamis.nets.sequence import mean_pool, past
from tamis.nets.spread import Rows, spread
from tamis.nets.tower import IdHider

OUTPUTS: Final = ("stars", "classes")
_MOST_REQUESTS: Final = 5_000  # whose numbers are looked at for their spread
_JUDGE_REQUESTS: Final = 8_192


@dataclass(frozen=True, slots=True)
class RatingPlan:
    """stars: the classes, ascending.   loss: of the number; the mean is its best answer to "squared", the median to
    "absolute".   class_weight: of the classes' cross-entropy beside it.
    """

    stars: tuple[float, ...]
    loss: Literal["squared", "absolute"]
    class_weight: float
    embedding_size: int
    embedding_spread: float
    hidden: tuple[int, ...]
    training: TrainingPlan


class Answers(NamedTuple):
    """What the net says of n rows."""

    number: Tensor  # [n]
    classes: Tensor  # [n, k] logits

    def stars(self, plan: RatingPlan) -> Tensor:
        """[n] the stars that are given out; see the module."""
        if plan.loss == "absolute" or not plan.class_weight:
            return self.number
        classes = self.classes.softmax(1) @ self.number.new_tensor(plan.stars)
        return (self.number + classes) / 2


class RatingNet(nn.Module):
    """The number and the logits of each row; the user's side is computed once per request."""

    def __init__(self, plan: RatingPlan, inputs: Inputs, mean: float, generator: torch.Generator) -> None:
        super().__init__()
        layout, size, outputs = inputs.layout, plan.embedding_size, 1 + len(plan.stars)
        requests = spaced(np.arange(len(inputs.train)), _MOST_REQUESTS)
        seen = inputs.batch(inputs.train, requests)
        self.table = Table(layout.table_size, size, generator, plan.embedding_spread)
        self.user_widths, self.item_widths = widths_of(layout.user_fields), widths_of(layout.item_fields)
        self.user_scale = Standardize(seen.user_dense)
        self.item_scale = Standardize(np.concatenate([seen.item_dense, seen.item_dynamic], 1))
        user = (len(self.user_widths) + layout.history_codes) * size + self.user_scale.width
        item = len(self.item_widths) * size + self.item_scale.width
        first, sizes = plan.hidden[0], (*plan.hidden, outputs)
        self.user_first = linear(user, first, generator, fan_in=user + item)
        self.item_first = linear(item, first, generator, bias=False, fan_in=user + item)
        self.layers = nn.ModuleList(linear(before, after, generator) for before, after in pairwise(sizes))
        self.user_line = linear(user, outputs, generator, bias=False, fan_in=user + item)
        self.item_line = linear(item, outputs, generator, bias=False, fan_in=user + item)
        self.weights = CodeWeights(layout.table_size, outputs, generator)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean))

    def forward(self, batch: Sequence[Tensor], row_of: Tensor | None) -> Answers:
        """batch: the six `INPUTS`.   row_of: [n] each row's request; None when all are of the only one."""
        user_codes, user_dense, history_codes, item_codes, item_dense, item_dynamic = batch
        rows = None if row_of is None else Rows.of(row_of, len(user_codes))
        history = mean_pool(*past(self.table, history_codes))
        user = torch.cat([self.table(user_codes, self.user_widths), history, self.user_scale(user_dense)], 1)
        numbers = self.item_scale(torch.cat([item_dense, item_dynamic], 1))
        item = torch.cat([self.table(item_codes, self.item_widths), numbers], 1)
        hidden = (spread(self.user_first(user), rows) + self.item_first(item)).relu()
        for layer in self.layers[:-1]:
            hidden = layer(hidden).relu()
        of_user = self.weights.sums(user_codes, self.user_widths) + self.user_line(user)
        of_item = self.weights.sums(item_codes, self.item_widths) + self.item_line(item)
        out = self.layers[-1](hidden) + spread(of_user, rows) + of_item
        return Answers(out[:, 0] + self.mean, out[:, 1:])


def fit_rating(inputs: Inputs, plan: RatingPlan, seed: int, path: Path) -> Report:
    """Trains on the ratings of `inputs.train`, stops early by the mean absolute error on `inputs.valid`.

    Writes the net for one request to `path`: inputs `INPUTS`, outputs "stars" [n] and "classes" [n, k].
    """
    samples, stars = inputs.train, np.asarray(plan.stars, np.float32)
    generator = torch.Generator().manual_seed(seed)
    net = RatingNet(plan, inputs, float(samples.labels["rate"].mean()), generator)
    ids = IdHider(inputs, plan.training.unknown_share, seed)

    def batch(requests: NDArray[np.int64]) -> tuple[TensorBatch, Tensor, Tensor]:
        made = inputs.batch(samples, requests)
        ids.hide(made.user_codes, made.item_codes)
        rated = made.labels["rate"]
        return tensors(made), torch.from_numpy(rated), torch.from_numpy(np.searchsorted(stars, rated))

    def judge() -> float:
        return -_error(net, inputs, plan) if len(inputs.valid) else 0.0

    problem = Problem(
        rows=np.diff(samples.first),
        batch=batch,
        loss=lambda made: loss(net(made[0][:6], made[0].row_of), made[1], made[2], plan),
        judge=judge,
        name="rating",
        progress=inputs.progress,
        streams=ids.streams,
        journal=inputs.journal,
    )
    report = train(net, problem, plan.training, seed)
    example = example_of(inputs.layout)
    lengths = {name: {0: "n"} for name in (*INPUTS[3:], *OUTPUTS)}
    export(_OneRequest(net, plan), example, OUTPUTS, path, lengths)
    return report


def loss(answers: Answers, rated: Tensor, star: Tensor, plan: RatingPlan) -> Tensor:
    """Mean over rows of the number's error, and of class_weight · −ln p(star).

    rated: [n] stars.   star: [n] their places among `plan.stars`.
    """
    error = answers.number - rated
    number = error.abs() if plan.loss == "absolute" else error.square()
    return number.mean() + plan.class_weight * nn.functional.cross_entropy(answers.classes, star)


def _error(net: RatingNet, inputs: Inputs, plan: RatingPlan) -> float:
    """The mean absolute error of the stars on `inputs.valid`."""
    samples, total = inputs.valid, 0.0
    for first in range(0, len(samples), _JUDGE_REQUESTS):
        requests = np.arange(first, min(first + _JUDGE_REQUESTS, len(samples)))
        made = placed(tensors(inputs.batch(samples, requests)), device_of(net))
        total += float((net(made[:6], made.row_of).stars(plan) - made.labels["rate"]).abs().sum())
    return total / len(samples.item)


class _OneRequest(nn.Module):
    """The net as it is exported: one request, classes as probabilities."""

    def __init__(self, net: RatingNet, plan: RatingPlan) -> None:
        super().__init__()
        self.net, self.plan = net, plan

    def forward(self, *batch: Tensor) -> tuple[Tensor, Tensor]:
        answers = self.net(batch, None)
        return answers.stars(self.plan), answers.classes.softmax(1)
