"""What the server computes for a moment is, byte for byte, what training would have computed for it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tamis.artifact import open_bundle
from tamis.assemble import Model, load_model
from tamis.config import override
from tamis.data.dataset import Dataset
from tamis.data.split import by_time
from tamis.features.batch import net_batch
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.features.search import Search
from tamis.features.tables import Tables
from tamis.funnel import Funnel, Stage
from tamis.recall.newest import Newest, NewestConfig
from tamis.serving.engine import Engine
from tamis.serving.opening import rows_of
from tamis.serving.wire import RecommendRequest
from tamis.state.memory import Memory
from tamis.state.protocol import Event
from tamis.types import ACTIONS, Candidates, Page, Query

SIDES = ("user_codes", "user_dense", "history_codes", "item_codes", "item_dense", "item_dynamic", "row_of")


@dataclass
class Catch:
    """A sink that keeps the query."""

    query: list[Query] = field(default_factory=list)

    def emit(self, query: Query, page: Page) -> None:
        self.query.append(query)


@pytest.mark.parametrize("limit", [7, 200])
def test_a_live_query_equals_the_training_row_of_the_same_moment(tiny, limit: int) -> None:
    config, dataset = override(tiny.project.config, {"state.timeline_limit": limit}), tiny.dataset
    split = by_time(dataset, config.split)
    model = load_model(open_bundle(tiny.project.bundles), config)
    configs = (config.features, config.samples, config.train.interest_actions)
    inputs = prepare(dataset, Moment(split.test_since, split.test_until), configs, config.state, model.encoder)
    same_live_and_logged(model, inputs, dataset, np.random.default_rng(3).choice(len(inputs.valid), 25, replace=False))


LONG_HISTORY = {
    "features.history.length": 5,
    "features.history.long_length": 60,
    "features.history.last_n": ("click", "like"),
    "features.history.last_n_length": 4,
}


@pytest.mark.parametrize("how", ["hard", "soft"])
@pytest.mark.parametrize("limit", [60, 200])
def test_what_is_found_in_a_long_history_is_the_same_live_and_logged(tiny, how: str, limit: int) -> None:
    config = override(tiny.project.config, {**LONG_HISTORY, "state.timeline_limit": limit})
    dataset, split = tiny.dataset, by_time(tiny.dataset, config.split)
    configs = (config.features, config.samples, config.train.interest_actions)
    trained = prepare(dataset, Moment(split.valid_since, split.test_since), configs, config.state)
    model = replace(
        load_model(open_bundle(tiny.project.bundles)),
        config=config,
        encoder=trained.encoder,
        catalog=trained.catalog,
        statistics=Tables.of(
            trained.encoder,
            {name: trained.pairs_of(group) for name, group in trained.encoder.groups.items()},
            trained.until,
        ),
        funnel=Funnel([Stage("recall", {"newest": Newest(NewestConfig())}, limit=20)]),
    )
    logged = prepare(dataset, Moment(split.test_since, split.test_until), configs, config.state, trained.encoder)
    search = Search.of(trained.layout, how, "category", 7)
    samples = logged.valid
    longest = np.argsort(samples.history_end - samples.history_start)[-15:]
    rows = np.append(longest, np.random.default_rng(5).choice(len(samples), 10, replace=False))
    same_live_and_logged(model, logged, dataset, rows, search)
    found = logged.batch(samples, longest, search).found
    assert (found.codes[:, :, 0] != 0).all(axis=1).any()  # some find as many as they may


EVERY_STATISTIC = {
    "features.user.impressions": {"kind": "count"},
    "features.user.hour_clicks": {"kind": "count", "action": "click", "window_hours": 1},
    "features.user.day_rate": {"kind": "rate", "action": "click", "window_hours": 24, "prior": 5},
    "features.user.scene_rate": {"kind": "rate", "action": "click", "by": "scene"},
    "features.user.hour_shown": {"kind": "count", "by": "hour", "window_hours": 168},
    "features.user.author_rate": {"kind": "rate", "action": "click", "by": "author"},
    "features.user.category_rate": {"kind": "rate", "action": "click", "by": "category", "window_hours": 72},
    "features.user.category_likes": {"kind": "count", "action": "like", "by": "category"},
    "features.user.met": {"kind": "count", "by": "item_id"},
    "features.item.week_shown": {"kind": "count", "window_hours": 168},
    "features.item.hour_rate": {"kind": "rate", "action": "click", "window_hours": 1},
    "features.item.gender_rate": {"kind": "rate", "action": "click", "by": "gender"},
    "features.item.age_rate": {"kind": "rate", "action": "click", "by": "age", "window_hours": 48},
    "features.item.scene_shown": {"kind": "count", "by": "scene"},
    "features.item.at_this_hour": {"kind": "rate", "action": "click", "by": "hour"},
    "features.item.author_rate": {"kind": "rate", "action": "click", "of": "author"},
    "features.item.author_here": {"kind": "rate", "action": "click", "of": "author", "by": "scene", "window_hours": 72},
}


def test_every_kind_of_statistic_is_the_same_live_and_logged(tiny, tmp_path: Path) -> None:
    config, dataset = override(tiny.project.config, EVERY_STATISTIC), tiny.dataset
    split = by_time(dataset, config.split)
    configs = (config.features, config.samples, config.train.interest_actions)
    trained = prepare(dataset, Moment(split.valid_since, split.test_since), configs, config.state)
    encoder = trained.encoder
    tables = Tables.of(encoder, {n: trained.pairs_of(group) for n, group in encoder.groups.items()}, trained.until)
    tables.save(tmp_path)
    model = replace(
        load_model(open_bundle(tiny.project.bundles)),
        encoder=encoder,
        catalog=trained.catalog,
        statistics=Tables.load(tmp_path, encoder),
        funnel=Funnel([Stage("recall", {"newest": Newest(NewestConfig())}, limit=20)]),
    )
    logged = prepare(dataset, Moment(split.test_since, split.test_until), configs, config.state, encoder)
    rows = np.random.default_rng(4).choice(len(logged.valid), 25, replace=False)
    same_live_and_logged(model, logged, dataset, rows)
    sides = logged.sides(logged.valid)
    for name in ("user.author_rate", "user.met", "gender_rate", "author_here", "hour_rate"):
        assert len(np.unique(sides.dynamic[:, encoder.layout.item_dynamic.index(name)])) > 2, name
    for name in ("hour_clicks", "scene_rate", "hour_shown"):
        assert len(np.unique(sides.user.dense[:, encoder.layout.user_dense.index(name)])) > 2, name


def same_live_and_logged(
    model: Model, inputs: Inputs, dataset: Dataset, rows: NDArray[np.int64], search: Search | None = None
) -> None:
    """Asks a server about the moments of logged requests (rows of `inputs.valid`), each with the state of its time."""
    config = model.config
    samples, events = inputs.valid, inputs.events
    users = dict(rows_of(dataset, config.state))
    for row in rows.tolist():
        user, now = int(samples.user[row]), float(samples.time[row])
        external = dataset.user_ids.external(user)
        state = Memory(config.state)
        state.put_user(external, users[external].profile)
        mine = np.flatnonzero((events.user == user) & (events.time < now))
        state.apply(
            [
                Event(
                    event_id=str(at),
                    user_id=external,
                    item_id=dataset.item_ids.external(int(events.item[at])),
                    action=ACTIONS[events.action[at]],
                    time=float(events.time[at]),
                    value=float(events.value[at]),
                )
                for at in mine
            ]
        )
        context = {name: value for name, value in samples.context.row(row, named=True).items() if value is not None}
        scene = samples.scenes[samples.scene[row]]
        catch = Catch()
        Engine(model, state, clock=lambda now=now: now).recommend(
            RecommendRequest(user_id=external, scene=scene, context=context), catch
        )
        offline = inputs.batch(samples, np.array([row]), search)
        span = slice(int(samples.first[row]), int(samples.first[row + 1]))
        online = net_batch(model.encoder.layout, catch.query[0], Candidates.of(samples.item[span]), search)
        for one, other in zip(offline.found or (), online.found or (), strict=True):
            assert one.dtype == other.dtype
            assert one.tobytes() == np.ascontiguousarray(other).tobytes(), row
        for name in SIDES:
            one, other = getattr(offline, name), getattr(online, name)
            assert one.dtype == other.dtype, name
            assert one.tobytes() == np.ascontiguousarray(other).tobytes(), (name, row)


def test_a_planted_future_changes_no_training_row(tiny) -> None:
    config, dataset = tiny.project.config, tiny.dataset
    split = by_time(dataset, config.split)
    moment = Moment(split.valid_since, split.test_since)
    configs = (config.features, config.samples, config.train.interest_actions)
    honest = prepare(dataset, moment, configs)
    later = Moment(split.valid_since, split.test_until)
    knows_more = prepare(dataset, later, configs, encoder=honest.encoder)  # a log that goes on for another day
    rows = np.arange(0, len(honest.train), 7)
    one, other = honest.batch(honest.train, rows), knows_more.batch(knows_more.train, rows)
    for name in SIDES:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_encoder_of_training_has_seen_nothing_of_the_held_out_days(tiny, side: str) -> None:
    config, dataset = tiny.project.config, tiny.dataset
    split = by_time(dataset, config.split)
    configs = (config.features, config.samples, config.train.interest_actions)
    honest = prepare(dataset, Moment(split.valid_since, split.test_since), configs)
    assert float(honest.events.time.max()) < split.test_since
    known = getattr(honest.encoder, f"{side}_code")[:-1]
    offset = next(
        f.offset for f in honest.layout.user_fields + honest.layout.item_fields if f.name == f"{side}.{side}_id"
    )
    counts = np.bincount(getattr(honest.events, side), minlength=len(known))
    least = getattr(config.features, side)[f"{side}_id"].min_count
    assert ((known > offset) == (counts[: len(known)] >= least)).all()
    assert (counts[len(known) :] < least).all()
