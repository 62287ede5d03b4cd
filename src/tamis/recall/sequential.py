"""Sequential: what a user did, in its order, made one vector by attention, searches the vectors of all items.

    last N items, oldest first → their vectors → attention blocks → user vector → cosine → items

A net is trained to tell each entry of each timeline from those before it (`nets.sequential`). The vectors it reads of a
history are the rows of the index it searches, so there is one table and it cannot disagree with itself. Items without
a row (nobody acted on them before training ended) are passed over in histories and never found.
(SASRec: Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import AboveZero, AtLeastOne, AtLeastZero, StepConfig
from tamis.data.picks import evenly
from tamis.data.samples import Timeline
from tamis.errors import ConfigError
from tamis.features.inputs import Inputs
from tamis.index.vectors import VectorsConfig
from tamis.nets.door import nets_module
from tamis.nets.folder import NetFolder
from tamis.nets.next_item_plans import Sequences, SequentialPlan
from tamis.nets.plans import Device, TrainingPlan, plan_of
from tamis.nets.session import Session
from tamis.recall.ascending import rows_among
from tamis.recall.known_items import KnownItems
from tamis.types import ACTION_CODE, Candidates, Catalog, History, Query


class SequentialConfig(StepConfig, frozen=True, tag="sequential"):
    """What a sequence is made of, how the net looks and is trained, how its vectors are searched."""

    limit: AtLeastZero = 300  # items per request
    positives: tuple[str, ...] = ("click",)  # actions that make up a sequence; the history has to hold them
    length: AtLeastOne = 200  # newest entries of a history that are looked at
    vector_size: AtLeastOne = 64  # width of users' and items' vectors; a multiple of attention_heads
    blocks: AtLeastOne = 2  # of attention and feed-forward, one after the other
    attention_heads: AtLeastOne = 2  # of each block
    hidden_size: AtLeastOne = 128  # width inside the feed-forward
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.2  # share of numbers set to 0 in training, in steps of 1/256
    temperature: AboveZero = 0.07  # cosines are divided by it in training
    negatives: AtLeastOne = 8192  # items drawn for each batch besides its own; a smaller catalogue counts whole
    epochs: int = 20  # most passes over the sequences
    patience: int = 2  # epochs without a better validation NDCG before stopping
    batch_size: int = 1600  # entries per step
    learning_rate: float = 2e-3  # of the blocks; falls to a twentieth
    embedding_learning_rate: float = 4e-3  # of the item vectors; falls as well
    threads: int = 1  # of torch in training; another number gives other last digits
    device: Device = "auto"  # of training; "auto": a graphics card if there is one, else the processor
    index: VectorsConfig = VectorsConfig()  # how the item vectors are searched

    def __post_init__(self) -> None:
        try:
            self.plan()
        except ConfigError as error:
            raise ValueError(str(error)) from None  # so that the path of the section is put before it

    def plan(self) -> SequentialPlan:
        """The same as values for the net. Raises ConfigError for a net that cannot be."""
        return plan_of(SequentialPlan, self, training=plan_of(TrainingPlan, self, decay_to=0.05))


@dataclass(frozen=True, slots=True)
class Sequential:
    """The exported net and the vectors it reads and searches.   actions: [a] codes of what makes up a sequence."""

    config: SequentialConfig
    nets: NetFolder
    user_net: Session
    known: KnownItems
    actions: NDArray[np.uint8]

    @classmethod
    def fit(cls, config: SequentialConfig, inputs: Inputs, seed: int) -> Self:
        """Trains on all timelines up to `inputs.valid`; what users did next, from there on, says when to stop.

        Raises ConfigError when the history of the features holds none of `config.positives`, or without torch.
        """
        remembered = inputs.encoder.learnt.config.history.actions
        actions = np.array([ACTION_CODE[name] for name in config.positives if name in remembered], np.uint8)
        if not len(actions):
            raise ConfigError(
                f"sequential: positives {list(config.positives)}, but features.history.actions are {list(remembered)}: "
                "wanted one that is in both, since a request has no other past"
            )
        items, sequences = sequences_of(inputs, actions)
        nets = NetFolder.temporary()
        vectors, _ = nets_module("sequential").fit_sequential(
            sequences, config.plan(), seed, nets.path, inputs.progress, inputs.journal
        )
        user_net = _open(nets.path)
        asked = [user_net.run(entries=vectors[rows])["vector"] for rows in _pasts(sequences, config)]
        queries = np.concatenate([vectors[:0], *asked])
        known = KnownItems.build(items, vectors, config.limit, queries, (config.index, seed))
        return cls(config, nets, user_net, known, actions)

    def recall(self, query: Query) -> Candidates:
        """The items that are most likely next, best first, with column `similarity`, those of his history left out.

        Nobody's past gives nothing: what everybody likes is another channel's answer.
        """
        rows = self.history_rows(query.history)
        if not len(rows):
            return Candidates.empty()
        user = self.user_net.run(entries=self.known.index.take(rows))["vector"]
        return self.known.nearest(user, self.config.limit, query.history.items, query.catalog)

    def history_rows(self, history: History) -> NDArray[np.int64]:
        """[h ≤ length] rows of what the net reads of a history, oldest first; see `sequences_of`."""
        rows = self.known.rows(history.items[np.isin(history.actions, self.actions)])
        rows = rows[rows >= 0][::-1]
        return rows[_first_of_runs(rows)][-self.config.length :]

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of the `size` items nearest to `item`, best first; empty for one that has no vector.

        catalog: not needed, since items published after the training have no vector.
        """
        return self.known.similar(item, size)

    def save(self, folder: Path) -> None:
        """Writes the net and the vectors with their index."""
        self.nets.copy_to(folder)
        self.known.save(folder)
        save_arrays(folder, actions=self.actions)

    @classmethod
    def load(cls, config: SequentialConfig, folder: Path) -> Self:
        """The saved part, weights and vectors memory-mapped. Raises ArtifactError."""
        known, actions = KnownItems.load(folder), load_array(folder, "actions")
        return cls(config, NetFolder(folder), _open(folder), known, actions)


def sequences_of(inputs: Inputs, actions: NDArray[np.uint8]) -> tuple[NDArray[np.int64], Sequences]:
    """(items [v] that occur before validation begins, ascending; what every user did with them).

    An entry is an event with one of the actions; one right after another with the same item (a like after the click) is
    left out. Entries from the first validation request on are held out.
    """
    timeline = Timeline.of(inputs.events, len(inputs.users.codes), actions.tolist())
    early = timeline.time < (inputs.valid.time.min() if len(inputs.valid) else np.inf)
    items = np.unique(timeline.item[early]).astype(np.int64)
    users = np.arange(len(timeline.starts) - 1)
    owner, rows = np.repeat(users, np.diff(timeline.starts)), rows_among(items, timeline.item.astype(np.int64))
    owner, rows, early = owner[rows >= 0], rows[rows >= 0], early[rows >= 0]
    stay = _first_of_runs(rows) | (np.diff(owner, prepend=-1) != 0)
    owner, rows, early = owner[stay], rows[stay], early[stay]
    starts = np.searchsorted(owner, np.append(users, len(users)))
    learnt = starts[:-1] + np.bincount(owner[early], minlength=len(users))
    return items, Sequences(rows, starts, learnt, len(items))


def _pasts(sequences: Sequences, config: SequentialConfig) -> Iterator[NDArray[np.int64]]:
    """Rows of what the net reads of the histories of some users where learning ends, to tune the index by."""
    starts, ends = sequences.starts[:-1], sequences.learnt
    for user in evenly(np.flatnonzero(ends > starts), config.index.recall_queries).tolist():
        yield sequences.items[starts[user] : ends[user]][-config.length :]


def _first_of_runs(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True where a row is not the same as the one before it."""
    first: NDArray[np.bool_] = np.diff(rows, prepend=-1) != 0
    return first


def _open(folder: Path) -> Session:
    return Session.open(folder / "user.onnx")
