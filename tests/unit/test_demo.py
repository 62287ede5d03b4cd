"""The demo without its training: what it builds, asks and prints."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tamis import demo, project
from tamis.data.dataset import Dataset
from tamis.errors import StateError
from tamis.simulate.world import WorldConfig


class Done(Exception):
    """Training began."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny world, and a training that only says that it began."""

    def train(*_: Any) -> None:
        raise Done

    monkeypatch.setattr(demo, "read", lambda file, kind: WorldConfig.tiny())
    monkeypatch.setattr(project, "train", train)
    monkeypatch.setattr(project.Project, "oracle", None)


@pytest.mark.parametrize("at", ["check", "write events"])
def test_a_demo_interrupted_while_it_imports_goes_on_at_the_next_call(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def interrupted(what: str, done: int, total: int) -> None:
        if what == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.build(tmp_path / "feed", interrupted)
    assert (tmp_path / "feed/data").is_dir()
    with pytest.raises(Done):
        demo.build(tmp_path / "feed", lambda *_: None)
    assert Dataset.open(tmp_path / "feed/data").counts()["events"] > 0


def test_a_world_that_was_imported_is_not_imported_again(tmp_path: Path, small: None) -> None:
    for _ in range(2):
        with pytest.raises(Done):
            demo.build(tmp_path / "feed", lambda *_: None)
    assert Dataset.open(tmp_path / "feed/data").manifest.imports == 1


def test_the_user_shown_is_the_one_with_the_longest_history(tiny: Any) -> None:
    dataset = tiny.dataset
    user = demo.first_user(tiny.project)
    counts = dataset.scan_events().collect()["user"].value_counts()
    assert dataset.user_ids.number(user) in counts.filter(counts["count"] == counts["count"].max())["user"].to_list()


def test_the_commands_to_try_are_calls_the_server_takes() -> None:
    ask, click, again = demo.curl_lines("http://h:1", "u 1", "i1")
    assert ask == again
    bodies = [json.loads(shlex.split(line)[-1]) for line in (ask, click)]
    assert bodies == [{"user_id": "u 1", "size": 5}, {"user_id": "u 1", "item_id": "i1", "action": "click"}]


def test_a_server_that_stops_before_it_is_ready_is_told() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as dead:
        dead.wait()
        with pytest.raises(StateError, match="exit code 3"):
            demo.wait_ready(dead, "http://127.0.0.1:9")


def test_a_server_that_is_never_ready_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "START_SECONDS", 0.3)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as slow:
        with pytest.raises(StateError, match="not ready after"):
            demo.wait_ready(slow, "http://127.0.0.1:9")
        slow.kill()
