"""YouTube-DNN: a net trained to name the next item among all, asked for the items nearest to what it would say.

    mean of the history, profile, context, numbers, example age → hidden layers → user vector → cosine → items

Two towers with an item side of nothing but the id: it learns what watching an item means, and knows nothing of items
that were not there. What an example's user side holds lies before the example, its label is what came next, and each
user brings at most so many examples. Example age is 0 at request time (see `nets.youtube`).
(Covington, Adams and Sargin, "Deep neural networks for YouTube recommendations", RecSys 2016. The paper has no user
id; whether this net reads one is said by [features.user], and a share of examples is trained without.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from tamis.config import AboveZero, AtLeastOne, AtLeastZero, ShareBelowOne, StepConfig
from tamis.facts import load_facts, save_facts
from tamis.features.batch import user_side
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.index.vectors import VectorsConfig
from tamis.nets.door import nets_module
from tamis.nets.folder import NetFolder
from tamis.nets.next_item_plans import YoutubePlan
from tamis.nets.plans import Device, TrainingPlan, plan_of
from tamis.nets.session import Session
from tamis.recall.known_items import KnownItems
from tamis.recall.tuning import request_vectors
from tamis.types import Candidates, Catalog, Query

_LAYOUT_FILE: Final = "layout.json"


class YoutubeDnnConfig(StepConfig, frozen=True, tag="youtube_dnn"):
    """What is an example, how the net looks and is trained, how its vectors are searched."""

    limit: AtLeastZero = 300  # items per request
    positives: tuple[str, ...] = ("click",)  # actions that make a row an example
    user_examples: AtLeastZero = 100  # most examples of one user, drawn by the seed; 0 = all
    vector_size: AtLeastOne = 64  # width of users' and items' vectors
    embedding_size: AtLeastOne = 32  # width of one feature's embedding
    user_layers: tuple[int, ...] = (256, 128)  # hidden layers of the user's net
    temperature: AboveZero = 0.07  # cosines are divided by it in training
    negatives: AtLeastOne = 8192  # items drawn for each batch besides its own; a smaller catalogue counts whole
    unknown_share: ShareBelowOne = 0.1  # share of examples trained without the user's id
    epochs: int = 10  # most passes over the examples
    patience: int = 2  # epochs without a better validation recall before stopping
    batch_size: int = 512  # examples per step
    learning_rate: float = 1e-3  # of the layers
    embedding_learning_rate: float = 5e-3  # of the embeddings and the item vectors
    threads: int = 1  # of torch in training; another number gives other last digits
    device: Device = "auto"  # of training; "auto": a graphics card if there is one, else the processor
    index: VectorsConfig = VectorsConfig()  # how the item vectors are searched

    def plan(self) -> YoutubePlan:
        """The same as values for the net."""
        return plan_of(YoutubePlan, self, training=plan_of(TrainingPlan, self))


@dataclass(frozen=True, slots=True)
class YoutubeDnn:
    """The exported user's net and the item vectors."""

    config: YoutubeDnnConfig
    layout: Layout
    nets: NetFolder
    user_net: Session
    known: KnownItems

    @classmethod
    def fit(cls, config: YoutubeDnnConfig, inputs: Inputs, seed: int) -> Self:
        """Trains on the positives of `inputs.train`; recall on `inputs.valid` says when to stop.

        Raises ConfigError when the data knows none of `config.positives`, or when torch is not installed.
        """
        nets = NetFolder.temporary()
        items, vectors, _ = nets_module("youtube").fit_youtube(inputs, config.plan(), seed, nets.path)
        user_net = _open(nets.path)
        asked = request_vectors(inputs, user_net, config.index.recall_queries)
        known = KnownItems.build(items, vectors, config.limit, asked, (config.index, seed))
        return cls(config, inputs.layout, nets, user_net, known)

    def recall(self, query: Query) -> Candidates:
        """The items that are most likely next, best first, with column `similarity`, those of his history left out.

        Also for a user without id or history: then by profile and context alone.
        """
        user = self.user_net.run(**user_side(self.layout, query))["vector"]
        return self.known.nearest(user, self.config.limit, query.history.items, query.catalog)

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of the `size` items nearest to `item`, best first; empty for one that has no vector.

        catalog: not needed, since items published after the training have no vector.
        """
        return self.known.similar(item, size)

    def save(self, folder: Path) -> None:
        """Writes the net, the vectors with their index, and the layout."""
        self.nets.copy_to(folder)
        self.known.save(folder)
        save_facts(folder / _LAYOUT_FILE, self.layout)

    @classmethod
    def load(cls, config: YoutubeDnnConfig, folder: Path) -> Self:
        """The saved part, weights and vectors memory-mapped. Raises ArtifactError."""
        layout = load_facts(folder / _LAYOUT_FILE, Layout)
        return cls(config, layout, NetFolder(folder), _open(folder), KnownItems.load(folder))


def _open(folder: Path) -> Session:
    return Session.open(folder / "user.onnx")
