"""From a data set to the inputs of training: statistics, encoder, catalogue, samples, all as of one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tamis.data.dataset import Dataset, Requests
from tamis.data.samples import Log, SampleConfig, Timeline, build_samples
from tamis.features.encode import Encoder
from tamis.features.inputs import Inputs
from tamis.features.spec import FeaturesConfig
from tamis.features.statistics import Statistics
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
    encoder: Encoder | None = None,
    progress: Progress = silent,
) -> Inputs:
    """The inputs of training as of `moment.until`: no event, statistic or vocabulary entry from then on is in them.

    configs: features, samples, the actions of the interest score.   encoder: use this one instead of fitting one (for
    evaluation rows and incremental training).
    """
    features, sampling, interest_actions = configs
    progress("features", 0, 4)
    events = dataset.events(until=moment.until)
    users, items = len(dataset.users), len(dataset.items)
    user_statistics = Statistics.of(events.user, events.action, events.time, users)
    item_statistics = Statistics.of(events.item, events.action, events.time, items)
    raw = {"user": columns_of(dataset.users), "item": columns_of(dataset.items)}
    requests = dataset.requests(until=moment.until)
    if encoder is None:
        encoder = _fit(features, raw, requests, (user_statistics, item_statistics), moment.until)
    progress("features", 1, 4)
    catalog = catalog_of(encoder, dataset, raw["item"], item_statistics, moment.until)
    static = encoder.users(np.arange(users), raw["user"])
    progress("features", 2, 4)
    timeline = Timeline.of(events, users, [ACTION_CODE[name] for name in features.history.actions])
    log = Log(events, requests, timeline, np.asarray(catalog.columns["publish_time"][0]))
    train = build_samples(log, -np.inf, moment.valid_since, sampling)
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
    )


def catalog_of(
    encoder: Encoder, dataset: Dataset, raw: Mapping[str, Sequence[Any]], statistics: Statistics, until: float
) -> Catalog:
    """The catalogue with item statistics as of `until`; row = item number of the data set."""
    numbers = np.arange(len(dataset.items))
    counts = statistics.before(numbers, until, encoder.counted("item"))
    columns = encoder.items(numbers, raw, counts)
    published = columns["publish_time"]
    order = np.argsort(-np.where(np.isfinite(published), published, -np.inf), kind="stable")
    return Catalog.of(np.asarray(dataset.item_ids.keys), columns, order[np.isfinite(published[order])])


def columns_of(frame: pl.DataFrame) -> dict[str, list[Any]]:
    """A frame as raw columns of Python values."""
    return frame.to_dict(as_series=False)


def _fit(
    config: FeaturesConfig,
    raw: Mapping[str, Any],
    requests: Requests,
    statistics: tuple[Statistics, Statistics],
    until: float,
) -> Encoder:
    """The encoder, its vocabularies learnt only from items that existed before `until`."""
    context = {**columns_of(requests.context), "scene": list(requests.scene)}
    items = raw["item"]
    published = items.get("publish_time")
    if published is not None:
        old = [time is None or not time >= until for time in published]
        items = {name: [v for v, keep in zip(values, old, strict=True) if keep] for name, values in items.items()}
    return Encoder.fit(config, {"user": raw["user"], "item": items, "context": context}, *statistics)
