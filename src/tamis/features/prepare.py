"""From a data set to the inputs of training: statistics, encoder, catalogue, samples, all as of one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tamis.data.dataset import Dataset, Events
from tamis.data.negatives import there_since
from tamis.data.samples import Log, Reach, SampleConfig, Timeline, build_samples, thinned
from tamis.features.encode import Encoder
from tamis.features.fields import numbers
from tamis.features.groups import ITEM
from tamis.features.inputs import Inputs
from tamis.features.pairs import pairs_of
from tamis.features.spec import FeaturesConfig
from tamis.features.statistics import EventCounts, Statistics
from tamis.state.settings import StateConfig
from tamis.types import ACTION_CODE, Catalog, Progress, silent


@dataclass(frozen=True, slots=True)
class Moment:
    """The times that matter. Training rows end at `valid_since`, validation rows and all events at `until`."""

    valid_since: float
    until: float


def prepare(
    dataset: Dataset,
    moment: Moment,
    configs: tuple[FeaturesConfig, SampleConfig, tuple[str, ...]],
    state: StateConfig | None = None,
    encoder: Encoder | None = None,
    progress: Progress = silent,
) -> Inputs:
    """The inputs of training as of `moment.until`: no event, statistic or vocabulary entry from then on is in them.

    Attributes of users and items have no time of their own: those of the last import count, also for older rows.

    configs: features, samples, the actions of the interest score.   state: histories reach as far back as the live
    timelines of these settings; None = to the first event.   encoder: use this one instead of fitting one (for
    evaluation rows and incremental training); its history is then the one that samples have.
    """
    features, sampling, interest_actions = configs
    progress("features", 0, 4)
    events = dataset.events(until=moment.until)
    users, items = len(dataset.users), len(dataset.items)
    value = events.value if (encoder.learnt.config if encoder else features).means else None
    user_statistics = Statistics.of(events.user, events.action, events.time, users, value)
    item_statistics = Statistics.of(events.item, events.action, events.time, items, value)
    raw = {"user": columns_of(dataset.users), "item": columns_of(dataset.items)}
    requests = dataset.requests(until=moment.until)
    if encoder is None:
        known = {"user": np.bincount(events.user, minlength=users) > 0}
        known["item"] = there_since(events, numbers(raw["item"]["publish_time"])) < moment.until
        there = {side: rows_of(raw[side], mask) for side, mask in known.items()}
        context = {**columns_of(requests.context), "scene": list(requests.scene)}
        encoder = Encoder.fit(features, {**there, "context": context}, user_statistics, item_statistics)
    progress("features", 1, 4)
    catalog = catalog_of(encoder, dataset, raw["item"], item_statistics, moment.until)
    static = encoder.users(np.arange(users), raw["user"])
    pairs = pairs_of(encoder, (events, requests), static, catalog)
    progress("features", 2, 4)
    history = [ACTION_CODE[name] for name in encoder.learnt.config.history.actions]
    reach = None if state is None else _reach(events, users, history, state)
    published = np.asarray(catalog.columns["publish_time"][0])
    log = Log(events, requests, Timeline.of(events, users, history), published, reach)
    train = thinned(build_samples(log, -np.inf, moment.valid_since, sampling), sampling.keep_negatives)
    progress("features", 3, 4)
    valid = build_samples(log, moment.valid_since, moment.until, sampling)
    progress("features", 4, 4)
    return Inputs(
        encoder=encoder,
        catalog=catalog,
        users=static,
        events=events,
        until=moment.until,
        train=train,
        valid=valid,
        user_statistics=user_statistics,
        item_statistics=item_statistics,
        interest_actions=interest_actions,
        progress=progress,
        user_keys=np.asarray(dataset.user_ids.keys),
        pairs=pairs,
        reach=reach,
    )


def _reach(events: Events, users: int, history: Sequence[int], state: StateConfig) -> Reach:
    """How far back the live timelines of these settings would reach. history: codes of its actions."""
    actions = [ACTION_CODE[name] for name in state.timeline_actions]
    return Reach.of(events, users, actions, history, state.timeline_limit)


def catalog_of(
    encoder: Encoder, dataset: Dataset, raw: Mapping[str, Sequence[Any]], statistics: EventCounts, until: float
) -> Catalog:
    """The catalogue with item statistics as of `until`; row = item number of the data set."""
    every = np.arange(len(dataset.items))
    group = encoder.groups.get(ITEM)
    counts = statistics.counts(every, until, group.actions, group.windows) if group else None
    columns = encoder.items(every, raw, counts)
    published = columns["publish_time"]
    order = np.argsort(-np.where(np.isfinite(published), published, -np.inf), kind="stable")
    return Catalog.of(np.asarray(dataset.item_ids.keys), columns, order[np.isfinite(published[order])])


def columns_of(frame: pl.DataFrame) -> dict[str, list[Any]]:
    """A frame as raw columns of Python values."""
    return frame.to_dict(as_series=False)


def rows_of(raw: Mapping[str, Sequence[Any]], mask: NDArray[np.bool_]) -> dict[str, Sequence[Any]]:
    """The rows of raw columns that the mask says."""
    return {name: list(compress(values, mask)) for name, values in raw.items()}
