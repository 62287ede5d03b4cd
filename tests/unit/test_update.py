"""Incremental training of a project, and full trainings that build on the last full one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tamis import project
from tamis.artifact import BundleWriter, current_name, open_bundle, open_full
from tamis.assemble import ProjectConfig, load_model
from tamis.cli import app
from tamis.config import override
from tamis.data.tables import RawTables
from tamis.errors import ArtifactError, ConfigError, DataError
from tamis.evaluate.dropped import dropped_items
from tamis.features.earlier import STAGES
from tamis.features.prepare import Moment, prepare
from tamis.project import Project
from tamis.train import Choice, Trained, train
from tamis.update import update


@pytest.fixture
def feed(tiny: Any, tmp_path: Path) -> Project:
    """A copy of the tiny project that a test may train again."""
    folder = tmp_path / "feed"
    shutil.copytree(tiny.project.folder, folder, symlinks=True)
    return Project(folder)


def clicks(feed: Project, tiny: Any, after: float = 60.0, items: Sequence[int] = (7, 8, 9)) -> list[str]:
    """Imports clicks of the three busiest users that came after all that is known; the users."""
    busiest = np.argsort(-np.bincount(tiny.dataset.events().user), kind="stable")[:3]
    users = [tiny.dataset.user_ids.external(number) for number in busiest.tolist()]
    last = tiny.dataset.span()[1] + after
    events = [
        {"user_id": user, "item_id": tiny.dataset.item_ids.external(item), "action": action, "time": last + n}
        for user in users
        for n, item in enumerate(items)
        for action in ("impression", "click")
    ]
    feed.bring(RawTables.of(events=pl.DataFrame(events)))
    return users


def quick(tiny: Any, **patches: Any) -> ProjectConfig:
    """The tiny configuration with two towers and what is cheap only."""
    gone = {f"funnel.{step}": None for step in ("prerank.steps.three_tower", "rank.steps.heads", "rank.steps.fuse")}
    return override(load_model(tiny.trained.bundle).config, {"train.gate": 1.0, **gone, **patches})


def hashes(trained: Any, part: str) -> dict[str, Any]:
    return {name: facts for name, facts in trained.bundle.manifest.files.items() if name.startswith(f"{part}/")}


def test_an_increment_moves_the_user_tower_only_and_is_served(feed: Project, tiny: Any) -> None:  # T-10.2, T-10.3
    users = clicks(feed, tiny)
    before = {user: vectors(load_model(tiny.trained.bundle), user) for user in users}
    made = feed.update()
    assert made.parts == ("recall.two_tower",)
    assert made.events > 18  # the held-out day as well: nothing is held out of an increment
    assert current_name(feed.bundles) == made.bundle.name
    assert made.bundle.manifest.continues == tiny.trained.bundle.name
    for part in ("recall.itemcf", "prerank.three_tower", "rank.heads", "features", "config"):
        assert hashes(made, part) == hashes(tiny.trained, part) != {}
    old, new = hashes(tiny.trained, "recall.two_tower"), hashes(made, "recall.two_tower")
    assert {name for name in old if old[name] != new[name]} == {"recall.two_tower/user.weights"}
    model = load_model(made.bundle)
    for user in users:
        assert np.abs(vectors(model, user) - before[user]).max() > 1e-6
    assert feed.recommend(users[0], 10).reply.bundle == made.bundle.name


def test_an_increment_is_judged_on_what_came_after_it_and_on_nothing_that_it_learnt(feed: Project, tiny: Any) -> None:
    clicks(feed, tiny)
    full, made = tiny.trained.bundle.name, feed.update()
    with pytest.raises(ConfigError, match=rf"nothing is left to judge it on; import .*tamis evaluate --bundle {full}"):
        feed.evaluate()
    judged = feed.evaluate(bundle=full)
    assert judged.bundle == full
    assert judged.test_since >= tiny.trained.bundle.manifest.trained_to
    clicks(feed, tiny, 3600.0, range(30, 60))  # some of which each of them has not seen
    report = feed.evaluate()
    assert report.bundle == made.bundle.name
    assert report.test_since == made.bundle.manifest.trained_to
    assert 0 < report.users <= 3
    with pytest.raises(ArtifactError, match=rf"no bundle 'b0'; there are: .*{full}"):
        feed.evaluate(bundle="b0")


def test_after_an_increment_the_full_bundle_is_tuned(feed: Project, tiny: Any) -> None:
    pytest.importorskip("optuna", reason="the extra `tune` is not installed")
    clicks(feed, tiny)
    feed.update()
    assert feed.tune(trials=1).bundle == tiny.trained.bundle.name


def test_no_fusion_is_tuned_on_what_the_nets_learnt_from(feed: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(project, "tune", lambda model, dataset, split, *rest: given.append(split))
    known = open_full(feed.bundles).manifest.valid_since
    for share, least in ((0.4, known), (0.02, known + 1.0)):
        feed.config = override(feed.config, {"split.valid_share": share})
        feed.tune()
        assert given[-1].valid_since >= least
    assert known > 0
    assert given[0].valid_since == known
    assert given[1].valid_since < given[1].train_until


def vectors(model: Any, user: str) -> np.ndarray:
    """What the bundle's user tower makes of a user without a history."""
    part = model.funnel.stages[0].steps["two_tower"]
    number = np.array([model.user_ids.number(user)])
    codes = np.zeros((1, part.layout.user_codes), np.int32)
    field = next(field for field in part.layout.user_fields if field.name == "user.user_id")
    codes[0, field.start] = model.encoder.user_code[number[0]]
    return part.user_tower.run(
        user_codes=codes,
        user_dense=np.zeros((1, len(part.layout.user_dense)), np.float32),
        history_codes=np.zeros((1, part.layout.history_length, part.layout.history_codes), np.int32),
    )["vector"]


def test_increments_follow_each_other_and_the_full_bundle_stays(feed: Project, tiny: Any) -> None:
    clicks(feed, tiny)
    config = override(feed.config, {"train.keep_bundles": 2})
    first = update(config, feed.data, feed.bundles)
    for n in range(2, 5):
        clicks(feed, tiny, 60.0 * n)
        last = update(config, feed.data, feed.bundles)
        assert last.events == 18
    full = tiny.trained.bundle.name
    assert last.bundle.manifest.continues == full
    assert last.bundle.manifest.kept["recall.itemcf"] == full
    assert open_full(feed.bundles).name == full
    assert not (feed.bundles / first.bundle.name).exists()
    assert hashes(last, "recall.two_tower") != hashes(first, "recall.two_tower")
    said: list[str] = []
    with pytest.raises(DataError, match="nothing happened since"):
        update(config, feed.data, feed.bundles, lambda what, _done, _total: said.append(what))
    assert not said  # no work was begun


def test_an_increment_never_takes_the_place_of_a_bundle_that_it_does_not_continue(
    feed: Project, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks(feed, tiny)
    finish = BundleWriter.finish
    meanwhile: list[str] = []

    def late(writer: BundleWriter, facts: Any) -> Any:
        monkeypatch.setattr(BundleWriter, "finish", finish)
        meanwhile.append(feed.update().bundle.name)  # another process is faster
        return finish(writer, facts)

    monkeypatch.setattr(BundleWriter, "finish", late)
    with pytest.raises(ArtifactError, match="another bundle was published"):
        feed.update()
    assert [current_name(feed.bundles)] == meanwhile
    assert {path.name for path in feed.bundles.iterdir() if path.is_dir() and not path.is_symlink()} == {
        tiny.trained.bundle.name,
        *meanwhile,
    }


def test_a_full_training_never_knows_of_the_increments_before_it(
    feed: Project, tiny: Any, tmp_path: Path
) -> None:  # T-10.4
    clicks(feed, tiny)
    config = quick(tiny)
    other = tmp_path / "other"
    shutil.copytree(feed.folder, other, symlinks=True)
    feed.update()
    made = [train(config, each.data, each.bundles, choice=Choice(warm=True)) for each in (feed, Project(other))]
    assert [each.bundle.manifest.began_with for each in made] == [tiny.trained.bundle.name] * 2
    assert hashes(made[0], "recall.two_tower") == hashes(made[1], "recall.two_tower") != {}
    assert made[0].bundle.manifest.continues == ""
    cold = train(config, other / "data", other / "bundles")
    assert cold.bundle.manifest.began_with == ""
    assert hashes(cold, "recall.two_tower") != hashes(made[0], "recall.two_tower")


def test_parts_are_kept_from_the_full_bundle_not_from_an_increment(feed: Project, tiny: Any) -> None:
    clicks(feed, tiny)
    feed.update()
    made = again(feed, tiny, Choice(only=("popular",)))
    assert hashes(made, "recall.two_tower") == hashes(tiny.trained, "recall.two_tower")
    assert made.bundle.manifest.continues == ""


def again(feed: Project, tiny: Any, choice: Choice, patches: dict[str, Any] | None = None) -> Trained:
    config: ProjectConfig = override(load_model(tiny.trained.bundle).config, {"train.gate": 1.0, **(patches or {})})
    return train(config, feed.data, feed.bundles, choice=choice)


def test_there_must_be_something_to_begin_with_and_to_learn_with(feed: Project, tiny: Any) -> None:
    config = quick(tiny, **{"funnel.recall.steps.two_tower": None})
    train(config, feed.data, feed.bundles)
    with pytest.raises(ConfigError, match="no step of it learns incrementally"):
        feed.update()
    shutil.rmtree(feed.bundles)
    with pytest.raises(ArtifactError, match="tamis train"):
        feed.update()
    with pytest.raises(ArtifactError, match="tamis train"):
        train(config, feed.data, feed.bundles, choice=Choice(warm=True))


def test_what_the_funnel_cut_is_found_again_by_user(feed: Project, tiny: Any) -> None:
    model = load_model(
        tiny.trained.bundle, override(model_config(tiny), {"funnel.prerank.limit": 60, "funnel.rank.limit": 20})
    )
    inputs = prepare(
        tiny.dataset,
        Moment(model.trained_to - 86_400.0, model.trained_to),
        (model.config.features, model.config.samples, model.config.train.interest_actions),
    )
    made = dropped_items(model, tiny.dataset, inputs.train, (30, 1))
    again = dropped_items(model, tiny.dataset, inputs.train, (30, 1))
    for name in ("starts", "item", "stage"):
        assert getattr(made, name).tobytes() == getattr(again, name).tobytes()
    assert len(made.starts) == len(tiny.dataset.users) + 1
    counts = np.diff(made.starts)
    assert (counts > 0).sum() == 30
    assert np.unique(made.stage).tolist() == list(range(len(STAGES)))
    assert (np.bincount(made.stage) > 300).all()
    for user in np.flatnonzero(counts):
        own = made.item[made.starts[user] : made.starts[user + 1]]
        assert len(np.unique(own)) == len(own)
        last = np.flatnonzero(inputs.train.user == user)[-1]
        seen = inputs.events.item[(inputs.events.user == user) & (inputs.events.time < inputs.train.time[last])]
        assert not np.isin(own, seen).any()  # the funnel filters what was seen


def model_config(tiny: Any) -> ProjectConfig:
    return load_model(tiny.trained.bundle).config


def test_hard_negatives_come_from_the_bundle_before_and_change_the_towers(feed: Project, tiny: Any) -> None:
    smaller = {"funnel.prerank.limit": 60, "funnel.recall.steps.two_tower.epochs": 2}
    hard = {**smaller, "funnel.recall.steps.two_tower.hard_share": 0.5, "train.traced_users": 50}
    made = [train(quick(tiny, **patches), feed.data, feed.bundles) for patches in (smaller, hard, hard)]
    plain, mixed, _ = (hashes(each, "recall.two_tower") for each in made)
    assert plain != mixed
    shutil.rmtree(feed.bundles)
    first = train(quick(tiny, **hard), feed.data, feed.bundles)  # nothing before: no hard negatives
    assert hashes(first, "recall.two_tower") == plain


def test_the_command_says_what_it_did(feed: Project, tiny: Any) -> None:
    clicks(feed, tiny)
    said = CliRunner().invoke(app, ["update", str(feed.folder)])
    assert said.exit_code == 0, said.output
    assert "recall.two_tower learnt from" in said.output
    assert f"bundle {open_bundle(feed.bundles).name}: published" in said.output
