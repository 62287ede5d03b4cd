"""The funnel: stages in order, each a finer sieve. The same object serves, is evaluated and is simulated.

    Funnel.run(query) → Page
        for each stage: for each step: Source → union | Filter → mask | Scorer → columns | Selector → positions
                        then the `limit` best rows by column `score` go on

Outages and broken promises are different things. A source that fails or is late only thins the funnel. A scorer,
filter or selector that fails is skipped, and with it the rest of its stage, when the stage is optional; otherwise it
raises. Such a stage may name one of its scorers as the fallback, which runs only then, on the rows that are left. A
step that breaks its promise (wrong length, duplicate or foreign rows) always raises StepError. All of it shows in the
trace.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.errors import StepError
from tamis.merge import Found, places, turns, united
from tamis.stages import Filter, Ruled, Scorer, Selector, Source, Step
from tamis.types import Candidates, Page, Query, StepTrace

KINDS: Final = (("source", Source), ("scorer", Scorer), ("filter", Filter), ("selector", Selector))
MOST_SOURCES: Final = 63  # one bit each in the int64 column `found_by`
_NOTHING: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. steps: name → step, run in this order.

    limit: most rows that leave; 0 = the query's size.
    budget_ms: a source that has not begun by then, or in threads is not done, is dropped (0 = none).
    optional: after an outage rows pass through the rest of the stage unchanged.
    fallback: a scorer of the stage that runs only after such an outage, in place of the rest; "" = none.
    parallel: run neighbouring sources in threads, which pays only when they wait for something (a remote store); array
    kernels are faster one after the other.
    quotas: source → places it gets of the limit, see merge; {} = the sources take turns.
    source_budget_ms: source → a budget of its own, counted like the stage's; in threads only, since what runs in the
    request's own thread cannot be stopped.
    """

    name: str
    steps: Mapping[str, Step]
    limit: int
    budget_ms: float = 0.0
    optional: bool = False
    parallel: bool = False
    quotas: Mapping[str, int] = field(default_factory=dict)
    source_budget_ms: Mapping[str, float] = field(default_factory=dict)
    fallback: str = ""

    @property
    def main(self) -> dict[str, Step]:
        """The steps without the fallback."""
        return {name: step for name, step in self.steps.items() if name != self.fallback}

    def budget_of(self, step: str) -> float:
        """Milliseconds from the stage's begin until a source is late; 0 = never."""
        return min((ms for ms in (self.budget_ms, self.source_budget_ms.get(step, 0.0)) if ms), default=0.0)


class Funnel:
    """Stages in order; immutable after construction and safe to share between threads."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages: Final = tuple(stages)
        self._kinds: Final = {
            (s.name, name): _kind(s.name, name, step) for s in stages for name, step in s.steps.items()
        }
        self.channels: Final = tuple(n for s in stages for n in s.steps if self._kinds[s.name, n] == "source")
        if len(self.channels) > MOST_SOURCES:
            raise StepError(f"{len(self.channels)} sources; a funnel takes at most {MOST_SOURCES}")
        if len(set(self.channels)) != len(self.channels):
            raise StepError(f"two sources share a name: {sorted(self.channels)}")
        for stage in self.stages:
            if stage.fallback and self._kinds.get((stage.name, stage.fallback)) != "scorer":
                raise StepError(f"{stage.name}: the fallback {stage.fallback!r} is no scorer of it")
        self._pool: Final = ThreadPoolExecutor(16, "source") if any(s.parallel for s in stages) else None

    def run(
        self, query: Query, items: Candidates | None = None, first: str = "", keep: dict[str, Candidates] | None = None
    ) -> Page:
        """The page for a query.

        items, first: start from these candidates at the stage named `first` (the caller brings his own candidates).
        keep: is filled with the table that left each stage, by the stage's name, for those who look inside.
        Raises StepError when a step breaks its promise, and whatever a failing step of a non-optional stage raised.
        """
        run = _Run(self, query, Candidates.empty() if items is None else items)
        names = [stage.name for stage in self.stages]
        for stage in self.stages[names.index(first) if first else 0 :]:
            run.stage(stage)
            if keep is not None:
                keep[stage.name] = run.items
        trace = tuple(run.trace)
        return Page(run.items, trace, any(step.status != "ok" for step in trace), self.channels, run.answers)


@dataclass(slots=True)
class _Run:
    """The mutable bookkeeping of one `Funnel.run`."""

    funnel: Funnel
    query: Query
    items: Candidates
    trace: list[StepTrace] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)  # of sources, not united yet
    answers: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # of sources, united
    relaxed: Mapping[str, int] = field(default_factory=dict)  # by the step at hand

    def stage(self, stage: Stage) -> None:
        began = perf_counter()
        ordered, broken = False, ""
        pending = self._submit(stage)
        for name, step in stage.main.items():
            kind = self.funnel._kinds[stage.name, name]
            start = perf_counter()
            if kind != "source":
                self._unite()
            before = len(self.items)
            budget = stage.budget_of(name)
            left = budget / 1000 - (start - began) if budget else None
            status, error, rows, self.relaxed = "ok", "", before, {}
            try:
                if broken:  # what follows builds on what is not there
                    raise RuntimeError(f"{broken} was skipped")
                if kind == "source" and left is not None and left <= 0 and not (pending and pending[name].done()):
                    raise TimeoutError(f"stage {stage.name} had used {budget:g} ms")
                if kind == "selector" and not ordered:
                    self.items = _best(self.items, len(self.items))
                rows = self._apply(name, step, kind, pending.get(name), left)
                ordered = kind == "selector" or (ordered and kind == "filter")
            except StepError:
                raise
            except Exception as outage:
                if kind != "source" and not stage.optional:
                    raise
                status = "late" if isinstance(outage, TimeoutError) else "failed" if kind == "source" else "skipped"
                error = f"{type(outage).__name__}: {outage}"
                rows = 0 if kind == "source" else before
                broken = broken or ("" if kind == "source" else name)
            took = (perf_counter() - start) * 1000
            self.trace.append(StepTrace(stage.name, name, kind, before, rows, took, status, error, self.relaxed))
        self._unite()
        self._cut(stage, not self._fell_back(stage, broken) and ordered)
        for future in pending.values():
            future.cancel()

    def _fell_back(self, stage: Stage, broken: str) -> bool:
        """Runs the fallback, if a step broke, on the rows that are left. → whether it scored them."""
        if not (broken and stage.fallback):
            return False
        start, before, status, error = perf_counter(), len(self.items), "ok", ""
        try:
            self._apply(stage.fallback, stage.steps[stage.fallback], "scorer", None, None)
        except StepError:
            raise
        except Exception as outage:
            status, error = "skipped", f"{type(outage).__name__}: {outage}"
        took = (perf_counter() - start) * 1000
        self.trace.append(StepTrace(stage.name, stage.fallback, "scorer", before, before, took, status, error))
        return status == "ok"

    def _submit(self, stage: Stage) -> dict[str, "Future[Candidates]"]:
        if not stage.parallel or self.funnel._pool is None:
            return {}
        kinds, pool = self.funnel._kinds, self.funnel._pool
        sources = {name: step for name, step in stage.main.items() if kinds[stage.name, name] == "source"}
        return {name: pool.submit(step.recall, self.query) for name, step in sources.items()}  # type: ignore[union-attr]

    def _apply(self, name: str, step: Any, kind: str, pending: "Future[Candidates] | None", left: float | None) -> int:
        """Runs one step and applies what it says; returns the rows it leaves, for a source those it found."""
        if kind == "source":
            found = pending.result(left) if pending else step.recall(self.query)
            self.found.append((self.funnel.channels.index(name), name, found.ids))
            return len(found)
        if kind == "filter":
            mask = step.keep(self.query, self.items)
            if mask.dtype != np.bool_ or mask.shape != self.items.ids.shape:
                raise StepError(f"{name}: mask is {mask.dtype} {mask.shape}, wanted bool ({len(self.items)},)")
            if not mask.all():
                self.items = self.items.take(np.flatnonzero(mask))
        elif kind == "scorer":
            if len(self.items):
                self.items = self.items.add(step.score(self.query, self.items))
        elif len(self.items):
            if isinstance(step, Ruled):
                picks, self.relaxed = step.pick_ruled(self.query, self.items)
            else:
                picks = step.pick(self.query, self.items)
            self.items = self.items.take(_checked(picks, len(self.items), name))
        return len(self.items)

    def _cut(self, stage: Stage, ordered: bool) -> None:
        """The rows that leave the stage. ordered: a selector has put them in order."""
        limit = stage.limit or self.query.size
        if ordered:
            self.items = self.items.take(slice(limit))
        elif stage.quotas:  # the sources take turns, the score is minus the place
            found = [self.answers.get(name, _NOTHING) for name in stage.quotas]
            rows = turns(self.items.ids, found, places(tuple(stage.quotas.values()), limit))[:limit]
            self.items = self.items.take(rows).add({"score": -np.arange(len(rows), dtype=np.float64)})
        else:
            self.items = _best(self.items, limit)

    def _unite(self) -> None:
        """The rows of all sources since the last union become part of the table."""
        if self.found:
            self.items = united(self.items, self.found, len(self.query.catalog))
            self.answers.update({name: ids for _, name, ids in self.found})
            self.found = []


def _kind(stage: str, name: str, step: Step) -> str:
    kinds = [kind for kind, protocol in KINDS if isinstance(step, protocol)]
    if len(kinds) != 1:
        raise StepError(f"{stage}.{name}: {type(step).__name__} must have exactly one verb, it has {kinds}")
    return kinds[0]


def _best(items: Candidates, limit: int) -> Candidates:
    """The `limit` best rows by column score, best first, ties in the order they came; not-finite scores sort last."""
    score = items.columns.get("score")
    if score is None or not len(items):
        return items.take(slice(limit))
    finite = np.isfinite(score)
    if finite.all():
        if (score[1:] <= score[:-1]).all():  # as sources leave it
            return items.take(slice(limit))
        return items.take(np.argsort(-score, kind="stable")[:limit])
    score = np.where(finite, score, score[finite].min() if finite.any() else 0.0)
    return items.add({"score": score}).take(np.lexsort((-score, ~finite))[:limit])


def _checked(positions: NDArray[np.intp], count: int, name: str) -> NDArray[np.intp]:
    """The positions, if they are distinct and inside the table."""
    if positions.ndim != 1 or (len(positions) and (positions.min() < 0 or positions.max() >= count)):
        raise StepError(f"{name}: picked a row outside the table of {count}")
    there = np.zeros(count, np.bool_)
    there[positions] = True
    if np.count_nonzero(there) != len(positions):
        raise StepError(f"{name}: picked a row twice")
    return positions
