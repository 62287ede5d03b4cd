"""The evaluation of a whole funnel on the tiny world, and the queries it asks."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from tamis.artifact import open_bundle
from tamis.assemble import Model, ProjectConfig, load_model, part_of
from tamis.config import override, read
from tamis.data.dataset import DAY_SECONDS, Dataset, Events
from tamis.data.samples import Samples
from tamis.data.split import Split, SplitConfig, by_time, sizes
from tamis.data.tables import RawTables
from tamis.data.write import import_tables
from tamis.errors import ConfigError
from tamis.evaluate.heads import judge_heads
from tamis.evaluate.offline import _Pages, evaluate, relevant_items
from tamis.evaluate.queries import Past
from tamis.evaluate.report import Report
from tamis.features.batch import NetBatch
from tamis.features.prepare import Moment, prepare
from tamis.filters.blocked import Blocked, BlockedConfig
from tamis.filters.seen import Seen, SeenConfig
from tamis.funnel import Funnel, Stage
from tamis.nets.folder import NetFolder
from tamis.project import create
from tamis.rank.rating import Rating, RatingConfig, RatingFacts
from tamis.serving.engine import Engine
from tamis.serving.opening import rows_of
from tamis.serving.wire import RecommendRequest
from tamis.state.memory import Memory
from tamis.state.protocol import Event
from tamis.types import ACTION_CODE, ACTIONS, Action, Candidates, Page, Query, silent

ARRAYS = ("user", "time", "first", "item", "position")


@pytest.fixture(scope="module")
def split(tiny) -> Split:
    return by_time(tiny.dataset, tiny.project.config.split)


@pytest.fixture(scope="module")
def past(tiny, split: Split) -> Past:
    return Past.of(model_of(tiny), tiny.dataset, split.test_until)


def model_of(tiny, **changes) -> Model:
    """The trained model under the project's configuration with some keys changed, "__" for the dots."""
    patch = {key.replace("__", "."): value for key, value in changes.items()}
    return load_model(open_bundle(tiny.project.bundles), override(tiny.project.config, patch))


def rows_with_a_history(past: Past, split: Split, count: int) -> list[tuple[int, float]]:
    """(user, a moment of the held-out days) of the users who did most before."""
    busy = np.argsort(-np.diff(past.by_user.starts))[:count]
    return [(int(user), split.test_since + 3600.0 * (1 + at)) for at, user in enumerate(busy)]


# ---- the report ------------------------------------------------------------------------------------------------


def test_the_report_knows_that_the_oracle_is_best_and_random_worst(tiny) -> None:
    report: Report = tiny.trained.report
    true = {name: row["true rate@10"] for name, row in {"tamis": report.page, **report.baselines}.items()}
    assert true["oracle"] == max(true.values())  # 200 users teach too little for an order of the page and the popular
    assert min(true["tamis"], true["popular"]) > 1.5 * true["random"] > 0
    best = [report.stages[stage]["best true rate@10"] for stage in ("recall", "prerank", "rank")]
    assert true["oracle"] >= best[0] >= best[1] >= best[2] >= true["tamis"]


def test_the_report_has_all_its_parts_and_only_finite_numbers(tiny) -> None:
    report: Report = tiny.trained.report
    funnel = tiny.project.config.funnel
    sources = {name for name, step in funnel.recall.steps.items() if hasattr(part_of(step), "recall")}
    assert set(report.channels) == {*sources, "union"}
    assert report.channels["two_tower"]["index_recall"] == 1.0  # a small catalogue is searched exactly
    assert list(report.stages) == ["recall", "prerank", "rank", "rerank"]
    assert {"click", "like", "play"} <= set(report.heads) <= set(funnel.rank.steps["heads"].heads)
    assert set(report.baselines) == {"popular", "random", "oracle", *(f"{name} alone" for name in sources)}
    assert set(report.page) == {
        "ndcg@10", "recall@10", "hit@10", "diversity", "authors", "new_share", "coverage", "true rate@10"
    }  # fmt: skip
    assert {"total", "recall", "rank", "rank.heads", "recall.two_tower"} <= set(report.latency)
    assert 0 < report.users <= 60
    assert 0 < report.requests <= 200
    for _, rows in report.tables():
        assert rows
        for row in rows.values():
            assert row
            assert all(math.isfinite(value) for value in row.values())
    assert b"null" not in report.to_json()


def test_shares_of_the_report_are_shares_and_the_union_finds_what_any_channel_finds(tiny) -> None:
    report: Report = tiny.trained.report
    for cut in (50, 200):
        for row in report.channels.values():
            assert 0 <= row[f"recall@{cut}"] <= 1
    assert report.stages["recall"]["recall"] >= max(row["recall@500"] for row in report.channels.values())
    survival = [row["survival"] for row in report.stages.values()]
    assert survival[0] == 1
    assert survival == sorted(survival, reverse=True)
    assert report.heads["click"]["auc"] > 0.55
    assert all(row["p50"] <= row["p99"] for row in report.latency.values())


def test_the_reliability_of_each_head_adds_up_to_its_row(tiny) -> None:
    report: Report = tiny.trained.report
    assert set(report.reliability) == set(report.heads) - {"play"}
    for head, curve in report.reliability.items():
        row, rows = report.heads[head], np.array(curve.rows)
        assert rows.sum() == row["rows"]
        assert list(curve.predicted) == sorted(curve.predicted)
        assert np.average(curve.predicted, weights=rows) == pytest.approx(row["predicted"])
        assert np.average(curve.observed, weights=rows) == pytest.approx(row["rate"])
        error = np.average(np.abs(np.subtract(curve.predicted, curve.observed)), weights=rows)
        assert error == pytest.approx(row["calibration_error"])


def judged_channels(past: Past, at: tuple[int, float], steps: dict, relevant: list[int], **quotas: int) -> dict:
    """The rows of the report's channels when recall is these sources, a filter and a limit of four."""
    recall = Stage("recall", {**steps, "unseen": Seen(SeenConfig())}, 4, quotas=quotas)
    funnel = Funnel((recall, *past.model.funnel.stages[1:]))
    pages = _Pages(replace(past, model=replace(past.model, funnel=funnel)), None)
    pages.judge(*at, np.array(relevant))
    return pages.channels.means()


class Give:
    """A source of given items that counts how often it is asked."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.asked = ids, 0

    def recall(self, query: Query) -> Candidates:
        self.asked += 1
        return Candidates.of(self.ids)


def test_the_gain_of_a_channel_is_what_the_union_loses_without_it_and_each_is_asked_once(
    past: Past, split: Split
) -> None:
    at = rows_with_a_history(past, split, 1)[0]
    shown = past.seen_items(*at)
    a, b, c, d, e, f = np.setdiff1d(np.flatnonzero(~past.catalog(at[1]).closed), shown)[:6].tolist()
    seen = shown[:1].tolist()
    steps = {"one": Give([*seen, a, b, c]), "two": Give([a, d]), "three": Give([e, f])}
    rows = judged_channels(past, at, steps, [b, d, e, f])
    # In turns: a and e, then d and f, which fills the limit; b would be next.
    assert rows["union"]["recall@50"] == 0.75
    assert rows["one"]["gain@50"] == 0.0  # without it the page is the same
    assert rows["two"]["gain@50"] == 0.0  # d goes, b comes
    assert rows["three"]["gain@50"] == 0.25  # e and f go, b comes
    assert [step.asked for step in steps.values()] == [1, 1, 1]
    alone = judged_channels(past, at, {"two": Give([a, d])}, [b, d, e, f])
    assert alone["two"]["gain@50"] == alone["union"]["recall@50"] == 0.25
    shared = judged_channels(past, at, {"one": Give([a, b, c]), "three": Give([e, f])}, [f], one=3, three=1)
    assert (shared["three"]["recall@50"], shared["three"]["gain@50"]) == (1.0, 0.0)  # its one place is e's


def test_the_first_scorer_of_the_rank_stage_is_judged_wherever_it_stands(past: Past, split: Split) -> None:
    blocked = Blocked(BlockedConfig())
    stages = [
        replace(stage, steps={"again": blocked, **stage.steps}) if stage.name == "rank" else stage
        for stage in past.model.funnel.stages
    ]
    filtered = replace(past, model=replace(past.model, funnel=Funnel(stages)))
    judged = judge_heads(past, split, 20, silent)
    assert "click" in judged.rows
    assert judge_heads(filtered, split, 20, silent) == judged


def rank_steps(past: Past) -> dict[str, Any]:
    """Name → step of the stage "rank"."""
    return next(dict(stage.steps) for stage in past.model.funnel.stages if stage.name == "rank")


class HalfStars:
    """A rating net that always says 3.5."""

    def answer(self, batch: NetBatch) -> dict[str, Any]:
        count = len(batch.item_codes)
        return {"stars": np.full(count, 3.5, np.float32), "classes": np.full((count, 5), 0.2, np.float32)}


def test_stars_are_judged_on_the_ratings_of_the_held_out_days(past: Past, split: Split) -> None:
    def with_rating(dropped: str, without: str = "") -> Past:
        facts = RatingFacts(layout=past.model.encoder.layout, stars=RatingConfig().stars, dropped=dropped)
        rating = Rating(RatingConfig(), facts, NetFolder(Path()), HalfStars())
        others = {name: step for name, step in rank_steps(past).items() if name != without}
        stages = [
            replace(stage, steps={**others, "stars": rating}) if stage.name == "rank" else stage
            for stage in past.model.funnel.stages
        ]
        clicks = past.events.take(np.flatnonzero(past.events.action == Action.CLICK))
        stars = np.where(np.arange(len(clicks)) % 4 == 0, 1.0, 4.0).astype(np.float32)
        rated = replace(clicks, action=np.full(len(clicks), Action.RATE, np.uint8), value=stars)
        both = Events(*(np.concatenate([getattr(e, n) for e in (past.events, rated)]) for n in Events.__slots__))
        events = both.take(np.argsort(both.time, kind="stable"))
        return replace(past, events=events, model=replace(past.model, funnel=Funnel(stages)))

    row = judge_heads(with_rating(""), split, 10_000, silent).rows["rate"]
    assert row["predicted"] == 3.5
    assert 0.5 < row["mae"] < 2.5
    assert row["mae"] == pytest.approx((4 - row["mean"]) / 3 * 2.5 + (row["mean"] - 1) / 3 * 0.5)
    assert "click" in judge_heads(with_rating(""), split, 20, silent).rows
    assert "rate" not in judge_heads(with_rating("no rating"), split, 20, silent).rows
    assert judge_heads(with_rating("", without="heads"), split, 20, silent).rows.keys() == {"rate"}
    assert not judge_heads(with_rating("no rating", without="heads"), split, 20, silent).rows


# ---- what is held out ------------------------------------------------------------------------------------------


def test_days_that_the_bundle_was_trained_on_are_refused(tiny) -> None:
    wider = by_time(tiny.dataset, SplitConfig(test_days=2))
    with pytest.raises(ConfigError, match=r"trained on everything before .*train again.*split\.test_days"):
        evaluate(model_of(tiny), tiny.dataset, wider)


def test_the_held_out_samples_are_those_that_training_would_see(tiny, past: Past, split: Split) -> None:
    config = tiny.project.config
    configs = (config.features, config.samples, config.train.interest_actions)
    moment = Moment(split.test_since, split.test_until)
    wanted = prepare(tiny.dataset, moment, configs, encoder=past.model.encoder).valid
    same(past.samples(split), wanted)


def test_an_answer_to_a_page_of_the_training_days_labels_no_held_out_row(tiny, past, split, tmp_path: Path) -> None:
    shutil.copytree(tiny.project.data, tmp_path / "data")
    user, (shown, other) = tiny.dataset.user_ids.external(0), tiny.dataset.item_ids.externals([0, 1])
    rows = [
        (shown, "impression", -99.0, "old"),
        (other, "impression", 10.0, "old"),  # logged late
        (shown, "impression", 101.0, "new"),
        (shown, "click", 200.0, "old"),
    ]
    events = pl.DataFrame(
        [
            {"user_id": user, "item_id": item, "action": action, "time": split.test_since + at, "request_id": request}
            for item, action, at, request in rows
        ]
    )
    requests = pl.DataFrame(
        [
            {"request_id": name, "user_id": user, "time": split.test_since + at, "scene": "feed"}
            for name, at in (("old", -100.0), ("new", 100.0))
        ]
    )
    import_tables(RawTables.of(requests=requests, events=events), tmp_path / "data")
    dataset, config = Dataset.open(tmp_path / "data"), tiny.project.config
    moment = Moment(split.test_since, split.test_until)
    configs = (config.features, config.samples, config.train.interest_actions)
    got = Past.of(past.model, dataset, split.test_until).samples(split)
    same(got, prepare(dataset, moment, configs, encoder=past.model.encoder).valid)
    new = int(np.flatnonzero(got.time == split.test_since + 100.0)[0])
    assert got.item[got.first[new] : got.first[new + 1]].tolist() == [0]
    assert got.labels["click"][got.first[new]] == 0


def same(got: Samples, wanted: Samples) -> None:
    assert len(wanted)
    for name in ARRAYS:
        assert getattr(got, name).tobytes() == getattr(wanted, name).tobytes(), name
    assert got.context.equals(wanted.context)
    assert [got.scenes[code] for code in got.scene] == [wanted.scenes[code] for code in wanted.scene]
    assert {name: label.tobytes() for name, label in got.labels.items()} == {
        name: label.tobytes() for name, label in wanted.labels.items() if label.any()
    }


def test_item_statistics_stay_those_of_the_bundle_however_long_the_held_out_days_are(past: Past) -> None:
    later = past.catalog(past.model.trained_to + 3 * DAY_SECONDS)
    assert later.columns["dynamic"][0] is past.model.catalog.columns["dynamic"][0]


# ---- what was imported since -----------------------------------------------------------------------------------


def imported_since(tiny, split: Split, tmp_path: Path) -> Dataset:
    """The tiny data set after one more import: a new user, a new item, and clicks on the last day."""
    shutil.copytree(tiny.project.data, tmp_path / "data")
    known = [tiny.dataset.user_ids.external(0), tiny.dataset.item_ids.external(0)]
    rows = [
        ("newcomer", "brand new", 0.1),
        ("newcomer", known[1], 0.2),
        ("newcomer", "brand new too", 0.3),
        (known[0], "brand new", 0.4),
    ]
    events = [
        {"user_id": user, "item_id": item, "action": action, "time": split.test_until - 1 + at}
        for user, item, at in rows
        for action in ("impression", "click")
    ]
    users = pl.DataFrame({"user_id": ["newcomer"]})
    items = pl.DataFrame({"item_id": ["brand new", "brand new too"]})
    import_tables(RawTables.of(users=users, items=items, events=pl.DataFrame(events)), tmp_path / "data")
    return Dataset.open(tmp_path / "data")


def test_users_and_items_imported_since_training_are_judged_and_count_as_misses(tiny, split, tmp_path: Path) -> None:
    dataset, model = imported_since(tiny, split, tmp_path), model_of(tiny, evaluate__most_users=10_000)
    newcomer, there = dataset.user_ids.number("newcomer"), len(model.catalog)
    wider = by_time(dataset, tiny.project.config.split)
    past = Past.of(model, dataset, wider.test_until)
    wanted = relevant_items(past, wider.test_since, ("click",))
    now, items = wanted[newcomer]
    assert len(items) == 3
    assert sorted(items >= there) == [False, True, True]
    assert (wanted[0][1] >= there).sum() == 1
    query = past.query(newcomer, now + 0.15, 20)
    assert query.user == -1
    assert query.history.items.tolist() == [0, -1]
    report = evaluate(model, dataset, wider)
    before = evaluate(model, tiny.dataset, split)
    assert report.users == before.users + 2
    assert report.requests == before.requests + 1  # three of the new pages hold nothing the bundle knows


def test_a_user_who_only_wants_what_the_bundle_does_not_know_finds_nothing(tiny, split, tmp_path: Path) -> None:
    dataset = imported_since(tiny, split, tmp_path)
    past = Past.of(model_of(tiny), dataset, split.test_until + 1)
    pages = _Pages(past, None)
    pages.judge(dataset.user_ids.number("newcomer"), split.test_until, np.array([len(past.model.catalog) + 5]))
    assert {row["ndcg@10"] for row in pages.summary().values()} == {0.0}
    assert pages.channels.means()["union"]["recall@500"] == 0.0


def test_a_data_set_with_other_numbers_gives_the_same_queries(tiny, past: Past, split, tmp_path: Path) -> None:
    tables = tiny.world.tables()
    turned = replace(tables, users=tables.users.reverse(), items=tables.items.reverse())
    import_tables(turned, tmp_path / "data")
    other = Past.of(past.model, Dataset.open(tmp_path / "data"), split.test_until)
    for user, now in rows_with_a_history(past, split, 5):
        name = past.dataset.user_ids.external(user)
        one, two = past.query(user, now, 20), other.query(other.dataset.user_ids.number(name), now, 20)
        assert one.user == two.user
        assert one.history.items.tolist() == two.history.items.tolist()
        assert one.features.codes.tobytes() == two.features.codes.tobytes()
        assert one.features.dense.tobytes() == two.features.dense.tobytes()


def test_a_log_without_impressions_is_judged_among_sampled_negatives(tiny, past: Past, split, tmp_path: Path) -> None:
    tables = tiny.world.tables()
    acted = tables.events.filter(pl.col("action").cast(pl.String) != "impression")
    import_tables(replace(tables, events=acted), tmp_path / "data")
    other = Past.of(past.model, Dataset.open(tmp_path / "data"), split.test_until)
    samples = other.samples(split)
    assert len(samples)
    assert (samples.time >= split.test_since).all()
    assert np.diff(samples.first).max() == 1 + tiny.project.config.samples.negatives
    assert (np.add.reduceat(samples.labels["click"], samples.first[:-1]) == 1).all()


# ---- the same as live ------------------------------------------------------------------------------------------


class Catch:
    """A sink that keeps the last query."""

    def emit(self, query: Query, page: Page) -> None:
        self.query = query


@pytest.mark.parametrize("limit", [7, 200])
def test_a_query_of_the_past_is_the_query_that_the_server_would_have_made(tiny, split: Split, limit: int) -> None:
    model = model_of(tiny, state__timeline_limit=limit)
    past = Past.of(model, tiny.dataset, split.test_until)
    profiles = {user: row.profile for user, row in rows_of(tiny.dataset, model.config.state)}
    for user, now in rows_with_a_history(past, split, 5):
        name, state, catch = tiny.dataset.user_ids.external(user), Memory(model.config.state), Catch()
        state.put_user(name, profiles[name])
        state.apply(events_before(tiny.dataset, user, now))
        Engine(model, state, clock=lambda now=now: now).recommend(RecommendRequest(user_id=name), catch)
        live, offline = catch.query, past.query(user, now, 20)
        assert 0 < len(offline.history) <= limit
        for part in ("items", "actions", "times"):
            one, other = getattr(live.history, part), getattr(offline.history, part)
            assert one.tobytes() == other.tobytes(), part
            assert one.dtype == other.dtype, part
        assert live.features.codes.tobytes() == offline.features.codes.tobytes()
        assert live.features.dense.tobytes() == offline.features.dense.tobytes()
        assert live.user == offline.user


def events_before(dataset: Dataset, user: int, now: float) -> list[Event]:
    events = dataset.events(until=now)
    return [
        Event(
            event_id=str(at),
            user_id=dataset.user_ids.external(user),
            item_id=dataset.item_ids.external(int(events.item[at])),
            action=ACTIONS[events.action[at]],
            time=float(events.time[at]),
            value=float(events.value[at]),
        )
        for at in np.flatnonzero(events.user == user)
    ]


def test_a_history_has_the_actions_of_the_bundle_not_of_todays_configuration(tiny, past: Past, split: Split) -> None:
    today = Past.of(model_of(tiny, features__history__actions=["like"]), tiny.dataset, split.test_until)
    for user, now in rows_with_a_history(past, split, 3):
        assert ACTION_CODE["click"] in today.query(user, now, 20).history.actions
        assert today.query(user, now, 20).history.items.tolist() == past.query(user, now, 20).history.items.tolist()


@pytest.mark.parametrize("template", ["movielens", "kuairand"])
def test_in_templates_for_real_data_nothing_pushes_a_history_out_of_the_live_timeline(template, tmp_path: Path) -> None:
    create(tmp_path / "feed", template)
    config = read(tmp_path / "feed" / "tamis.toml", ProjectConfig)
    assert set(config.state.timeline_actions) == set(config.features.history.actions)
    assert config.state.timeline_limit >= config.features.history.length


# ---- baselines -------------------------------------------------------------------------------------------------


def test_popular_counts_positive_events_of_the_training_days(tiny, past: Past) -> None:
    events = tiny.dataset.events(until=past.model.trained_to)
    clicks = np.bincount(events.item[events.action == ACTION_CODE["click"]], minlength=len(past.model.catalog))
    assert clicks[_Pages(past, None).popular].tolist() == sorted(clicks.tolist(), reverse=True)
    likes = replace(past, model=model_of(tiny, evaluate__positive=["like"]))
    assert _Pages(likes, None).popular.tolist() != _Pages(past, None).popular.tolist()


def test_diversity_is_the_share_of_pairs_of_different_categories(past: Past) -> None:
    pages = _Pages(past, None)
    category = np.asarray(past.model.catalog.columns["category"][0])
    alike, other = np.flatnonzero(category == category[0])[:3], np.flatnonzero(category != category[0])[:1]
    for name, ids, wanted in (("alike", alike, 0.0), ("mixed", np.append(alike, other), 0.5), ("one", other, None)):
        pages._page(name, ids.astype(np.int64), np.array([0]), past.model.trained_to)
        assert pages.summary()[name].get("diversity") == wanted


def test_what_the_catalogue_does_not_say_has_no_figure(past: Past) -> None:
    catalog = past.model.catalog
    blank = {name: tuple(np.zeros_like(part) for part in catalog.columns[name]) for name in ("author", "category")}
    model = replace(past.model, catalog=replace(catalog, columns={**catalog.columns, **blank}))
    bare = replace(past, model=model, published=np.full(len(catalog), -np.inf))
    for one, wanted in ((past, {"diversity", "authors", "new_share"}), (bare, set())):
        pages = _Pages(one, None)
        pages._page("tamis", np.arange(5), np.array([0]), past.model.trained_to)
        assert {"diversity", "authors", "new_share"} & set(pages.summary()["tamis"]) == wanted


def test_the_report_says_how_much_was_held_out_and_how_sure_the_page_is(tiny, split) -> None:
    report: Report = tiny.trained.report
    assert (report.learnt_from, report.held_out) == sizes(tiny.dataset, split)
    assert report.learnt_from + report.held_out == len(tiny.dataset.events())
    low, high = report.interval
    assert low < report.page["ndcg@10"] < high


def test_every_number_of_a_report_survives_json(tiny) -> None:
    raw = msgspec.json.decode(tiny.trained.report.to_json())
    assert raw["page"] == tiny.trained.report.page
