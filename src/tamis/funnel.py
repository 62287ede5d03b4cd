"""The funnel: stages in order, each a finer sieve. The same object serves, is evaluated and is simulated.

    Funnel.run(query) → Page
        for each stage: for each step: Source → union | Filter → mask | Scorer → columns | Selector → positions
                        then the `limit` best rows by column `score` go on

Outages and broken promises are different things. A source that fails or is late only thins the funnel. A scorer,
filter or selector that fails is skipped, and with it the rest of its stage, when the stage is optional; otherwise it
raises. A step that breaks its promise (wrong length, duplicate or foreign rows) always raises StepError. All of it
shows in the trace.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.errors import StepError
from tamis.stages import Filter, Scorer, Selector, Source, Step
from tamis.types import Candidates, Page, Query, StepTrace

KINDS: Final = (("source", Source), ("scorer", Scorer), ("filter", Filter), ("selector", Selector))
MOST_SOURCES: Final = 63  # one bit each in the int64 column `found_by`


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. steps: name → step, run in this order.

    limit: most rows that leave; 0 = the query's size.   budget_ms: sources not done by then are dropped (0 = none).
    optional: after an outage rows pass through the rest of the stage unchanged.
    parallel: run neighbouring sources in threads, which pays only when they wait for something (a remote store); array
    kernels are faster one after the other.
    """

    name: str
    steps: Mapping[str, Step]
    limit: int
    budget_ms: float = 0.0
    optional: bool = False
    parallel: bool = False


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
        return Page(run.items, trace, any(step.status != "ok" for step in trace), self.channels)


@dataclass(slots=True)
class _Run:
    """The mutable bookkeeping of one `Funnel.run`."""

    funnel: Funnel
    query: Query
    items: Candidates
    trace: list[StepTrace] = field(default_factory=list)
    found: list[tuple[int, str, Candidates]] = field(default_factory=list)  # of sources, not united yet

    def stage(self, stage: Stage) -> None:
        began = perf_counter()
        ordered, broken = False, ""
        pending = self._submit(stage)
        for name, step in stage.steps.items():
            kind = self.funnel._kinds[stage.name, name]
            start = perf_counter()
            if kind != "source":
                self._unite()
            before = len(self.items)
            left = stage.budget_ms / 1000 - (start - began) if stage.budget_ms else None
            status, error, rows = "ok", "", before
            try:
                if broken:  # what follows builds on what is not there
                    raise RuntimeError(f"{broken} was skipped")
                if kind == "source" and left is not None and left <= 0 and not (pending and pending[name].done()):
                    raise TimeoutError(f"stage {stage.name} had used its {stage.budget_ms:g} ms")
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
            self.trace.append(StepTrace(stage.name, name, kind, before, rows, took, status, error))
        self._unite()
        limit = stage.limit or self.query.size
        self.items = self.items.take(slice(limit)) if ordered else _best(self.items, limit)
        for future in pending.values():
            future.cancel()

    def _submit(self, stage: Stage) -> dict[str, "Future[Candidates]"]:
        if not stage.parallel or self.funnel._pool is None:
            return {}
        kinds, pool = self.funnel._kinds, self.funnel._pool
        sources = {name: step for name, step in stage.steps.items() if kinds[stage.name, name] == "source"}
        return {name: pool.submit(step.recall, self.query) for name, step in sources.items()}  # type: ignore[union-attr]

    def _apply(self, name: str, step: Any, kind: str, pending: "Future[Candidates] | None", left: float | None) -> int:
        """Runs one step and applies what it says; returns the rows it leaves, for a source those it found."""
        if kind == "source":
            found = pending.result(left) if pending else step.recall(self.query)
            self.found.append((self.funnel.channels.index(name), name, found))
            return len(found)
        if kind == "filter":
            mask = step.keep(self.query, self.items)
            if mask.dtype != np.bool_ or mask.shape != self.items.ids.shape:
                raise StepError(f"{name}: mask is {mask.dtype} {mask.shape}, wanted bool ({len(self.items)},)")
            if not mask.all():
                self.items = self.items.take(mask)
        elif kind == "scorer":
            if len(self.items):
                self.items = self.items.add(step.score(self.query, self.items))
        elif len(self.items):
            self.items = self.items.take(_checked(step.pick(self.query, self.items), len(self.items), name))
        return len(self.items)

    def _unite(self) -> None:
        """The rows of all sources since the last union become part of the table."""
        if self.found:
            self.items = _union(self.items, self.found, len(self.query.catalog))
            self.found = []


def _kind(stage: str, name: str, step: Step) -> str:
    kinds = [kind for kind, protocol in KINDS if isinstance(step, protocol)]
    if len(kinds) != 1:
        raise StepError(f"{stage}.{name}: {type(step).__name__} must have exactly one verb, it has {kinds}")
    return kinds[0]


def _union(items: Candidates, found: Sequence[tuple[int, str, Candidates]], known: int) -> Candidates:
    """The table with the rows of all sources, in the order they first came, and where each was found.

    Columns: channel [n] int16 the first source that found the row; found_by [n] int64 one bit per source; score [n]
    minus the best rank in any source, so that a cut at the recall limit is a snake merge of the sources.
    known: items of the catalogue. Raises StepError for a source that returned an item twice or one outside of it.
    """
    sizes = [len(rows) for _, _, rows in found]
    ids = np.concatenate([items.ids, *(rows.ids for _, _, rows in found)]).astype(np.int64, copy=False)
    channel = np.repeat(np.array([number for number, _, _ in found], np.int16), sizes)
    bits = np.left_shift(np.int64(1), channel.astype(np.int64))
    score = np.concatenate([-np.arange(size, dtype=np.float64) for size in sizes])
    if len(items):
        channel = np.concatenate([items.column("channel"), channel])
        bits = np.concatenate([items.column("found_by"), bits])
        score = np.concatenate([items.column("score"), score])
    order = np.argsort(ids, kind="stable")
    ids_sorted = ids[order]
    if len(ids) and not 0 <= ids_sorted[0] <= ids_sorted[-1] < known:
        name = next(name for _, name, rows in found if ((rows.ids < 0) | (rows.ids >= known)).any())
        raise StepError(f"{name}: the source returned an item outside the catalogue of {known}")
    same = ids_sorted[1:] == ids_sorted[:-1]
    twice = same & (channel[order[1:]] == channel[order[:-1]]) & (order[:-1] >= len(items))
    if twice.any():
        number = int(channel[order[1:]][twice][0])
        raise StepError(f"{next(name for c, name, _ in found if c == number)}: the source returned an item twice")
    starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(ids) else order
    if not len(starts):
        return Candidates(ids, {"channel": channel, "found_by": bits, "score": score})
    first = order[starts]  # the sort is stable: the earliest place of each item
    place = np.argsort(first)
    rows = first[place]
    columns = {
        "channel": channel[rows],
        "found_by": np.bitwise_or.reduceat(bits[order], starts)[place],
        "score": np.maximum.reduceat(score[order], starts)[place],
    }
    return Candidates(ids[rows], columns)


def _best(items: Candidates, limit: int) -> Candidates:
    """The `limit` best rows by column score, best first, ties in the order they came; not-finite scores sort last."""
    score = items.columns.get("score")
    if score is None or not len(items):
        return items.take(slice(limit))
    finite = np.isfinite(score)
    if finite.all():
        return items.take(np.argsort(-score, kind="stable")[:limit])
    score = np.where(finite, score, score[finite].min() if finite.any() else 0.0)
    return items.add({"score": score}).take(np.lexsort((-score, ~finite))[:limit])


def _checked(positions: NDArray[np.intp], count: int, name: str) -> NDArray[np.intp]:
    """The positions, if they are distinct and inside the table."""
    if positions.ndim != 1 or (len(positions) and (positions.min() < 0 or positions.max() >= count)):
        raise StepError(f"{name}: picked a row outside the table of {count}")
    if len(np.unique(positions)) != len(positions):
        raise StepError(f"{name}: picked a row twice")
    return positions
