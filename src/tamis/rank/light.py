"""The light rank: logistic regression or a factorization machine, served by NumPy alone in a fraction of a millisecond.

For the day when the ranking net is out (a stage's `fallback`), and a first model for new data. Column `score` and
`light_<head>`, the probability of one action per impression.

    z = b + Σ_i w_i x_i + Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j        see nets.light

The user's sums are formed once per request. Those of an item's fixed features were formed when training ended and are
gathered from one memory-mapped array; only its numbers of the moment and the pair of sums are left for a request.
(Rendle, "Factorization machines", ICDM 2010.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tamis.artifact import load_array, save_arrays
from tamis.config import AtLeastOne, Config, ShareBelowOne, StepConfig
from tamis.errors import ArtifactError, ConfigError
from tamis.facts import load_facts, save_facts
from tamis.features.batch import query_codes, query_dynamic, query_history
from tamis.features.inputs import Inputs
from tamis.features.layout import Layout
from tamis.nets.door import nets_module
from tamis.nets.labels import nothing_in, unlearnable
from tamis.nets.plans import Device, TrainingPlan, plan_of
from tamis.types import ACTION_CODE, Candidates, Catalog, Columns, Query

Floats = NDArray[np.float32]

_FACTS_FILE: Final = "light_rank.json"
_LIMIT: Final = 8.0  # standardised numbers are cut to it, as in nets.embed.Standardize
_ROWS_AT_ONCE: Final = 4096


class LightRankConfig(StepConfig, frozen=True, tag="light_rank"):
    """What is predicted, by what model, and how it is trained."""

    model: Literal["lr", "fm"] = "fm"  # logistic regression; or a factorization machine, which knows pairs too
    head: str = "click"  # the action whose probability is the score
    factor_size: AtLeastOne = 8  # fm: width of the vectors
    unknown_share: ShareBelowOne = 0.1  # share of rows trained without their id, for users and items that are new
    epochs: int = 4  # most passes over the shown rows
    patience: int = 1  # epochs without a better validation AUC before stopping; 0 = never stop early
    batch_size: int = 1024  # rows per step
    learning_rate: float = 1e-2  # of the weights and vectors of numbers
    embedding_learning_rate: float = 5e-3  # of the vectors of codes
    wide_learning_rate: float = 1e-2  # of the weights of codes
    l2: float = 0.0  # fm: pull of the touched vectors of codes towards zero
    threads: int = 1  # of torch in training; another number gives other last digits
    device: Device = "auto"  # of training; "auto": a graphics card if there is one, else the processor

    def __post_init__(self) -> None:
        if self.head not in ACTION_CODE or self.head in ("impression", "play", "rate"):
            raise ValueError(f"head {self.head!r}: wanted an action that is done or not, like click")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the step writes."""
        return (f"light_{self.head}", "score")


class _Facts(Config, frozen=True):
    """What goes with the saved arrays."""

    layout: Layout


@dataclass(frozen=True, slots=True)
class LightRank:
    """The weights, and the sums of the bundle's items.

    bias [1].   first: [table] weights of codes.   factors: [table, k] their vectors, k = 0 for lr.
    numbers: side → [d, 3 + k] mean, scale, weight and vector of each number.
    items: [i, 2 + k] Σ w x, Σ |v x|² and Σ v x of each item's fixed features, row = item number of the bundle.
    """

    config: LightRankConfig
    layout: Layout
    bias: Floats
    first: Floats
    factors: Floats
    numbers: Mapping[str, Floats]
    items: Floats

    @classmethod
    def fit(cls, config: LightRankConfig, inputs: Inputs, seed: int) -> Self:
        """Trains on everything shown in `inputs.train`.

        Raises ConfigError when the rows have nothing to teach about the head, or when torch is not installed.
        """
        if dropped := unlearnable((config.head,), inputs.train):
            raise ConfigError(f"light_rank.head: {nothing_in(dropped)}")
        size = config.factor_size if config.model == "fm" else 0
        plan = plan_of(TrainingPlan, config)
        made = nets_module("light").fit_light(inputs, plan, config.head, size, seed)
        made.setdefault("factors", np.empty((len(made["first"]), 0), np.float32))
        numbers = {side: made[f"{side}_numbers"] for side in ("user", "item", "dynamic")}
        empty = np.empty((0, 2 + size), np.float32)
        part = cls(config, inputs.layout, made["bias"], made["first"], made["factors"], numbers, empty)
        every = np.arange(len(inputs.catalog))
        blocks = [every[start : start + _ROWS_AT_ONCE] for start in range(0, max(1, len(every)), _ROWS_AT_ONCE)]
        items = np.concatenate([part._item_sums(inputs.catalog, block) for block in blocks])
        return cls(config, part.layout, part.bias, part.first, part.factors, numbers, items)

    def score(self, query: Query, items: Candidates) -> Columns:
        """{"light_<head>": [n] inside (0, 1), "score": the same}."""
        user = self._user_sums(query)
        sums = self._sums_of(query.catalog, items.ids)
        sums += _of_numbers(self.numbers["dynamic"], query_dynamic(self.layout, query, items.ids))
        sums += user
        logit = self.bias[0] + sums[:, 0] + pair_sum(sums[:, 2:], sums[:, 1])
        p = expit(logit.astype(np.float64))
        return {f"light_{self.config.head}": p, "score": p}

    def _sums_of(self, catalog: Catalog, ids: NDArray[np.int64]) -> Floats:
        """[n, 2 + k] of any items of the catalogue; those published since the bundle are summed up here."""
        fresh = ids >= len(self.items)
        if not fresh.any():
            return np.asarray(self.items.take(ids, axis=0))
        sums = self.items.take(np.where(fresh, 0, ids), axis=0) if len(self.items) else self._item_sums(catalog, ids)
        sums[fresh] = self._item_sums(catalog, ids[fresh])
        return np.asarray(sums)

    def _item_sums(self, catalog: Catalog, ids: NDArray[np.int64]) -> Floats:
        features = catalog.features(ids)
        widths = [field.width for field in self.layout.item_fields]
        return self._of_codes(features.codes, widths) + _of_numbers(self.numbers["item"], features.dense)

    def _user_sums(self, query: Query) -> Floats:
        """[1, 2 + k]."""
        layout = self.layout
        history = query_history(layout, query).T.reshape(1, -1)
        widths = [field.width for field in layout.user_fields] + [layout.history_length] * layout.history_codes
        codes = np.concatenate([query_codes(layout, query), history], 1)
        return self._of_codes(codes, widths) + _of_numbers(self.numbers["user"], query.features.dense)

    def _of_codes(self, codes: NDArray[np.int32], widths: list[int]) -> Floats:
        """[m, 2 + k] of fields side by side in codes [m, Σ widths]; a field is the mean of its codes but 0."""
        if not widths or not len(codes):
            return np.zeros((len(codes), 2 + self.factors.shape[1]), np.float32)
        starts = [0, *accumulate(widths)][:-1]
        there = np.maximum(np.add.reduceat(codes != 0, starts, axis=1, dtype=np.float32), 1)
        first = np.add.reduceat(self.first[codes], starts, axis=1) / there
        vectors = np.add.reduceat(self.factors[codes], starts, axis=1) / there[:, :, None]
        squares = np.square(vectors).sum((1, 2))
        return np.column_stack([first.sum(1), squares, vectors.sum(1)])

    def save(self, folder: Path) -> None:
        """Writes the arrays and the layout."""
        numbers = {f"{side}_numbers": values for side, values in self.numbers.items()}
        save_arrays(folder, bias=self.bias, first=self.first, factors=self.factors, items=self.items, **numbers)
        save_facts(folder / _FACTS_FILE, _Facts(layout=self.layout))

    @classmethod
    def load(cls, config: LightRankConfig, folder: Path) -> Self:
        """The saved part, its arrays memory-mapped. Raises ArtifactError, also for another model than was trained."""
        facts = load_facts(folder / _FACTS_FILE, _Facts)
        numbers = {side: load_array(folder, f"{side}_numbers") for side in ("user", "item", "dynamic")}
        bias, first, factors, items = (load_array(folder, name) for name in ("bias", "first", "factors", "items"))
        if (factors.shape[1] > 0) != (config.model == "fm"):
            raise ArtifactError(f"{folder}: was not trained as {config.model}")
        return cls(config, facts.layout, bias, first, factors, numbers, items)


def pair_sum(total: NDArray[Any], squares: NDArray[Any]) -> NDArray[Any]:
    """[n] Σ_{i<j} ⟨a_i, a_j⟩ = ½(|total|² − squares), given total = Σ a_i [n, k] and squares = Σ |a_i|² [n].

    With a_i = v_i x_i these are the pairs of a factorization machine.
    """
    return np.asarray((np.square(total).sum(-1) - squares) / 2)


def _of_numbers(weights: Floats, values: NDArray[np.float32]) -> Floats:
    """[m, 2 + k] of numbers [m, d]."""
    x = np.clip((values - weights[:, 0]) * weights[:, 1], -_LIMIT, _LIMIT)
    vectors = weights[:, 3:]
    return np.column_stack([x @ weights[:, 2], np.square(x) @ np.square(vectors).sum(1), x @ vectors])
