"""The user as what he did, in order: attention that looks back over the timeline, trained to tell the next item.

    vectors of the last N items, oldest first → blocks of causal attention and feed-forward → vector to search with

Every entry of a sequence is an example at once: what stands at place t is made of the entries up to t and is to pick
out entry t + 1. The vectors that are read are the ones that are searched. How far an entry lies back enters as a learnt
bias on the attention, so nothing depends on where a window begins and no history is padded to a length: all that is
done entry by entry is done for the entries that exist.

(SASRec: Kang and McAuley, ICDM 2018; softmax over all items in place of one negative: Klenitskiy and Vasilev, "Turning
dross into gold loss", RecSys 2023; the bias: Raffel et al., JMLR 2020, with one step per entry.)
"""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tamis.data.picks import ranges, spaced
from tamis.features.inputs import NO_JOURNAL, Journal
from tamis.nets.batch import tensor
from tamis.nets.device import device_of, placed
from tamis.nets.embed import Table
from tamis.nets.export import export
from tamis.nets.layers import linear
from tamis.nets.loop import Problem, Report, train
from tamis.nets.next_item_plans import Sequences, SequentialPlan
from tamis.nets.softmax import Draw, cross_entropy, ranks, unit_rows
from tamis.nets.tower_plan import without_judge
from tamis.types import Progress

_MASKED: Final = -1e4  # finite: a padded row sees nothing and must still have a gradient
_SCORES_AT_ONCE: Final = 1 << 22


class Places(NamedTuple):
    """Where the entries of b sequences, one after the other, lie in a block [b, n] with room for the longest.

    at: [e] places in the flattened block.
    """

    at: Tensor
    b: int
    n: int

    @staticmethod
    def of(lengths: NDArray[np.int64]) -> "Places":
        n = int(lengths.max(initial=0))
        return Places(tensor(ranges(np.arange(len(lengths)) * n, lengths)), len(lengths), n)


class Dropout(nn.Module):
    """Sets a share of numbers to 0 in training, by a generator of its own; bytes are drawn faster than floats."""

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self.level = round(share * 256)
        self.random = np.random.default_rng((seed, 3))

    def forward(self, values: Tensor) -> Tensor:
        """The same shape."""
        if not self.training or not self.level:
            return values
        drawn = np.frombuffer(self.random.bytes(values.numel()), np.uint8).reshape(values.shape)
        factors = tensor((drawn >= self.level) * np.float32(256 / (256 - self.level)))
        return values * factors.to(values.device)


class Block(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x), over entries [e, d]."""

    def __init__(self, plan: SequentialPlan, drop: Dropout, generator: torch.Generator) -> None:
        super().__init__()
        size = plan.vector_size
        self.heads, self.drop = plan.attention_heads, drop
        self.before_attention, self.before_hidden = nn.LayerNorm(size), nn.LayerNorm(size)
        self.sides = linear(size, 3 * size, generator)  # queries, keys, values
        self.mix = linear(size, size, generator)
        self.hidden = linear(size, plan.hidden_size, generator)
        self.back = linear(plan.hidden_size, size, generator)
        self.by_distance = nn.Parameter(torch.zeros(plan.attention_heads, plan.length))

    def forward(self, entries: Tensor, places: Places | None) -> Tensor:
        """[e, d].   places: None = all entries are of one sequence."""
        return self._grown(entries, self._attention(self.sides(self.before_attention(entries)), places))

    def newest(self, entries: Tensor) -> Tensor:
        """[1, d] the last row of `forward`, without the work for the others; entries [e ≥ 1, d] of one sequence."""
        sides = self.sides(self.before_attention(entries))
        return self._grown(entries[-1:], self._looked(sides, 1, sides.shape[0], newest=True))

    def _grown(self, entries: Tensor, seen: Tensor) -> Tensor:
        """[e, d] entries with what attention and feed-forward add to them."""
        entries = entries + self.drop(self.mix(seen))
        hidden = self.drop(nn.functional.gelu(self.hidden(self.before_hidden(entries))))
        out: Tensor = entries + self.drop(self.back(hidden))
        return out

    def _attention(self, sides: Tensor, places: Places | None) -> Tensor:
        """[e, d] from queries, keys and values side by side: each entry looks at itself and those before it."""
        if places is None:
            return self._looked(sides, 1, sides.shape[0])
        block = sides.new_zeros(places.b * places.n, sides.shape[1]).index_copy(0, places.at, sides)
        return self._looked(block, places.b, places.n)[places.at]

    def _looked(self, block: Tensor, b: int, n: int, *, newest: bool = False) -> Tensor:
        """[b · n, d] from [b · n, 3 · d].   newest: [b, d], of each sequence what its last place looks at."""
        sides = block.view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = sides[0], sides[1], sides[2]
        place = torch.arange(n, device=block.device)
        looking = place
        if newest:
            query, looking = query[:, :, -1:], place[-1:]
        back = looking[:, None] - place
        bias = self.by_distance[:, back.clamp(min=0)].masked_fill(back < 0, _MASKED).unsqueeze(0)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, bias.expand(b, -1, -1, -1))
        return mixed.transpose(1, 2).reshape(-1, block.shape[1] // 3)


class SequentialNet(nn.Module):
    """The vectors of `count` items, and the blocks that make of a sequence of them a vector to search with."""

    def __init__(self, count: int, plan: SequentialPlan, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = Table(count + 1, plan.vector_size, generator)  # row 0 is no item
        self.drop = Dropout(plan.dropout, seed)
        self.blocks = nn.ModuleList(Block(plan, self.drop, generator) for _ in range(plan.blocks))
        self.norm = nn.LayerNorm(plan.vector_size)

    def items(self, rows: NDArray[np.int64]) -> Tensor:
        """[n, d] the vectors of items, each of length 1."""
        return unit_rows(self.table, rows)

    def forward(self, entries: Tensor, places: Places | None) -> Tensor:
        """[e, d] what each of the entries [e, d], with those before it, says of the next one."""
        entries = self.drop(entries)
        for block in self.blocks:
            entries = block(entries, places)
        return nn.functional.normalize(self.norm(entries), dim=1)

    def newest(self, entries: Tensor) -> Tensor:
        """[1, d] the last row of `forward`, of entries [e ≥ 1, d] of one sequence: all that a request reads."""
        entries = self.drop(entries)
        for block in self.blocks[:-1]:
            entries = block(entries, None)
        last: Tensor = self.blocks[-1].newest(entries)  # type: ignore[operator]
        return nn.functional.normalize(self.norm(last), dim=1)


class SequenceBatch(NamedTuple):
    """e entries of some windows, and what to tell apart; see `softmax.Drawn`."""

    items: NDArray[np.int64]  # [e] rows that are read
    places: Places
    drawn: NDArray[np.int64]  # [u] rows
    target: Tensor  # [e] columns of the next entries in `drawn`
    bias: Tensor  # [u]


def fit_sequential(
    sequences: Sequences,
    plan: SequentialPlan,
    seed: int,
    folder: Path,
    progress: Progress,
    journal: Journal = NO_JOURNAL,
) -> tuple[NDArray[np.float32], Report]:
    """(vectors [count, d] of the items, how it went): trains, and writes user.onnx into `folder`.

    user.onnx: entries [n, d], vectors of a history's items, oldest first, 1 ≤ n ≤ plan.length → vector [1, d].
    """
    net = SequentialNet(sequences.count, plan, seed)
    maker, judge = _BatchMaker(sequences, plan, seed), _Judge(sequences, plan)
    problem = Problem(
        rows=maker.lengths,
        batch=maker.batch,
        loss=lambda batch: batch_loss(net, batch, plan),
        judge=lambda: judge.ndcg(net),
        name="sequential",
        progress=progress,
        streams=maker.streams,
        journal=journal,
    )
    report = train(net, problem, without_judge(plan.training, len(judge.users)), seed)
    example = {"entries": torch.zeros(3, plan.vector_size)}
    export(_Newest(net), example, ["vector"], folder / "user.onnx", {"entries": {0: "entries"}})
    with torch.no_grad():
        return net.items(np.arange(sequences.count)).numpy(), report


def batch_loss(net: SequentialNet, batch: SequenceBatch, plan: SequentialPlan) -> Tensor:
    """The mean loss over the entries."""
    said = net(net.items(batch.items), batch.places) / plan.temperature
    return cross_entropy(said, net.items(batch.drawn), batch.target, batch.bias)


class _Newest(nn.Module):
    def __init__(self, net: SequentialNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, entries: Tensor) -> Tensor:
        return self.net.newest(entries)


class _BatchMaker:
    """Cuts what may be learnt into windows, from the newest entry backwards, and gathers batches of them.

    Called by one thread at a time.
    """

    def __init__(self, sequences: Sequences, plan: SequentialPlan, seed: int) -> None:
        read = np.maximum(sequences.learnt - sequences.starts[:-1] - 1, 0)  # the last one is only a target
        pieces = -(-read // plan.length)
        owner, piece = np.repeat(np.arange(len(read)), pieces), ranges(np.zeros(len(read), np.int64), pieces)
        end = (sequences.starts[:-1] + read)[owner] - piece * plan.length
        self.begin = np.maximum(end - plan.length, sequences.starts[:-1][owner])
        self.lengths = end - self.begin
        self.items = sequences.items
        self.draw = Draw(self.items[sequences.targets], sequences.count, plan.negatives, seed)

    @property
    def streams(self) -> list[np.random.Generator]:
        """What it draws from."""
        return self.draw.streams

    def batch(self, windows: NDArray[np.int64]) -> SequenceBatch:
        at = ranges(self.begin[windows], self.lengths[windows])
        drawn, target, bias = self.draw.of(self.items[at + 1])
        return SequenceBatch(self.items[at], Places.of(self.lengths[windows]), drawn, tensor(target), tensor(bias))


class _Judge:
    """NDCG@k of the first held-out entry of some users, all items competing that the user has not met before."""

    def __init__(self, sequences: Sequences, plan: SequentialPlan) -> None:
        self.sequences, self.plan = sequences, plan
        starts, learnt = sequences.starts, sequences.learnt
        users = np.flatnonzero((learnt > starts[:-1]) & (learnt < starts[1:]))
        self.users = spaced(users, plan.judge_users)

    def ndcg(self, net: SequentialNet) -> float:
        """0 without users to judge by."""
        items, starts, learnt = self.sequences.items, self.sequences.starts, self.sequences.learnt
        vectors = net.items(np.arange(self.sequences.count))
        block = max(1, min(256, _SCORES_AT_ONCE // max(1, len(vectors))))
        gain = 0.0
        for first in range(0, len(self.users), block):
            users = self.users[first : first + block]
            lengths = np.minimum(learnt[users] - starts[users], self.plan.length)
            places = placed(Places.of(lengths), device_of(net))
            said = net(net.items(items[ranges(learnt[users] - lengths, lengths)]), places)
            met = learnt[users] - starts[users]
            known = np.repeat(np.arange(len(users)), met), items[ranges(starts[users], met)]
            place = ranks(said[np.cumsum(lengths) - 1], vectors, items[learnt[users]], known)
            gain += float((1.0 / np.log2(place[place < self.plan.judge_k] + 2.0)).sum())
        return gain / max(1, len(self.users))
