"""How many stars a user would give each candidate: a number, and the probability of every star.

Columns `stars`, inside the scale, and `p_stars_1`, `p_stars_2` … for each star of the configuration. The rows are the
ratings of the log, each with the history and the statistics of its own moment, so nothing that came later, and never
the rating itself, is known to the net. Without any rating all columns are 0 and `facts.dropped` says so.

The design is that of a public seed of this project (embeddings of ids, genres and the last items, two shared layers, a
regression and a class head), without its faults: time-safe histories, absent entries out of the mean, one table for
items wherever they occur, encoders saved with the net, and classes that are the stars themselves.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
import structlog
from msgspec import Meta

from tamis.config import AtLeastOne, Config, NotNegative, ShareBelowOne, StepConfig
from tamis.data.dataset import Requests
from tamis.data.samples import Log, Samples, rating_samples
from tamis.errors import ArtifactError, DataError
from tamis.facts import load_facts, save_facts
from tamis.features.batch import net_batch
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.nets.door import nets_module
from tamis.nets.folder import NetFolder
from tamis.nets.plans import Device, TrainingPlan, plan_of
from tamis.nets.session import Session
from tamis.types import Candidates, Columns, Query

log = structlog.get_logger(__name__)
STARS: Final = "stars"
"""The column of the predicted stars."""
_FACTS_FILE: Final = "rating.json"
_NET_FILE: Final = "rating.onnx"


class RatingConfig(StepConfig, frozen=True, tag="rating"):
    """How the net looks and is trained."""

    stars: Annotated[tuple[float, ...], Meta(min_length=2)] = (1.0, 2.0, 3.0, 4.0, 5.0)  # all ratings there are, rising
    loss: Literal["squared", "absolute"] = "squared"  # whether `stars` is the mean of what is given, or its median
    class_weight: NotNegative = 1.0  # of the classes' cross-entropy beside the number's error
    embedding_size: AtLeastOne = 16  # width of one feature's embedding
    embedding_spread: float = 0.01  # standard deviation of a new embedding
    hidden: Annotated[tuple[AtLeastOne, ...], Meta(min_length=1)] = (128, 64)  # widths of the shared layers
    epochs: int = 10  # most passes over the ratings
    patience: int = 2  # epochs without a smaller validation error before stopping; 0 = never stop early
    batch_size: int = 512  # ratings per step
    learning_rate: float = 1e-3  # of the layers
    embedding_learning_rate: float = 1e-3  # of the embedding table
    wide_learning_rate: float = 1e-2  # of the weights of single codes
    decay_to: float = 1.0  # learning rates fall linearly to this share of themselves
    l2: float = 0.0  # pull of the touched embeddings towards zero
    unknown_share: ShareBelowOne = 0.1  # share of rows trained without their id, for users and items that are new
    threads: int = 1  # of torch in training; another number gives other last digits
    device: Device = "auto"  # of training; "auto": a graphics card if there is one, else the processor

    def __post_init__(self) -> None:
        if list(self.stars) != sorted(set(self.stars)) or self.stars[0] <= 0:
            raise ValueError(f"stars {list(self.stars)}: wanted rising numbers above 0")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the step writes."""
        return (STARS, *(f"p_stars_{star:g}" for star in self.stars))


class RatingFacts(Config, frozen=True):
    """What goes with the saved net.

    stars: the classes, in the order of the net's.   dropped: why there is no net, "" when there is one.
    scores: minus the validation error of each epoch; the net is that of epoch `best`.
    """

    layout: Layout
    stars: tuple[float, ...]
    dropped: str = ""
    scores: tuple[float, ...] = ()
    best: int = -1


@dataclass(frozen=True, slots=True)
class Rating:
    """The exported net; none where there was no rating to learn from."""

    config: RatingConfig
    facts: RatingFacts
    nets: NetFolder
    session: Session | None

    @classmethod
    def fit(cls, config: RatingConfig, inputs: Inputs, seed: int) -> Self:
        """Trains on the ratings up to the first validation row, stops early on those from there on.

        Raises DataError for a rating that is none of `config.stars`, ConfigError when torch is not installed.
        """
        train, valid = _rated(inputs)
        for samples in (train, valid):
            _check(samples, config.stars)
        folder = NetFolder.temporary()
        if not len(train):
            dropped = "no rating of known value in the training period"
            log.warning("rating dropped", reason=dropped)
            return cls(config, RatingFacts(layout=inputs.layout, stars=config.stars, dropped=dropped), folder, None)
        nets = nets_module("rating")
        plan = plan_of(nets.RatingPlan, config, training=plan_of(TrainingPlan, config))
        report = nets.fit_rating(inputs.with_samples(train, valid), plan, seed, folder.path / _NET_FILE)
        facts = RatingFacts(layout=inputs.layout, stars=config.stars, scores=report.scores, best=report.best)
        return cls(config, facts, folder, Session.open(folder.path / _NET_FILE))

    def score(self, query: Query, items: Candidates) -> Columns:
        """{"stars": [n] inside the scale, "p_stars_<star>": [n]}; the probabilities of a row sum to 1."""
        if self.session is None or not len(items):
            return {name: np.zeros(len(items)) for name in self.config.columns}
        answers = self.session.answer(net_batch(self.facts.layout, query, items))
        stars = np.clip(answers["stars"].astype(np.float64), self.facts.stars[0], self.facts.stars[-1])
        classes = answers["classes"].astype(np.float64)
        return dict(zip(self.config.columns, (stars, *classes.T), strict=True))

    def save(self, folder: Path) -> None:
        """Writes the net and what goes with it."""
        self.nets.copy_to(folder)
        save_facts(folder / _FACTS_FILE, self.facts)

    @classmethod
    def load(cls, config: RatingConfig, folder: Path) -> Self:
        """The saved part, its weights memory-mapped. Raises ArtifactError, also for other stars than it has learnt."""
        facts = load_facts(folder / _FACTS_FILE, RatingFacts)
        if facts.stars != config.stars:
            raise ArtifactError(f"{folder / _FACTS_FILE}: learnt stars {list(facts.stars)}, not {list(config.stars)}")
        session = None if facts.dropped else Session.open(folder / _NET_FILE)
        return cls(config, facts, NetFolder(folder), session)


def _rated(inputs: Inputs) -> tuple[Samples, Samples]:
    """The ratings to learn from, and those to stop by: from the first validation row on."""
    since = float(inputs.valid.time.min(initial=inputs.until))
    whole = Log(inputs.events, Requests.none(), inputs.train.timeline, np.empty(0), inputs.reach)
    return rating_samples(whole, -np.inf, since), rating_samples(whole, since, inputs.until)


def _check(samples: Samples, stars: tuple[float, ...]) -> None:
    rated = samples.labels["rate"]
    good = np.isin(rated, np.asarray(stars, np.float32))
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(f"label 'rate', rating {row} of {len(rated)}: {rated[row]:g}, wanted one of {list(stars)}")
