"""Requests with nothing to go by, through the whole trained funnel: a smaller page, never an error."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tamis.artifact import open_bundle
from tamis.assemble import Model, load_model
from tamis.config import override
from tamis.data.split import by_time
from tamis.data.write import import_tables
from tamis.evaluate.offline import evaluate
from tamis.evaluate.queries import Past
from tamis.funnel import Funnel
from tamis.serving.engine import Engine
from tamis.serving.wire import RecommendRequest
from tamis.state.memory import Memory
from tamis.state.protocol import Event
from tamis.train import Choice, train
from tamis.types import Candidates, Columns, Exact, Features, History, Page, Query


@pytest.fixture(scope="module")
def model(tiny) -> Model:
    return load_model(open_bundle(tiny.project.bundles))


@pytest.fixture(scope="module")
def asked(tiny, model: Model) -> Query:
    """The query of the user who did most."""
    split = by_time(tiny.dataset, tiny.project.config.split)
    past = Past.of(model, tiny.dataset, split.test_until)
    return past.query(int(np.diff(past.by_user.starts).argmax()), split.test_since, 20)


def whole(page: Page, size: int) -> None:
    """A page of so many distinct items, and no step that failed."""
    assert len(set(page.items.ids.tolist())) == len(page.items) == size
    assert not page.degraded, page.trace
    assert np.isfinite(page.items.column("score")).all() if size else True


def test_who_has_seen_all_but_three_gets_three_and_who_has_seen_all_gets_an_empty_page(model, asked: Query) -> None:
    keys = np.sort(np.asarray(model.catalog.keys[0]))
    whole(model.funnel.run(asked), 20)
    left = model.funnel.run(replace(asked, seen=Exact(keys[3:])))
    assert set(left.items.ids) <= set(np.flatnonzero(np.isin(model.catalog.keys[0], keys[:3])))
    whole(left, len(left.items))
    whole(model.funnel.run(replace(asked, seen=Exact(keys))), 0)


@pytest.mark.parametrize("open_items", [0, 1, 2])
def test_where_everything_else_is_closed_the_page_is_what_is_left(model, asked: Query, open_items: int) -> None:
    popular = model.funnel.run(asked).items.ids[:open_items]
    closed = np.ones(len(asked.catalog), np.bool_)
    closed[popular] = False
    page = model.funnel.run(replace(asked, catalog=replace(asked.catalog, closed=closed)))
    whole(page, open_items)
    assert set(page.items.ids) == set(popular)


@pytest.mark.parametrize("user", [-1, 0])
def test_without_a_history_or_with_one_of_items_that_are_gone_the_page_is_full(model, asked: Query, user: int) -> None:
    gone = replace(asked.history, items=np.full(len(asked.history), -1))
    for history in (History.empty(), gone):
        whole(model.funnel.run(replace(asked, user=user, history=history)), 20)


def test_features_that_know_nothing_of_the_user_give_a_page_too(model, asked: Query) -> None:
    features = Features(np.zeros_like(asked.features.codes), np.zeros_like(asked.features.dense))
    whole(model.funnel.run(replace(asked, user=-1, history=History.empty(), features=features)), 20)


def test_negative_weights_turn_the_order_and_lose_no_row(tiny, asked: Query) -> None:
    weights = {f"funnel.rank.steps.fuse.weights.{head}": -5.0 for head in ("like", "share")}
    model = load_model(open_bundle(tiny.project.bundles), override(tiny.project.config, weights))
    whole(model.funnel.run(asked), 20)


class Odd:
    """A scorer whose numbers are negative, infinite or none."""

    def score(self, query: Query, items: Candidates) -> dict[str, np.ndarray]:
        return {"score": np.resize(np.array([-3.0, np.nan, -np.inf, np.inf, -1e300]), len(items))}


@pytest.mark.parametrize("at", [1, 2])
def test_scores_that_are_no_numbers_sort_last_and_the_page_stays_full(model, asked: Query, at: int) -> None:
    stages = list(model.funnel.stages)
    stages[at] = replace(stages[at], steps={**stages[at].steps, "odd": Odd()})
    page = Funnel(stages).run(asked)
    whole(page, 20)
    kept: dict[str, Candidates] = {}
    Funnel(stages).run(asked, keep=kept)
    score = kept[stages[at].name].column("score")
    assert np.isfinite(score).all()


def test_a_user_and_an_item_that_the_bundle_never_saw_are_served(tiny, model) -> None:
    state = Memory(model.config.state)
    now = model.trained_to + 60.0
    click = Event(event_id="e1", user_id="somebody new", item_id="never imported", action="click", time=now - 10)
    state.apply([click])
    for user in ("somebody new", "somebody else"):
        reply = Engine(model, state, clock=lambda: now).recommend(RecommendRequest(user_id=user, size=20))
        assert len(reply.items) == 20


def test_a_catalogue_of_one_item_is_trained_on_judged_and_served(tiny, tmp_path: Path) -> None:
    tables = tiny.world.tables()
    name = tables.events["item_id"].cast(pl.String).value_counts(sort=True)["item_id"][0]
    items, events = (table.filter(pl.col("item_id").cast(pl.String) == name) for table in (tables.items, tables.events))
    import_tables(replace(tables, items=items, events=events), tmp_path / "data")
    trained = train(tiny.project.config, tmp_path / "data", tmp_path / "bundles")
    assert trained.published
    model = load_model(trained.bundle)
    assert len(model.catalog) == 1
    engine = Engine(model, Memory(model.config.state), clock=lambda: model.trained_to + 60.0)
    for user in ("somebody new", tiny.dataset.user_ids.external(0)):
        assert [item.item_id for item in engine.recommend(RecommendRequest(user_id=user, size=20)).items] == [name]


def test_a_trained_light_rank_stands_in_for_a_net_that_is_out(tiny, model: Model, tmp_path: Path) -> None:
    light = {"funnel.rank.steps.light": {"kind": "light_rank", "epochs": 2}, "funnel.rank.fallback": "light"}
    config = override(model.config, {**light, "evaluate.most_users": 5, "evaluate.most_requests": 5})
    shutil.copytree(tiny.project.bundles, tmp_path / "bundles", symlinks=True)
    trained = train(config, tiny.project.data, tmp_path / "bundles", choice=Choice(only=("light",)))
    assert "click" in trained.report.heads  # of the net: what stands in is not judged
    model = load_model(trained.bundle)
    split = by_time(tiny.dataset, config.split)
    query = Past.of(model, tiny.dataset, split.test_until).query(7, split.test_since, 20)
    stages = list(model.funnel.stages)
    usual = Funnel(stages).run(query)
    assert "light" not in [step.step for step in usual.trace]
    broken = replace(stages[2], steps={**stages[2].steps, "heads": Out()})
    page = Funnel([*stages[:2], broken, *stages[3:]]).run(query)
    assert page.degraded
    assert [step.step for step in page.trace if step.status == "ok"][-2:] == ["light", "diverse"]
    np.testing.assert_array_equal(page.items.columns["light_click"], page.items.columns["score"])
    assert len(page.items) == 20
    alone = {"funnel.rank.fallback": "", "funnel.rank.steps": {"light": {"kind": "light_rank", "epochs": 2}}}
    judged = evaluate(load_model(trained.bundle, override(config, alone)), tiny.dataset, split)
    assert 0 < judged.heads["click"]["predicted"] < 1  # as the only ranker it is judged as one


class Out:
    """A net that is not there."""

    def score(self, query: Query, items: Candidates) -> Columns:
        raise OSError("net is gone")
