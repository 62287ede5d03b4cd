"""Training some parts, or on some of the data."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from tamis.artifact import Bundle, BundleWriter, current_name, published
from tamis.assemble import ProjectConfig, TrainConfig, load_model
from tamis.config import override
from tamis.data.tables import RawTables
from tamis.errors import ArtifactError, ConfigError, DataError
from tamis.project import Project, create, open_project
from tamis.train import Choice, Trained, release, train


@pytest.fixture
def feed(tiny: Any, tmp_path: Path) -> Project:
    """A copy of the tiny project that a test may train again."""
    folder = tmp_path / "feed"
    shutil.copytree(tiny.project.folder, folder, symlinks=True)
    return Project(folder)


def again(feed: Project, tiny: Any, choice: Choice, patches: dict[str, Any] | None = None) -> Trained:
    config: ProjectConfig = override(load_model(tiny.trained.bundle).config, {"train.gate": 1.0, **(patches or {})})
    return train(config, feed.data, feed.bundles, choice=choice)


def hashes(trained: Trained, part: str) -> dict[str, Any]:
    return {name: facts for name, facts in trained.bundle.manifest.files.items() if name.startswith(f"{part}/")}


def test_only_the_named_parts_change_and_the_bundle_says_what_it_kept(feed: Project, tiny: Any) -> None:
    made = again(feed, tiny, Choice(only=("recall.itemcf", "popular")), {"funnel.recall.steps.itemcf.neighbours": 3})
    kept = {"recall.two_tower", "prerank.three_tower", "rank.heads"}
    for part in kept:
        assert hashes(made, part) == hashes(tiny.trained, part) != {}
    assert hashes(made, "recall.itemcf") != hashes(tiny.trained, "recall.itemcf")
    assert hashes(made, "recall.popular") == hashes(tiny.trained, "recall.popular")  # the same data, the same bytes
    said = made.bundle.manifest.kept
    assert kept <= set(said)
    assert {"recall.itemcf", "recall.popular"}.isdisjoint(said)
    assert set(said.values()) == {tiny.trained.bundle.name}
    assert made.published
    assert current_name(feed.bundles) == made.bundle.name
    once_more = again(feed, tiny, Choice(only=("popular",)), {"funnel.recall.steps.itemcf.neighbours": 3})
    said = once_more.bundle.manifest.kept
    assert (said["recall.itemcf"], said["rank.heads"]) == (made.bundle.name, tiny.trained.bundle.name)


def test_a_log_of_which_much_is_held_out_is_named(feed: Project, tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first, last = tiny.dataset.span()
    again(feed, tiny, Choice(only=("popular",)))
    assert "much of the log" not in capsys.readouterr().out
    half = {"split.test_since": (first + last) / 2}
    with pytest.raises(ConfigError, match="learnt from days that are held out now"):
        again(feed, tiny, Choice(only=("popular",)), half)
    assert "much of the log is held out" in capsys.readouterr().out


def test_an_error_of_a_part_names_its_step(feed: Project, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise DataError("label 'rate', rating 3 of 9: 7, wanted one of [1.0, 2.0]")

    monkeypatch.setattr("tamis.recall.popular.Popular.fit", fails)
    with pytest.raises(DataError, match=r"^funnel\.recall\.popular: label 'rate', rating 3 of 9"):
        again(feed, tiny, Choice(only=("popular",)))


def test_a_card_that_is_not_there_is_missed_before_anything_is_prepared(
    feed: Project, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: Any) -> None:
        raise AssertionError("the features are made already")

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("tamis.train.prepare", too_late)
    wanted = {"funnel.rank.steps.heads.device": "cuda"}
    with pytest.raises(ConfigError, match=r"^funnel\.rank\.heads: device 'cuda': torch sees no graphics card"):
        again(feed, tiny, Choice(only=("heads",)), wanted)
    with pytest.raises(AssertionError):
        again(feed, tiny, Choice(only=("heads",)), {"funnel.rank.steps.heads.device": "cpu"})


def test_features_that_seldom_have_a_value_are_named_and_the_report_has_them_all(
    feed: Project, tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"evaluate.most_users": 5, "evaluate.most_requests": 5}
    made = again(feed, tiny, Choice(only=("popular",)), {**few, "train.least_coverage": 1.0})
    rows = made.report.features
    assert rows == tiny.trained.report.features
    rare = sorted(name for name, row in rows.items() if row["coverage"] < 1)
    said = capsys.readouterr().out
    assert "features that seldom have a value" in said
    assert {"user.click_rate", "item.click_rate"} <= set(rare)
    assert all(f"'{name}'" in said for name in rare)
    assert "'context.hour'" not in said


def test_a_channel_made_of_another_one_learns_from_the_part_that_is_served_beside_it(feed: Project, tiny: Any) -> None:
    step = {"kind": "similar_items", "over": "itemcf", "limit": 50, "neighbours": 5}
    made = again(feed, tiny, Choice(only=("like_items",)), {"funnel.recall.steps.like_items": step})  # itemcf is kept
    steps = load_model(made.bundle).funnel.stages[0].steps
    for item in range(0, 600, 50):
        for own, theirs in zip(steps["like_items"].similar(item, 5), steps["itemcf"].similar(item, 5), strict=True):
            np.testing.assert_array_equal(own, theirs)
    assert made.report.channels["like_items"]["rows"] > 0
    before = {"funnel.recall.steps.like_items": {**step, "over": "two_tower"}}
    assert hashes(again(feed, tiny, Choice(only=("like_items",)), before), "recall.like_items") != hashes(
        made, "recall.like_items"
    )


def test_kept_parts_work_beside_items_and_users_that_came_since(feed: Project, tiny: Any) -> None:
    last = tiny.dataset.span()[1]
    old_user, old_item = tiny.dataset.user_ids.external(1), tiny.dataset.item_ids.external(3)
    events = [
        {"user_id": user, "item_id": item, "action": "click", "time": last - 90_000.0 + n}
        for user in ("new-1", "new-2", old_user)
        for n, item in enumerate(("fresh-1", "fresh-2", old_item))
    ]
    feed.bring(RawTables.of(events=pl.DataFrame(events)))
    made = again(feed, tiny, Choice(only=("itemcf",)))
    model = load_model(made.bundle)
    assert len(model.catalog) == len(tiny.dataset.items) + 2
    number = model.item_ids.number("fresh-1")
    near = model.similar(number, 5, model.catalog)[0]
    assert model.item_ids.number("fresh-2") in near  # the new table knows it
    page = feed.recommend("new-1", 10)
    assert page.reply.bundle == made.bundle.name
    assert len(page.items) == 10
    assert not page.reply.degraded


@pytest.mark.parametrize(
    ("only", "patches", "message"),
    [
        (("nothing",), {}, r"--only nothing: no such step; there are recall\.two_tower"),
        (("popular",), {"funnel.recall.steps.itemcf.neighbours": 3}, r"funnel\.recall\.itemcf has other settings"),
        (("popular",), {"funnel.recall.steps.more": {"kind": "newest"}}, r"funnel\.recall\.more is new"),
        (("popular",), {"features.history.length": 9}, r"\[features\] differ"),
        (("popular",), {"split.test_days": 3}, "learnt from days that are held out now"),
    ],
)
def test_parts_that_do_not_fit_are_not_kept(
    feed: Project, tiny: Any, only: tuple[str, ...], patches: dict[str, Any], message: str
) -> None:
    before = sorted(path.name for path in feed.bundles.iterdir())
    with pytest.raises(ConfigError, match=message):
        again(feed, tiny, Choice(only=only), patches)
    assert sorted(path.name for path in feed.bundles.iterdir()) == before


def test_a_bundle_of_other_data_is_not_kept(feed: Project, tiny: Any) -> None:
    shutil.rmtree(feed.data)
    tables = tiny.world.tables()
    feed.bring(replace(tables, users=tables.users[::-1]))
    with pytest.raises(ArtifactError, match="its users have other numbers"):
        again(feed, tiny, Choice(only=("popular",)))


def test_without_a_served_bundle_there_is_nothing_to_keep(feed: Project, tiny: Any) -> None:
    shutil.rmtree(feed.bundles)
    with pytest.raises(ArtifactError, match="tamis train"):
        again(feed, tiny, Choice(only=("popular",)))


def test_what_happened_before_since_teaches_nothing_but_stays_in_histories(feed: Project, tiny: Any) -> None:
    until = tiny.trained.bundle.manifest.trained_to
    patches = {"funnel.recall.steps.two_tower": None, "funnel.prerank.steps.three_tower": None}
    patches |= {"funnel.rank.steps.heads.epochs": 1, "funnel.rank.steps.fuse.factors": {}}
    made = again(feed, tiny, Choice(since=until - 3 * 86_400.0), patches)
    items = np.load(made.bundle.folder("recall.popular") / "items.npy")
    events = tiny.dataset.events(since=until - 3 * 86_400.0, until=until)
    assert set(items.tolist()) <= set(events.item.tolist())
    assert hashes(made, "features") == hashes(tiny.trained, "features")
    assert msgspec.json.decode((made.bundle.path / "bundle.json").read_bytes())["kept"] == {}


def test_a_since_after_everything_leaves_nothing_to_learn(feed: Project, tiny: Any) -> None:
    with pytest.raises(DataError, match="choose an earlier --since"):
        again(feed, tiny, Choice(since=tiny.dataset.span()[1] + 1))


def test_trainings_that_end_at_once_are_all_written_down_and_one_is_served(tiny: Any, tmp_path: Path) -> None:
    facts = {"code_version": "0", "config_digest": "d", "seed": 1, "trained_to": 0.0}
    bundles = [BundleWriter(tmp_path).finish(facts) for _ in range(40)]

    def end(bundle: Bundle) -> bool:
        return release(bundle, tiny.trained.report, TrainConfig(keep_bundles=50))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(end, bundles))
    assert sorted(published(tmp_path)) == sorted(bundle.name for bundle in bundles)
    assert current_name(tmp_path) == published(tmp_path)[-1]


def test_a_funnel_without_a_source_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    create(tmp_path / "feed")
    config = override(open_project(tmp_path / "feed").config, {"funnel.recall.steps": {}})
    with pytest.raises(ConfigError, match="no source"):
        train(config, tmp_path / "nothing", tmp_path / "bundles")


def test_a_bound_of_memory_goes_the_whole_way_and_leaves_no_working_files(feed: Project, tiny: Any) -> None:
    config: ProjectConfig = load_model(tiny.trained.bundle).config
    config = override(config, {"train.memory_gib": 2.0**-8, "train.gate": 1.0})  # all else as the template has it
    left = feed.bundles / ".scratch-0123"  # of a training that was killed
    left.mkdir()
    made = train(config, feed.data, feed.bundles)
    assert made.published
    assert made.report.users > 0
    whole = tiny.trained.report
    assert made.report.heads["click"]["auc"] > whole.heads["click"]["auc"] - 0.03
    assert set(made.report.channels) == set(whole.channels)
    assert made.report.page["ndcg@10"] > 0.7 * whole.page["ndcg@10"]
    assert not list(feed.bundles.glob(".scratch-*"))
    with pytest.raises(ConfigError, match="--since"):
        train(config, feed.data, feed.bundles, choice=Choice(since=1.0))
