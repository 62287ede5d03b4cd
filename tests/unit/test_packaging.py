"""What is shipped and what sets it up."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tamis import demo

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

SERVE = """
import importlib.machinery, importlib.util, sys
whole = importlib.machinery.PathFinder.find_spec
def find_spec(name, *more):  # as if they were not installed
    return None if name.partition(".")[0] in ("torch", "onnx") else whole(name, *more)
importlib.machinery.PathFinder.find_spec = find_spec
assert importlib.util.find_spec("torch") is None
from pathlib import Path
import tamis.cli, tamis.serving.rest
from tamis.artifact import open_bundle
from tamis.assemble import load_model
from tamis.serving.engine import Engine
from tamis.serving.reload import warm_up
from tamis.state.memory import Memory
engine = Engine(load_model(open_bundle(Path(sys.argv[1]))), Memory())
warm_up(engine)
print(sorted(name for name in sys.modules if name.startswith("tamis.nets.")))
"""


def test_a_server_runs_where_torch_and_onnx_are_not_installed(tiny: Any, child_environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(tiny.project.bundles)],
        env=child_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "'tamis.nets.session'" in done.stdout
    assert "'tamis.nets.loop'" not in done.stdout


def test_everything_that_is_shipped_is_there_and_the_templates_are_part_of_the_package() -> None:
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]
    for path in (*targets["sdist"]["include"], *targets["wheel"]["packages"], *PROJECT["project"]["license-files"]):
        assert (ROOT / path).exists(), path
    assert sorted(file.name for file in (ROOT / "src/tamis/configs").iterdir()) == [
        "demo.toml", "kuairand.toml", "movielens.toml", "plan.toml", "table.toml",
    ]  # fmt: skip


def test_the_changelog_begins_with_the_version() -> None:
    versions = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert versions[0].split()[1].rstrip(",") == PROJECT["project"]["version"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("python", ["old", "missing"])
def test_make_says_which_python_it_needs(tmp_path: Path, python: str) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "old").write_text("#!/bin/sh\nexit 1\n")  # what Python 3.10 answers to the question
    (tmp_path / "old").chmod(0o755)
    done = subprocess.run(
        ["make", "test", f"PYTHON=./{python}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "tamis needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_benchmark_gives_figures_that_the_command_collects(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    calls = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert "result" in calls


@pytest.mark.parametrize("name", ["speed_itemcf", "speed_swing"])
def test_a_benchmark_without_its_data_set_says_so_in_one_line(
    tmp_path: Path, child_environment: dict[str, str], name: str
) -> None:
    script = ROOT / "benchmarks" / f"{name}.py"
    if missing := demo.lacking(script):
        pytest.skip(f"not installed: {', '.join(missing)}")
    words = [sys.executable, str(script), "--data", str(tmp_path)]
    done = subprocess.run(words, env=child_environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this benchmark needs the data set ml-" in done.stderr
    assert "Traceback" not in done.stderr
