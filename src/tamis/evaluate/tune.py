"""Weights of a fusion searched offline: the same candidates, the same predictions, another formula's numbers.

For every user with something relevant in the validation days the funnel runs once, up to the fusion; what the fusion
would read is kept. A trial then costs only the fusion and what follows it in its stage, and is worth the NDCG@10 of the
order that leaves the stage. Re-ranking is not run again: it spreads a page out, whatever the weights.

Honest numbers need days that taught the nets nothing and users that taught the search nothing. The validation days are
those before the held-out ones: nets only stop early and are calibrated on them. All statistics are taken as of their
begin. (Tables of channels know those days, which helps all weights alike.) Half of the users drawn are searched on, the
others judge what was found. The held-out days are not touched, so that the report of the next training stays true.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tamis.assemble import Model, stages_of
from tamis.config import Config
from tamis.data.dataset import Dataset
from tamis.data.split import Split
from tamis.errors import ConfigError, DataError
from tamis.evaluate.offline import check_unseen, drawn_users, relevant_items
from tamis.evaluate.queries import Past
from tamis.features.groups import ITEM
from tamis.features.pairs import Pairs, pairs_of
from tamis.features.prepare import columns_of
from tamis.features.statistics import Statistics
from tamis.features.tables import Tables
from tamis.funnel import Funnel, Stage
from tamis.metrics import mean_interval
from tamis.rank.fuse import Fuse, FuseConfig
from tamis.stages import Step
from tamis.types import Candidates, Features, Progress, Query, silent

PLACES: Final = 10
SPREAD: Final[Mapping[str, float]] = {
    "weights": 10.0, "offsets": 10.0, "constants": 10.0, "exponents": 4.0, "factors": 4.0,
}  # fmt: skip
"""Section of numbers → how many times larger or smaller each may become. The sign stays, and a 0 stays 0."""


class Tuned(Config, frozen=True):
    """What a search found.

    step: stage and name of the fusion.   searched, judged: users of either half.   before, after: mean NDCG@10 of the
    judged half under the configured numbers and under the best ones; difference with its 95 % bootstrap interval.
    numbers: section → name → best number.   toml: the line to put into the stage's steps, "" where what was found is no
    better than what is configured.
    """

    bundle: str
    step: str
    trials: int
    searched: int
    judged: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    numbers: dict[str, dict[str, float]]
    toml: str


@dataclass(frozen=True, slots=True)
class Kept:
    """One user's query, the candidates that reach the fusion, and his relevant items."""

    query: Query
    items: Candidates
    relevant: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the fusion stands: its stage, the stages before it, the steps of its stage before and after it."""

    stage: Stage
    name: str
    config: FuseConfig
    earlier: tuple[Stage, ...]

    @staticmethod
    def of(model: Model) -> "Place":
        """The first fusion of the funnel. Raises ConfigError when there is none."""
        stages = model.funnel.stages
        for at, stage in enumerate(stages_of(model.config.funnel).values()):
            for name, step in stage.steps.items():
                if isinstance(step, FuseConfig):
                    return Place(stages[at], name, step, stages[:at])
        raise ConfigError("funnel: no step of kind fuse, so there are no weights to search")

    def before(self, items: int) -> Funnel:
        """The funnel up to the fusion, without a limit behind it."""
        return Funnel([*self.earlier, self._stage(dict(self._main[: self._at]), items)])

    def behind(self, config: FuseConfig) -> Funnel:
        """The fusion under other numbers and the rest of its stage; the best rows leave it."""
        return Funnel([self._stage({self.name: Fuse(config), **dict(self._main[self._at + 1 :])}, PLACES)])

    def _stage(self, steps: Mapping[str, Step], limit: int) -> Stage:
        # Not optional: the order before a fusion that fails is none of its own.
        return replace(self.stage, steps=steps, limit=limit, quotas={}, fallback="", optional=False)

    @property
    def _main(self) -> list[tuple[str, Step]]:
        return list(self.stage.main.items())

    @property
    def _at(self) -> int:
        return list(self.stage.main).index(self.name)


def tune(
    model: Model, dataset: Dataset, split: Split, trials: int = 100, seed: int = 7, progress: Progress = silent
) -> Tuned:
    """Searches the numbers of the model's fusion on the validation days of `split`.

    The same seed gives the same numbers. Raises ConfigError when there is nothing to search or the bundle was trained
    on the held-out days, DataError when the validation days have too few users with something relevant.
    """
    sampler = _sampler(seed)
    check_unseen(model, split)
    place = Place.of(model)
    space = dict(_space(place.config))
    if not space:
        raise ConfigError(f"{place.stage.name}.{place.name}: no number other than 0 to search; give it weights")
    kept = _kept(model, dataset, split, place, progress)
    if len(kept) < 2:
        raise DataError(f"{len(kept)} users act on something new in the validation days; wanted at least 2 to compare")
    shuffled = np.random.default_rng(seed).permutation(len(kept))
    search, judge = ([kept[i] for i in half] for half in np.array_split(shuffled, 2))
    best = _search(sampler, place, (space, search), trials, progress)
    before, after = (_ndcg(place, config, judge) for config in (place.config, best))
    low, high = mean_interval(after - before, seed)
    return Tuned(
        bundle=model.name,
        step=f"{place.stage.name}.{place.name}",
        trials=trials,
        searched=len(search),
        judged=len(judge),
        before=float(before.mean()),
        after=float(after.mean()),
        difference=float((after - before).mean()),
        low=low,
        high=high,
        numbers={name: dict(getattr(best, name)) for name in SPREAD if getattr(best, name)},
        toml=f"{place.name} = {as_toml(best)}" if after.mean() > before.mean() else "",
    )


def as_toml(step: FuseConfig) -> str:
    """A step as an inline table, without what is as by default."""
    tree = {"kind": "fuse", **msgspec.to_builtins(step)}
    plain = msgspec.to_builtins(FuseConfig())
    return _inline({name: value for name, value in tree.items() if name == "kind" or value != plain[name]})


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_inline(below)}" for name, below in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _sampler(seed: int) -> Any:
    try:
        import optuna  # an extra, and seconds of imports
    except ModuleNotFoundError:
        raise ConfigError("searching weights needs optuna: pip install 'tamis[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.samplers.TPESampler(seed=seed)


def _space(config: FuseConfig) -> Iterator[tuple[tuple[str, str], float]]:
    """((section, name), number as configured) of all numbers that may change."""
    for section in SPREAD:
        given: dict[str, float] = getattr(config, section)
        if section == "exponents" and config.formula in ("power_product", "rank_sum"):
            given = dict.fromkeys(config.weights, 1.0) | given
        if section == "offsets" and config.formula == "rank_sum":
            given = dict.fromkeys(config.weights, 1.0) | given
        yield from (((section, name), number) for name, number in given.items() if number)


def _kept(model: Model, dataset: Dataset, split: Split, place: Place, progress: Progress) -> list[Kept]:
    """What reaches the fusion for each drawn user of the validation days."""
    past = Past.of(_as_of(model, dataset, split.valid_since), dataset, split.test_since)
    wanted = relevant_items(past, split.valid_since, model.config.evaluate.positive)
    users = drawn_users(sorted(wanted), model.config.evaluate.most_users, model.config.train.seed)
    funnel, kept = place.before(len(model.catalog)), []
    for done, user in enumerate(users):
        now, relevant = wanted[user]
        query = past.query(user, now, PLACES)
        items = funnel.run(query).items
        # All queries share one catalogue: what was not published then is out by now, and a mask for each is large.
        kept.append(Kept(replace(query, catalog=past.model.catalog), items, relevant))
        progress("candidates", done + 1, len(users))
    return kept


def _as_of(model: Model, dataset: Dataset, moment: float) -> Model:
    """The model with the statistics that a server had at a moment, when the bundle of that moment was new."""
    past, encoder, items = Past.of(model, dataset, moment), model.encoder, len(model.catalog)
    user = past.user_numbers[past.events.user]
    known = np.flatnonzero((user >= 0) & (past.events.item < items))
    events = replace(past.events, user=user.astype(np.int32)).take(known)
    value = events.value if encoder.learnt.config.means else None
    of_items = Statistics.of(events.item, events.action, events.time, items, value)
    of_users = Statistics.of(events.user, events.action, events.time, len(model.user_ids), value)
    log = events, dataset.requests(until=moment)
    pairs = pairs_of(encoder, log, _static(model, past), model.catalog) | {"user": Pairs(of_users)}
    catalog, group = model.catalog, encoder.groups.get(ITEM)
    if group is not None:
        counts = of_items.counts(np.arange(items), moment, group.actions, group.windows)
        dynamic = encoder.item_dynamic(counts, items)
        catalog = replace(catalog, columns={**catalog.columns, "dynamic": (dynamic, dynamic[:0])})
    return replace(model, catalog=catalog, statistics=Tables.of(encoder, pairs, moment))


def _static(model: Model, past: Past) -> Features:
    """The static features of the bundle's users, row = number; those who are not in the data set have no events."""
    there = np.flatnonzero(past.user_numbers >= 0)
    row = np.zeros(len(model.user_ids), np.int64)
    row[past.user_numbers[there]] = there
    return model.encoder.users(np.arange(len(row)), columns_of(past.dataset.users[row]))


def _search(
    sampler: Any, place: Place, task: tuple[dict[tuple[str, str], float], list[Kept]], trials: int, progress: Progress
) -> FuseConfig:
    """The best of the configurations tried; the first trial is the configured one, which wins ties.

    One whose numbers the fusion refuses for some rows (a product below 0) has failed and cannot be the best.
    """
    import optuna

    space, search = task
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.enqueue_trial({".".join(key): 1.0 for key in space})
    best, best_value = place.config, -np.inf
    for done in range(trials):
        trial = study.ask()
        times = {key: trial.suggest_float(".".join(key), 1 / SPREAD[key[0]], SPREAD[key[0]], log=True) for key in space}
        progress("trials", done + 1, trials)
        try:
            config = _scaled(place.config, space, times)
            value = float(_ndcg(place, config, search).mean())
        except ValueError:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        study.tell(trial, value)
        if value > best_value:
            best, best_value = config, value
    return best


def _scaled(config: FuseConfig, space: dict[tuple[str, str], float], times: dict[tuple[str, str], float]) -> FuseConfig:
    """The configuration with its numbers multiplied, cut to four digits: what is judged is what is printed."""
    sections = {name: dict(getattr(config, name)) for name in SPREAD}
    for (section, name), number in space.items():
        if times[section, name] != 1.0:
            sections[section][name] = float(f"{number * times[section, name]:.4g}")
    return msgspec.structs.replace(config, **sections)


def _ndcg(place: Place, config: FuseConfig, kept: list[Kept]) -> NDArray[np.float64]:
    """[users] NDCG@10 of the order that leaves the stage; see metrics.ndcg_at_k."""
    funnel, discount = place.behind(config), 1 / np.log2(np.arange(2, PLACES + 2))
    ideal, out = np.cumsum(discount), np.zeros(len(kept))
    for at, one in enumerate(kept):
        hit = np.isin(funnel.run(one.query, one.items, place.stage.name).items.ids, one.relevant)
        out[at] = discount[: len(hit)][hit].sum() / ideal[min(len(one.relevant), PLACES) - 1]
    return out
