"""The inputs of a training on a log that is larger than the memory it may take.

The log is gone through in the order of time, in stretches of some hours none of which goes beyond a refresh of the
statistics. Each stretch is made into samples and sides by the code that makes them of a whole log, and these are put on
disk one after the other. What stays in memory grows with users, items and requests, never with events.

It differs from `features.prepare` in this: an impression belongs to a request of at most an hour before it, an answer
to a page of at most `label_window_hours` before it, also when it names the request; words of the context are learnt
from some of the requests, evenly over time; of the validation requests some are taken, evenly over time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.data.attribution import answers_since
from tamis.data.dataset import DAY_SECONDS, Dataset, Events
from tamis.data.on_disk import Appender, OnDisk
from tamis.data.samples import Log, Reach, SampleConfig, Samples, Timeline, build_samples
from tamis.errors import ConfigError, DataError
from tamis.features.as_of import Counting, Running
from tamis.features.encode import Encoder
from tamis.features.fields import numbers
from tamis.features.groups import groups_of, live_group
from tamis.features.inputs import Inputs, Sides
from tamis.features.prepare import Moment, catalog_of, columns_of, rows_of
from tamis.features.spec import FeaturesConfig
from tamis.features.statistics import refresh_time
from tamis.state.settings import StateConfig
from tamis.types import ACTION_CODE, ACTIONS, Action, Progress, silent

_EVENT: Final = 31  # bytes of one in memory
_STRETCH_ROW: Final = 500  # bytes of an event while its stretch is made into samples
_PAGE_SECONDS: Final = 3600.0
_NAMES: Final = Events.__slots__


@dataclass(frozen=True, slots=True)
class Room:
    """Where a training may work. folder: empty.   bytes: of memory for the log."""

    folder: Path
    bytes: float

    def rows(self, share: float, each: float) -> int:
        """How many rows of `each` bytes a share of the memory holds."""
        return max(1, int(self.bytes * share / each))


def prepare_bounded(
    dataset: Dataset,
    moment: Moment,
    configs: tuple[FeaturesConfig, SampleConfig, tuple[str, ...]],
    within: tuple[StateConfig, Room],
    encoder: Encoder | None = None,
    progress: Progress = silent,
) -> Inputs:
    """See `features.prepare.prepare`. What it makes is of use as long as the folder of `room` is there.

    Raises ConfigError when the memory cannot hold what grows with users, items and requests, DataError for a log
    without impressions: drawing negatives wants all of it.
    """
    return _Reader(dataset, moment, configs, *within).inputs(encoder, progress)


class _Reader:
    """Goes through a log again and again: to know its size, to count, for timelines, and for samples."""

    def __init__(self, dataset: Dataset, moment: Moment, configs: Any, state: StateConfig, room: Room) -> None:
        self.dataset, self.moment, self.room = dataset, moment, room
        self.features, self.sampling, self.interest = configs
        self.piece = room.rows(1 / 16, 3 * _EVENT)
        groups = [*groups_of(self.features).values(), live_group(self.features)]
        self.counted = sorted({code for group in groups for code in group.actions})
        self.windows = sorted({hours for group in groups for hours in group.windows} | {0.0})
        history = [ACTION_CODE[name] for name in self.features.history.actions]
        self.history = np.isin(np.arange(len(ACTIONS)), history)
        self.remembered = np.isin(ACTIONS, state.timeline_actions)
        self.limit = state.timeline_limit
        self._overview()
        self._check()

    def _pieces(self, names: Sequence[str], since: float | None, until: float) -> Iterator[dict[str, NDArray[Any]]]:
        return self.dataset.pieces(names, since, until, rows=self.piece)

    def _overview(self) -> None:
        users, items = len(self.dataset.users), len(self.dataset.items)
        self.totals = np.zeros(len(ACTIONS), np.int64)
        self.acted = np.zeros(users, np.int64)  # entries of a live timeline
        self.by_user = np.zeros(users, np.int64)
        self.first_seen = np.full(items, np.inf)
        minutes: dict[int, int] = {}
        for events in self._pieces(("user", "item", "action"), None, self.moment.until):
            self.totals += np.bincount(events["action"], minlength=len(ACTIONS))
            self.by_user += np.bincount(events["user"], minlength=users)
            self.acted += np.bincount(events["user"][self.remembered[events["action"]]], minlength=users)
            np.minimum.at(self.first_seen, events["item"], events["time"])
            minute, count = np.unique((events["time"] // 60).astype(np.int64), return_counts=True)
            for at, more in zip(minute.tolist(), count.tolist(), strict=True):
                minutes[at] = minutes.get(at, 0) + more
        self.minutes = np.array(sorted(minutes.items()), np.int64).reshape(-1, 2)
        self.first = float(self.first_seen.min(initial=np.inf))
        self.all_of = {code: count for code, count in enumerate(self.totals.tolist()) if count}

    def _check(self) -> None:
        if not self.totals[Action.IMPRESSION]:
            raise DataError(f"{self.dataset.folder}: a log without impressions cannot be learnt from under a bound")
        entities, requests = len(self.by_user) + len(self.first_seen), self.dataset.counts()["requests"]
        numbers_each = (len(self.counted) + len(self.all_of)) * (len(self.windows) + 1)
        wanted = 2.0 * (entities * (32 + 4 * numbers_each) + requests * 32)
        if wanted > self.room.bytes:
            raise ConfigError(
                f"train.memory_gib is {self.room.bytes / 2**30:.3g}: {entities:,} users and items and {requests:,} "
                f"requests alone want {wanted / 2**30:.3g}"
            )

    def inputs(self, encoder: Encoder | None, progress: Progress) -> Inputs:
        dataset, until = self.dataset, self.moment.until
        progress("features", 0, 3)
        last = self._counting([*self.all_of])  # all of them: events of any kind make an id known
        last.advance(until, until)
        counts = {side: last.as_of(side, Events.joined([])) for side in ("user", "item")}
        raw = {"user": columns_of(dataset.users), "item": columns_of(dataset.items)}
        there = np.fmin(numbers(raw["item"]["publish_time"]), self.first_seen)
        if encoder is None:
            known = {"user": self.by_user > 0, "item": there < until}
            sides: dict[str, Any] = {side: rows_of(raw[side], mask) for side, mask in known.items()}
            encoder = Encoder.fit(self.features, {**sides, "context": self._context()}, counts["user"], counts["item"])
        catalog = catalog_of(encoder, dataset, raw["item"], counts["item"], until)
        users = encoder.users(np.arange(len(self.by_user)), raw["user"])
        progress("features", 1, 3)
        self.published = np.asarray(catalog.columns["publish_time"][0])
        self.timeline, self.reach = self._timelines()
        empty = Events.joined([])
        base = build_samples(self._log(empty, -np.inf, self.first), -np.inf, -np.inf, self.sampling)
        inputs = Inputs(
            encoder=encoder,
            catalog=catalog,
            users=users,
            events=empty,
            until=until,
            train=base,
            valid=base,
            user_statistics=counts["user"],
            item_statistics=counts["item"],
            interest_actions=self.interest,
            progress=progress,
            user_keys=np.asarray(dataset.user_ids.keys),
            reach=self.reach,
            first_seen=self.first_seen,
        )
        return self._filled(inputs)

    def _filled(self, inputs: Inputs) -> Inputs:
        """With events and samples, stretch by stretch."""
        room = self.room
        row = 6 + 4 * (len(self.all_of) + len(inputs.layout.item_dynamic)) + 24  # bytes, its share of a request's too
        late = int(self.minutes[self.minutes[:, 0] * 60 >= self.moment.valid_since, 1].sum())
        every = max(1, -(-late // room.rows(1 / 8, 3 * row)))  # of how many validation requests one is taken
        train, valid = _Shelf(room.folder / "train"), _Shelf(room.folder / "valid")
        files = {name: Appender(room.folder / f"events.{name}") for name in _NAMES}
        for end, events, samples, sides in self._stretches(inputs, every):
            for name, file in files.items():
                file.append(getattr(events, name))
            if len(samples):
                shelf = train if end <= self.moment.valid_since else valid
                shelf.append(samples, sides)
        window = room.rows(1 / 4, row)
        to_learn, to_judge = train.done(inputs, window), valid.done(inputs, window).in_memory()
        ends = [*range(0, files["user"].rows, self.piece), files["user"].rows]
        return replace(
            inputs,
            events=Events(**{name: _array(file.done(ends)) for name, file in files.items()}),
            train=to_learn.samples,
            valid=to_judge.samples,
            pieces=to_learn.pieces,
            _sides={id(each.samples): (each.samples, each.sides) for each in (to_learn, to_judge)},
        )

    def _stretches(self, inputs: Inputs, every: int) -> Iterator[tuple[float, Events, Samples, Sides]]:
        """(end, events of interest, samples, their sides) of each stretch; of `every` validation requests one."""
        interest = np.isin(ACTIONS, self.interest)
        counting, seen, edges = self._counting(self.counted), 0, self._edges()
        for number, (begin, end) in enumerate(pairwise(edges)):
            counting.advance(float(self._refreshed((begin + end) / 2)), begin)
            events = self._events(begin, end)
            samples = self._samples(events, begin if number else -np.inf, end)
            if begin >= self.moment.valid_since:
                chosen = np.flatnonzero((seen + np.arange(len(samples))) % every == 0)
                seen, samples = seen + len(samples), samples.take(chosen)
            inside = events.take((events.time >= begin) & (events.time < end))
            users, items = (counting.as_of(side, inside) for side in ("user", "item"))
            at_hand = replace(inputs, user_statistics=users, item_statistics=items, _sides={})
            yield end, inside.take(interest[inside.action]), samples, at_hand.sides(samples)
            inputs.progress("samples", number + 1, len(edges) - 1)

    def _context(self) -> dict[str, list[Any]]:
        """Raw context of some requests, evenly over time."""
        until, count = self.moment.until, max(1, self.dataset.counts()["requests"])
        width = 1 + len(self.dataset.manifest.columns.get("requests", {}))
        every = -(-count // self.room.rows(1 / 8, 100 * width))
        frames = [pl.DataFrame(schema={"scene": pl.String})]
        for day in sorted({part.first // DAY_SECONDS for part in self.dataset.manifest.parts["requests"]}):
            begin, end = day * DAY_SECONDS, (day + 1) * DAY_SECONDS
            if begin < until:
                some = self.dataset.requests(begin, min(end, until))
                frames.append(some.context.with_columns(scene=some.scene.cast(pl.String)).gather_every(every))
        return columns_of(pl.concat(frames, how="diagonal_relaxed"))

    def _timelines(self) -> tuple[Timeline, Reach]:
        """Those of histories and of the state, made for as many users at a time as there is room for."""
        files = {name: Appender(self.room.folder / f"timeline.{name}") for name in ("item", "action", "time")}
        times, chosen = (Appender(self.room.folder / f"remembered.{name}") for name in ("time", "chosen"))
        counts, done = np.zeros(len(self.acted), np.int64), 0
        chosen.append(np.zeros(1, np.int64))
        for first, last in _ranges(self.acted, self.room.rows(1 / 8, 4 * _EVENT)):
            pieces = []
            for events in self._pieces(_NAMES, None, self.moment.until):
                user = events["user"]
                kept = self.remembered[events["action"]] & (user >= first) & (user < last)
                pieces.append({name: column[kept] for name, column in events.items()})
            part = Timeline.of(Events.joined(pieces), len(self.acted), np.flatnonzero(self.remembered).tolist())
            is_history = self.history[part.action]
            times.append(part.time)
            chosen.append(done + np.cumsum(is_history))
            done += int(is_history.sum())
            owner = np.repeat(np.arange(len(self.acted)), np.diff(part.starts))
            counts += np.bincount(owner[is_history], minlength=len(counts))
            for name, file in files.items():
                file.append(getattr(part, name)[is_history])
        small = self.room.rows(1 / 16, 1)
        item, action, time = (_array(file.done(file.whole(small))) for file in files.values())
        timeline = Timeline(item, action, time, np.append(0, np.cumsum(counts)))
        all_times = times.done(times.whole(small))
        none: Any = np.empty(0)  # of all that a live timeline holds only times are asked for
        remembered = Timeline(none, none, _array(all_times), np.append(0, np.cumsum(self.acted)))
        return timeline, Reach(remembered, _array(chosen.done(chosen.whole(small))), self.limit)

    def _counting(self, actions: Sequence[int]) -> Counting:
        return Counting(lambda: Running(self.dataset, actions, self.piece), self.windows, (self.first, self.all_of))

    def _refreshed(self, time: Any) -> NDArray[np.float64]:
        """The last refresh; of moments between two, since right at one the last digit decides which it is."""
        return refresh_time(time, self.features.refresh_hours, self.features.refresh_offset_hours)

    def _edges(self) -> list[float]:
        """Where stretches begin, the end of training last: at most so many events in each, none beyond a refresh."""
        most = self.room.rows(1 / 4, _STRETCH_ROW)
        part = (np.cumsum(self.minutes[:, 1]) - 1) // most
        cuts = self.minutes[np.flatnonzero(np.diff(part)) + 1, 0] * 60.0
        step = self.features.refresh_hours * 3600
        until = self.moment.until
        begin = float(self._refreshed(self.first))
        refreshes = self._refreshed(begin + step * (0.5 + np.arange(1, int((until - begin) / step) + 2)))
        edges = np.unique([self.first, *cuts, *refreshes, self.moment.valid_since, until])
        return [float(edge) for edge in edges if self.first <= edge <= until]

    def _events(self, begin: float, end: float) -> Events:
        """All that pages from `begin` to `end` are made of, answers included."""
        until = self.moment.until
        shown_until = min(end + _PAGE_SECONDS, until)
        answered_until = min(end + max(self.sampling.label_window_hours * 3600, _PAGE_SECONDS), until)
        kept, far = [], []
        for events in self._pieces(_NAMES, begin - _PAGE_SECONDS, answered_until):
            rows = (events["action"] != Action.IMPRESSION) | (events["time"] < shown_until)
            kept.append({name: column[rows] for name, column in events.items()})
            later = rows & (events["time"] >= shown_until)
            far.append(self._pairs(events)[later])
        pairs = np.unique(np.concatenate(far)) if far else np.empty(0, np.int64)
        if len(pairs):  # a later page that shows the same item to the same user may be what an answer is to
            for events in self._pieces(_NAMES, shown_until, answered_until):
                own = self._pairs(events)
                place = np.minimum(np.searchsorted(pairs, own), len(pairs) - 1)
                rows = (events["action"] == Action.IMPRESSION) & (pairs[place] == own)
                kept.append({name: column[rows] for name, column in events.items()})
        return Events.joined(kept)

    def _pairs(self, events: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        return np.asarray(events["user"].astype(np.int64) * len(self.first_seen) + events["item"])

    def _log(self, events: Events, begin: float, end: float) -> Log:
        requests = self.dataset.requests(begin - DAY_SECONDS, min(end + _PAGE_SECONDS, self.moment.until))
        answers = answers_since(requests, events, begin - _PAGE_SECONDS)  # older pages are not among the events
        return Log(answers, requests, self.timeline, self.published, self.reach)

    def _samples(self, events: Events, begin: float, end: float) -> Samples:
        names = [name for name in self.sampling.labels or ACTIONS[1:] if self.totals[ACTION_CODE[name]]]
        config = msgspec.structs.replace(self.sampling, labels=tuple(names))
        if not (events.action == Action.IMPRESSION).any():  # no sample, rather than ones of drawn negatives
            begin, end = -np.inf, -np.inf
        samples = build_samples(self._log(events, begin, end), begin, end, config)
        none = np.zeros(len(samples.item), np.float32)
        return replace(samples, labels={name: samples.labels.get(name, none) for name in names})


@dataclass(frozen=True, slots=True)
class _Stored:
    samples: Samples
    sides: Sides
    pieces: NDArray[np.int64]

    def in_memory(self) -> "_Stored":
        samples, sides = self.samples, self.sides
        arrays: dict[str, Any] = {name: np.asarray(getattr(samples, name)) for name in (*_REQUEST, "item", "position")}
        labels = {name: np.asarray(label) for name, label in samples.labels.items()}
        user = replace(sides.user, codes=np.asarray(sides.user.codes), dense=np.asarray(sides.user.dense))
        return _Stored(replace(samples, **arrays, labels=labels), Sides(user, np.asarray(sides.dynamic)), self.pieces)


_REQUEST: Final = ("user", "time", "scene", "history_start", "history_end")


class _Shelf:
    """Samples and their sides being put on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Appender] = {}
        self.counts: list[NDArray[np.int32]] = []
        self.scenes: dict[str, int] = {}
        self.labels: list[str] = []

    def append(self, samples: Samples, sides: Sides) -> None:
        codes = np.array([self.scenes.setdefault(name, len(self.scenes)) for name in samples.scenes], np.int32)
        samples = replace(samples, scene=codes[samples.scene])
        self.labels = list(samples.labels)
        self.counts.append(np.diff(samples.first).astype(np.int32))
        arrays = {name: getattr(samples, name) for name in (*_REQUEST, "item", "position")}
        arrays.update({f"label.{name}": label for name, label in samples.labels.items()})
        arrays.update(codes=sides.user.codes, dense=sides.user.dense, dynamic=sides.dynamic)
        for name, array in arrays.items():
            if name not in self.files:
                self.files[name] = Appender(self.path.with_name(f"{self.path.name}.{name}"))
            self.files[name].append(array)

    def done(self, inputs: Inputs, window: int) -> _Stored:
        """Samples and sides on disk, windows of about so many rows; without any, empty ones."""
        if not self.counts:
            return _Stored(inputs.train, inputs.sides(inputs.train), np.zeros(1, np.int64))
        first = np.append(0, np.cumsum(np.concatenate(self.counts, dtype=np.int64)))
        pieces = np.concatenate([[0], np.flatnonzero(np.diff(first[:-1] // window)) + 1, [len(first) - 1]])
        per_row = {"item", "position", "dynamic", *(name for name in self.files if name.startswith("label."))}
        made: dict[str, Any] = {
            name: _array(file.done(first[pieces] if name in per_row else pieces)) for name, file in self.files.items()
        }
        samples = replace(
            inputs.train,
            **{name: made[name] for name in (*_REQUEST, "item", "position")},
            scenes=tuple(self.scenes),
            first=first,
            labels={name: made[f"label.{name}"] for name in self.labels},
        )
        user = inputs.users.take(np.empty(0, np.int64))
        sides = Sides(replace(user, codes=made["codes"], dense=made["dense"]), made["dynamic"])
        return _Stored(samples, sides, pieces)


def _ranges(counts: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Neighbouring entities in ranges of about `most` counts; at least one range."""
    part = np.maximum(np.cumsum(counts) - 1, 0) // most
    cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(counts)]
    return list(pairwise(cuts))


def _array(array: OnDisk) -> Any:
    """For fields that are arrays in memory without a bound."""
    return array
