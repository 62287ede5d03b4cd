"""Training Deep Retrieval: the net with the paths fixed, then the paths with the net fixed, epoch after epoch.

    loss = −log Σ_j p(π_j(y) | x)  +  the two towers' softmax over the items of the batch

for each positive (x, y): the sum over the item's paths is raised, not each of them. The second term teaches the vectors
that tell the items of the found paths apart. After each epoch the items move to the paths that their users like
(`path_assignment`), and recall with the new paths says which epoch is kept; net and paths are always of one round.
(Gao et al., "Learning an end-to-end structure for retrieval in large-scale recommendations", CIKM 2021.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.picks import spaced
from tamis.data.samples import Samples
from tamis.features.inputs import Inputs
from tamis.nets.batch import tensor
from tamis.nets.contrast import BatchMaker, ContrastBatch, contrast_loss
from tamis.nets.device import device_of, placed
from tamis.nets.draws import Drawer, acted_rows
from tamis.nets.judge import blocks, positives_of, vectors_of
from tamis.nets.layers import uniform
from tamis.nets.loop import Problem, Report, train
from tamis.nets.path_assignment import PathScores, assign, objective, random_paths
from tamis.nets.path_plan import DeepPlan, PathShape
from tamis.nets.paths import PathItems, PathNet, table_of
from tamis.nets.tower import Towers, export_user_tower, numbers_of
from tamis.nets.tower_plan import without_judge

log = structlog.get_logger(__name__)
_REQUESTS_AT_ONCE = 256


class PathBatch(NamedTuple):
    """One step's tensors."""

    towers: ContrastBatch
    nodes: Tensor  # [p, J, D] of the positives' paths
    there: Tensor  # [p, J] False where an item has fewer than J paths


@dataclass(frozen=True, slots=True)
class Fitted:
    """What training gives besides the exported user tower.

    items: the items on each path.   vectors: [i, d] of all items, unit length, for the order among those found.
    """

    paths: PathNet
    items: PathItems
    vectors: NDArray[np.float32]
    report: Report


class Paths(nn.Module):
    """`paths.PathNet` while it is trained; the same names and shapes."""

    def __init__(self, shape: PathShape, inputs: int, generator: torch.Generator) -> None:
        super().__init__()
        depth, width, hidden = shape.depth, shape.width, shape.hidden
        # Users have length 1. Times √v their numbers are about 1, without which a layer hardly hears them, and learns
        # them as slowly.
        self.scale = inputs**0.5
        self.path_user = uniform((depth, inputs, hidden), inputs, generator)
        self.path_bias = uniform((depth, hidden), inputs, generator)
        self.path_nodes = uniform((depth * (depth - 1) // 2, width, hidden), hidden, generator)
        self.path_out = uniform((depth, hidden, width), hidden, generator)
        self.path_shift = nn.Parameter(torch.zeros(depth, width))

    def forward(self, users: Tensor, nodes: Tensor) -> Tensor:
        """[n, J] log p of the paths `nodes` [n, J, D] of users [n, v]."""
        total = users.new_zeros(nodes.shape[:2])
        for layer in range(len(self.path_bias)):
            hidden = (users * self.scale @ self.path_user[layer] + self.path_bias[layer]).unsqueeze(1)
            for earlier in range(layer):
                hidden = hidden + self.path_nodes[table_of(layer, earlier)][nodes[:, :, earlier]]
            logits = torch.relu(hidden) @ self.path_out[layer] + self.path_shift[layer]
            logs = torch.log_softmax(logits, -1).expand(*nodes.shape[:2], -1)
            total = total + logs.gather(2, nodes[:, :, layer : layer + 1]).squeeze(2)
        return total

    def exported(self) -> PathNet:
        """The weights as arrays of their own."""
        weights = {name: weight.numpy(force=True).copy() for name, weight in self.named_parameters()}
        weights["path_user"] *= np.float32(self.scale)
        return PathNet(**weights)


class DeepNet(nn.Module):
    """The towers, and the paths on top of the user's vector."""

    def __init__(self, towers: Towers, paths: Paths) -> None:
        super().__init__()
        self.towers, self.paths = towers, paths

    def loss(self, batch: PathBatch, plan: DeepPlan) -> Tensor:
        """The mean over the batch's positives."""
        side = batch.towers
        users = self.towers.users(side.user_codes, side.user_dense, side.history_codes)
        items = self.towers.items(side.item_codes, side.item_dense)
        logs = self.paths(users[side.request_of], batch.nodes)
        return path_loss(logs, batch.there) + contrast_loss(users, items, side, plan.contrast)


def path_loss(logs: Tensor, there: Tensor) -> Tensor:
    """−log Σ_j p_j, mean over the n rows. logs: [n, J] log p of each path.   there: [n, J] False for no path."""
    return -torch.logsumexp(logs.masked_fill(~there, -torch.inf), 1).mean()


def fit_deep_retrieval(inputs: Inputs, plan: DeepPlan, seed: int, folder: Path) -> Fitted:
    """Trains on the positives of `inputs.train` and writes user.onnx into `folder`.

    Items without a positive get no path: nothing is known of who wants them.
    """
    towers = Towers(inputs.layout, plan.contrast.towers, numbers_of(inputs), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    net = DeepNet(towers, Paths(plan.shape, plan.contrast.towers.vector_size, generator))
    positive = acted_rows(inputs.train, plan.contrast.positives)
    extra = (plan.contrast.extra_negatives, plan.contrast.extra_exponent)
    drawer = Drawer(inputs.train, positive, inputs.since, extra, seed)
    rounds = _Rounds(inputs, net, drawer, plan, seed)
    maker = BatchMaker(inputs, drawer, plan.contrast, seed)
    problem = Problem(
        rows=drawer.per_request,
        batch=lambda requests: rounds.with_paths(maker.batch(requests), drawer, requests),
        loss=lambda batch: net.loss(batch, plan),
        judge=rounds.turn,
        name="deep retrieval",
        progress=inputs.progress,
        pieces=inputs.pieces,
    )
    report = train(net, problem, without_judge(plan.contrast.training, len(rounds.asked)), seed)
    export_user_tower(towers, inputs.layout, folder)
    with torch.no_grad():
        vectors = vectors_of(towers, inputs.catalog, np.arange(len(inputs.catalog))).numpy()
    paths = rounds.kept[report.best] if rounds.kept else rounds.paths
    return Fitted(net.paths.exported(), PathItems.of(paths), vectors, report)


class _Rounds:
    """The paths of all items, and what happens to them between two epochs. kept: the paths after each epoch."""

    def __init__(self, inputs: Inputs, net: DeepNet, drawer: Drawer, plan: DeepPlan, seed: int) -> None:
        self.inputs, self.net, self.drawer, self.plan, self.seed = inputs, net, drawer, plan, seed
        items = len(inputs.catalog)
        self.examples = np.bincount(inputs.train.item[drawer.rows], minlength=items)
        possible = plan.shape.width**plan.shape.depth
        self.paths = random_paths(np.flatnonzero(self.examples), items, (plan.assign.paths, possible), seed)
        self.kept: list[NDArray[np.int64]] = []
        self.rows, self.starts = positives_of(inputs.valid, plan.contrast)
        requests = np.flatnonzero(np.diff(self.starts))
        self.asked = spaced(requests, plan.contrast.judge_requests)

    def with_paths(self, batch: ContrastBatch, drawer: Drawer, requests: NDArray[np.int64]) -> PathBatch:
        """The batch with the paths that its positives have now."""
        paths = self.paths[drawer.wanted(requests)]
        shape = self.plan.shape
        bases = shape.width ** np.arange(shape.depth - 1, -1, -1)
        nodes = np.maximum(paths, 0)[:, :, None] // bases % shape.width
        return PathBatch(batch, tensor(nodes), tensor(paths >= 0))

    def turn(self) -> float:
        """Moves the items to better paths for the net as it is, and says what recall is with them.

        Scores are of this net alone: what one said that had hardly begun to learn would hold items together that
        nobody wants together. Items without an example among the requests drawn stay where they are.
        """
        net, plan = self.net.paths.exported(), self.plan.assign
        random = np.random.default_rng((self.seed, 2, len(self.kept)))
        scores = PathScores.empty(len(self.paths), plan.kept)
        requests = np.flatnonzero(self.drawer.per_request)
        requests = np.sort(random.permutation(requests)[: self.plan.scored])
        for part in blocks(requests, _REQUESTS_AT_ONCE):
            found = net.beam(self._users(self.inputs.train, part), plan.kept)
            rows = np.repeat(np.arange(len(part)), self.drawer.per_request[part])
            scores.add(self.drawer.wanted(part), rows, (found[0], np.exp(found[1])), plan.decay)
        self.paths = assign(scores, self.paths, self.examples, plan)
        self.kept.append(self.paths)
        good, bad = objective(scores, self.paths, self.examples, plan.alpha)
        _, sizes = np.unique(self.paths[self.paths >= 0], return_counts=True)
        largest = int(sizes.max(initial=0))
        log.info("paths", used=len(sizes), largest=largest, objective=round(good - bad, 1))
        return self._recall(net, PathItems.of(self.paths))

    def _recall(self, net: PathNet, items: PathItems) -> float:
        """Share of some validation positives among the k best items of their user's paths; 0 without such rows."""
        if not len(self.asked):
            return 0.0
        found, count = 0, 0
        every = np.arange(len(self.inputs.catalog))
        vectors = vectors_of(self.net.towers, self.inputs.catalog, every).numpy(force=True)
        for part in blocks(self.asked, _REQUESTS_AT_ONCE):
            users = self._users(self.inputs.valid, part)
            paths, _ = net.beam(users, self.plan.beam)
            for row, request in enumerate(part):
                wanted = self.inputs.valid.item[self.rows[self.starts[request] : self.starts[request + 1]]]
                near = items.on(paths[row])
                best = np.argsort(-(vectors[near] @ users[row]), kind="stable")[: self.plan.contrast.judge_k]
                found += int(np.isin(wanted, near[best]).sum())
                count += len(wanted)
        return found / count

    def _users(self, samples: Samples, requests: NDArray[np.int64]) -> NDArray[np.float32]:
        batch = self.inputs.batch(samples, requests)
        sides = (tensor(batch.user_codes), tensor(batch.user_dense), tensor(batch.history_codes))
        users = self.net.towers.users(*placed(sides, device_of(self.net)))
        vectors: NDArray[np.float32] = users.numpy(force=True)
        return vectors
