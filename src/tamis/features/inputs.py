"""What every `fit` gets: the data of the training period and nothing after it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tamis.data.dataset import Events
from tamis.data.negatives import there_since
from tamis.data.picks import ranges
from tamis.data.samples import Reach, Samples, Timeline
from tamis.data.unshown import with_unshown
from tamis.errors import ConfigError
from tamis.features.batch import NetBatch
from tamis.features.earlier import Earlier
from tamis.features.encode import Encoder, history_codes, with_ages
from tamis.features.groups import ITEM, Group, key_of
from tamis.features.layout import Layout
from tamis.features.lesson import Lesson
from tamis.features.pairs import Pairs, values_at
from tamis.features.search import Past, Search, find, last_n
from tamis.features.statistics import EventCounts, refresh_time
from tamis.types import ACTION_CODE, ACTIONS, Catalog, Features, Progress, silent


def no_part(name: str) -> Any:
    """For inputs of a part that stands alone. Raises ConfigError."""
    raise ConfigError(f"{name!r}: no step of that name was fitted before in this stage")


@dataclass(frozen=True, slots=True)
class Sides:
    """What changes from request to request, computed once for a whole set of samples.

    user: [r] the whole user side.   dynamic: [n, len(Layout.item_dynamic)] of the candidates at their request's time.
    """

    user: Features
    dynamic: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Journal:
    """What a training of a part notes of its course.

    checkpoint: the file from which it goes on after a crash; None = it keeps none.   seconds: between two writings.
    steps: between two lines of the log.
    """

    checkpoint: Path | None = None
    seconds: float = 300.0
    steps: int = 500


NO_JOURNAL: Final = Journal()


@dataclass(frozen=True, slots=True)
class MoreRows:
    """The samples with some rows more in each request that it did not show; see `data.unshown`. pieces: of `Inputs`."""

    train: Samples
    valid: Samples
    pieces: NDArray[np.int64]


@dataclass(frozen=True)
class Inputs:
    """The training period.

    catalog: items as the server will see them, as of `until`.   users: static user features, row = user number.
    events: all events before `until`, sorted by time.   until: training ends here; nothing at or after it may be used.
    train, valid: impressions with labels before `until`; `valid` is the last part of them by time.
    interest_actions: the actions that make up the interest score, one point each.
    user_keys: [users] types.item_key of the users' external ids, by which one user's profile names others.
    earlier: what the last full training left for the part at hand; None at the first one.
    journal: where the training of the part at hand notes how far it is.
    pairs: group of statistics → its event counts, of those that are not of a user or an item alone.
    part: name of a step that stands before in the same stage → its finished part, for channels made of other channels.
    teacher: what the ranker of this training says of samples; None for parts that are fitted before it.
    reach: how far back histories go, for parts that make samples of their own; None = to the first event.
    first_seen: [items] when each item's first event was, inf = never; None = as `events` say.
    pieces: [p + 1] the training requests at which pieces begin that a net reads one after the other, the number of
    requests last; None = all are one piece.

    more: how many rows were drawn into each request → the samples with them, where they had to be made with the rest.

    Under a bound of memory (`features.bounded`) `events` are those of `interest_actions` alone, and they, `train`
    (without its context) and its sides lie on disk.
    """

    encoder: Encoder
    catalog: Catalog
    users: Features
    events: Events
    until: float
    train: Samples
    valid: Samples
    user_statistics: EventCounts
    item_statistics: EventCounts
    interest_actions: tuple[str, ...] = ("click", "like", "collect", "share")
    progress: Progress = silent
    user_keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    earlier: Earlier | None = None
    journal: Journal = NO_JOURNAL
    pairs: Mapping[str, Pairs] = field(default_factory=dict)
    part: Callable[[str], Any] = no_part
    teacher: Callable[["Inputs", Samples], Lesson] | None = None
    reach: Reach | None = None
    first_seen: NDArray[np.float64] | None = None
    pieces: NDArray[np.int64] | None = None
    more: Mapping[int, MoreRows] = field(default_factory=dict)
    _sides: dict[int, tuple[Samples, Sides]] = field(default_factory=dict)
    _kinds: dict[tuple[int, int], tuple[Timeline, NDArray[np.int32]]] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return self.encoder.layout

    def interest(self) -> csr_matrix:
        """[users, items] float32: one point per distinct action kind of `interest_actions`, so 0 to 4 by default.

        like(u, i) = 1[click] + 1[like] + 1[collect] + 1[share]; each kind counts once per user and item.
        """
        shape = (len(self.users.codes), len(self.catalog))
        codes = [ACTION_CODE[name] for name in self.interest_actions]
        kinds = np.empty(0, np.int64)
        for events in self.events.pieces():
            chosen = np.isin(events.action, codes)
            pair = events.user[chosen].astype(np.int64) * shape[1] + events.item[chosen]
            kinds = np.sort(np.append(kinds, pair * len(ACTIONS) + events.action[chosen]))
            kinds = kinds[np.diff(kinds, prepend=-1) > 0]  # each once
        pairs = kinds // len(ACTIONS)  # ascending, so row by row
        firsts = np.flatnonzero(np.diff(pairs, prepend=-1))
        points = np.diff(firsts, append=len(pairs)).astype(np.float32)
        users, items = np.divmod(pairs[firsts], shape[1])
        return csr_matrix((points, items, np.searchsorted(users, np.arange(shape[0] + 1))), shape=shape)

    @cached_property
    def since(self) -> NDArray[np.float64]:
        """[i] when each item came to be there, as far as the training period knows; see `there_since`."""
        published = self.catalog.column("publish_time", np.arange(len(self.catalog)))
        if self.first_seen is not None:
            return np.asarray(np.fmin(published, self.first_seen))
        return there_since(self.events, published)

    @property
    def items_there(self) -> NDArray[np.int64]:
        """Numbers of the items that were there before `until`, ascending: all that training may know of."""
        return np.flatnonzero(self.since < self.until)

    def pairs_of(self, group: Group) -> Pairs:
        """The event counts of a group of statistics, at any time."""
        alone = {"user": self.user_statistics, ITEM: self.item_statistics}
        return Pairs(alone[group.name]) if group.name in alone else self.pairs[group.name]

    def sides(self, samples: Samples) -> Sides:
        """The changing sides of `samples`, computed at the first call and kept."""
        if id(samples) not in self._sides:
            self._sides[id(samples)] = samples, _sides(self, samples)  # held, so that its id is not given again
        return self._sides[id(samples)][1]

    def with_samples(self, train: Samples, valid: Samples) -> "Inputs":
        """The same inputs with other samples, and a cache of sides of their own."""
        return replace(self, train=train, valid=valid, _sides={})

    def with_labels(self, train: Samples, valid: Samples) -> "Inputs":
        """The same inputs with other labels of the same rows, whose sides are those there were."""
        sides = {id(new): (new, self.sides(old)) for new, old in ((train, self.train), (valid, self.valid))}
        return replace(self, train=train, valid=valid, _sides=sides)

    def with_unshown(self, count: int, seed: int) -> "Inputs":
        """The same inputs with `count` rows more in each request, which nobody was shown; see `data.unshown`."""
        if made := self.more.get(count):
            return replace(self, train=made.train, valid=made.valid, pieces=made.pieces)
        parts = (with_unshown(samples, self.since, count, seed) for samples in (self.train, self.valid))
        return self.with_samples(*parts)

    def kinds(self, timeline: Timeline, column: int) -> NDArray[np.int32]:
        """[t] the code of each entry's item in a column of the items' codes, gathered at the first call and kept."""
        place = id(timeline), column
        if place not in self._kinds:
            codes = np.ascontiguousarray(self.catalog.columns["codes"][0][:, column])
            self._kinds[place] = timeline, codes[timeline.item]  # held, so that its id is not given again
        return self._kinds[place][1]

    def batch(self, samples: Samples, requests: NDArray[np.int64], search: Search | None = None) -> NetBatch:
        """Any requests of `samples` (their positions, [r]) with all their candidates, as a net reads them."""
        sides = self.sides(samples)
        begin, end = samples.first[requests], samples.first[requests + 1]
        counts = end - begin
        row_of = np.repeat(np.arange(len(requests)), counts)
        rows = ranges(begin, counts)
        shown = samples.item[rows]
        items = self.catalog.features(shown)
        user_codes, found = sides.user.codes[requests], None
        if search or self.layout.last_n:
            line = samples.timeline
            span = samples.history_start[requests], samples.history_end[requests]
            past = Past(line.item, line.action, line.time, *span, samples.time[requests])
            if self.layout.last_n:
                user_codes = np.concatenate([user_codes, last_n(self.layout, self.catalog, past)], axis=1)
            if search:
                asked = shown, np.append(0, np.cumsum(counts))
                found = find(search, self.layout, self.catalog, past, self.kinds(line, search.column), asked)
        return NetBatch(
            user_codes=user_codes,
            user_dense=sides.user.dense[requests],
            history_codes=_histories(self, samples, requests),
            item_codes=items.codes,
            item_dense=items.dense,
            item_dynamic=sides.dynamic[rows],
            row_of=row_of,
            labels={name: label[rows] for name, label in samples.labels.items()},
            log_odds=None if samples.log_odds is None else samples.log_odds[rows],
            keep_negatives=samples.keep_negatives,
            spared=None if samples.spared is None else samples.spared[rows],
            found=found,
        )


def _sides(inputs: Inputs, samples: Samples) -> Sides:
    encoder, layout = inputs.encoder, inputs.layout
    scenes = [samples.scenes[code] for code in samples.scene]
    context = encoder.context(samples.time, scenes, samples.context.to_dict(as_series=False))
    static = inputs.users.take(samples.user)
    codes = np.concatenate([static.codes, context.codes], axis=1)

    def asking(source: str) -> NDArray[np.int64 | np.int32]:
        return samples.user if source == "user" else codes[:, layout.field(source).start]

    requests = {name: key_of(group.request, layout, asking, len(samples)) for name, group in encoder.groups.items()}
    config = encoder.learnt.config
    refreshed = refresh_time(samples.time, config.refresh_hours, config.refresh_offset_hours)
    counts = inputs.user_statistics.counts(samples.user, samples.time, encoder.live.actions)
    statistics = encoder.live.named(encoder.live.values(counts, encoder.learnt.totals))
    for name, group in encoder.groups.items():
        if not group.candidate:
            keys = requests[name], np.zeros(len(samples), np.int64)
            statistics.update(group.named(values_at(encoder, group, inputs.pairs_of(group), keys, refreshed)))
    user = encoder.user_side(static, statistics, context)
    per_row = np.repeat(np.arange(len(samples)), np.diff(samples.first))
    dynamic = np.zeros((len(samples.item), len(layout.item_dynamic)), np.float32)
    for start in range(0, len(samples.item), 200_000):  # blocks keep the [n, actions] counts small
        block = slice(start, start + 200_000)
        _count_candidates(inputs, samples.item[block], (requests, refreshed), per_row[block], dynamic[block])
    raw = {name: inputs.catalog.column(name, samples.item) for name in layout.item_ages}
    with_ages(layout, dynamic, raw, samples.time[per_row])
    return Sides(user, dynamic)


def _count_candidates(
    inputs: Inputs,
    items: NDArray[np.int32],
    asked: tuple[dict[str, NDArray[np.int64]], NDArray[np.float64]],
    request: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Fills in the statistics [n, …] of candidates. asked: keys by group and refresh of every request."""
    encoder, (keys, refreshed) = inputs.encoder, asked
    codes = inputs.catalog.column("codes", items) if encoder.layout.item_crosses else None

    def shown(source: str) -> NDArray[np.int64 | np.int32]:
        return items if codes is None or source == ITEM else codes[:, encoder.layout.field(source).start]

    for name, group in encoder.groups.items():
        if group.candidate:
            pair = keys[name][request], key_of(group.candidate, encoder.layout, shown, len(items))
            values = values_at(encoder, group, inputs.pairs_of(group), pair, refreshed[request])
            out[:, encoder.columns_of(group)] = values


def _histories(inputs: Inputs, samples: Samples, requests: NDArray[np.int64]) -> NDArray[np.int32]:
    """[r, length, codes] of the last entries before each request, newest first."""
    layout, timeline = inputs.layout, samples.timeline
    at = samples.history_end[requests][:, None] - 1 - np.arange(layout.history_length)
    there = at >= samples.history_start[requests][:, None]
    at = at[there]
    out = np.zeros((len(requests), layout.history_length, layout.history_codes), np.int32)
    now = np.broadcast_to(samples.time[requests][:, None], there.shape)[there]
    codes = inputs.catalog.column("codes", timeline.item[at])
    out[there] = history_codes(layout, codes, timeline.action[at], now - timeline.time[at])
    return out
