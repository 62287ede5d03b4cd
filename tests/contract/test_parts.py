"""The promises that every part keeps, checked on every kind that `assemble` knows."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tamis.artifact import open_bundle
from tamis.assemble import PARTS, Model, load_model, part_of, stages_of
from tamis.evaluate.queries import Past
from tamis.features.inputs import Inputs
from tamis.features.prepare import Moment, prepare
from tamis.stages import Filter, ItemToItem, Scorer, Selector, Source
from tamis.types import Candidates, Catalog, Features, History, Nothing, Query

EXTRA = {"scatter": {"kind": "scatter"}}  # kinds that the demo's configuration does not use


@pytest.fixture(scope="module")
def inputs(tiny, model) -> Inputs:
    config = tiny.project.config
    split_until = tiny.trained.bundle.manifest.trained_to
    moment = Moment(split_until - 86_400.0, split_until)
    made = prepare(tiny.dataset, moment, (config.features, config.samples, config.train.interest_actions))
    return replace(made, part=model.funnel.stages[0].steps.__getitem__)


@pytest.fixture(scope="module")
def model(tiny) -> Model:
    return load_model(open_bundle(tiny.project.bundles))


@pytest.fixture(scope="module")
def past(tiny, model) -> Past:
    return Past.of(model, tiny.dataset, model.trained_to)


@pytest.fixture(scope="module")
def parts(tiny, model, inputs, tmp_path_factory) -> dict[str, tuple[Any, Any, Path]]:
    """kind → (config, part, folder) of every step of the tiny project, and of every kind that it does not use."""
    bundle = open_bundle(tiny.project.bundles)
    found = {}
    for stage, config in stages_of(model.config.funnel).items():
        for name, step in config.steps.items():
            folder = bundle.folder(f"{stage}.{name}")
            found[str(step.__struct_config__.tag)] = (step, part_of(step).load(step, folder), folder)
    for config_class, part in PARTS.items():
        tag = str(config_class.__struct_config__.tag)
        if tag not in found:
            folder = tmp_path_factory.mktemp(tag)
            fitted = part.fit(config_class(), inputs, 0)
            fitted.save(folder)
            found[tag] = (config_class(), fitted, folder)
    return found


KINDS = sorted(str(config.__struct_config__.tag) for config in PARTS)


def queries(past: Past) -> list[Query]:
    """A known user, an unknown one without history, one whose items are all gone."""
    known = past.query(3, past.model.trained_to, 10)
    nobody = replace(known, user=-1, history=History.empty(), features=_unknown(known), seen=Nothing())
    nothing = replace(known, history=replace(known.history, items=np.full(len(known.history), -1)))
    return [known, nobody, nothing]


def _unknown(query: Query) -> Features:
    return Features(np.zeros_like(query.features.codes), np.zeros_like(query.features.dense))


def candidates(past: Past, ids: list[int]) -> Candidates:
    items = np.array(ids, np.int64)
    rng = np.random.default_rng(len(ids))
    heads = ("click", "like", "collect", "share", "comment", "follow", "long_view", "hide")
    columns = {f"p_{head}": rng.random(len(ids)) for head in heads}
    columns |= {"play": rng.random(len(ids)) * 30, "score": -np.sort(-rng.random(len(ids)))}
    return Candidates.of(items, **columns)


def outcome(part: Any, query: Query, items: Candidates) -> Any:
    if isinstance(part, Source):
        return part.recall(query).ids
    if isinstance(part, Scorer):
        return part.score(query, items)
    if isinstance(part, Filter):
        return part.keep(query, items)
    return part.pick(query, items)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_exactly_one_verb(parts, kind: str) -> None:
    part = parts[kind][1]
    assert sum(isinstance(part, verb) for verb in (Source, Scorer, Filter, Selector)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_through_disk_changes_nothing(parts, past, tmp_path: Path, kind: str) -> None:
    config, part, _ = parts[kind]
    part.save(tmp_path)
    again = type(part).load(config, tmp_path)
    items = candidates(past, list(range(0, 60, 3)))
    for query in queries(past):
        _same(outcome(part, query, items), outcome(again, query, items))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bytes(parts, inputs, tmp_path: Path, kind: str) -> None:
    config = parts[kind][0]
    digests = []
    for run in ("a", "b"):
        folder = tmp_path / run
        folder.mkdir()
        part_of(config).fit(config, inputs, 5).save(folder)
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        digests.append({p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert digests[0] == digests[1]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_outcomes_are_valid_on_any_items_and_any_query(parts, past, kind: str, data: st.DataObject) -> None:
    part = parts[kind][1]
    ids = data.draw(st.lists(st.integers(0, len(past.model.catalog) - 1), unique=True, max_size=40))
    query = data.draw(st.sampled_from(queries(past)))
    query = replace(query, size=data.draw(st.sampled_from([1, 5, 1000])))
    items = candidates(past, ids)
    got = outcome(part, query, items)
    if isinstance(part, Source):
        assert len(np.unique(got)) == len(got)
        assert ((got >= 0) & (got < len(query.catalog))).all()
    elif isinstance(part, Scorer):
        for column in got.values():
            assert len(column) == len(items)
            assert np.isfinite(column).all()
    elif isinstance(part, Filter):
        assert got.dtype == np.bool_
        assert got.shape == items.ids.shape
    else:
        assert len(got) == min(query.size, len(items))
        assert len(np.unique(got)) == len(got)
        assert not len(got) or (got.min() >= 0 and got.max() < len(items))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_scores_the_same_alone_and_in_company(parts, past, kind: str) -> None:
    part = parts[kind][1]
    if not isinstance(part, Scorer):
        pytest.skip(f"{kind} is no scorer")
    if getattr(parts[kind][0], "formula", "") == "rank_sum":
        pytest.skip("the rank formula compares candidates by definition")
    items = candidates(past, [5, 17, 40, 41, 99])
    for query in queries(past):
        together = part.score(query, items)
        for row in range(len(items)):
            alone = part.score(query, items.take(np.array([row])))
            for name, column in alone.items():
                assert np.allclose(column[0], together[name][row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_published_since_the_bundle_is_no_surprise(parts, past, kind: str) -> None:
    part, base = parts[kind][1], past.model.catalog
    query = past.query(3, past.model.trained_to, 10)
    fresh = {name: (pair[0], np.asarray(pair[0][:2])) for name, pair in base.columns.items()}
    keys = (base.keys[0], np.array([1, 2], np.uint64))
    newest = np.concatenate([[len(base) + 1, len(base)], base.newest])
    catalog = Catalog(keys, fresh, np.zeros(len(base) + 2, np.bool_), newest, version=9)
    got = outcome(part, replace(query, catalog=catalog), candidates(past, [len(base), 4, len(base) + 1]))
    for column in got.values() if isinstance(got, dict) else [got]:
        assert np.isfinite(np.asarray(column, np.float64)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_answers_more_like_this_knows_every_item_or_says_nothing(parts, past, kind: str) -> None:
    part, catalog = parts[kind][1], past.model.catalog
    if not isinstance(part, ItemToItem):
        pytest.skip(f"{kind} does not answer it")
    for item in (0, 7, len(catalog) - 1, len(catalog) + 5):
        ids, scores = part.similar(item, 4, catalog)
        assert len(ids) == len(scores) <= 4
        assert item not in ids
        assert len(np.unique(ids)) == len(ids)
        assert (np.diff(scores) <= 0).all()
        assert not len(ids) or 0 <= ids.min() <= ids.max() < len(catalog)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_do_not_break_a_selector(parts, past, kind: str) -> None:
    part = parts[kind][1]
    if not isinstance(part, Selector):
        pytest.skip(f"{kind} is no selector")
    query = past.query(3, past.model.trained_to, 3)
    items = candidates(past, [1, 2, 3, 4]).add({"score": np.array([1.0, 1.0, 1.0, 1.0])})
    assert sorted(part.pick(replace(query, size=4), items).tolist()) == [0, 1, 2, 3]


def _same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert np.array_equal(one[name], other[name])
    else:
        assert np.array_equal(one, other)
