"""Fine ranking by one multi-task net: what each candidate is likely to make this user do, calibrated.

Column `p_<head>` for each binary head, a probability inside (0, 1); column `play` for the play head, seconds ≥ 0. Heads
of `facts.per_click` are rates per click, so p_click · p_like is the chance of a like; the heads of `WATCH_HEADS` speak
of what is played; all others are per impression. A head that the training rows had nothing to learn from gives 0
throughout; `facts.dropped` says why.

Heads of `WATCH_HEADS` write a second column, made with the item's duration (rank/watch_time.py): `completion` and
`completion_ratio`, `p_finished` and `finished_ratio`, `play_quantile` and `play_quantile_seconds`. The ratios are what
to fuse: 1 = as much as of other items that long. An item without a duration gets the ratio to the mean of all plays and
the seconds of all plays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import structlog
from numpy.typing import NDArray
from scipy.special import expit

from tamis.config import AboveZero, AtLeastOne, AtLeastZero, Config, ShareBelowOne, StepConfig
from tamis.data.samples import Samples
from tamis.errors import ArtifactError, ConfigError
from tamis.facts import load_facts, save_facts
from tamis.features.batch import NetBatch, net_batch
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.features.lesson import Lesson
from tamis.features.search import Found, Search
from tamis.nets.door import nets_module
from tamis.nets.folder import NetFolder
from tamis.nets.labels import AMOUNTS, PLAY, check_labels, nothing_in, per_click_heads, taught, unlearnable
from tamis.nets.plans import (
    BilinearForm,
    BilinearWeights,
    Cross,
    CrossPlace,
    Device,
    EmbeddingSteps,
    HowToSearch,
    Mixture,
    MultitaskShape,
    Normalization,
    PersonalGating,
    Position,
    Precision,
    TrainingPlan,
    plan_of,
)
from tamis.nets.session import Session
from tamis.nets.tiles import SEARCH_INPUTS, TILE, Tiles
from tamis.rank.calibrate import Isotonic, Platt
from tamis.rank.watch_time import WatchTime, column_beside
from tamis.types import WATCH_HEADS, Candidates, Columns, Query

log = structlog.get_logger(__name__)

_FACTS_FILE: Final = "multitask.json"
_NET_FILE: Final = "multitask.onnx"
_EDGE: Final = 1e-7

Calibrator = Platt | Isotonic


class MultitaskConfig(StepConfig, frozen=True, tag="multitask"):
    """How the net looks, what it learns and how it is trained."""

    # Actions with labels, "play" = seconds; "completion", "finished" and "play_quantile" are made of plays.
    heads: tuple[str, ...] = ("click", "like", "collect", "share", "play")
    head_weights: dict[str, float] = {}  # head → weight in the loss, 1 where none is given
    per_click: Literal["auto", "always", "never"] = (
        "auto"  # train like, collect, share, comment, follow on clicked rows
    )
    play_loss: Literal["ratio", "weighted"] = "ratio"  # "weighted" makes `play` the mean time, "ratio" is robust
    play_limit_seconds: float = 3600.0  # times are cut to this, logged and predicted ones
    finished_share: AboveZero = 0.8  # "finished": at least this share of the duration was played
    embedding_size: int = 16  # width of one feature's embedding, a multiple of 4
    embedding_spread: float = 0.01  # standard deviation of a new embedding; what a rare id keeps of it is noise
    attention: Literal["din", "dot", "mean"] = "din"  # how a candidate looks at the user's last actions
    attention_hidden: int = 36  # width of the attention's hidden layer, a multiple of 4
    search: HowToSearch = "none"  # attention over what each candidate finds in the long history too
    search_field: str = "category"  # item feature whose equals "hard" search finds
    search_entries: AtLeastOne = 32  # most entries found for a candidate
    experts: AtLeastOne = 4  # nets shared by the heads; 1 = a shared bottom
    expert_hidden: tuple[int, ...] = (128, 64)  # layers of each expert
    tower_hidden: tuple[int, ...] = (32,)  # hidden layers of each head's tower
    gate_dropout: ShareBelowOne = 0.1  # share of gate weights masked in training
    dropout: ShareBelowOne = 0.0  # share of the experts' hidden units left out in training
    normalization: Normalization = "none"  # "batch": of the experts' hidden layers in training, folded in when served
    mixture: Mixture = "mmoe"  # "ple": each head has experts of its own beside the shared ones, in levels
    head_experts: AtLeastOne = 1  # of "ple": each head's own experts
    extraction_levels: AtLeastOne = 2  # of "ple"
    personal_gates: PersonalGating = "none"  # the user's side weighs hidden units of the experts or the towers
    personal_hidden: AtLeastOne = 32  # width of the hidden layer of each personal gate
    crosses: tuple[Cross, ...] = ()  # products of features that experts and linear model read too
    cross_place: CrossPlace = "under"  # "beside": not the experts, only a line of their own to each head reads them
    cross_depth: AtLeastOne = 2  # layers of dcn, dcn_v2 and gdcn
    cross_rank: AtLeastZero = 0  # rank of the matrices of dcn_v2 and gdcn; 0 = full
    cross_experts: AtLeastOne = 1  # low-rank maps mixed in each layer of dcn_v2 and gdcn
    senet_reduction: AtLeastOne = 3  # fields per number of SENet's inner layer
    bilinear_weights: BilinearWeights = "each"  # one matrix for all pairs, for each field, or for each pair
    bilinear_form: BilinearForm = "inner"  # a number per pair, or a vector
    stream_hidden: tuple[int, ...] = (128, 64)  # layers of each stream of final_mlp
    stream_heads: AtLeastOne = 4  # of the fusion of final_mlp; divides the last layer
    wide: bool = True  # a linear model beside the towers: of all inputs, and of every code of the item
    powers: bool = False  # squares and roots of all numbers are inputs too
    position: Position = "none"  # how the place on the page is used in training, never when serving: nets/position.py
    epochs: int = 3  # most passes over the shown rows
    patience: int = 1  # epochs without a better validation AUC before stopping; 0 = never stop early
    batch_size: int = 2048  # rows per step
    learning_rate: float = 1e-3  # of the layers
    embedding_learning_rate: float = 1e-3  # of the embedding table
    wide_learning_rate: float = 1e-2  # of the weights of the item's codes in the linear model
    decay_to: float = 1.0  # learning rates fall linearly to this share of themselves
    l2: float = 0.0  # pull of the embeddings that move towards zero
    embedding_steps: EmbeddingSteps = "touched"  # "all": every embedding moves at every step, for small tables
    calibration: Literal["platt", "isotonic", "none"] = "platt"  # learnt on the validation rows
    unknown_share: ShareBelowOne = 0.1  # share of rows trained without their id, for users and items that are new
    precision: Precision = "float32"  # "mixed": products of training in 16 bits, where the device is made for it
    threads: int = 2  # of torch in training; another number gives other last digits
    device: Device = "auto"  # of training; "auto": a graphics card if there is one, else the processor

    def __post_init__(self) -> None:
        if not self.heads or len(set(self.heads)) != len(self.heads):
            raise ValueError(f"heads {list(self.heads)}: wanted at least one, each once")
        if not self.expert_hidden:
            raise ValueError("expert_hidden: wanted at least one layer")
        for name in ("embedding_size", "attention_hidden"):
            if getattr(self, name) < 4 or getattr(self, name) % 4:
                raise ValueError(f"{name} is {getattr(self, name)}: wanted a multiple of 4")
        if len(set(self.crosses)) != len(self.crosses):
            raise ValueError(f"crosses {list(self.crosses)}: wanted each once")
        if self.cross_experts > 1 and not self.cross_rank:
            raise ValueError("cross_experts: wanted a cross_rank above 0, only low-rank maps are mixed")
        if not self.stream_hidden or self.stream_hidden[-1] % self.stream_heads:
            raise ValueError(f"stream_heads is {self.stream_heads}: wanted a divisor of the last of stream_hidden")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the step writes."""
        own = tuple(column_of(head) for head in self.heads)
        return (*own, *(column_beside(head) for head in self.heads if head in WATCH_HEADS))


class MultitaskFacts(Config, frozen=True):
    """What goes with the saved net.

    heads: in the order of the net's outputs.   per_click: those that are rates per click.
    dropped: configured heads that could not be learnt, with the reason.
    scores: validation score of each epoch; the net is that of epoch `best`.
    gate_largest: head → mean largest gate weight.   dead_experts: experts that no head uses.
    search: what the net was trained to look for in long histories.
    """

    layout: Layout
    heads: tuple[str, ...]
    per_click: tuple[str, ...]
    dropped: dict[str, str]
    scores: tuple[float, ...] = ()
    best: int = -1
    gate_largest: dict[str, float] = {}
    dead_experts: tuple[int, ...] = ()
    search: Search | None = None


@dataclass(frozen=True, slots=True)
class Multitask:
    """The exported net with a calibrator per binary head, and what the watch heads know of durations."""

    config: MultitaskConfig
    facts: MultitaskFacts
    calibrators: Mapping[str, Calibrator]
    watch: WatchTime
    nets: NetFolder
    session: Session

    @classmethod
    def fit(cls, config: MultitaskConfig, inputs: Inputs, seed: int) -> Self:
        """Trains on `inputs.train`, stops early and calibrates on `inputs.valid`.

        Raises ConfigError when no configured head can be learnt, or when torch is not installed; DataError for a label
        outside its range.
        """
        if config.search == "soft" and not inputs.catalog.columns["vector"][0].shape[1]:
            raise ConfigError('multitask.search = "soft" wants content vectors; no item has one (column "vector")')
        watch = WatchTime.fit(
            config.heads, config.finished_share, config.play_limit_seconds, inputs.train, inputs.catalog
        )
        if watch.heads:
            samples = (watch.labelled(samples, inputs.catalog) for samples in (inputs.train, inputs.valid))
            inputs = inputs.with_labels(*samples)
        check_labels(config.heads, inputs.valid)
        dropped = unlearnable(config.heads, inputs.train)
        heads = tuple(head for head in config.heads if head not in dropped)
        if not heads:
            raise ConfigError(f"multitask.heads: {nothing_in(dropped)}")
        if dropped:
            log.warning("heads dropped", heads=dropped)
        per_click = per_click_heads(config.per_click, heads, inputs.train)
        nets = nets_module("multitask")
        plan = nets.HeadPlan(
            heads, frozenset(per_click), config.head_weights, config.play_loss, config.play_limit_seconds
        )
        trained = nets.fit_multitask(plan_of(MultitaskShape, config), plan_of(TrainingPlan, config), plan, inputs, seed)
        folder = NetFolder.temporary()
        nets.export_multitask(trained.net, inputs.layout, folder.path / _NET_FILE)
        facts = MultitaskFacts(
            layout=inputs.layout,
            heads=heads,
            per_click=per_click,
            dropped=dropped,
            scores=trained.report.scores,
            best=trained.report.best,
            gate_largest=dict(zip(heads, trained.gates.largest, strict=True)) if trained.gates else {},
            dead_experts=trained.gates.dead if trained.gates else (),
            search=trained.net.search,
        )
        calibrators = _calibrators(config.calibration, facts, inputs.valid, trained.valid)
        return cls(config, facts, calibrators, watch, folder, Session.open(folder.path / _NET_FILE))

    def score(self, query: Query, items: Candidates) -> Columns:
        """The columns of the module's docstring, each [n]; probabilities calibrated."""
        count = len(items)
        logits = self._answer(net_batch(self.facts.layout, query, items, self.facts.search)) if count else {}
        columns: dict[str, NDArray[Any]] = {}
        for head in self.config.heads:
            name = column_of(head)
            if head not in logits:
                columns[name] = np.zeros(count)
            elif head == PLAY:
                columns[name] = play_seconds(logits[head], self.config.play_limit_seconds)
            else:
                p = expit(logits[head].astype(np.float64))
                columns[name] = self.calibrators[head].apply(p) if head in self.calibrators else p
            if head in WATCH_HEADS:
                durations = query.catalog.column("duration_seconds", items.ids)
                beside, values = self.watch.beside(head, columns[name], durations)
                columns[beside] = values
        return columns

    def teach(self, inputs: Inputs, samples: Samples) -> Lesson:
        """What the served net says of every row, one request after the other; of binary heads that it could learn."""
        p = {head: np.empty(len(samples.item)) for head in self.facts.heads if head not in AMOUNTS}
        for request in np.flatnonzero(np.diff(samples.first)):
            logits = self._answer(inputs.batch(samples, np.array([request]), self.facts.search))
            for head, out in p.items():
                raw = expit(logits[head].astype(np.float64))
                rows = slice(samples.first[request], samples.first[request + 1])
                out[rows] = self.calibrators[head].apply(raw) if head in self.calibrators else raw
            if request % 1000 == 0:
                inputs.progress("teach", int(request), len(samples))
        finite = {head: np.clip(out, _EDGE, 1 - _EDGE) for head, out in p.items()}  # in log-odds
        return Lesson(finite, frozenset(self.facts.per_click))

    def _answer(self, batch: NetBatch) -> dict[str, NDArray[np.float32]]:
        """Each head's logits [n] of one request."""
        return self.session.answer(batch, **_search_inputs(batch.found, self.facts.search))

    def save(self, folder: Path) -> None:
        """Writes the net, the calibrators and what goes with them."""
        self.nets.copy_to(folder)
        save_facts(folder / _FACTS_FILE, self.facts)
        self.watch.save(folder)
        for head, calibrator in self.calibrators.items():
            own = folder / f"{type(calibrator).__name__.lower()}.{head}"
            own.mkdir()
            calibrator.save(own)

    @classmethod
    def load(cls, config: MultitaskConfig, folder: Path) -> Self:
        """The saved part, its weights memory-mapped. Raises ArtifactError, also for a head that it has not."""
        facts = load_facts(folder / _FACTS_FILE, MultitaskFacts)
        if new := [head for head in config.heads if head not in (*facts.heads, *facts.dropped)]:
            raise ArtifactError(f"{folder / _FACTS_FILE}: no head {new}; it was trained for {list(facts.heads)}")
        if _search(config, facts.layout) != facts.search:
            now = f"search {config.search!r} with {config.search_field!r} and {config.search_entries} entries"
            raise ArtifactError(f"{folder / _FACTS_FILE}: {now}; it was trained with {facts.search or 'none'}")
        calibrators: dict[str, Calibrator] = {}
        for head in facts.heads:
            for name, kind in (("platt", Platt), ("isotonic", Isotonic)):
                if (folder / f"{name}.{head}").is_dir():
                    calibrators[head] = kind.load(folder / f"{name}.{head}")
        watch = WatchTime.load(config.heads, config.finished_share, config.play_limit_seconds, folder)
        return cls(config, facts, calibrators, watch, NetFolder(folder), Session.open(folder / _NET_FILE))


def _search(config: MultitaskConfig, layout: Layout) -> Search | None:
    return Search.of(layout, config.search, config.search_field, config.search_entries)


def _search_inputs(found: Found | None, search: Search | None) -> dict[str, NDArray[Any]]:
    """What the exported net reads of a search; candidates that search softly share no entries, so no tile is shared."""
    if found is None or search is None:
        return {}
    tiles = Tiles.of(found.row_of, len(found.codes), 1 if search.soft else TILE)
    return dict(zip(SEARCH_INPUTS, (found.codes, *tiles), strict=True))


def column_of(head: str) -> str:
    """The column of a head's predictions: a number under the head's own name, a probability under p_<head>."""
    return head if head in AMOUNTS else f"p_{head}"


def play_seconds(logits: NDArray[Any], limit_seconds: float) -> NDArray[np.float64]:
    """[n] e^z, the predicted time, cut to the limit."""
    return np.asarray(np.exp(np.minimum(logits.astype(np.float64), np.log(limit_seconds))))


def _calibrators(
    kind: str, facts: MultitaskFacts, samples: Samples, logits: Mapping[str, NDArray[np.float32]]
) -> dict[str, Calibrator]:
    """One for each binary head with validation rows of both kinds; the others keep the net's own probability."""
    if kind == "none":
        return {}
    calibrators: dict[str, Calibrator] = {}
    for head in facts.heads:
        if head in AMOUNTS or head not in samples.labels:
            continue
        rows = taught(head, facts.per_click, samples)
        label, p = samples.labels[head][rows] > 0, expit(logits[head][rows].astype(np.float64))
        if label.any() and not label.all():
            fitted = Platt if kind == "platt" else Isotonic
            calibrators[head] = fitted.fit(label, p)
    return calibrators
