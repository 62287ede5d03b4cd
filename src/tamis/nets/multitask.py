"""The fine ranker's net: fused embeddings, attention over the last actions, mixture of experts, a tower per head.

Beside the towers every head has a linear model ("wide"), which learns what needs no crossing sooner: a straight line
from what the experts read, and a weight for every code of the item (its id, author, category …), which says how good
such an item is to anyone. An embedding says so only through layers that all items share, too slowly for rare ones.
(Cheng et al., "Wide & deep learning for recommender systems", 2016.)

Feature crosses (`nets.crosses`) read both sides of a candidate, so what they say joins the candidate's side: experts
and gates read it (a cross under the layers), and so does the straight line (a cross beside them). Or only a straight
line of their own reads them (`cross_place`), which makes the first layer of the experts a smaller one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.samples import Samples
from tamis.errors import ConfigError
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.features.search import Search
from tamis.metrics import auc
from tamis.nets.batch import TensorBatch, tensors
from tamis.nets.crosses.chosen import Crosses
from tamis.nets.crosses.fields import Fields, met
from tamis.nets.device import device_of, placed
from tamis.nets.embed import CodeWeights, Standardize, Table, widths_of
from tamis.nets.experts import Experts, GateUse
from tamis.nets.export import export
from tamis.nets.heads import HeadPlan, Targets, Towers, loss, starts
from tamis.nets.labels import AMOUNTS, taught
from tamis.nets.layers import linear
from tamis.nets.loop import Problem, Report, torch_threads, train
from tamis.nets.normalize import of_layers
from tamis.nets.personal import PersonalGates
from tamis.nets.plans import MultitaskShape, TrainingPlan
from tamis.nets.ple import Ple
from tamis.nets.position import PLACES, PlaceCodes, PositionTower
from tamis.nets.sequence import DinAttention, DotAttention, SearchAttention, mean_pool, past
from tamis.nets.spread import Rows, spread
from tamis.nets.thinning import Thinning
from tamis.nets.tiles import SEARCH_INPUTS, Tiles
from tamis.nets.tower import IdHider

log = structlog.get_logger(__name__)
_SAMPLE_REQUESTS = 5_000
_JUDGE_ROWS = 8_192
INPUTS = ("user_codes", "user_dense", "history_codes", "item_codes", "item_dense", "item_dynamic")


class Scales(NamedTuple):
    """The dense inputs of a sample of training rows, to learn their means and spreads from."""

    user_dense: NDArray[np.float32]
    item_dense: NDArray[np.float32]
    item_dynamic: NDArray[np.float32]


class MultitaskNet(nn.Module):
    """One logit per head and candidate; the user's side is computed once per request."""

    def __init__(
        self, shape: MultitaskShape, layout: Layout, heads: tuple[str, ...], scales: Scales, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.heads = heads
        self.table = Table(layout.table_size, shape.embedding_size, generator, shape.embedding_spread)
        self.user_widths, self.item_widths = widths_of(layout.user_fields), widths_of(layout.item_fields)
        self.history_columns = list(layout.history_columns)
        self.user_scale, self.item_scale, self.dynamic_scale = (
            Standardize(values, powers=shape.powers) for values in scales
        )
        size = shape.embedding_size
        query, entry = len(layout.history_columns) * size, layout.history_codes * size
        self.attention: DinAttention | DotAttention | None = None
        if shape.attention != "mean" and query:
            kind = DinAttention if shape.attention == "din" else DotAttention
            self.attention = kind(query, entry, shape.attention_hidden, generator)
        self.search = Search.of(layout, shape.search, shape.search_field, shape.search_entries)
        self.search_attention: SearchAttention | None = None
        if self.search is not None:
            if not query:
                raise ConfigError("multitask.search: wants features.history.fields to compare candidates by")
            self.search_attention = SearchAttention(query, entry, shape.attention_hidden, generator)
        of_user, of_item = (0, layout.history_codes) if self.attention else (layout.history_codes, 0)
        of_item += layout.history_codes if self.search_attention else 0
        numbers = self.user_scale.width, self.item_scale.width + self.dynamic_scale.width
        fields = Fields(len(self.user_widths) + of_user, len(self.item_widths) + of_item, size, *numbers)
        self.crosses = Crosses(fields, shape, generator) if shape.crosses else None
        self.places = Table(PLACES + 1, size, generator) if shape.position == "feature" else None
        crossed = self.crosses.width if self.crosses else 0
        beside = shape.cross_place == "beside"
        item = fields.item * size + numbers[1] + (0 if beside else crossed)
        item += size if self.places else 0
        widths = (fields.user * size + numbers[0], item)
        self.experts = _experts(widths, len(heads), shape, generator)
        self.towers = Towers(len(heads), shape.expert_hidden[-1], shape.tower_hidden, generator)
        self.personal: PersonalGates | None = None
        self.gates_towers = shape.personal_gates == "ppnet"
        if shape.personal_gates != "none":
            read = [(len(heads), width) for width in (shape.expert_hidden[-1], *shape.tower_hidden)]
            layers = read if self.gates_towers else self.experts.layers
            self.personal = PersonalGates(widths[0], layers, shape.personal_hidden, self.gates_towers, generator)
        self.wide: nn.ModuleList | None = None
        if shape.wide:
            halves = [linear(width, len(heads), generator, bias=False, fan_in=sum(widths)) for width in widths]
            self.wide = nn.ModuleList(halves)
            self.first_order = CodeWeights(layout.table_size, len(heads), generator)
        self.cross_line = linear(crossed, len(heads), generator, bias=False) if beside and crossed else None

    def forward(self, batch: Sequence[Tensor], row_of: Tensor | None, places: Tensor | None = None) -> Tensor:
        """Logits [heads, n]. batch: the six `INPUTS`, shaped as in `NetBatch`, and the two of `Found` with a search.

        row_of: [n] each candidate's request; None when all are of the only one (r = 1).
        places: [n, 1] codes of `position.PlaceCodes`; None = unknown, as when serving.
        """
        user, item, rows, crossed = self._sides(batch, row_of, places)
        of_experts, of_towers = self._personal(user)
        out: Tensor = self.towers(self.experts(user, item, rows, of_experts), of_towers, rows)
        if self.wide is not None:
            of_user, of_item = self.wide
            codes = self.first_order.sums(batch[3], self.item_widths)
            out = out + (spread(of_user(user), rows) + of_item(item) + codes).t()
        return out if self.cross_line is None else out + self.cross_line(crossed).t()

    def gates(self, batch: Sequence[Tensor], row_of: Tensor | None) -> Tensor:
        """[n, heads, experts] each head's weights of the experts."""
        user, item, rows = self.sides(batch, row_of)
        gates: Tensor = self.experts.gates(user, item, rows, self._personal(user)[0])
        return gates

    def _personal(self, user: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The user's gates of the experts' layers and of what the towers' layers read; empty = none."""
        gates = self.personal(user) if self.personal else []
        return ([], gates) if self.gates_towers else (gates, [])

    def sides(
        self, batch: Sequence[Tensor], row_of: Tensor | None, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Rows | None]:
        """What the experts read: [r, …] of the requests, [n, …] of the candidates, and who belongs to whom."""
        return self._sides(batch, row_of, places)[:3]

    def _sides(
        self, batch: Sequence[Tensor], row_of: Tensor | None, places: Tensor | None
    ) -> tuple[Tensor, Tensor, Rows | None, Tensor | None]:
        """What `sides` gives, and what stands beside it [n, …]: the crosses, None when they are under the layers."""
        crossed = None
        user_codes, user_dense, history_codes, item_codes, item_dense, item_dynamic = batch[:6]
        rows = None if row_of is None else Rows.of(row_of, len(user_codes))
        user = [self.table(user_codes, self.user_widths), self.user_scale(user_dense)]
        item = [self.table(item_codes, self.item_widths), self.item_scale(item_dense), self.dynamic_scale(item_dynamic)]
        entries, there = past(self.table, history_codes)
        if self.attention is None:
            user.append(mean_pool(entries, there))
        if self.attention is not None or self.search_attention is not None:
            query = self.table(item_codes[:, self.history_columns], (1,) * len(self.history_columns))
        if self.attention is not None:
            item.append(self.attention(query, entries, there, rows))
        if self.search_attention is not None:
            found_codes, *groups = batch[6:]
            item.append(self.search_attention(query, *past(self.table, found_codes), groups))
        if self.crosses is not None:  # embeddings and pooled history are fields, what lies between them are numbers
            of_user = torch.cat([user[0], *user[2:]], 1), user[1]
            of_item = torch.cat([item[0], *item[3:]], 1), torch.cat(item[1:3], 1)
            x = met(of_user, of_item, rows, item_codes.shape[0])
            crossed = self.crosses(x, torch.cat(of_user, 1), rows)
        if crossed is not None and self.cross_line is None:
            item.append(crossed)
        if self.places is not None:
            unknown = item_dense.new_zeros(item_dense.shape[0], self.places.size)
            item.append(unknown if places is None else self.places(places, (1,)))
        return torch.cat(user, 1), torch.cat(item, 1), rows, crossed


def _experts(widths: tuple[int, int], heads: int, shape: MultitaskShape, generator: torch.Generator) -> Experts | Ple:
    """The experts of all heads; widths of the user's and the candidate's side."""
    if shape.mixture == "ple":
        counts = shape.experts, shape.head_experts
        ple = Ple(widths, heads, counts, shape.expert_hidden, shape.extraction_levels, generator)
        ple.drop(shape.gate_dropout, shape.dropout)
        if shape.normalization == "batch":
            ple.normalize()
        return ple
    experts = Experts(widths, heads, shape.experts, shape.expert_hidden, generator)
    experts.gate_dropout, experts.dropout = shape.gate_dropout, shape.dropout
    experts.norms = of_layers(experts.layers) if shape.normalization == "batch" else None
    return experts


class Trained(NamedTuple):
    """A trained net and what was learnt about it on the way.

    valid: head → its logits [n] on `inputs.valid`, of rows as they were drawn (`TensorBatch.as_drawn`).
    """

    net: MultitaskNet
    report: Report
    valid: dict[str, NDArray[np.float32]]
    gates: GateUse | None


def fit_multitask(shape: MultitaskShape, plan: TrainingPlan, heads: HeadPlan, inputs: Inputs, seed: int) -> Trained:
    """Trains on `inputs.train`, stops early on `inputs.valid` by the mean AUC of the binary heads.

    A head weighs as many as it has positives, for the fewer there are the more of its AUC is chance. Without a binary
    head (or without validation rows of both kinds) the score is minus the validation loss.
    """
    if shape.embedding_size % 4 or shape.attention_hidden % 4:
        raise ConfigError("multitask: embedding_size and attention_hidden must be multiples of 4")
    samples = inputs.train
    generator = torch.Generator().manual_seed(seed)
    net = MultitaskNet(shape, inputs.layout, heads.heads, _scales(inputs, seed), generator)
    thinning = Thinning.of(heads.heads, heads.per_click)
    net.towers.start_at(thinning.starts(starts(heads, samples), samples.keep_negatives))

    ids = IdHider(inputs, plan.unknown_share, seed)
    places = None if shape.position == "none" else PlaceCodes(samples, seed)
    tower = PositionTower(len(heads.heads), len(samples.scenes), generator) if shape.position == "tower" else None
    if places and not places.known:
        log.warning("no training row knows its position", position=shape.position)

    def batch(requests: NDArray[np.int64]) -> tuple[TensorBatch, Targets, Tensor | None]:
        made = inputs.batch(samples, requests, net.search)
        ids.hide(made.user_codes, made.item_codes)
        whole = tensors(made)
        targets = thinning.targets(whole, heads.targets(whole.labels))
        return whole, targets, places.of(requests) if places else None

    def batch_loss(made: tuple[TensorBatch, Targets, Tensor | None]) -> Tensor:
        whole, targets, at = made
        if tower is not None and at is not None:
            logits = net(whole.inputs, whole.row_of) + tower(at)
        else:
            logits = net(whole.inputs, whole.row_of, None if at is None else at[:, :1])
        return loss(thinning.drawn(whole, logits), targets)

    def judge() -> float:
        return _score(heads, inputs.valid, predict(net, inputs, inputs.valid))

    problem = Problem(
        rows=np.diff(samples.first),
        batch=batch,
        loss=batch_loss,
        judge=judge,
        name="multitask",
        progress=inputs.progress,
        streams=[*ids.streams, *(places.streams if places else [])],
        journal=inputs.journal,
        pieces=inputs.pieces,
    )
    report = train(net if tower is None else nn.ModuleList([net, tower]), problem, plan, seed)
    with torch_threads(plan.threads):  # calibrators learn from the last digits too
        return Trained(net, report, predict(net, inputs, inputs.valid), _gate_use(net, inputs))


def predict(net: MultitaskNet, inputs: Inputs, samples: Samples) -> dict[str, NDArray[np.float32]]:
    """Each head's logits [n] on `samples`, of rows as they were drawn."""
    rows = np.diff(samples.first)
    parts = [np.empty((len(net.heads), 0), np.float32)]
    with torch.no_grad():
        for requests in _in_order(rows):
            batch = placed(tensors(inputs.batch(samples, requests, net.search)), device_of(net))
            parts.append(batch.as_drawn(net(batch.inputs, batch.row_of)).numpy(force=True))
    return dict(zip(net.heads, np.concatenate(parts, 1), strict=True))


class _OneRequest(nn.Module):
    """The net as it is exported: one request, outputs as a tuple."""

    def __init__(self, net: MultitaskNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net(batch, None).unbind(0))


def export_multitask(net: MultitaskNet, layout: Layout, path: Path) -> None:
    """Writes the net for one request: inputs `INPUTS`, [1, …] or [n, …]; one output [n] of logits per head.

    With a search also `SEARCH_INPUTS`: `Found.codes` [m, k, …] and the arrays of `tiles.Tiles`.
    """
    example, lengths = example_of(layout), {name: {0: "n"} for name in (*INPUTS[3:], *net.heads)}
    if net.search is not None:
        found = torch.ones(2, net.search.entries, layout.history_codes, dtype=torch.int32)
        tiles = (torch.tensor(each) for each in Tiles.of(np.array([1, 0, 1]), 2))
        example |= dict(zip(SEARCH_INPUTS, (found, *tiles), strict=True))
        axes = ({0: "m"}, {0: "t"}, {0: "t", 1: "g"}, {0: "n"})
        lengths |= dict(zip(SEARCH_INPUTS, axes, strict=True))
    export(_OneRequest(net), example, net.heads, path, lengths)


def example_of(layout: Layout, rows: int = 3) -> dict[str, Tensor]:
    """`INPUTS` of one request with some rows, in their order: what a net is exported with."""
    return {
        "user_codes": torch.ones(1, layout.user_codes, dtype=torch.int32),
        "user_dense": torch.zeros(1, len(layout.user_dense)),
        "history_codes": torch.ones(1, layout.history_length, layout.history_codes, dtype=torch.int32),
        "item_codes": torch.ones(rows, layout.item_codes, dtype=torch.int32),
        "item_dense": torch.zeros(rows, len(layout.item_dense)),
        "item_dynamic": torch.zeros(rows, len(layout.item_dynamic)),
    }


def _scales(inputs: Inputs, seed: int) -> Scales:
    requests = np.flatnonzero(np.diff(inputs.train.first))
    if len(requests) > _SAMPLE_REQUESTS:
        requests = np.sort(np.random.default_rng(seed).choice(requests, _SAMPLE_REQUESTS, replace=False))
    batch = inputs.batch(inputs.train, requests)
    return Scales(batch.user_dense, batch.item_dense, batch.item_dynamic)


def _score(heads: HeadPlan, samples: Samples, logits: dict[str, NDArray[np.float32]]) -> float:
    if not len(samples.item):
        return 0.0
    scores, positives = [], []
    for head in heads.heads:
        if head not in AMOUNTS and head in samples.labels:
            rows = taught(head, heads.per_click, samples)
            label, value = samples.labels[head][rows], logits[head][rows]
            if 0 < label.sum() < len(label):
                scores.append(auc(label, value))
                positives.append(label.sum())
    if scores:
        return float(np.average(scores, weights=positives))
    if not all(head in samples.labels for head in heads.heads):
        return 0.0
    targets = heads.targets({name: torch.from_numpy(np.array(label)) for name, label in samples.labels.items()})
    return -float(loss(torch.from_numpy(np.stack([logits[head] for head in heads.heads])), targets))


def _gate_use(net: MultitaskNet, inputs: Inputs) -> GateUse | None:
    """How the gates spread on some training rows; None with a single expert."""
    if net.experts.experts == 1 or not len(inputs.train.item):
        return None
    requests = next(iter(_in_order(np.diff(inputs.train.first))))
    batch = tensors(inputs.batch(inputs.train, requests, net.search))
    with torch.no_grad():
        use = GateUse.of(net.gates(batch.inputs, batch.row_of))
    if use.polarized or use.dead:
        polarized = [net.heads[task] for task in use.polarized]
        log.warning("gates lean on single experts", heads=polarized, dead_experts=list(use.dead))
    return use


def _in_order(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """All requests with rows, in order, in pieces of about `_JUDGE_ROWS` rows."""
    there = np.flatnonzero(rows)
    part: NDArray[Any] = (np.cumsum(rows[there]) - 1) // _JUDGE_ROWS
    return np.split(there, np.flatnonzero(np.diff(part)) + 1) if len(there) else []
