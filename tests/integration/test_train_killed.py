"""A training whose process is killed goes on where it stood and gives the bundle it would have given."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tamis.artifact import BundleWriter, Run, open_bundle
from tamis.project import Project

FAST = {"OMP_NUM_THREADS": "1"}


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tamis", "train", str(folder), *options]
    return subprocess.Popen(
        command,
        env={**os.environ, **FAST},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells let what they put aside ignore it
    )


@pytest.fixture
def feed(tiny: Any, tmp_path: Path) -> Project:
    """The tiny project without its bundles; every step of a training is noted."""
    folder = tmp_path / "feed"
    shutil.copytree(tiny.project.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("bundles", "state"))
    settings = folder / "tamis.toml"
    text = settings.read_text(encoding="utf-8")
    assert "[train]" in text
    settings.write_text(text.replace("[train]", "[train]\ncheckpoint_minutes = 1e-9"), encoding="utf-8")
    return Project(folder)


@pytest.mark.parametrize(
    ("file", "how", "bound"),
    [
        (".run/prerank.three_tower.npz", signal.SIGKILL, 0.0),
        (".run/rank.heads.npz", signal.SIGINT, 0.0),
        ("bundle.json", signal.SIGKILL, 0.0),  # all is trained, and judged in vain
        (".run/prerank.three_tower.npz", signal.SIGKILL, 2.0**-8),
    ],
)
def test_a_stopped_training_is_resumed_to_the_same_bundle(
    feed: Project, file: str, how: signal.Signals, bound: float
) -> None:
    settings = feed.folder / "tamis.toml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("[train]", f"[train]\nmemory_gib = {bound!r}"), encoding="utf-8")
    killed = start(feed.folder)
    limit = time.monotonic() + 300
    while not list(feed.bundles.glob(f"*/{file}")):
        assert killed.poll() is None, killed.stdout and killed.stdout.read().decode()
        assert time.monotonic() < limit
        time.sleep(0.005)
    killed.send_signal(how)
    killed.communicate()
    assert killed.returncode == -how
    (unfinished,) = (path for path in feed.bundles.iterdir() if not path.name.startswith(".scratch-"))
    resumed = start(feed.folder, "--resume")
    said = resumed.communicate(timeout=300)[0].decode()
    assert resumed.returncode == 0, said
    assert "goes on with" in said
    made = open_bundle(feed.bundles)
    assert made.name == unfinished.name
    assert not (made.path / ".run").exists()
    anew = start(feed.folder)
    assert anew.communicate(timeout=300)
    assert anew.returncode == 0
    wanted = open_bundle(feed.bundles)
    assert wanted.name != made.name
    assert made.manifest.files == wanted.manifest.files


def test_only_a_run_of_the_same_things_that_nobody_is_at_work_on_is_taken_up(tmp_path: Path) -> None:
    run = Run(code_version="1", config_digest="c", data_digest="d", choice="all", earlier="")
    first = BundleWriter(tmp_path, run)
    (first.folder("features") / "a").write_text("a", encoding="utf-8")
    first.done("features")
    (first.folder("recall.popular") / "b").write_text("half", encoding="utf-8")
    assert BundleWriter.resume(tmp_path, run) is None  # it is still held
    first._let_go()  # as the system does when a process ends
    other = Run(code_version="1", config_digest="c", data_digest="other", choice="all", earlier="")
    assert BundleWriter.resume(tmp_path, other) is None
    found = BundleWriter.resume(tmp_path, run)
    assert found is not None
    assert found.path == first.path
    assert sorted(path.name for path in found.path.iterdir()) == [".run", "features"]
    assert found.run is not None
    assert found.run.done == ("features",)
    found._let_go()
    (first.path / ".run" / "run.json").write_text("{", encoding="utf-8")
    assert BundleWriter.resume(tmp_path, run) is None
