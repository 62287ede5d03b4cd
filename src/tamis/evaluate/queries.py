"""Queries of the past: what the server would have known of a user at a moment of the held-out days."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tamis.assemble import Model
from tamis.data.attribution import answers_since
from tamis.data.dataset import DAY_SECONDS, Dataset, Events, Requests
from tamis.data.samples import Log, Samples, Timeline, build_samples, rating_samples
from tamis.data.split import Split
from tamis.types import ACTIONS, Action, Catalog, Exact, History, Query

_EVENT_BYTES = 150  # of one event, with all that is made of it
NEWEST = 2000  # as many as the live catalogue keeps


@dataclass(frozen=True)
class Past:
    """Builds queries from the log. Everything in a query lies strictly before its own time.

    Users have the data set's numbers here, items the bundle's. What the bundle does not know, because it was imported
    since, is treated as the server would: a user is number −1 in his query, an item of his history is −1. Outside of
    queries an unknown item keeps a number of its own, at or above len(model.catalog), which no answer can hold.
    """

    model: Model
    dataset: Dataset
    events: Events  # up to the end of the held-out days
    by_user: Timeline  # the same, all actions, user by user
    user_numbers: NDArray[np.int64]  # [users] the bundle's number of each user, −1 = unknown
    remembered: NDArray[np.bool_]  # [len(ACTIONS)] True: the live timeline keeps it
    published: NDArray[np.float64]  # [i] publish time, −inf unknown
    newest: NDArray[np.int64]  # items by publish time, newest first

    @staticmethod
    def of(model: Model, dataset: Dataset, until: float, since: float | None = None) -> "Past":
        """The log before `until`, as the bundle sees it.

        since: the begin of the held-out days. With it, under a bound (`train.memory_gib`), there are only the events of
        some users who did something from then on, drawn by the seed, as many as there is room for.
        """
        room = model.config.train.memory_gib * 2**30
        if room and since is not None:
            events = _of_some(dataset, (since, until), room, model.config.train.seed)
        else:
            events = dataset.events(until=until)
        numbers = model.item_ids.numbers_of_keys(np.asarray(dataset.item_ids.keys))
        numbers = np.where(numbers >= 0, numbers, len(model.catalog) + np.arange(len(numbers)))
        events = replace(events, item=numbers[events.item].astype(np.int32))
        times = np.asarray(model.catalog.columns["publish_time"][0])
        published = np.where(np.isfinite(times), times, -np.inf)
        order = np.argsort(-published, kind="stable")
        return Past(
            model=model,
            dataset=dataset,
            events=events,
            by_user=Timeline.of(events, len(dataset.users), range(len(ACTIONS))),
            user_numbers=model.user_ids.numbers_of_keys(np.asarray(dataset.user_ids.keys)),
            remembered=np.isin(ACTIONS, model.config.state.timeline_actions),
            published=published,
            newest=order[np.isfinite(published[order])],
        )

    def samples(self, split: Split) -> Samples:
        """The logged requests of the held-out days, as training would see them; rows may hold unknown items."""
        since = split.test_since - DAY_SECONDS if self.model.config.train.memory_gib else None
        events, requests = self.events, self.dataset.requests(since, split.test_until)
        held_out = events.take(np.flatnonzero(events.time >= split.test_since))
        held_out = answers_since(requests, held_out, split.test_since)  # others are to pages of the training days
        if not (held_out.action == Action.IMPRESSION).any():  # negatives are drawn, of what was there on any day
            held_out = events
        published = np.where(np.isfinite(self.published), self.published, np.nan)
        log = Log(held_out, requests, self.by_user, published)
        # Scores are meant for even negatives; see data/negatives.
        even = msgspec.structs.replace(self.model.config.samples, popularity_power=0.0)
        return build_samples(log, split.test_since, split.test_until, even)

    def ratings(self, split: Split) -> Samples:
        """The ratings of the held-out days, each a request of one row; rows may hold unknown items."""
        log = Log(self.events, Requests.none(), self.by_user, np.empty(0))
        return rating_samples(log, split.test_since, split.test_until)

    def catalog(self, now: float) -> Catalog:
        """The bundle's catalogue with items published after `now` closed; statistics as of the end of training."""
        start = np.searchsorted(-self.published[self.newest], -now, "left")
        return replace(self.model.catalog, closed=self.published > now, newest=self.newest[start : start + NEWEST])

    def query(self, user: int, now: float, size: int, moment: tuple[str, Mapping[str, Any]] = ("feed", {})) -> Query:
        """The query of one user at one time. moment: scene and context."""
        before = self._before(user, now)
        number, (scene, context) = int(self.user_numbers[user]), moment
        profile = self.dataset.users.row(user, named=True)
        del profile["user_id"]  # no part of a live profile
        counts = np.bincount(self.by_user.action[before], minlength=len(ACTIONS))
        return Query(
            user=number,
            now=now,
            size=size,
            scene=scene,
            seed=user * 1_000_003 + int(now),
            history=self._history(before),
            features=self.model.query_features(number, profile, counts, (now, scene, context)),
            catalog=self.catalog(now),
            seen=Exact(np.unique(self.model.catalog.keys_of(self.seen_items(user, now)))),
            context=context,
            profile=profile,
        )

    def seen_items(self, user: int, now: float) -> NDArray[np.int64]:
        """[n] distinct items of the bundle that the user met strictly before `now`, and not too long ago.

        The live filters forget between `state.seen_days` and a generation later; here it is after exactly so long.
        """
        before, days = self._before(user, now), self.model.config.state.seen_days
        if days:
            since = self._before(user, now - days * DAY_SECONDS).stop
            before = slice(since, before.stop)
        items = np.unique(self.by_user.item[before]).astype(np.int64)
        return items[items < len(self.model.catalog)]

    def request(self, samples: Samples, row: int) -> Query:
        """The query of one logged request."""
        context = samples.context.row(row, named=True) if samples.context.width else {}
        known = {name: value for name, value in context.items() if value is not None}
        scene = samples.scenes[samples.scene[row]]
        return self.query(int(samples.user[row]), float(samples.time[row]), 0, (scene, known))

    def _before(self, user: int, now: float) -> slice:
        """The user's events strictly before `now`."""
        begin, end = self.by_user.starts[user : user + 2].tolist()
        return slice(begin, begin + int(np.searchsorted(self.by_user.time[begin:end], now)))

    def _history(self, before: slice) -> History:
        """What the live timeline would hold: its newest entries of its actions, and of those the history's."""
        action = self.by_user.action[before]
        kept = np.flatnonzero(self.remembered[action])[-self.model.config.state.timeline_limit :]
        kept = kept[self.model.history_actions[action[kept]]][::-1]
        items = self.by_user.item[before][kept].astype(np.int64)
        known = np.where(items < len(self.model.catalog), items, -1)
        return History(known, action[kept], self.by_user.time[before][kept])


def _of_some(dataset: Dataset, days: tuple[float, float], room: float, seed: int) -> Events:
    """All events before the days end of some users with events in them, as many as a quarter of `room` holds."""
    since, until = days
    piece = max(1, int(room / 16 / _EVENT_BYTES))
    counts, late = np.zeros(len(dataset.users), np.int64), np.zeros(len(dataset.users), np.bool_)
    for events in dataset.pieces(("user",), until=until, rows=piece):
        counts += np.bincount(events["user"], minlength=len(counts))
        late[events["user"][events["time"] >= since]] = True
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(late))
    fit = np.cumsum(counts[drawn]) * _EVENT_BYTES <= room / 4
    chosen = np.zeros(len(counts), np.bool_)
    chosen[drawn[: max(1, int(fit.sum()))]] = True
    return dataset.some(lambda events: chosen[events["user"]], until=until, rows=piece)
