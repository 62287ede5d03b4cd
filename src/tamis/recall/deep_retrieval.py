"""Deep Retrieval: a net says which paths a user wants, beam search finds the likeliest, an index says what is on them.

    user codes, numbers, mean of the history ─ user tower ─ x ─ beam search through D layers of K nodes → B paths
                                                             └─ · item vectors: the order among the items on them

No item is compared that is not on one of the B paths. An item may be on several paths; which ones is learnt in turn
with the net. It has none, and does not come out of this channel, when it was published after the training or had no
positive in it: new items are for other channels. User tower, path net, index and vectors lie in one artifact, so
that paths of one round never meet the net of another. (Gao et al., CIKM 2021.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.artifact import load_array, save_arrays
from tamis.config import AboveZero, AtLeastZero, ShareBelowOne, StepConfig
from tamis.errors import ConfigError
from tamis.facts import load_facts, save_facts
from tamis.features.batch import user_side
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.nets.door import nets_module
from tamis.nets.folder import NetFolder
from tamis.nets.path_plan import AssignPlan, DeepPlan, PathShape, Penalty
from tamis.nets.paths import PathItems, PathNet
from tamis.nets.plans import Device, TrainingPlan, plan_of
from tamis.nets.session import Session
from tamis.nets.tower_plan import ContrastPlan, LossPlan, TowerPlan
from tamis.recall.neighbours import best
from tamis.types import Candidates, Query

_LAYOUT_FILE: Final = "layout.json"
_USER_TOWER: Final = "user.onnx"


class DeepRetrievalConfig(StepConfig, frozen=True, tag="deep_retrieval"):
    """How the paths look, how items find theirs, how the net is trained."""

    limit: AtLeastZero = 300  # items per request
    positives: tuple[str, ...] = ("click",)  # actions that make a shown item a positive
    depth: int = 3  # layers of the structure
    width: int = 0  # nodes of a layer; 0 = the least with width ** depth ≥ 20 times the items
    beam: int = 100  # paths kept in view per layer, and read in the end; more finds more and costs more
    paths: int = 3  # most paths of one item
    penalty: Penalty = "paper"  # what a full path costs: the paper's rule or the course's
    alpha: float = 1e-3  # weight of that cost; one rule's says nothing for the other's
    kept: int = 64  # best-scored paths remembered per item while training
    decay: float = 0.999  # an item's path scores shrink by this with each of its examples
    sweeps: int = 3  # rounds of the assignment after each epoch
    scored: int = 30_000  # training requests that score paths after each epoch, drawn anew each time
    hidden: int = 64  # width of the hidden layer before each layer's choice of a node
    vector_size: int = 32  # width of the user's and the items' vectors
    embedding_size: int = 16  # width of one feature's embedding
    user_layers: tuple[int, ...] = (128, 64)  # hidden layers of the user tower
    item_layers: tuple[int, ...] = (64,)  # hidden layers of the item tower
    temperature: AboveZero = 0.07  # cosines are divided by it in the softmax that trains the vectors
    log_q: float = 1.0  # share of the correction for popularity there
    extra_negatives: int = 512  # items drawn for each batch besides its own
    extra_exponent: float = 0.75  # … with probability ∝ (positives + 1) ^ this
    unknown_share: ShareBelowOne = 0.1  # share of rows trained without their id, for users that are new
    epochs: int = 10  # most passes over the positives; items change paths after each
    patience: int = 2  # epochs without a better validation recall before stopping
    batch_size: int = 512  # positives per step
    learning_rate: float = 1e-3  # of the layers
    embedding_learning_rate: float = 5e-3  # of the embedding table
    threads: int = 1  # of torch in training; another number gives other last digits
    device: Device = "auto"  # of training; "auto": a graphics card if there is one, else the processor

    def __post_init__(self) -> None:
        try:
            self.plan(1)
        except ConfigError as error:
            raise ValueError(str(error)) from None  # so that the path of the section is put before it

    def plan(self, items: int) -> DeepPlan:
        """The same as values for the nets, for a catalogue of so many items. Raises ConfigError for what cannot be."""
        towers, training = plan_of(TowerPlan, self), plan_of(TrainingPlan, self)
        loss = plan_of(LossPlan, self)
        contrast = plan_of(ContrastPlan, self, towers=towers, training=training, loss=loss, judge_requests=500)
        shape = PathShape.of(self.depth, self.width, self.hidden, items)
        return plan_of(DeepPlan, self, contrast=contrast, shape=shape, assign=plan_of(AssignPlan, self))


@dataclass(frozen=True, slots=True)
class DeepRetrieval:
    """The exported user tower, the path net, the items on each path and the vectors [i, d] of all items."""

    config: DeepRetrievalConfig
    layout: Layout
    nets: NetFolder
    user_tower: Session
    paths: PathNet
    items: PathItems
    vectors: NDArray[np.float32]

    @classmethod
    def fit(cls, config: DeepRetrievalConfig, inputs: Inputs, seed: int) -> Self:
        """Trains net and paths in turn on the positives of `inputs.train`; recall on `inputs.valid` picks the round.

        Raises ConfigError when the data knows none of `config.positives`, or when torch is not installed.
        """
        nets = NetFolder.temporary()
        plan = config.plan(len(inputs.items_there))
        fitted = nets_module("deep_retrieval").fit_deep_retrieval(inputs, plan, seed, nets.path)
        tower = Session.open(nets.path / _USER_TOWER)
        return cls(config, inputs.layout, nets, tower, fitted.paths, fitted.items, fitted.vectors)

    def recall(self, query: Query) -> Candidates:
        """The items on the user's likeliest paths by cosine with his vector, best first; column `score` is the cosine.

        Empty when nothing is on those paths. Equal ones are ordered by the lower item number.
        """
        user = self.user_vector(query)
        found, _ = self.paths.beam(user, self.config.beam)
        items = self.items.on(found[0])
        items = items[items < len(query.catalog)]
        score = self.vectors.take(items, axis=0) @ user[0]  # in a third of the time of [items]
        items, score = best(items, score, self.config.limit)
        return Candidates(items, {"score": score})

    def user_vector(self, query: Query) -> NDArray[np.float32]:
        """[1, d] of length 1: what the user tower makes of the query."""
        return self.user_tower.run(**user_side(self.layout, query))["vector"]

    def save(self, folder: Path) -> None:
        """Writes the user tower, the path net, the items on each path, the vectors and the layout."""
        self.nets.copy_to(folder)
        self.paths.save(folder)
        self.items.save(folder)
        save_arrays(folder, vectors=self.vectors)
        save_facts(folder / _LAYOUT_FILE, self.layout)

    @classmethod
    def load(cls, config: DeepRetrievalConfig, folder: Path) -> Self:
        """The saved part, weights and arrays memory-mapped. Raises ArtifactError."""
        layout = load_facts(folder / _LAYOUT_FILE, Layout)
        tower, vectors = Session.open(folder / _USER_TOWER), load_array(folder, "vectors")
        return cls(config, layout, NetFolder(folder), tower, PathNet.load(folder), PathItems.load(folder), vectors)
