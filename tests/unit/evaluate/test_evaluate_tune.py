"""The search for the numbers of a fusion."""

import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tamis.artifact import open_bundle
from tamis.assemble import Model, load_model
from tamis.config import convert, override
from tamis.data.dataset import Dataset
from tamis.data.rows import Rows
from tamis.data.split import Split, by_time
from tamis.data.write import import_tables
from tamis.errors import ConfigError, DataError
from tamis.evaluate import tune as module
from tamis.evaluate.queries import Past
from tamis.evaluate.tune import PLACES, SPREAD, Place, Tuned, as_toml, tune
from tamis.features.encode import Encoder
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.features.tables import Tables
from tamis.funnel import Funnel
from tamis.metrics import Relevant, ndcg_at_k
from tamis.project import Project, create
from tamis.rank.fuse import Fuse, FuseConfig
from tamis.simulate.world import World, WorldConfig

optuna = pytest.importorskip("optuna", reason="the extra `tune` is not installed")


@pytest.fixture(scope="module")
def split(tiny: Any) -> Split:
    return by_time(tiny.dataset, tiny.project.config.split)


def model_of(tiny: Any, **fuse: Any) -> Model:
    """The tiny bundle, its fusion under other settings."""
    section = {"kind": "fuse", **fuse}
    changes = {"evaluate.most_users": 40} | ({"funnel.rank.steps.fuse": section} if fuse else {})
    return load_model(open_bundle(tiny.project.bundles), override(tiny.project.config, changes))


@pytest.fixture(scope="module")
def upside_down(tiny: Any) -> Model:
    """A bundle whose fusion looks at what hardly says anything, and at clicks only a little."""
    return model_of(tiny, formula="rank_sum", weights={"hide": 5.0, "click": 0.5})


@pytest.fixture(scope="module")
def found(tiny: Any, upside_down: Model, split: Split) -> Tuned:
    return tune(upside_down, tiny.dataset, split, trials=25, seed=1)


def test_the_search_finds_the_head_that_says_most(found: Tuned) -> None:
    weights = found.numbers["weights"]
    assert weights["click"] / weights["hide"] > 0.1 * 3
    assert (found.searched, found.judged, found.trials, found.step) == (20, 20, 25, "rank.fuse")
    assert found.difference == pytest.approx(found.after - found.before)
    assert found.low <= found.difference <= found.high


def test_the_same_seed_finds_the_same(tiny: Any, upside_down: Model, split: Split, found: Tuned) -> None:
    assert tune(upside_down, tiny.dataset, split, trials=25, seed=1) == found


def test_there_is_nothing_to_paste_when_nothing_better_was_found(tiny: Any, upside_down: Model, split: Split) -> None:
    same = tune(upside_down, tiny.dataset, split, trials=1)  # the first trial is what is configured
    assert (same.after, same.toml) == (same.before, "")


def test_what_is_printed_is_what_was_judged_and_stays_within_the_space(upside_down: Model, found: Tuned) -> None:
    step = convert(tomllib.loads(found.toml)["fuse"], FuseConfig)
    assert {name: getattr(step, name) for name in found.numbers} == found.numbers
    for section, numbers in found.numbers.items():
        for name, number in numbers.items():
            before = getattr(Place.of(upside_down).config, section).get(name, 1.0)
            assert 0.99 / SPREAD[section] <= number / before <= 1.01 * SPREAD[section]


def test_no_event_of_the_held_out_days_is_read(
    tiny: Any, upside_down: Model, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []
    whole = Past.of

    def noted(model: Model, dataset: Any, until: float) -> Past:
        made.append(until)
        return whole(model, dataset, until)

    monkeypatch.setattr(module.Past, "of", staticmethod(noted))
    tune(upside_down, tiny.dataset, split, trials=1)
    assert sorted(made) == [split.valid_since, split.test_since]


def test_item_statistics_are_those_of_the_begin_of_the_validation_days(tiny: Any, split: Split) -> None:
    model = model_of(tiny)
    then = module._as_of(model, tiny.dataset, split.valid_since)
    now = module._as_of(model, tiny.dataset, model.trained_to)
    of_bundle = np.asarray(model.catalog.columns["dynamic"][0])
    np.testing.assert_allclose(now.catalog.columns["dynamic"][0], of_bundle, rtol=1e-6)
    assert not np.allclose(then.catalog.columns["dynamic"][0], of_bundle)


def test_statistics_of_users_and_pairs_know_nothing_of_the_validation_days(tmp_path: Path) -> None:
    create(tmp_path / "feed", "demo")
    import_tables(World.generate(WorldConfig.tiny()).tables(), tmp_path / "feed" / "data")
    statistics = {
        "features.user.shown": {"kind": "count"},
        "features.user.author_rate": {"kind": "rate", "action": "click", "by": "author"},
        "features.item.hour_rate": {"kind": "rate", "action": "click", "by": "hour"},
    }
    project = Project(tmp_path / "feed")
    config, dataset = override(project.config, statistics), Dataset.open(project.data)
    split = by_time(dataset, config.split)

    def prepared(until: float, encoder: Encoder | None = None) -> Inputs:
        configs = (config.features, config.samples, config.train.interest_actions)
        return prepare(dataset, Moment(until, until), configs, config.state, encoder)

    def tables(inputs: Inputs) -> Tables:
        groups = inputs.encoder.groups.values()
        return Tables.of(inputs.encoder, {group.name: inputs.pairs_of(group) for group in groups}, inputs.until)

    trained = prepared(split.test_since)
    model = Model(
        name="", config=config, funnel=Funnel([]), encoder=trained.encoder, catalog=trained.catalog,
        statistics=tables(trained), user_ids=dataset.user_ids, item_ids=dataset.item_ids, trained_to=trained.until,
        items=Rows.of(dataset.items), coverage={},
    )  # fmt: skip
    for moment in (split.test_since, split.valid_since):
        then = module._as_of(model, dataset, moment).statistics.tables
        wanted = tables(prepared(moment, trained.encoder)).tables
        assert set(then) == set(wanted) == {"user", "user-item.author", "context.hour-item"}
        for name, table in wanted.items():
            for array in ("requests", "starts", "keys", "values"):
                np.testing.assert_array_equal(getattr(then[name], array), getattr(table, array))
    assert not np.array_equal(then["user"].values, model.statistics.tables["user"].values)


def test_the_kept_candidates_give_the_order_of_the_whole_stage(tiny: Any, split: Split) -> None:
    model = model_of(tiny)
    place = Place.of(model)
    assert place.name == "fuse"
    past = Past.of(model, tiny.dataset, split.test_since)
    for user in (3, 40, 111):
        query = past.query(user, split.valid_since, PLACES)
        whole = {}
        model.funnel.run(query, keep=whole)
        kept = place.before(len(model.catalog)).run(query).items
        again = place.behind(place.config).run(query, kept, "rank").items
        assert again.ids.tolist() == whole["rank"].ids[:PLACES].tolist()


def test_the_worth_of_a_trial_is_the_ndcg_of_the_metrics(tiny: Any, split: Split) -> None:
    model = model_of(tiny)
    place = Place.of(model)
    kept = module._kept(model, tiny.dataset, split, place, lambda *_: None)[:15]
    lists = [place.behind(place.config).run(one.query, one.items, "rank").items.ids for one in kept]
    ranked = np.full((len(kept), PLACES), -1)
    for row, ids in zip(ranked, lists, strict=True):
        row[: len(ids)] = ids
    wanted = ndcg_at_k(ranked, Relevant.of([one.relevant for one in kept]), PLACES)
    assert module._ndcg(place, place.config, kept).mean() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (FuseConfig(weights={"like": 2.0, "hide": 0.0}, factors={"pre": 1.0}), {"weights.like", "factors.pre"}),
        (FuseConfig(formula="power_product", weights={"play": -0.1}), {"weights.play", "exponents.play"}),
        (
            FuseConfig(formula="rank_sum", weights={"click": 1.0}, exponents={"click": 0.5}),
            {"weights.click", "offsets.click", "exponents.click"},
        ),
        (FuseConfig(formula="conversion_product", exponents={"click": 2.0}), {"exponents.click"}),
        (
            FuseConfig(formula="expression", expression="click + a * like + 3 * hide", constants={"a": 1.0}),
            {"constants.a"},
        ),
    ],
)
def test_every_number_the_formula_reads_is_searched_but_a_0(config: FuseConfig, names: set[str]) -> None:
    space = dict(module._space(config))
    assert {".".join(key) for key in space} == names
    doubled = module._scaled(config, space, dict.fromkeys(space, 2.0))
    for (section, name), number in space.items():
        assert getattr(doubled, section)[name] == 2 * number
    assert module._scaled(config, space, dict.fromkeys(space, 1.0)) == config


def test_a_step_is_written_as_toml_that_reads_back() -> None:
    config = FuseConfig(formula="expression", expression="click * (1 + a * like)", constants={"a": 1e-7})
    text = as_toml(config)
    assert "weights" not in text
    assert convert(tomllib.loads(f"fuse = {text}")["fuse"], FuseConfig) == config


def test_numbers_that_the_fusion_refuses_are_not_the_best_although_the_stage_is_optional(
    tiny: Any, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(tiny, formula="power_product", weights={"like": 1.0, "click": -1.0})
    assert Place.of(model).stage.optional
    refused = []

    def noted(place: Place, config: FuseConfig, kept: Any) -> Any:
        try:
            return ndcg(place, config, kept)
        except ValueError:
            refused.append(config)
            raise

    ndcg = module._ndcg
    monkeypatch.setattr(module, "_ndcg", noted)
    found = tune(model, tiny.dataset, split, trials=25, seed=1)
    assert 0 < len(refused) < 25
    assert found.numbers["weights"] not in [dict(config.weights) for config in refused]


def test_nothing_to_search_is_said(tiny: Any, split: Split) -> None:
    with pytest.raises(ConfigError, match="no number other than 0"):
        tune(model_of(tiny, weights={"like": 0.0}), tiny.dataset, split, trials=1)
    model = model_of(tiny)
    config = override(model.config, {"funnel.rank.steps": {}})
    with pytest.raises(ConfigError, match="no step of kind fuse"):
        tune(replace(model, config=config), tiny.dataset, split, trials=1)


def test_days_that_the_bundle_knows_and_days_without_anybody_are_refused(tiny: Any, split: Split) -> None:
    model = model_of(tiny)
    with pytest.raises(ConfigError, match="was trained on"):
        tune(model, tiny.dataset, replace(split, test_since=split.valid_since), trials=1)
    with pytest.raises(DataError, match="at least 2"):
        tune(model, tiny.dataset, replace(split, valid_since=split.test_since), trials=1)


def test_without_optuna_the_error_says_what_to_install(
    tiny: Any, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"tamis\[tune\]"):
        tune(model_of(tiny), tiny.dataset, split, trials=1)


def test_the_result_is_plain_for_machines(found: Tuned) -> None:
    assert msgspec.json.decode(msgspec.json.encode(found), type=Tuned) == found


def test_the_fusion_of_a_trial_is_the_part_that_serves(upside_down: Model) -> None:
    step = Place.of(upside_down).behind(FuseConfig(weights={"like": 1.0})).stages[0].steps["fuse"]
    assert isinstance(step, Fuse)
