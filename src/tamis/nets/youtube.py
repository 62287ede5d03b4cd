"""The recall net of YouTube: a classifier of the next watch among all items, whose last layer is the item vectors.

    mean of the watched items, profile, context, numbers ─┐
    example age, 0 when served ───────────────────────────┴ hidden layers → user vector → softmax over item ids

The age of an example is how long before the end of training it happened. Popularity comes and goes, and a net that is
not told when an example was would learn the average of the whole period; told so, it can be asked for now: 0.
(Covington, Adams and Sargin, "Deep neural networks for YouTube recommendations", RecSys 2016.)
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.picks import ranges, spaced
from tamis.data.samples import Samples
from tamis.features.inputs import Inputs
from tamis.nets.batch import tensor
from tamis.nets.device import device_of, placed
from tamis.nets.draws import acted_rows
from tamis.nets.embed import Table, widths_of
from tamis.nets.export import export
from tamis.nets.loop import Problem, Report, train
from tamis.nets.next_item_plans import YoutubePlan
from tamis.nets.softmax import Draw, cross_entropy, ranks, unit_rows
from tamis.nets.tower import USER_INPUTS, IdHider, Tower, numbers_of
from tamis.nets.tower_plan import without_judge

_DAY_SECONDS: Final = 86_400.0
_SCORES_AT_ONCE: Final = 1 << 22


class YoutubeBatch(NamedTuple):
    """r requests with p examples, and u items to tell apart; see `softmax.Draw`."""

    user_codes: Tensor  # [r, ·]
    user_dense: Tensor
    history_codes: Tensor
    age: Tensor  # [r, 1] days before the last request
    request_of: Tensor  # [p]
    drawn: NDArray[np.int64]  # [u] rows
    target: Tensor  # [p] columns of `drawn`
    bias: Tensor  # [u]


class YoutubeNet(nn.Module):
    """The user tower, and the vectors of `count` items that its answer is compared with."""

    def __init__(self, inputs: Inputs, count: int, plan: YoutubePlan, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        layout, size = inputs.layout, plan.embedding_size
        widths = (*widths_of(layout.user_fields), *(layout.history_length,) * layout.history_codes)
        sizes = (size, *plan.user_layers, plan.vector_size)
        self.table = Table(layout.table_size, size, generator)
        self.tower = Tower(widths, _numbers(inputs), sizes, generator)
        self.item_table = Table(count + 1, plan.vector_size, generator)  # row 0 is no item

    def users(self, user_codes: Tensor, user_dense: Tensor, history_codes: Tensor, age: Tensor) -> Tensor:
        """[r, d] of length 1; the history is a field of many values per column, so its mean is what counts."""
        history = history_codes.transpose(1, 2).flatten(1)
        codes, dense = torch.cat([user_codes, history], 1), torch.cat([user_dense, age], 1)
        vectors: Tensor = self.tower(self.table, codes, dense)
        return vectors

    def items(self, rows: NDArray[np.int64]) -> Tensor:
        """[n, d] the vectors of items, each of length 1."""
        return unit_rows(self.item_table, rows)


def fit_youtube(
    inputs: Inputs, plan: YoutubePlan, seed: int, folder: Path
) -> tuple[NDArray[np.int64], NDArray[np.float32], Report]:
    """(items [v] that were watched, ascending, their vectors [v, d], how it went); writes user.onnx into `folder`.

    user.onnx: `tower.USER_INPUTS` of any number of rows → output "vector", as of now: example age 0.
    """
    request, item = examples_of(inputs.train, plan, seed)
    items = np.unique(item)
    net = YoutubeNet(inputs, len(items), plan, seed)
    maker = _BatchMaker(inputs, (request, np.searchsorted(items, item)), plan, seed)
    judge = _Judge(inputs, items, plan)
    problem = Problem(
        rows=np.diff(maker.starts),
        batch=maker.batch,
        loss=lambda batch: batch_loss(net, batch, plan),
        judge=lambda: judge.recall(net),
        name="youtube dnn",
        progress=inputs.progress,
        streams=maker.streams,
        journal=inputs.journal,
        pieces=inputs.pieces,
    )
    report = train(net, problem, without_judge(plan.training, len(judge.requests)), seed)
    _export(net, inputs, folder)
    with torch.no_grad():
        return items, net.items(np.arange(len(items))).numpy(), report


def examples_of(samples: Samples, plan: YoutubePlan, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(request [p] ascending, item [p]) of the rows that are learnt: at most `user_examples` of one user, at random.

    So that the few who watch most do not make up the loss.
    """
    rows = acted_rows(samples, plan.positives)
    request = np.searchsorted(samples.first, rows, "right") - 1
    if plan.user_examples:
        order = np.random.default_rng((seed, 5)).permutation(len(rows))
        order = order[np.argsort(samples.user[request[order]], kind="stable")]
        user = samples.user[request[order]]
        place = np.arange(len(order)) - np.searchsorted(user, user)
        chosen = np.sort(order[place < plan.user_examples])
        rows, request = rows[chosen], request[chosen]
    return request, samples.item[rows].astype(np.int64)


def batch_loss(net: YoutubeNet, batch: YoutubeBatch, plan: YoutubePlan) -> Tensor:
    """The mean loss of the batch's examples."""
    users = net.users(batch.user_codes, batch.user_dense, batch.history_codes, batch.age) / plan.temperature
    return cross_entropy(users[batch.request_of], net.items(batch.drawn), batch.target, batch.bias)


def _ages(samples: Samples) -> NDArray[np.float32]:
    """[r, 1] days from each request to the last one."""
    time = np.asarray(samples.time)
    days: NDArray[np.float64] = (time.max(initial=-np.inf) - time[:, None]) / _DAY_SECONDS
    return days.astype(np.float32)


def _numbers(inputs: Inputs) -> NDArray[np.float32]:
    """[s, du + 1] what the tower standardises its numbers by, the age last: each column on its own."""
    dense, ages = numbers_of(inputs).user, _ages(inputs.train)
    at = np.linspace(0, max(0, len(ages) - 1), len(dense)).astype(np.int64)
    return np.hstack([dense, ages[at]])


class _BatchMaker:
    """Gathers the arrays of a batch; called by one thread at a time."""

    def __init__(
        self, inputs: Inputs, examples: tuple[NDArray[np.int64], NDArray[np.int64]], plan: YoutubePlan, seed: int
    ) -> None:
        request, self.target = examples
        self.inputs, self.ages = inputs, _ages(inputs.train)
        self.starts = np.searchsorted(request, np.arange(len(inputs.train) + 1))
        self.draw = Draw(self.target, int(self.target.max(initial=-1)) + 1, plan.negatives, seed)
        self.ids = IdHider(inputs, plan.training.unknown_share, seed)

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return [*self.draw.streams, *self.ids.streams]

    def batch(self, requests: NDArray[np.int64]) -> YoutubeBatch:
        counts = self.starts[requests + 1] - self.starts[requests]
        drawn, target, bias = self.draw.of(self.target[ranges(self.starts[requests], counts)])
        sides = self.inputs.batch(self.inputs.train, requests)
        self.ids.hide(sides.user_codes, sides.item_codes)
        return YoutubeBatch(
            tensor(sides.user_codes),
            tensor(sides.user_dense),
            tensor(sides.history_codes),
            tensor(self.ages[requests]),
            tensor(np.repeat(np.arange(len(requests)), counts)),
            drawn,
            tensor(target),
            tensor(bias),
        )


class _Judge:
    """Recall@k of the held-out examples of some requests, all known items competing."""

    def __init__(self, inputs: Inputs, items: NDArray[np.int64], plan: YoutubePlan) -> None:
        samples, self.k = inputs.valid, plan.judge_k
        known = any(name in samples.labels for name in plan.positives)
        rows = acted_rows(samples, plan.positives) if known else np.empty(0, np.int64)
        rows = rows[np.isin(samples.item[rows], items)]
        self.inputs, self.target = inputs, np.searchsorted(items, samples.item[rows])
        self.starts, self.count = np.searchsorted(rows, samples.first), len(items)
        requests = np.flatnonzero(np.diff(self.starts))
        self.requests = spaced(requests, plan.judge_requests)

    def recall(self, net: YoutubeNet) -> float:
        """Share of the examples among the k best; 0 without any."""
        vectors, places = net.items(np.arange(self.count)), [np.empty(0, np.int64)]
        block = max(1, min(256, _SCORES_AT_ONCE // max(1, self.count)))
        for first in range(0, len(self.requests), block):
            requests = self.requests[first : first + block]
            counts = self.starts[requests + 1] - self.starts[requests]
            sides = self.inputs.batch(self.inputs.valid, requests)
            now = torch.zeros(len(requests), 1)
            user = tensor(sides.user_codes), tensor(sides.user_dense), tensor(sides.history_codes), now
            each = np.repeat(np.arange(len(requests)), counts)
            users = net.users(*placed(user, device_of(net)))[each]
            none = np.empty(0, np.int64), np.empty(0, np.int64)
            places.append(ranks(users, vectors, self.target[ranges(self.starts[requests], counts)], none))
        found = np.concatenate(places) < self.k
        return float(found.mean()) if len(found) else 0.0


class _UserSide(nn.Module):
    def __init__(self, net: YoutubeNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, user_codes: Tensor, user_dense: Tensor, history_codes: Tensor) -> Tensor:
        return self.net.users(user_codes, user_dense, history_codes, user_dense.new_zeros(user_dense.shape[0], 1))


def _export(net: YoutubeNet, inputs: Inputs, folder: Path) -> None:
    layout = inputs.layout
    codes, dense = torch.zeros(2, layout.user_codes, dtype=torch.int32), torch.zeros(2, len(layout.user_dense))
    history = torch.zeros(2, layout.history_length, layout.history_codes, dtype=torch.int32)
    example = dict(zip(USER_INPUTS, (codes, dense, history), strict=True))
    rows = {name: {0: "rows"} for name in (*example, "vector")}
    export(_UserSide(net), example, ["vector"], folder / "user.onnx", rows)
