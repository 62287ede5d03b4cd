"""Ranking samples, grouped by request, with the history by pointer.

A request's user side is stored once; its candidates are rows. The user's timeline is stored once, sorted by time; a
request holds the slice of it that ends *before* the request's own time, so that a label can never leak into its own
features and nothing is copied.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.bloom import mixed
from tamis.config import AtLeastZero, Config, NotNegative, ShareAboveZero
from tamis.data.attribution import (
    Rows,
    attribute,
    impression_rows,
    label_columns,
    places_of,
    positive_rows,
    rank_before,
)
from tamis.data.dataset import Events, Requests
from tamis.data.negatives import Drawing, draw_negatives
from tamis.data.on_disk import Derived, OnDisk
from tamis.types import ACTION_CODE, ACTIONS, Action


class SampleConfig(Config, frozen=True):
    """How logs become samples.

    labels: action names, () = every action that occurs.   label_window_hours: an event without a request id belongs to
    the user's latest impression of that item if it is not older than this.
    positives, negatives, popularity_power: for logs without impressions. Each of these actions is a request of that
    item and of `negatives` items drawn in proportion to (events + 1) ** popularity_power.
    keep_negatives: share of the training rows without any label that nets learn from, see `thinned`; 1 = all.
    """

    labels: tuple[str, ...] = ()
    label_window_hours: NotNegative = 24.0
    positives: tuple[str, ...] = ("click",)
    negatives: AtLeastZero = 4
    popularity_power: NotNegative = 0.75
    keep_negatives: ShareAboveZero = 1.0

    def __post_init__(self) -> None:
        for name in (*self.labels, *self.positives):
            if name not in ACTION_CODE:
                raise ValueError(f"unknown action {name!r}; there are {', '.join(ACTIONS)}")


@dataclass(frozen=True, slots=True)
class Timeline:
    """All users' positive actions: sorted by user, then time. User u's entries are starts[u] : starts[u + 1]."""

    item: NDArray[np.int32]  # [t]
    action: NDArray[np.uint8]  # [t]
    time: NDArray[np.float64]  # [t]
    starts: NDArray[np.int64]  # [users + 1]

    @staticmethod
    def of(events: Events, users: int, actions: Sequence[int]) -> "Timeline":
        """The timelines of `users` users: their events of the given action codes, those of one time in their order.

        Raises ValueError when there is an event of a user with a number outside `users`.
        """
        if int(events.user.max(initial=-1)) >= users:
            raise ValueError(f"users: {users}, but there are events of user {int(events.user.max())}")
        rows = np.flatnonzero(np.isin(events.action, np.asarray(actions, np.uint8)))
        rows = rows[np.argsort(events.user[rows], kind="stable")]
        starts = np.zeros(users + 1, np.int64)
        np.cumsum(np.bincount(events.user[rows], minlength=users), out=starts[1:])
        return Timeline(events.item[rows], events.action[rows], events.time[rows], starts)

    def before(self, users: NDArray[Any], times: NDArray[np.float64]) -> NDArray[np.int64]:
        """[r] the end of each user's slice: entries strictly earlier than the given time.

        A user without a number (−1) or without entries has the empty slice at `start(users)`.
        """
        if np.isnan(times).any():
            raise ValueError("times: has NaN")
        low, high = self.start(users), self.start(np.where(users < 0, users, users + 1))
        return rank_before(self.time, times, low, high)

    def start(self, users: NDArray[Any]) -> NDArray[np.int64]:
        """[r] where each user's slice starts; 0 for −1, the end of the timeline for users it was not made for."""
        return np.where(users < 0, 0, self.starts[np.clip(users, 0, len(self.starts) - 1)])


_PER_REQUEST: Final = ("user", "time", "scene", "context", "history_start", "history_end")
_LABEL_ROWS: Final = 65_536  # at once, of labels on disk: what is made of a label takes many times its memory
_NOBODY: Final = (np.empty(0, np.int32), np.empty(0, np.int32))


@dataclass(frozen=True, slots=True)
class Reach:
    """How far back a live timeline reaches: its newest `limit` entries, of which only some kinds make up a history.

    remembered: all that a live timeline takes in.   chosen: [t + 1] entries of the history's timeline among the first
    so many of those.
    """

    remembered: Timeline
    chosen: NDArray[np.int64]
    limit: int

    @staticmethod
    def of(events: Events, users: int, actions: Sequence[int], history: Sequence[int], limit: int) -> "Reach":
        """actions: codes that a live timeline takes in.   history: those of them that make up a history."""
        remembered = Timeline.of(events, users, actions)
        is_history = np.isin(remembered.action, np.asarray(history, np.uint8))
        return Reach(remembered, np.append(0, np.cumsum(is_history)), limit)

    def start(self, users: NDArray[Any], times: NDArray[np.float64]) -> NDArray[np.int64]:
        """[r] where in the history's timeline that begins which a live one still holds at the given time."""
        first, end = self.remembered.start(users), self.remembered.before(users, times)
        return np.asarray(self.chosen[np.maximum(first, end - self.limit)])


@dataclass(frozen=True, slots=True)
class Samples:
    """r requests with n candidates in all. Rows of request j are first[j] : first[j + 1]."""

    user: NDArray[np.int32]  # [r]
    time: NDArray[np.float64]  # [r]
    scene: NDArray[np.int32]  # [r] index into `scenes`
    scenes: tuple[str, ...]
    context: pl.DataFrame  # [r] further request columns
    history_start: NDArray[np.int64]  # [r] slice of the timeline, as much of it as a live one would hold …
    history_end: NDArray[np.int64]  # [r] … that ends before `time`
    first: NDArray[np.int64]  # [r + 1]
    item: NDArray[np.int32]  # [n]
    position: NDArray[np.int16]  # [n] −1 = unknown
    labels: Mapping[str, NDArray[np.float32]]  # action name → [n]: 0/1, "play": seconds, "rate": stars; what occurs
    timeline: Timeline
    log_odds: NDArray[np.float32] | None = None  # [n] added by how negatives were drawn; None = rows are as they were
    before: tuple[NDArray[np.int32], NDArray[np.int32]] = _NOBODY  # user, item of rows that were taken away
    keep_negatives: float = 1.0  # share α of the negatives that is still there, see `thinned`
    spared: NDArray[np.bool_] | None = (
        None  # [n] True: of the 1 − α, there for its positive labels alone; None = α is 1
    )

    def __len__(self) -> int:
        return len(self.user)

    def label_pieces(self) -> Iterator[Mapping[str, NDArray[np.float32]]]:
        """The labels, piece by piece where they lie on disk, else all at once."""
        labels: Mapping[str, Any] = self.labels
        if not labels or not all(isinstance(label, OnDisk | Derived) for label in labels.values()):
            yield self.labels
            return
        for pieces in zip(*(label.pieces() for label in labels.values()), strict=True):
            for start in range(0, len(pieces[0]), _LABEL_ROWS):
                part = slice(start, start + _LABEL_ROWS)
                yield {name: piece[part] for name, piece in zip(labels, pieces, strict=True)}

    def take(self, requests: NDArray[np.int64]) -> "Samples":
        """The requests at the given places, ascending, with their rows."""
        counts = np.diff(self.first)
        chosen = np.zeros(len(self), np.bool_)
        chosen[requests] = True
        rows = np.repeat(chosen, counts)
        return replace(
            self,
            **{name: getattr(self, name)[requests] for name in _PER_REQUEST},
            first=np.append(0, np.cumsum(counts[requests])),
            item=self.item[rows],
            position=self.position[rows],
            labels={name: label[rows] for name, label in self.labels.items()},
            log_odds=None if self.log_odds is None else self.log_odds[rows],
            spared=None if self.spared is None else self.spared[rows],
        )

    def since(self, moment: float) -> "Samples":
        """The requests from a moment on, with their rows. Requests are in the order of time.

        What was shown before teaches nothing more, but stays known (`before`): it is no negative of its user.
        """
        begin = int(np.searchsorted(self.time, moment))
        row = int(self.first[begin])
        owner = np.repeat(self.user[:begin], np.diff(self.first[: begin + 1]))
        before = np.append(self.before[0], owner), np.append(self.before[1], self.item[:row])
        return replace(self.take(np.arange(begin, len(self))), before=before)


def thinned(samples: Samples, keep: float) -> Samples:
    """The samples with a share `keep` of their negatives: fewer rows to learn from, nearly all that they teach.

    A hash of user, item and time draws that share of all rows, the same ones in every training. Rows without any label
    above 0 that are not drawn go away; their pairs are known on (`before`). Rows with one stay, but those that are not
    drawn are marked (`spared`): where a head is 0 there it must not learn, or it would see too many negatives of this
    sort. So each head keeps each of its negatives with the same probability, whatever else the user did with the item.
    """
    if keep >= 1 or not len(samples.item):
        return samples
    owner = np.repeat(np.arange(len(samples)), np.diff(samples.first))
    pair = samples.user[owner].astype(np.uint64) << np.uint64(32) | samples.item.astype(np.uint64)
    draw = mixed(mixed(pair) ^ samples.time[owner].view(np.uint64))
    spared = (draw >> np.uint64(11)) * 2.0**-53 >= keep
    stays = ~spared
    for label in samples.labels.values():
        stays |= label > 0
    gone = owner[~stays]
    return replace(
        samples,
        first=np.append(0, np.cumsum(np.bincount(owner[stays], minlength=len(samples)))),
        item=samples.item[stays],
        position=samples.position[stays],
        labels={name: label[stays] for name, label in samples.labels.items()},
        log_odds=None if samples.log_odds is None else samples.log_odds[stays],
        before=(np.append(samples.before[0], samples.user[gone]), np.append(samples.before[1], samples.item[~stays])),
        keep_negatives=keep,
        spared=spared[stays],
    )


@dataclass(frozen=True, slots=True)
class Log:
    """What samples are made of: all that was logged up to some moment.

    events must reach as far as labels may; nothing later than the end of training for training samples.
    reach: None = histories begin with the log.   drawing: what negatives are drawn by; None = as the events say.
    """

    events: Events
    requests: Requests
    timeline: Timeline
    published: NDArray[np.float64]  # [i] publish times in seconds, NaN = unknown; only for logs without impressions
    reach: Reach | None = None
    drawing: Drawing | None = None


def build_samples(log: Log, since: float, until: float, config: SampleConfig, seed: int = 0) -> Samples:
    """The samples of requests with since ≤ time < until, by time of the request, rows by position and then item.

    Rows are the impressions of a request; impressions without a request id form one request for each user and moment.
    Label `a` of a row is 1 when the user did `a` to that item in answer to that request: the event has the request's
    id; or it has none, or one whose page does not show the item, and the row is the user's latest impression of it in
    `label_window_hours` before the event.
    "play" is the largest number of seconds, "rate" of stars. A log without any impression gets one request for each
    positive event, with sampled negatives (`data/negatives.py` states the rule).
    """
    sampled = not np.any(log.events.action == Action.IMPRESSION)
    positives = [ACTION_CODE[name] for name in config.positives]
    rows = positive_rows(log.events, positives) if sampled else impression_rows(log.events, log.requests)
    target = attribute(log.events, rows, config.label_window_hours * 3600)
    inside = (rows.page_time >= since) & (rows.page_time < until)
    moved = np.where(inside, np.cumsum(inside) - 1, -1)  # −1: the row is in another window
    target = np.where(target >= 0, moved[target], -1) if len(moved) else target
    rows = rows.take(np.flatnonzero(inside))
    labels = label_columns(log.events, target, len(rows), _label_names(log.events, config))
    if not sampled or not len(rows):
        return _grouped(rows, labels, log)
    drawing = log.drawing or Drawing.of(log.events, log.published, config.popularity_power)
    rows, labels = _with_negatives(rows, labels, drawing, (config.negatives, seed))
    samples = _grouped(rows, labels, log)
    if config.popularity_power:
        samples = replace(samples, log_odds=drawing.popularity.log_odds(rows.item, rows.page_time))
    return samples


def rating_samples(log: Log, since: float, until: float) -> Samples:
    """Every rating of known value with since ≤ time < until as a request of one row, label "rate" in stars.

    Ratings are answers to no page: there is no scene, no position, no row that is not rated.
    """
    events = log.events
    chosen = (events.action == Action.RATE) & (events.value > 0) & (events.time >= since) & (events.time < until)
    rated = events.take(np.flatnonzero(chosen))
    page = np.arange(len(rated), dtype=np.int64)
    none = np.full(len(rated), -1)
    rows = Rows(page, none, rated.user, rated.item, rated.time, rated.time, none.astype(np.int16))
    return _grouped(rows, {"rate": rated.value}, log)


def _label_names(events: Events, config: SampleConfig) -> list[str]:
    occurring = set(np.flatnonzero(np.bincount(events.action)).tolist())
    return [name for name in config.labels or ACTIONS[1:] if ACTION_CODE[name] in occurring]


def _with_negatives(
    rows: Rows, labels: dict[str, NDArray[np.float32]], drawing: Drawing, draw: tuple[int, int]
) -> tuple[Rows, dict[str, NDArray[np.float32]]]:
    """Rows and labels with the negatives of each row's request among them. draw: how many for each, seed."""
    owner, item = draw_negatives(rows.user, rows.page_time, drawing, *draw)
    negatives = rows.take(owner)
    mixed = Rows(*(np.concatenate([getattr(rows, name), getattr(negatives, name)]) for name in Rows.__slots__))
    mixed.item[len(rows) :] = item
    order = np.lexsort((mixed.item, mixed.page))  # pages are numbered by time, so the order of requests stays
    zeros = np.zeros(len(item), np.float32)
    return mixed.take(order), {name: np.concatenate([label, zeros])[order] for name, label in labels.items()}


def _grouped(rows: Rows, labels: Mapping[str, NDArray[np.float32]], log: Log) -> Samples:
    """Rows, sorted by page, as samples."""
    starts = np.flatnonzero(np.diff(rows.page, prepend=-1)) if len(rows) else np.empty(0, np.int64)
    user, time = rows.user[starts], rows.page_time[starts]
    place = pl.DataFrame({"place": places_of(log.requests, rows.request[starts])})
    index = place.select(pl.when(pl.col("place") >= 0).then(pl.col("place")).cast(pl.UInt32)).to_series()
    scene = log.requests.scene.cast(pl.String).gather(index).fill_null("")
    names = scene.unique().sort()
    context = log.requests.context
    return Samples(
        user=user,
        time=time,
        scene=scene.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int32),
        scenes=tuple(names.to_list()),
        context=context.select(pl.all().gather(index)) if context.width else pl.DataFrame(height=len(user)),
        history_start=log.reach.start(user, time) if log.reach else log.timeline.start(user),
        history_end=log.timeline.before(user, time),
        first=np.append(starts, len(rows)).astype(np.int64),
        item=rows.item,
        position=rows.position,
        labels=labels,
        timeline=log.timeline,
    )
