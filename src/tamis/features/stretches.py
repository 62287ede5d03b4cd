"""A log in stretches of time that are made into samples one after the other: where they begin, what belongs to each.

No stretch goes beyond a refresh of the statistics, so that all its rows have those of one moment. A page may be
answered after its stretch has ended, so each reads on for as long as an answer may take.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tamis.data.attribution import answers_since
from tamis.data.dataset import DAY_SECONDS, Dataset, Events
from tamis.data.negatives import Drawing
from tamis.data.overview import Overview
from tamis.data.samples import Log, Reach, SampleConfig, Samples, Timeline, build_samples
from tamis.features.prepare import Moment
from tamis.features.spec import FeaturesConfig
from tamis.features.statistics import refresh_time
from tamis.types import ACTION_CODE, ACTIONS, Action

_PAGE_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Stretches:
    """The log before `moment.until`. histories: timelines, and how far back a history reaches in them.

    published: [i] publish times, NaN = unknown.   piece: events read at once.
    drawing: what negatives are drawn by where the log has no impressions; None = it has some.
    """

    dataset: Dataset
    moment: Moment
    overview: Overview
    sampling: SampleConfig
    histories: tuple[Timeline, Reach]
    published: NDArray[np.float64]
    piece: int
    drawing: Drawing | None = None

    def edges(self, features: FeaturesConfig, most: int) -> list[float]:
        """Where stretches begin, the end of training last: about `most` events in each, none beyond a refresh."""
        step, until, first = features.refresh_hours * 3600, self.moment.until, self.overview.first
        begin = float(refreshed(features, first))
        refreshes = refreshed(features, begin + step * (0.5 + np.arange(1, int((until - begin) / step) + 2)))
        edges = np.unique([first, *self.overview.cuts(most), *refreshes, self.moment.valid_since, until])
        return [float(edge) for edge in edges if first <= edge <= until]

    def events(self, begin: float, end: float) -> Events:
        """All that pages from `begin` to `end` are made of, answers included."""
        until = self.moment.until
        shown_until = min(end + _PAGE_SECONDS, until)
        answered_until = min(end + max(self.sampling.label_window_hours * 3600, _PAGE_SECONDS), until)

        def answer_or_shown(events: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
            return np.asarray((events["action"] != Action.IMPRESSION) | (events["time"] < shown_until))

        near = self.dataset.some(answer_or_shown, begin - _PAGE_SECONDS, answered_until, rows=self.piece)
        pairs = np.unique(self._pairs(near.take(near.time >= shown_until).columns()))
        if not len(pairs):
            return near

        def shown_again(events: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
            own = self._pairs(events)
            place = np.minimum(np.searchsorted(pairs, own), len(pairs) - 1)
            return np.asarray((events["action"] == Action.IMPRESSION) & (pairs[place] == own))

        # A later page that shows the same item to the same user may be what an answer is to.
        later = self.dataset.some(shown_again, shown_until, answered_until, rows=self.piece)
        return Events.joined([near.columns(), later.columns()])

    def samples(self, events: Events, begin: float, end: float, seed: int) -> Samples:
        """Those of requests from `begin` to `end`, of `events`, with every label that the whole log has.

        seed: of drawing negatives.
        """
        names = [name for name in self.sampling.labels or ACTIONS[1:] if self.overview.totals[ACTION_CODE[name]]]
        config = msgspec.structs.replace(self.sampling, labels=tuple(names))
        shown = (events.action == Action.IMPRESSION).any()
        if not shown and not self.drawing:  # no sample, rather than ones of drawn negatives
            begin, end = -np.inf, -np.inf
        samples = build_samples(self._log(events, begin, end), begin, end, config, seed)
        none = np.zeros(len(samples.item), np.float32)
        return replace(samples, labels={name: samples.labels.get(name, none) for name in names})

    def none(self) -> Samples:
        """No samples."""
        begin, empty = -np.inf, Events.joined([])
        return build_samples(self._log(empty, begin, self.overview.first), begin, begin, self.sampling)

    def _pairs(self, events: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        return np.asarray(events["user"].astype(np.int64) * len(self.overview.by_item) + events["item"])

    def _log(self, events: Events, begin: float, end: float) -> Log:
        requests = self.dataset.requests(begin - DAY_SECONDS, min(end + _PAGE_SECONDS, self.moment.until))
        if not self.drawing:
            events = answers_since(requests, events, begin - _PAGE_SECONDS)  # older pages are not among the events
        return Log(events, requests, self.histories[0], self.published, self.histories[1], self.drawing)


def refreshed(config: FeaturesConfig, time: Any) -> NDArray[np.float64]:
    """The last refresh; of moments between two, since right at one the last digit decides which it is."""
    return refresh_time(time, config.refresh_hours, config.refresh_offset_hours)
