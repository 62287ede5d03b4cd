"""The net of pre-ranking: three towers that meet late, and a small net where they meet.

    user + context + mean of history ─ user tower  ─ u ─┐  once per request
    what an item is                  ─ item tower  ─ v ─┼─ join ─ one rate per head
    how an item does at the moment   ─ cross tower ─ c ─┘  cross tower and join: once per candidate

    join: logits = heads(relu(first([u, v, c, u∘v]))) + direct(u∘v)

u and v have length 1 and are multiplied by √d, so that u∘v starts at the size of its neighbours; with that and the
direct path the towers learn who likes what three times sooner (docs/results.md). The product u·v is no input of its
own: both layers can form it from u∘v. With one user, the part of `first` for u is a constant and the parts for v and
u∘v are one matrix, so that a candidate costs three small products (`Join.served`). (Wang et al., "COLD", DLP-KDD 2020.)
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.picks import spaced
from tamis.data.unshown import SHOWN
from tamis.features.batch import NetBatch
from tamis.features.inputs import Inputs
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.device import device_of, placed
from tamis.nets.embed import Standardize
from tamis.nets.export import export
from tamis.nets.heads import HeadPlan, Targets, loss, starts
from tamis.nets.labels import TAUGHT
from tamis.nets.layers import linear
from tamis.nets.loop import Problem, Report, train
from tamis.nets.spread import Rows, spread
from tamis.nets.thinning import Thinning
from tamis.nets.tower import IdHider, Towers, export_towers, moving_numbers, numbers_of
from tamis.nets.tower_plan import LightPlan, without_judge

JOIN_INPUTS: Final = ("user", "items", "dynamic")


class Join(nn.Module):
    """The cross tower, and the layers where the three vectors meet."""

    def __init__(self, dynamic: NDArray[np.float32], plan: LightPlan, generator: torch.Generator) -> None:
        super().__init__()
        self.width = plan.towers.vector_size
        self.scale = float(self.width) ** 0.5
        self.numbers = Standardize(dynamic)
        sizes = (dynamic.shape[1], *plan.cross_layers)
        self.cross = nn.ModuleList(linear(before, after, generator) for before, after in pairwise(sizes))
        self.first = linear(3 * self.width + plan.cross_layers[-1], plan.join_size, generator)
        self.heads = linear(plan.join_size, len(plan.heads), generator)
        self.direct = linear(self.width, len(plan.heads), generator, bias=False)

    def forward(self, users: Tensor, items: Tensor, dynamic: Tensor, rows: Rows) -> Tensor:
        """[n, heads] logits: users [r, d], items [n, d], dynamic [n, s]."""
        user, item = spread(users, rows) * self.scale, items * self.scale
        both = user * item
        hidden = torch.relu(self.first(torch.cat([user, item, self._crossed(dynamic), both], 1)))
        logits: Tensor = self.heads(hidden) + self.direct(both)
        return logits

    def served(self, user: Tensor, items: Tensor, dynamic: Tensor) -> Tensor:
        """[n, heads] rates, the sigmoid of `forward` for one user [1, d]."""
        d, weight = self.width, self.first.weight
        user = user * self.scale
        constant = nn.functional.linear(user, weight[:, :d], self.first.bias)
        of_item = (weight[:, d : 2 * d] + weight[:, -d:] * user) * self.scale
        crossed = nn.functional.linear(self._crossed(dynamic), weight[:, 2 * d : -d])
        hidden = torch.relu(nn.functional.linear(items, of_item) + crossed + constant)
        direct = nn.functional.linear(items, self.direct.weight * user * self.scale)
        rates: Tensor = torch.sigmoid(self.heads(hidden) + direct)
        return rates

    def start_at(self, logits: Sequence[float]) -> None:
        """Sets the last biases, so that training begins at the heads' mean rates."""
        with torch.no_grad():
            self.heads.bias.copy_(torch.tensor(logits))

    def _crossed(self, dynamic: Tensor) -> Tensor:
        out: Tensor = self.numbers(dynamic)
        for layer in self.cross:
            out = torch.relu(layer(out))
        return out


class ThreeTowers(nn.Module):
    """The whole net: `forward` gives the logits of a batch."""

    def __init__(self, inputs: Inputs, plan: LightPlan, seed: int) -> None:
        super().__init__()
        self.towers = Towers(inputs.layout, plan.towers, numbers_of(inputs), seed)
        generator = torch.Generator().manual_seed(seed + 1)
        self.join = Join(moving_numbers(inputs), plan, generator)

    def forward(self, batch: TensorBatch) -> Tensor:
        """[n, heads]."""
        users = self.towers.users(batch.user_codes, batch.user_dense, batch.history_codes)
        items = self.towers.items(batch.item_codes, batch.item_dense)
        logits: Tensor = self.join(users, items, batch.item_dynamic, Rows.of(batch.row_of, len(users)))
        return logits


class _Served(nn.Module):
    def __init__(self, join: Join) -> None:
        super().__init__()
        self.join = join

    def forward(self, user: Tensor, items: Tensor, dynamic: Tensor) -> Tensor:
        return self.join.served(user, items, dynamic)


def fit_three_towers(inputs: Inputs, plan: LightPlan, seed: int, folder: Path) -> Report:
    """Trains on the shown rows of `inputs.train`, acted on or not; writes user.onnx, item.onnx and join.onnx.

    With `plan.unshown` the last head is "shown": it learns from rows drawn from the catalogue besides, the others from
    the shown ones alone.
    """
    thinning = Thinning.of(plan.heads, plan.per_click)
    begin = thinning.starts(starts(head_plan(plan), inputs.train), inputs.train.keep_negatives)
    if plan.unshown:
        shown = max(1, len(inputs.train.item))
        share = shown / (shown + plan.unshown * max(1, len(inputs.train)))
        inputs, plan = inputs.with_unshown(plan.unshown, seed), replace(plan, heads=(*plan.heads, SHOWN))
        begin.append(math.log(share / (1 - share)))
        thinning = Thinning.of(plan.heads, plan.per_click)
    net = ThreeTowers(inputs, plan, seed)
    net.join.start_at(begin)
    ids = IdHider(inputs, plan.training.unknown_share, seed)

    def batch(requests: NDArray[np.int64]) -> tuple[TensorBatch, Targets]:
        made: NetBatch = inputs.batch(inputs.train, requests)
        ids.hide(made.user_codes, made.item_codes)
        whole = tensors(made)
        return whole, taught(whole, thinning.targets(whole, targets(whole, plan)), thinning, plan.distill)

    problem = Problem(
        rows=np.diff(inputs.train.first),
        batch=batch,
        loss=lambda pair: loss(thinning.drawn(pair[0], net(pair[0]).T), pair[1]),
        judge=lambda: _judged(net, inputs, plan),
        name="three towers",
        progress=inputs.progress,
        streams=ids.streams,
        journal=inputs.journal,
        pieces=inputs.pieces,
    )
    report = train(net, problem, without_judge(plan.training, len(inputs.valid.item)), seed)
    export_three_towers(net, inputs, folder)
    return report


def head_plan(plan: LightPlan) -> HeadPlan:
    """The heads as the ranking nets know them: one loss and one click mask for both."""
    return HeadPlan(plan.heads, frozenset(plan.per_click), {}, "ratio")


def targets(batch: TensorBatch, plan: LightPlan) -> Targets:
    """What each head should say; rows that were not shown teach only the head "shown"."""
    made = head_plan(plan).targets(batch.labels)
    if SHOWN not in plan.heads:
        return made
    everywhere = torch.tensor([[float(name == SHOWN)] for name in plan.heads]).to(made.weights.device)
    return Targets(made.labels, made.weights * torch.maximum(everywhere, batch.labels[SHOWN]))


def taught(batch: TensorBatch, targets: Targets, thinning: Thinning, share: float) -> Targets:
    """Targets that are `share` of what a teacher says and the rest of what happened; heads it does not know stay.

    The teacher speaks of rows as they are, the targets of rows as they were drawn. (Hinton, Vinyals and Dean,
    "Distilling the knowledge in a neural network", 2015.)
    """
    names = [TAUGHT + head for head in thinning.heads]
    if not share or not batch.labels.keys() & set(names):
        return targets
    nothing = torch.zeros(len(batch.row_of))
    said = torch.sigmoid(thinning.drawn(batch, torch.stack([batch.labels.get(name, nothing) for name in names])))
    shares = torch.tensor([[share if name in batch.labels else 0.0] for name in names])
    return Targets(torch.lerp(targets.labels, said, shares), targets.weights)


def export_three_towers(net: ThreeTowers, inputs: Inputs, folder: Path) -> None:
    """Writes the towers, and join.onnx: `JOIN_INPUTS` with one user and any number of items → output "rates"."""
    export_towers(net.towers, inputs.layout, folder)
    width = net.join.width
    dynamic = torch.zeros(2, len(inputs.layout.item_dynamic))
    example = dict(zip(JOIN_INPUTS, (torch.zeros(1, width), torch.zeros(2, width), dynamic), strict=True))
    rows = {name: {0: "rows"} for name in ("items", "dynamic", "rates")}
    export(_Served(net.join), example, ["rates"], folder / "join.onnx", rows)


def _judged(net: ThreeTowers, inputs: Inputs, plan: LightPlan) -> float:
    """Minus the loss on some validation requests; 0 when they lack a head's label or there are none."""
    valid = inputs.valid
    if not len(valid.item) or not all(name in valid.labels for name in plan.heads):
        return 0.0
    requests = spaced(np.arange(len(valid)), plan.judge_requests)
    total, count = 0.0, 0
    for start in range(0, len(requests), 256):
        batch = placed(tensors(inputs.batch(valid, requests[start : start + 256])), device_of(net))
        total += float(loss(batch.as_drawn(net(batch).T), targets(batch, plan))) * len(batch.row_of)
        count += len(batch.row_of)
    return -total / max(1, count)
