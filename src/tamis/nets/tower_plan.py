"""What towers are to look like: plain values, so that parts can name them without torch."""

from dataclasses import dataclass, replace
from typing import Literal

from tamis.errors import ConfigError
from tamis.nets.plans import TrainingPlan


@dataclass(frozen=True, slots=True)
class TowerPlan:
    """The shape of a user tower and an item tower over one embedding table. Raises ConfigError for what cannot be.

    embedding_size: width of one embedding.   user_layers, item_layers: widths of the hidden layers.
    vector_size: width of both towers' output.   interests: vectors that a user gets; an item has one.
    pooling: how the history becomes one vector. Only "mean": attention would need the candidate, and a user vector that
    depends on the candidate can neither be computed once per request nor searched for in an index.
    """

    embedding_size: int = 16
    user_layers: tuple[int, ...] = (128, 64)
    item_layers: tuple[int, ...] = (64,)
    vector_size: int = 32
    interests: int = 1
    pooling: str = "mean"

    def __post_init__(self) -> None:
        if self.pooling != "mean":
            raise ConfigError(
                f"history pooling {self.pooling!r}: a tower may only take the mean of the history; attention over it "
                "belongs to the ranking net, where user and candidate are seen together"
            )
        if min(self.embedding_size, self.vector_size, self.interests, *self.user_layers, *self.item_layers) < 1:
            raise ConfigError("towers: every size, layer width and number of interests must be at least 1")


@dataclass(frozen=True, slots=True)
class LossPlan:
    """What a positive costs against its negatives; the formulas are in `nets.losses`.

    temperature: cosines are divided by it (listwise).   margin: of pairwise_hinge.   scale: σ of pointwise and
    pairwise_logistic.   negatives_each: weight of all negatives of a positive, its own being 1 (pointwise).
    """

    loss: Literal["listwise", "pointwise", "pairwise_hinge", "pairwise_logistic"] = "listwise"
    temperature: float = 0.07
    margin: float = 0.2
    scale: float = 10.0
    negatives_each: float = 3.0


@dataclass(frozen=True, slots=True)
class ViewsPlan:
    """The self-supervised task of the item tower; see `nets.self_supervised` and `nets.views`.

    weight: of its loss beside that of the positives; 0 = no such task.   items: drawn evenly for each step.
    mask: what a view hides.   share: of the fields hidden (random), or of a list's values dropped (dropout).
    temperature: its cosines are divided by it.
    """

    weight: float = 0.0
    mask: Literal["random", "dropout", "complementary", "correlated"] = "correlated"
    share: float = 0.5
    items: int = 256
    temperature: float = 0.1


@dataclass(frozen=True, slots=True)
class ContrastPlan:
    """How two towers are trained for recall.

    positives: actions that make a row a positive.   objectives: each of them teaches a vector of the user's of its own.
    log_q: share β of the correction −β·log p of sampling frequency; 1 = weigh the catalogue evenly, 0 = none.
    extra_negatives: items drawn for each batch besides its own, with probability ∝ (count + 1) ^ extra_exponent.
    hard_negatives: of each request, drawn from what an earlier funnel found for its user and cut.
    hard_share: of the weight of all negatives of a request that has hard ones; 0 = none are drawn.
    judge_k, judge_requests: after each epoch recall@judge_k of about so many validation requests is measured.
    """

    towers: TowerPlan
    training: TrainingPlan
    positives: tuple[str, ...]
    log_q: float
    extra_negatives: int
    extra_exponent: float
    loss: LossPlan = LossPlan()
    views: ViewsPlan = ViewsPlan()
    objectives: bool = False
    hard_share: float = 0.0
    hard_negatives: int = 4
    judge_k: int = 100
    judge_requests: int = 2000


@dataclass(frozen=True, slots=True)
class LightPlan:
    """How the three towers of pre-ranking look and are trained.

    heads: names of the labels to predict.   per_click: those of them that are rates per click.
    cross_layers: widths of the cross tower.   join_size: of the layer where the three outputs meet.
    unshown: rows drawn from the catalogue for each request; 0 = none.
    distill: share of what the teacher says in what a head is to say, where the samples have it (`labels.TAUGHT`).
    judge_requests: validation requests that are scored after each epoch.
    """

    towers: TowerPlan
    training: TrainingPlan
    heads: tuple[str, ...]
    per_click: tuple[str, ...]
    cross_layers: tuple[int, ...]
    join_size: int
    unshown: int
    distill: float = 0.0
    judge_requests: int = 4000

    def __post_init__(self) -> None:
        if not self.heads or min(self.join_size, *self.cross_layers, 1) < 1 or not self.cross_layers:
            raise ConfigError("three towers: wanted at least one head, one cross layer and widths of at least 1")


def without_judge(training: TrainingPlan, rows: int) -> TrainingPlan:
    """The plan, or with no validation rows the one that trains all epochs: a score that never moves would stop it."""
    return training if rows else replace(training, patience=0)
