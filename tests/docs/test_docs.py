"""The docs are true: blocks run, kinds and keys are named, links lead somewhere."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tamis.assemble import PARTS, ProjectConfig
from tamis.cli import app
from tamis.config import convert
from tamis.features import spec
from tamis.features.groups import groups_of
from tamis.features.prepare import Moment, prepare
from tamis.project import TEMPLATES
from tamis.rank.multitask import Multitask
from tamis.types import ACTIONS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(name, text) of a page's blocks in one language."""
    return [(name, text) for kind, name, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_import_page_works_as_written(tmp_path: Path) -> None:
    page = ROOT / "docs/import.md"
    for language in ("toml", "csv"):
        for name, text in blocks(page, language):
            (tmp_path / name).write_text(text, encoding="utf-8")
    for _, script in blocks(page, "bash"):
        run(script, tmp_path)
    assert (tmp_path / "feed/data/events").is_dir()


def test_feat_4_the_catalogue_of_features_can_be_trained_on_and_has_every_group_and_window() -> None:
    (text,) = (text for name, text in blocks(ROOT / "docs/features.md", "toml") if name == "features.toml")
    config = convert(tomllib.loads(text), spec.FeaturesConfig)
    groups = groups_of(config)
    assert {"user", "user-item.type", "user-item.category", "user-item.author", "user-context.hour"} <= set(groups)
    assert {"item", "user.sex-item", "user.age-item", "context.scene-item", "item.author"} <= set(groups)
    for side in ("user", "item"):
        assert groups[side].windows == [1, 24, 168, 720]
        names = {ACTIONS[action % len(ACTIONS)] for group in (groups[side],) for action in group.actions}
        assert {"impression", "click", "like", "collect"} <= names
    used = {type(feature) for side in ("user", "context", "item") for feature in getattr(config, side).values()}
    assert used == set(spec.AnyFeature.__args__)


def test_the_ranking_net_of_youtube_can_be_written_as_documented_and_learns_seconds(tiny) -> None:
    (text,) = (text for _, text in blocks(ROOT / "docs/configuration.md", "toml") if "weighted" in text)
    demo = tomllib.loads((ROOT / "src/tamis/configs/demo.toml").read_text(encoding="utf-8"))
    demo["funnel"]["rank"]["steps"] = tomllib.loads(text)["funnel"]["rank"]["steps"]
    config = convert(demo, ProjectConfig)
    step = msgspec.structs.replace(config.funnel.rank.steps["heads"], expert_hidden=(32, 16), epochs=1, threads=1)
    until = tiny.trained.bundle.manifest.trained_to
    configs = (config.features, config.samples, config.train.interest_actions)
    part = Multitask.fit(step, prepare(tiny.dataset, Moment(until - 86_400, until), configs), 0)
    assert part.facts.heads == ("play",)
    assert len(part.facts.scores) == 1  # minus the validation loss: it was judged
    assert config.funnel.rank.steps["fuse"].reads == ("play",)


def test_the_readme_commands_exist_and_the_first_two_work(tmp_path: Path) -> None:
    commands = [line for _, text in blocks(ROOT / "README.md", "bash") for line in text.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[0] == "tamis"
        assert CliRunner().invoke(app, [words[1], "--help"]).exit_code == 0
    run(commands[0], tmp_path)
    assert (tmp_path / "feed/tamis.toml").is_file()


@pytest.mark.parametrize("name", [command.name or command.callback.__name__ for command in app.registered_commands])
def test_every_command_has_help_with_an_example(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"Example: tamis {name}" in shown.output


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("mark", ["", "#? "], ids=["as written", "all uncommented"])
def test_every_template_is_a_valid_configuration(template: str, mark: str) -> None:
    path = ROOT / f"src/tamis/configs/{template}.toml"
    text = path.read_text(encoding="utf-8").replace(mark, "") if mark else path.read_text(encoding="utf-8")
    config = convert(tomllib.loads(text), ProjectConfig, where=str(path))
    assert config.funnel.recall.steps


def keys(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind)]


def documented() -> str:
    return (ROOT / "docs/configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", sorted(PARTS, key=lambda k: k.__name__), ids=lambda k: k.__name__)
def test_every_kind_of_step_and_its_keys_are_documented(kind) -> None:
    page = documented()
    tag = str(kind.__struct_config__.tag)
    section = re.search(rf"^### `{tag}`.*?(?=^#|\Z)", page, re.M | re.S)
    assert section, f"docs/configuration.md has no section for the kind {tag!r}"
    missing = [key for key in keys(kind) if f"`{key}`" not in section.group() and key != "limit"]
    assert not missing, missing


@pytest.mark.parametrize("kind", spec.AnyFeature.__args__, ids=lambda k: k.__name__)
def test_every_kind_of_feature_is_documented(kind) -> None:
    assert f"`{kind.__struct_config__.tag}`" in documented()


def test_every_section_and_its_keys_are_documented() -> None:
    page = documented()
    for section in msgspec.structs.fields(ProjectConfig):
        assert f"[{section.name}" in page, section.name
        if section.name != "funnel":
            missing = [key for key in keys(section.type) if f"`{key}`" not in page]
            assert not missing, (section.name, missing)


def run(script: str, folder: Path) -> None:
    """Runs shell lines in a folder, `tamis` being this checkout's."""
    for line in script.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
            )
            assert done.returncode == 0, done.stderr
