"""The assembled funnel on held-out days: the same object that serves, on queries of the past.

For every user with something relevant in the held-out days there is one query, at his first event of those days.
Relevant is what he then acts on (`evaluate.positive`) until the days end and had not seen before. Channels, stages and
pages rank the whole catalogue. Heads are judged on the logged impressions of the held-out days, scored by the served
form of the net; where a log has no impressions, on its positives among sampled negatives (`samples.negatives`), whose
rates are those of the draw and of no real page.

What was imported after training is judged as it would be served: a user whom the bundle does not know asks without a
number, and an item that it does not know is relevant all the same and never found.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis import metrics
from tamis.artifact import Bundle
from tamis.assemble import Model
from tamis.data.dataset import DAY_SECONDS, Dataset
from tamis.data.split import Split, sizes
from tamis.errors import ConfigError
from tamis.evaluate.agreement import Agreement
from tamis.evaluate.heads import judge_heads
from tamis.evaluate.queries import Past
from tamis.evaluate.report import Report, Row, known
from tamis.funnel import Stage
from tamis.index.vectors import Vectors
from tamis.merge import merged
from tamis.stages import Source
from tamis.types import ACTION_CODE, Candidates, Progress, Query, StepTrace, silent

CUTS = (50, 200, 500)
PAGE = 20
AGREED = 100  # users on whom pre-ranking and ranking are compared: the ranker scores all that recall found for them
Oracle = Callable[[str, list[str], float], NDArray[np.float64]]
"""(user id, item ids, time) → [n] the true probability of the main positive action; only a simulated world has one."""


@dataclass
class _Tally:
    """Numbers that are gathered query by query."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, **numbers: float) -> None:
        for name, value in numbers.items():
            self.values.setdefault(row, {}).setdefault(name, []).append(value)

    def means(self) -> dict[str, Row]:
        """The mean of each number over the queries that have one; a channel that found nothing has none."""
        return {row: known({name: _mean(v) for name, v in names.items()}) for row, names in self.values.items()}


def evaluate(
    model: Model, dataset: Dataset, split: Split, progress: Progress = silent, oracle: Oracle | None = None
) -> Report:
    """The report of `model` on the days of `split`.

    Raises ConfigError when the bundle was trained on some of those days: its numbers would be too good to be true.
    """
    config = model.config
    check_unseen(model, split)
    past = Past.of(model, dataset, split.test_until, split.test_since)
    wanted = relevant_items(past, split.test_since, config.evaluate.positive)
    users = drawn_users(sorted(wanted), config.evaluate.most_users, config.train.seed)
    pages = _Pages(past, oracle)
    for user in users[:1]:  # kernels compile at their first call; that is no latency of a request
        model.funnel.run(past.query(user, wanted[user][0], PAGE))
    for done, user in enumerate(users):
        now, items = wanted[user]
        pages.judge(user, now, items)
        if done % 20 == 0:
            progress("evaluate pages", done, len(users))
    progress("evaluate pages", len(users), len(users))
    summary = pages.summary()
    learnt_from, held_out = sizes(dataset, split)
    heads = judge_heads(past, split, config.evaluate.most_requests, progress)
    return Report(
        bundle=model.name,
        users=len(users),
        requests=heads.requests,
        test_since=split.test_since,
        test_until=split.test_until,
        channels=_with_index_recall(model, pages.channels.means()),
        stages=pages.stages.means(),
        heads=heads.rows,
        page=summary.pop("tamis", {"ndcg@10": 0.0}),
        baselines=summary,
        latency=_latency(pages.traces),
        features=model.coverage,
        reliability=heads.reliability,
        interval=pages.interval(config.train.seed),
        learnt_from=learnt_from,
        held_out=held_out,
    )


def check_unseen(model: Model, split: Split) -> None:
    """Raises ConfigError when the bundle was trained on some of the held-out days."""
    if split.test_since < model.trained_to:
        raise ConfigError(
            f"split: the held-out days would begin at {_utc(split.test_since)}, but bundle {model.name} was trained on "
            f"everything before {_utc(model.trained_to)}; train again, or hold out less (split.test_days, test_since)"
        )


def unseen(split: Split, bundle: Bundle, dataset: Dataset) -> Split:
    """The split, or what came after the bundle's training where that knows held-out days (an increment knows all).

    Raises ConfigError when nothing came after it; the message says what can be judged.
    """
    known, last = bundle.manifest.trained_to, dataset.span()[1]
    if split.test_since >= known:
        return split
    if last >= known:
        return replace(split, train_until=known, test_since=known)
    full = bundle.manifest.continues
    instead = f"judge the full bundle that it continues (`tamis evaluate --bundle {full}`)" if full else "train again"
    raise ConfigError(
        f"bundle {bundle.name} was trained on everything before {_utc(known)} and the log ends at {_utc(last)}, so "
        f"nothing is left to judge it on; import what happened since, or {instead}"
    )


def relevant_items(past: Past, since: float, positive: tuple[str, ...]) -> dict[int, tuple[float, NDArray[np.int64]]]:
    """user → (time of his query, relevant items). Users with nothing new and relevant are left out."""
    events = past.events
    late = events.take(np.flatnonzero(events.time >= since))
    users, at = np.unique(late.user, return_index=True)
    first = dict(zip(users.tolist(), late.time[at].tolist(), strict=True))
    acted = late.take(np.flatnonzero(_acted(late.action, positive)))
    if not len(acted.user):
        return {}
    order = np.argsort(acted.user, kind="stable")
    owners, starts = np.unique(acted.user[order], return_index=True)
    out = {}
    for user, items in zip(owners.tolist(), np.split(acted.item[order].astype(np.int64), starts[1:]), strict=True):
        fresh = np.setdiff1d(items, past.seen_items(user, first[user]))
        if len(fresh):
            out[user] = (first[user], fresh)
    return out


def _acted(action: NDArray[np.uint8], positive: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.isin(action, [ACTION_CODE[name] for name in positive])


def drawn_users(users: list[int], most: int, seed: int) -> list[int]:
    """At most `most` of the users, drawn by `seed`."""
    if len(users) <= most:
        return users
    return sorted(np.random.default_rng(seed).choice(users, most, replace=False).tolist())


class _Pages:
    """Judges channels, stages and pages query by query."""

    def __init__(self, past: Past, oracle: Oracle | None) -> None:
        self.past, self.oracle = past, oracle
        self.channels, self.stages, self.quality = _Tally(), _Tally(), _Tally()
        self.shown: dict[str, list[NDArray[np.int64]]] = {}
        self.traces: list[tuple[StepTrace, ...]] = []
        catalog, events, config = past.model.catalog, past.events, past.model.config.evaluate
        liked = (events.time < past.model.trained_to) & _acted(events.action, config.positive)
        counts = np.bincount(events.item[liked], minlength=len(catalog))[: len(catalog)]
        self.popular = np.argsort(-counts, kind="stable").astype(np.int64)
        self.agreement = Agreement.of(past.model.funnel.stages)
        self.new_seconds = config.new_days * DAY_SECONDS
        self.author = np.asarray(catalog.columns["author"][0])
        self.category = np.asarray(catalog.columns["category"][0])

    def judge(self, user: int, now: float, relevant: NDArray[np.int64]) -> None:
        query = self.past.query(user, now, PAGE)
        kept: dict[str, Candidates] = {}
        page = self.past.model.funnel.run(query, keep=kept)
        self.traces.append(page.trace)
        recall = self.past.model.funnel.stages[0]
        sources = [name for name, step in recall.steps.items() if isinstance(step, Source)]
        answers = {name: page.found.get(name, relevant[:0]) for name in sources}
        # A channel of a bundle made later than the query may find what was not published yet.
        found_by = {name: ids[~query.catalog.closed[ids]] for name, ids in answers.items()}
        union, allowed = kept[recall.name].ids, _allowed(query)
        gains = _gains(recall, answers, allowed, relevant)
        for name, ids in found_by.items():
            others = [other for o, other in found_by.items() if o != name]
            elsewhere = np.unique(np.concatenate(others)) if others else ids[:0]
            alone = np.isin(relevant, ids) & ~np.isin(relevant, elsewhere)
            self.channels.add(
                name, **_recalls(ids, relevant), **gains[name], only_here=float(alone.mean()), rows=len(ids)
            )
        self.channels.add("union", **_recalls(union, relevant), rows=len(union))
        truth = self._truth(user, now, allowed)
        reachable = np.isin(relevant, union)
        for stage, items in kept.items():
            numbers = {"rows": float(len(items)), "recall": float(np.isin(relevant, items.ids).mean())}
            if truth is not None:
                numbers["best true rate@10"] = _mean_of_best(truth[items.ids])
            if reachable.any():
                numbers["survival"] = float(np.isin(relevant[reachable], items.ids).mean())
            self.stages.add(stage, **numbers)
        if self.agreement and len(self.traces) <= AGREED:
            self.stages.add("prerank", **self.agreement.numbers(query, kept[recall.name]))
        single = {f"{name} alone": ids[allowed[ids]] for name, ids in found_by.items()}
        rivals = self._others(query, allowed)
        if truth is not None:
            rivals["oracle"] = np.argsort(-truth, kind="stable")[: query.size]
        for name, ids in {"tamis": page.items.ids, **rivals, **single}.items():
            self._page(name, ids[: query.size], relevant, query.now)
            if truth is not None:
                self.quality.add(name, **{"true rate@10": _mean_of_best(truth[ids[:10]])})

    def _others(self, query: Query, allowed: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
        """The pages of popular and random under the same exclusions."""
        open_items = np.flatnonzero(allowed)
        draw = np.random.default_rng(query.seed).permutation(open_items)[: query.size]
        return {"popular": self.popular[allowed[self.popular]][: query.size], "random": draw}

    def _truth(self, user: int, now: float, allowed: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """[i] the true probability of each item, −1 for one that may not be shown; None outside a simulated world."""
        if self.oracle is None:
            return None
        open_items, truth = np.flatnonzero(allowed), np.full(len(allowed), -1.0)
        names = self.past.model.item_ids.externals(open_items)
        truth[open_items] = self.oracle(self.past.dataset.user_ids.external(user), names, now)
        return truth

    def _page(self, name: str, ids: NDArray[np.int64], relevant: NDArray[np.int64], now: float) -> None:
        ranked, right = ids[None], metrics.Relevant.of([relevant])
        self.shown.setdefault(name, []).append(ids)
        self.quality.add(
            name,
            **{
                "ndcg@10": metrics.ndcg_at_k(ranked, right, 10),
                "recall@10": metrics.recall_at_k(ranked, right, 10),
                "hit@10": metrics.hit_rate(ranked, right, 10),
            },
            **self._variety(ids, now),
        )

    def _variety(self, ids: NDArray[np.int64], now: float) -> Row:
        """What a page is made of, as far as the catalogue says it: without any author all would look different."""
        out = {}
        if self.category.any():
            out["diversity"] = metrics.intra_list_diversity(ids[None], self.category)
        if self.author.any():
            out["authors"] = metrics.distinct_share(self.author[ids])
        if np.isfinite(self.past.published).any():
            age = now - self.past.published[ids]
            out["new_share"] = float((age < self.new_seconds).mean()) if len(ids) else 0.0
        return out

    def interval(self, seed: int) -> tuple[float, ...]:
        """Of the mean NDCG@10 of our pages; () with too few of them."""
        values = np.array(self.quality.values.get("tamis", {}).get("ndcg@10", []))
        return metrics.mean_interval(values, seed) if len(values) > 1 else ()

    def summary(self) -> dict[str, Row]:
        """Page name → its numbers; {} when no user had anything relevant."""
        means, items = self.quality.means(), len(self.past.model.catalog)
        return {
            name: {**means[name], "coverage": metrics.coverage(np.concatenate(shown), items)}
            for name, shown in self.shown.items()
        }


def _utc(time: float) -> str:
    return f"{np.datetime64(int(time), 's')} UTC"


def _mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _allowed(query: Query) -> NDArray[np.bool_]:
    """[i] True for the items that may be shown: open and not seen."""
    catalog = query.catalog
    return ~(catalog.closed | query.seen.contains(catalog.keys_of(np.arange(len(catalog)))))


def _mean_of_best(values: NDArray[np.float64]) -> float:
    """The mean of the ten largest; 0 when there are none."""
    return float(np.sort(values)[-10:].mean()) if len(values) else 0.0


def _recalls(ids: NDArray[np.int64], relevant: NDArray[np.int64]) -> dict[str, float]:
    right = metrics.Relevant.of([relevant])
    return {f"recall@{cut}": metrics.recall_at_k(ids[None], right, cut) for cut in CUTS}


def _with_index_recall(model: Model, channels: dict[str, Row]) -> dict[str, Row]:
    """The rows of the channels, with the recall that was measured when an index of vectors was built."""
    for name, step in model.funnel.stages[0].steps.items():
        part: Any = step
        for holder in ("known", "factors", "index"):  # where a part with vectors has them
            part = getattr(part, holder, part)
        if isinstance(part, Vectors) and name in channels:
            channels[name]["index_recall"] = part.facts.recall
    return channels


def _gains(
    recall: Stage, answers: dict[str, NDArray[np.int64]], allowed: NDArray[np.bool_], relevant: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """channel → gain@k: what the union's recall@k would lose without it, the others sharing its places.

    Nothing runs again: the union is made anew from what each channel found, less what was closed or seen.
    """
    size = recall.limit or PAGE
    whole = _recalls(merged(answers, allowed, recall.quotas, size), relevant)
    out = {}
    for name in answers:
        others = {other: ids for other, ids in answers.items() if other != name}
        without = _recalls(merged(others, allowed, recall.quotas, size), relevant)
        out[name] = {f"gain@{cut}": whole[f"recall@{cut}"] - without[f"recall@{cut}"] for cut in CUTS}
    return out


def _latency(traces: list[tuple[StepTrace, ...]]) -> dict[str, Row]:
    """p50 and p99 of each stage and step, and of the whole funnel."""
    times: dict[str, list[float]] = {}
    for trace in traces:
        totals: dict[str, float] = {"total": sum(step.milliseconds for step in trace)}
        for step in trace:
            totals[step.stage] = totals.get(step.stage, 0.0) + step.milliseconds
            totals[f"{step.stage}.{step.step}"] = step.milliseconds
        for name, took in totals.items():
            times.setdefault(name, []).append(took)
    return {
        name: {"p50": float(np.percentile(took, 50)), "p99": float(np.percentile(took, 99))}
        for name, took in times.items()
    }
