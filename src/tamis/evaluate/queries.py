"""Queries of the past: what the server would have known of a user at a moment of the held-out days."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tamis.assemble import Model
from tamis.data.samples import Samples, Timeline
from tamis.features.inputs import Inputs
from tamis.types import ACTIONS, Catalog, Exact, History, Query

NEWEST = 2000  # as many as the live catalogue keeps


@dataclass(frozen=True)
class Past:
    """Builds queries from the log. Everything in a query lies strictly before its own time.

    inputs: prepared with the model's encoder over the log up to the end of the held-out days.
    """

    model: Model
    inputs: Inputs
    by_user: Timeline  # every event with an item, for what a user has seen
    published: NDArray[np.float64]  # [i] publish time, −inf unknown
    newest: NDArray[np.int64]  # items by publish time, newest first

    @staticmethod
    def of(model: Model, inputs: Inputs) -> "Past":
        times = np.asarray(model.catalog.columns["publish_time"][0])
        published = np.where(np.isfinite(times), times, -np.inf)
        order = np.argsort(-published, kind="stable")
        by_user = Timeline.of(inputs.events, len(inputs.users.codes), range(len(ACTIONS)))
        return Past(model, inputs, by_user, published, order[np.isfinite(published[order])])

    def catalog(self, now: float) -> Catalog:
        """The bundle's catalogue with items published after `now` closed."""
        start = np.searchsorted(-self.published[self.newest], -now, "left")
        return replace(self.model.catalog, closed=self.published > now, newest=self.newest[start : start + NEWEST])

    def query(self, user: int, now: float, size: int, moment: tuple[str, Mapping[str, Any]] = ("feed", {})) -> Query:
        """The query of one user at one time. moment: scene and context."""
        timeline = self.inputs.train.timeline
        end = int(timeline.before(np.array([user], np.int32), np.array([now]))[0])
        begin = max(int(timeline.starts[user]), end - 1000)
        mine = slice(begin, end)
        history = History(
            timeline.item[mine][::-1].astype(np.int64), timeline.action[mine][::-1], timeline.time[mine][::-1]
        )
        return Query(
            user=user,
            now=now,
            size=size,
            scene=moment[0],
            seed=user * 1_000_003 + int(now),
            history=history,
            features=self._features(user, now, moment),
            catalog=self.catalog(now),
            seen=Exact(np.unique(self.model.catalog.keys_of(self.seen_items(user, now)))),
        )

    def seen_items(self, user: int, now: float) -> NDArray[np.int64]:
        """Items the user was shown or acted on strictly before `now`."""
        end = int(self.by_user.before(np.array([user], np.int32), np.array([now]))[0])
        return np.unique(self.by_user.item[int(self.by_user.starts[user]) : end]).astype(np.int64)

    def request(self, samples: Samples, row: int) -> Query:
        """The query of one logged request."""
        context = samples.context.row(row, named=True) if samples.context.width else {}
        scene = samples.scenes[samples.scene[row]]
        return self.query(int(samples.user[row]), float(samples.time[row]), 0, (scene, context))

    def _features(self, user: int, now: float, moment: tuple[str, Mapping[str, Any]]) -> Any:
        encoder, scene, context = self.model.encoder, *moment
        here = encoder.context(np.array([now]), [scene], {name: [value] for name, value in context.items()})
        counts = self.inputs.user_statistics.before(np.array([user]), now, encoder.counted("user"))
        return encoder.user_side(self.inputs.users.take(np.array([user])), counts, here)
