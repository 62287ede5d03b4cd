"""Pre-ranking by three towers: thousands of candidates scored in well under a millisecond.

The user tower runs once per request; item vectors were computed when training ended and are gathered from a
memory-mapped array; only the cross tower (how an item does at the moment) and the small joining net run per candidate.
An item published since the bundle was made goes through the item tower once, when it is first seen.

Score: P(shown)^shown_power · Σ over heads weight · P(head); a rate per click counts as P(like) = p_click · p_like.
Rates are learnt from what was shown, but most candidates here never were, and among those a rate is a guess far from
the data. The head "shown" tells such items apart: it learns shown rows against rows drawn from the catalogue. Without
it the positives of a held-out day came out behind those of a popularity list (docs/results.md).
(After Ma et al., "Entire space multi-task model", SIGIR 2018.)
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import structlog
from numpy.typing import NDArray
from scipy.special import logit

from tamis.artifact import load_array, save_arrays
from tamis.config import Config, Share, ShareBelowOne, StepConfig
from tamis.data.unshown import SHOWN
from tamis.errors import ConfigError
from tamis.facts import load_facts, save_facts
from tamis.features.batch import query_dynamic, user_side
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.nets.door import nets_module
from tamis.nets.folder import NetFolder
from tamis.nets.item_vectors import FreshVectors, item_vectors
from tamis.nets.labels import TAUGHT, nothing_in, per_click_heads, unlearnable
from tamis.nets.plans import Device, TrainingPlan, plan_of
from tamis.nets.session import Session
from tamis.nets.tower_plan import LightPlan, TowerPlan
from tamis.types import WATCH_HEADS, Action, Candidates, Catalog, Columns, Query, gather

log = structlog.get_logger(__name__)
_FACTS_FILE: Final = "three_tower.json"


class ThreeTowerConfig(StepConfig, frozen=True, tag="three_tower"):
    """How the towers look and are trained, and what the score is made of."""

    heads: tuple[str, ...] = ("click", "like", "collect", "share")  # what is predicted; the data may know fewer
    per_click: Literal["auto", "always", "never"] = "auto"  # learn likes and the like from clicked rows only
    weights: dict[str, float] = {}  # head → weight in the score; 1 where none is given
    vector_size: int = 32  # width of the user's and the items' vectors
    embedding_size: int = 16  # width of one feature's embedding
    user_layers: tuple[int, ...] = (128, 64)  # hidden layers of the user tower: it runs once, it may be large
    item_layers: tuple[int, ...] = (64,)  # hidden layers of the item tower: it runs once per item
    cross_layers: tuple[int, ...] = (16,)  # layers of the cross tower: it runs per candidate, keep it small
    join_size: int = 32  # width of the layer where the towers meet: it runs per candidate too
    pooling: str = "mean"  # of the history; nothing else can be computed once per request
    unshown: int = 4  # rows drawn from the catalogue for each request, for the head "shown"; 0 = no such head
    shown_power: float = 1.0  # how much the score heeds the head "shown"; 0 = not at all
    distill: Share = 0.0  # share of what the ranker says in what is learnt, the rest being what happened
    unknown_share: ShareBelowOne = 0.1  # share of rows trained without their id, for users and items that are new
    epochs: int = 3  # most passes over the shown rows
    patience: int = 1  # epochs without a better validation loss before stopping
    batch_size: int = 1024  # rows per step
    learning_rate: float = 1e-3  # of the layers
    embedding_learning_rate: float = 1e-3  # of the embedding table
    threads: int = 1  # of torch in training; another number gives other last digits
    device: Device = "auto"  # of training; "auto": a graphics card if there is one, else the processor

    def __post_init__(self) -> None:
        if watched := sorted(set(self.heads) & set(WATCH_HEADS)):
            raise ValueError(f"heads names {watched}, which only the ranker learns; wanted actions")
        if unknown := sorted(set(self.weights) - set(self.heads)):
            raise ValueError(f"weights names {unknown}, not among the heads {list(self.heads)}")
        try:
            self.plan(self.heads, ())
        except ConfigError as error:
            raise ValueError(str(error)) from None  # so that the path of the section is put before it

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the step writes if the data teach all its heads."""
        heads = (*self.heads, SHOWN) if self.unshown else self.heads
        return (*(f"pre_{head}" for head in heads), "score")

    def plan(self, heads: tuple[str, ...], per_click: tuple[str, ...]) -> LightPlan:
        """The same as values for the nets, for the heads that can be learnt. Raises ConfigError for what cannot be."""
        towers, training = plan_of(TowerPlan, self), plan_of(TrainingPlan, self)
        return plan_of(LightPlan, self, towers=towers, training=training, heads=heads, per_click=per_click)


class ThreeTowerFacts(Config, frozen=True):
    """What goes with the saved nets.

    heads: in the order of the net's outputs.   per_click: those that are rates per click.
    dropped: configured heads that could not be learnt, with the reason.
    """

    layout: Layout
    heads: tuple[str, ...]
    per_click: tuple[str, ...]
    dropped: dict[str, str]


@dataclass(frozen=True, slots=True)
class ThreeTower:
    """The exported nets, the item vectors of the bundle and those of items published since."""

    config: ThreeTowerConfig
    facts: ThreeTowerFacts
    nets: NetFolder
    user_tower: Session
    join: Session
    vectors: NDArray[np.float32]  # [i, d] row = item number of the bundle
    fresh: FreshVectors

    @classmethod
    def fit(cls, config: ThreeTowerConfig, inputs: Inputs, seed: int) -> Self:
        """Trains on everything shown in `inputs.train`; a configured head that the data cannot teach is left out.

        Raises ConfigError when that leaves none, or when torch is not installed.
        """
        dropped = unlearnable(config.heads, inputs.train)
        heads = tuple(head for head in config.heads if head not in dropped)
        if not heads:
            raise ConfigError(f"three_tower.heads: {nothing_in(dropped)}")
        if dropped:
            log.warning("heads dropped", heads=dropped)
        per_click = per_click_heads(config.per_click, heads, inputs.train)
        nets = NetFolder.temporary()
        plan = config.plan(heads, per_click)
        if not inputs.item_statistics.totals().get(Action.IMPRESSION):  # the rows have drawn negatives already
            plan = replace(plan, unshown=0)
        if config.distill:
            inputs = _taught(inputs, heads, per_click)
        nets_module("three_towers").fit_three_towers(inputs, plan, seed, nets.path)
        heads = (*heads, SHOWN) if plan.unshown else heads
        user_tower, item_tower, join = _open(nets.path)
        vectors = item_vectors(item_tower, inputs.catalog.features(np.arange(len(inputs.catalog))))
        facts = ThreeTowerFacts(layout=inputs.layout, heads=heads, per_click=per_click, dropped=dropped)
        return cls(config, facts, nets, user_tower, join, vectors, FreshVectors(item_tower, len(vectors)))

    def score(self, query: Query, items: Candidates) -> Columns:
        """`score` and one column `pre_<head>` per head: the rate inside (0, 1), per click or per impression."""
        layout = self.facts.layout
        user = self.user_tower.run(**user_side(layout, query))["vector"]
        rates = self.join.run(
            user=user, items=self._vectors(query.catalog, items.ids), dynamic=query_dynamic(layout, query, items.ids)
        )["rates"]
        columns: dict[str, NDArray[Any]] = {f"pre_{name}": rates[:, at] for at, name in enumerate(self.facts.heads)}
        return {**columns, "score": fused(rates, self.facts, self.config)}

    def _vectors(self, catalog: Catalog, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """[n, d] of any items of the catalogue."""
        old = len(catalog) <= len(self.vectors)
        return gather((self.vectors, self.vectors[:0] if old else self.fresh.of(catalog)), ids)

    def save(self, folder: Path) -> None:
        """Writes the nets, the item vectors and what goes with them."""
        self.nets.copy_to(folder)
        save_arrays(folder, vectors=self.vectors)
        save_facts(folder / _FACTS_FILE, self.facts)

    @classmethod
    def load(cls, config: ThreeTowerConfig, folder: Path) -> Self:
        """The saved part, weights and vectors memory-mapped. Raises ArtifactError."""
        facts = load_facts(folder / _FACTS_FILE, ThreeTowerFacts)
        user_tower, item_tower, join = _open(folder)
        vectors = load_array(folder, "vectors")
        fresh = FreshVectors(item_tower, len(vectors))
        return cls(config, facts, NetFolder(folder), user_tower, join, vectors, fresh)


def _taught(inputs: Inputs, heads: tuple[str, ...], per_click: tuple[str, ...]) -> Inputs:
    """The inputs whose training rows have what the ranker says, of heads that mean the same there."""
    if inputs.teacher is None:
        raise ConfigError("three_tower.distill: there is no ranker to learn from; wanted a step of kind multitask")
    lesson = inputs.teacher(inputs, inputs.train)
    alike = [head for head in heads if head in lesson.p and (head in lesson.per_click) == (head in per_click)]
    if not alike:
        raise ConfigError(f"three_tower.distill: the ranker predicts {sorted(lesson.p)}, none of {list(heads)} alike")
    log.info("learns from the ranker", heads=alike)
    said = {f"{TAUGHT}{head}": logit(lesson.p[head]).astype(np.float32) for head in alike}
    train = replace(inputs.train, labels={**inputs.train.labels, **said})
    return inputs.with_samples(train, inputs.valid)


def fused(rates: NDArray[np.float32], facts: ThreeTowerFacts, config: ThreeTowerConfig) -> NDArray[np.float64]:
    """[n] P(shown)^shown_power · Σ weight · P(head), from rates [n, heads]; heads that are not there are left out."""
    exact = rates.astype(np.float64)
    weight = np.array([config.weights.get(name, 1.0) if name != SHOWN else 0.0 for name in facts.heads])
    after_click = np.array([name in facts.per_click and "click" in facts.heads for name in facts.heads])
    score: NDArray[np.float64] = exact @ np.where(after_click, 0.0, weight)
    if after_click.any():
        score += exact[:, facts.heads.index("click")] * (exact @ np.where(after_click, weight, 0.0))
    if SHOWN in facts.heads and config.shown_power:
        score *= exact[:, facts.heads.index(SHOWN)] ** config.shown_power
    return score


def _open(folder: Path) -> tuple[Session, Session, Session]:
    return tuple(Session.open(folder / f"{name}.onnx") for name in ("user", "item", "join"))  # type: ignore[return-value]
