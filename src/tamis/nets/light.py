"""Training of the light rank: a factorization machine over all fields and numbers, or its linear part alone.

    z = b + Σ_i w_i x_i + Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j

A field is one input with x = 1 whose w and v are the means over its codes; so is each column of the history. Sums over
pairs take linear time: Σ_{i<j} ⟨v_i x_i, v_j x_j⟩ = ½(|Σ v_i x_i|² − Σ |v_i x_i|²), and each side's two sums are its
own, so the user's are formed once per request. (Rendle, "Factorization machines", ICDM 2010.)
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.picks import spaced
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.metrics import auc
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.device import device_of, placed
from tamis.nets.embed import CodeWeights, Standardize, Table, widths_of
from tamis.nets.heads import HeadPlan, Targets, loss, starts
from tamis.nets.loop import Problem, train
from tamis.nets.plans import TrainingPlan
from tamis.nets.spread import Rows, spread
from tamis.nets.thinning import Thinning
from tamis.nets.tower import IdHider, moving_numbers, numbers_of
from tamis.nets.tower_plan import without_judge

_SPREAD = 0.05  # of new vectors; with zeros no pair would ever learn
_JUDGE_REQUESTS = 4000


class _Sums(NamedTuple):
    """What one side adds up to: Σ w x [m], Σ v x [m, k], Σ |v x|² [m]."""

    first: Tensor
    total: Tensor
    squares: Tensor


class Numbers(nn.Module):
    """The numbers of one side, each an input of its own."""

    def __init__(self, values: NDArray[np.float32], factors: int, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = Standardize(values)
        self.weight = nn.Parameter(torch.zeros(values.shape[1]))
        self.factors = nn.Parameter(torch.randn((values.shape[1], factors), generator=generator) * _SPREAD)

    def forward(self, values: Tensor) -> _Sums:
        x = self.scale(values)
        return _Sums(x @ self.weight, x @ self.factors, (x * x) @ (self.factors * self.factors).sum(1))


class LightNet(nn.Module):
    """One logit per candidate. factors: width of the vectors, 0 = a linear model."""

    def __init__(self, layout: Layout, numbers: tuple[NDArray[np.float32], ...], factors: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        history = (layout.history_length,) * layout.history_codes
        self.user_widths = (*widths_of(layout.user_fields), *history)
        self.item_widths = widths_of(layout.item_fields)
        self.bias = nn.Parameter(torch.zeros(()))
        self.first = CodeWeights(layout.table_size, 1, generator)
        self.factors = Table(layout.table_size, factors, generator, _SPREAD) if factors else None
        self.user, self.item, self.dynamic = (Numbers(values, factors, generator) for values in numbers)

    def forward(self, batch: TensorBatch) -> Tensor:
        """[1, n] logits."""
        history = batch.history_codes.transpose(1, 2).flatten(1)
        user = self._side(torch.cat([batch.user_codes, history], 1), self.user_widths, self.user(batch.user_dense))
        item = self._side(batch.item_codes, self.item_widths, self.item(batch.item_dense))
        now = self.dynamic(batch.item_dynamic)
        rows = Rows.of(batch.row_of, len(batch.user_codes))
        logit = self.bias + spread(user.first.unsqueeze(1), rows).squeeze(1) + item.first + now.first
        if self.factors is not None:
            total = spread(user.total, rows) + item.total + now.total
            squares = spread(user.squares.unsqueeze(1), rows).squeeze(1) + item.squares + now.squares
            logit = logit + ((total * total).sum(1) - squares) / 2
        logits: Tensor = logit.unsqueeze(0)
        return logits

    def _side(self, codes: Tensor, widths: tuple[int, ...], numbers: _Sums) -> _Sums:
        first = self.first.sums(codes, widths)[:, 0]
        if self.factors is None:
            return _Sums(first + numbers.first, numbers.total, numbers.squares)
        vectors = self.factors(codes, widths).unflatten(1, (len(widths), self.factors.size))
        squares = (vectors * vectors).sum((1, 2))
        return _Sums(first + numbers.first, vectors.sum(1) + numbers.total, squares + numbers.squares)


def fit_light(inputs: Inputs, plan: TrainingPlan, head: str, factors: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Trains on the shown rows of `inputs.train`; the weights by name, as `rank.light` reads them."""
    known = numbers_of(inputs)
    net = LightNet(inputs.layout, (known.user, known.item, moving_numbers(inputs)), factors, seed)
    heads, thinning = HeadPlan((head,), frozenset(), {}, "ratio"), Thinning.of((head,), ())
    begin = thinning.starts(starts(heads, inputs.train), inputs.train.keep_negatives)
    with torch.no_grad():
        net.bias.fill_(begin[0])
    ids = IdHider(inputs, plan.unknown_share, seed)

    def batch(requests: NDArray[np.int64]) -> tuple[TensorBatch, Targets]:
        made = inputs.batch(inputs.train, requests)
        ids.hide(made.user_codes, made.item_codes)
        whole = tensors(made)
        return whole, thinning.targets(whole, heads.targets(whole.labels))

    problem = Problem(
        rows=np.diff(inputs.train.first),
        batch=batch,
        loss=lambda pair: loss(thinning.drawn(pair[0], net(pair[0])), pair[1]),
        judge=lambda: _judged(net, inputs, head),
        name="light rank",
        streams=ids.streams,
        journal=inputs.journal,
        pieces=inputs.pieces,
        progress=inputs.progress,
    )
    train(net, problem, without_judge(plan, len(inputs.valid.item)), seed)
    return _arrays(net)


def _arrays(net: LightNet) -> dict[str, NDArray[np.float32]]:
    out = {"bias": net.bias.view(1), "first": net.first.weight[:, 0]}
    if net.factors is not None:
        out["factors"] = net.factors.weight
    for name, part in (("user", net.user), ("item", net.item), ("dynamic", net.dynamic)):
        scale = torch.stack([part.scale.mean, part.scale.scale], 1)
        out[f"{name}_numbers"] = torch.cat([scale, part.weight.unsqueeze(1), part.factors], 1)
    return {name: np.array(value.detach().numpy(), np.float32) for name, value in out.items()}


def _judged(net: LightNet, inputs: Inputs, head: str) -> float:
    """The AUC on some validation requests; 0 where they have rows of one kind only."""
    valid = inputs.valid
    if head not in valid.labels or not len(valid.item):
        return 0.0
    requests = spaced(np.arange(len(valid)), _JUDGE_REQUESTS)
    labels, logits = [], []
    for start in range(0, len(requests), 256):
        batch = placed(tensors(inputs.batch(valid, requests[start : start + 256])), device_of(net))
        labels.append(batch.labels[head].numpy(force=True) > 0)
        logits.append(batch.as_drawn(net(batch))[0].numpy(force=True))
    label = np.concatenate(labels)
    return auc(label, np.concatenate(logits)) if 0 < label.sum() < len(label) else 0.0
