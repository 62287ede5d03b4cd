"""Two towers: the user's vector, made at request time, searches the vectors that all items were given in training.

    user codes, numbers, mean of the history ─ user tower ─┐
                                                           cosine → FAISS → items
    item codes, numbers that do not change  ─ item tower ──┘

The towers meet only in the cosine; with several `interests` a user has several vectors, and the nearest of them counts.
The index lies in the same artifact as the towers that made it, so a user vector can never meet item vectors of another
training. Items published since go through the item tower once, when they are first seen, and are searched beside the
index. In training no item is a negative of a request that it was not there for.
(Yi et al., RecSys 2019; Covington et al., RecSys 2016.)
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tamis.config import AboveZero, AtLeastOne, AtLeastZero, Config, NotNegative, Share, ShareBelowOne, StepConfig
from tamis.errors import ConfigError
from tamis.facts import load_facts, save_facts
from tamis.features.batch import user_side
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.index.vectors import Vectors, VectorsConfig
from tamis.nets.door import nets_module
from tamis.nets.folder import NetFolder
from tamis.nets.item_vectors import FreshVectors, item_vectors
from tamis.nets.plans import Device, TrainingPlan, plan_of
from tamis.nets.session import Session
from tamis.nets.tower_plan import ContrastPlan, LossPlan, TowerPlan, ViewsPlan
from tamis.recall.tuning import request_vectors
from tamis.types import Candidates, Catalog, Query

_LAYOUT_FILE: Final = "layout.json"


class SelfSupervisedConfig(Config, frozen=True):
    """A second task of the item tower, for items with few positives; see `nets.self_supervised`."""

    weight: NotNegative = 0.0  # of its loss beside that of the positives; 0 = no such task
    mask: Literal["random", "dropout", "complementary", "correlated"] = "correlated"
    share: Share = 0.5  # of the fields hidden (random), or of a list's values dropped (dropout)
    items: AtLeastOne = 256  # drawn evenly from the catalogue for each step
    temperature: AboveZero = 0.1  # its cosines are divided by it


class TwoTowerConfig(StepConfig, frozen=True, tag="two_tower"):
    """How the towers look, how they are trained, how they are searched."""

    limit: AtLeastZero = 300  # items per request
    positives: tuple[str, ...] = ("click",)  # actions that make a shown item a positive
    objectives: bool = False  # each action of `positives` has a vector of the user's of its own, which it alone teaches
    vector_size: int = 32  # width of the vectors that meet
    embedding_size: int = 16  # width of one feature's embedding
    user_layers: tuple[int, ...] = (128, 64)  # hidden layers of the user tower
    item_layers: tuple[int, ...] = (64,)  # hidden layers of the item tower
    interests: AtLeastOne = 1  # vectors that a user gets; an item is as near as the nearest of them says
    pooling: str = "mean"  # of the history; nothing else can be searched for in an index
    loss: Literal["listwise", "pointwise", "pairwise_hinge", "pairwise_logistic"] = "listwise"
    temperature: AboveZero = 0.07  # listwise: cosines are divided by it in training
    margin: AboveZero = 0.2  # pairwise_hinge: a positive's cosine is to be so much larger than a negative's
    scale: AboveZero = 10.0  # pointwise and pairwise_logistic: cosines are multiplied by it
    negatives_each: AboveZero = 3.0  # pointwise: what all negatives of a positive weigh, itself being 1
    log_q: float = 1.0  # share of the correction for popularity: 1 weighs the catalogue evenly, 0 punishes the popular
    extra_negatives: int = 512  # items drawn for each batch besides its own
    extra_exponent: float = 0.75  # … with probability ∝ (positives + 1) ^ this
    hard_share: ShareBelowOne = 0.0  # of the weight of a request's negatives; 0 = no hard ones
    hard_negatives: AtLeastOne = 4  # of each request: what the last bundle's funnel found for the user and cut
    self_supervised: SelfSupervisedConfig = SelfSupervisedConfig()  # a second task, for items with few positives
    unknown_share: ShareBelowOne = 0.1  # share of rows trained without their id, for users and items that are new
    epochs: int = 10  # most passes over the positives
    patience: int = 2  # epochs without a better validation recall before stopping
    batch_size: int = 512  # positives per step
    learning_rate: float = 1e-3  # of the layers
    embedding_learning_rate: float = 5e-3  # of the embedding table
    threads: int = 1  # of torch in training; another number gives other last digits
    device: Device = "auto"  # of training; "auto": a graphics card if there is one, else the processor
    index: VectorsConfig = VectorsConfig()  # how the item vectors are searched

    def __post_init__(self) -> None:
        try:
            self.plan()
        except ConfigError as error:
            raise ValueError(str(error)) from None  # so that the path of the section is put before it

    def plan(self) -> ContrastPlan:
        """The same as values for the nets. Raises ConfigError for towers that cannot be."""
        if self.objectives and self.interests > 1:
            raise ConfigError("interests: with objectives a user has one vector for each, leave it at 1")
        count = len(self.positives) if self.objectives else self.interests
        towers, training = plan_of(TowerPlan, self, interests=count), plan_of(TrainingPlan, self)
        loss, views = plan_of(LossPlan, self), plan_of(ViewsPlan, self.self_supervised)
        return plan_of(ContrastPlan, self, towers=towers, training=training, loss=loss, views=views)


@dataclass(frozen=True, slots=True)
class TwoTower:
    """Both towers as exported nets, the item vectors with their index, and the vectors of items published since."""

    config: TwoTowerConfig
    layout: Layout
    nets: NetFolder
    user_tower: Session
    index: Vectors  # row = item number of the bundle
    fresh: FreshVectors

    @classmethod
    def fit(cls, config: TwoTowerConfig, inputs: Inputs, seed: int) -> Self:
        """Trains on the positives of `inputs.train`; recall on `inputs.valid` says when to stop.

        Raises ConfigError when the data knows none of `config.positives`, or when torch is not installed.
        """
        nets = NetFolder.temporary()
        nets_module("contrast").fit_two_towers(inputs, config.plan(), seed, nets.path)
        user_tower, item_tower = _open(nets.path)
        vectors = item_vectors(item_tower, inputs.catalog.features(np.arange(len(inputs.catalog))))
        asked = request_vectors(inputs, user_tower, config.index.recall_queries)
        index = Vectors.build(vectors, config.index, config.limit or len(vectors), asked, seed)
        return cls(config, inputs.layout, nets, user_tower, index, FreshVectors(item_tower, len(vectors)))

    def update(self, inputs: Inputs, seed: int) -> Self:
        """The part after incremental training on `inputs.train`: only the embeddings of user ids have moved.

        Index and item vectors are the same. Raises ConfigError when no user feature is an id.
        """
        nets = NetFolder.temporary()
        nets_module("increment").move_user_ids(inputs, self.config.plan(), seed, (self.nets.path, nets.path))
        return replace(self, nets=nets, user_tower=_open(nets.path)[0])

    def recall(self, query: Query) -> Candidates:
        """The items of largest cosine, best first, with column `similarity`; also for a user without id or history."""
        wanted = self.config.limit or len(query.catalog)
        ids, scores = best_of_all(*self._searched(query.catalog).search(self.user_vectors(query), wanted))
        there = (ids >= 0) & (ids < len(query.catalog))
        return Candidates(ids[there][:wanted], {"similarity": scores[there][:wanted]})

    def user_vectors(self, query: Query) -> NDArray[np.float32]:
        """[interests, d], each of length 1: what the user tower makes of the query."""
        run = self.user_tower.run(**user_side(self.layout, query))
        return run["vector"].reshape(-1, self.index.width)

    def similar(
        self, item: int, size: int, catalog: Catalog | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids, cosines) of the `size` items nearest to `item`, best first; empty for an item that has no vector.

        catalog: the snapshot that the numbers belong to; without it items published since the bundle are unknown.
        """
        index = self.index if catalog is None else self._searched(catalog)
        if not 0 <= item < len(index) or size <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        ids, scores = index.search(index.take(np.array([item])), min(size, len(index) - 1) + 1)
        others = (ids[0] >= 0) & (ids[0] != item)
        return ids[0, others][:size], scores[0, others][:size]

    def _searched(self, catalog: Catalog) -> Vectors:
        """The index, with the vectors of the catalogue's fresh items beside it."""
        if len(catalog) <= len(self.index.main):
            return self.index
        return self.index.with_fresh(self.fresh.of(catalog))

    def save(self, folder: Path) -> None:
        """Writes both nets, the index and the layout."""
        self.nets.copy_to(folder)
        self.index.save(folder)
        save_facts(folder / _LAYOUT_FILE, self.layout)

    @classmethod
    def load(cls, config: TwoTowerConfig, folder: Path) -> Self:
        """The saved part, weights and vectors memory-mapped. Raises ArtifactError."""
        layout = load_facts(folder / _LAYOUT_FILE, Layout)
        user_tower, item_tower = _open(folder)
        index = Vectors.load(folder)
        return cls(config, layout, NetFolder(folder), user_tower, index, FreshVectors(item_tower, len(index.main)))


def best_of_all(ids: NDArray[np.int64], scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(ids, scores) of the answers [b, k] to several queries in one list, each id once with its largest score.

    Best first, ties by lower id; an answer to one query stays as it is.
    """
    if len(ids) == 1:
        return ids[0], scores[0]
    flat, score = ids.ravel(), scores.ravel()
    order = np.lexsort((flat, -score))
    _, first = np.unique(flat[order], return_index=True)
    chosen = order[np.sort(first)]
    return flat[chosen], score[chosen]


def _open(folder: Path) -> tuple[Session, Session]:
    return Session.open(folder / "user.onnx"), Session.open(folder / "item.onnx")
