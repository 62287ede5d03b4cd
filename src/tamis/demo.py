"""The demo: a project on the embedded world, built once, served, and asked for a page."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import msgspec
import numpy as np
from rich.console import Console

from tamis import views
from tamis.artifact import current_name, replace_durably
from tamis.config import read
from tamis.data.dataset import DAY_SECONDS, Dataset, read_manifest
from tamis.errors import ConfigError, StateError
from tamis.project import Answer, Project, create, open_project
from tamis.serving.wire import RecommendReply
from tamis.simulate.world import World, WorldConfig
from tamis.train import Trained
from tamis.types import Progress

START_SECONDS = 120.0


def build(folder: Path, progress: Progress) -> Trained | None:
    """The demo project, built in `folder`; None when it was there already. The world ends at the last midnight."""
    if current_name(folder / "bundles"):
        return None
    if not (folder / "tamis.toml").exists():
        create(folder, "demo")
    world_file = folder / "world.toml"
    if not world_file.exists():
        midnight = time.time() // DAY_SECONDS * DAY_SECONDS
        start = midnight - WorldConfig().days * DAY_SECONDS
        replace_durably(world_file, f"# The simulated world of this project.\nstart_time = {start}\n".encode())
    project = open_project(folder)
    if not (project.data.is_dir() and read_manifest(project.data).imports):  # a folder alone is an interrupted import
        project.bring(World.generate(read(world_file, WorldConfig), progress).tables(), progress=progress)
    return project.train(progress)


def first_user(project: Project) -> str:
    """The user with the longest history, who shows most."""
    dataset = Dataset.open(project.data)
    return dataset.user_ids.external(int(np.bincount(dataset.events().user).argmax()))


def serve_and_show(project: Project, user: str, port: int, once: bool, out: Console) -> None:
    """Starts the server, prints three curl lines, shows a page asked for over REST; then waits, or stops if `once`."""
    server = subprocess.Popen([sys.executable, "-m", "tamis", "serve", str(project.folder), "--rest", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_ready(server, url)
        body = {"user_id": user, "size": 10, "explain": True}
        raw = httpx.post(f"{url}/v1/recommend", json=body, timeout=30).raise_for_status().content
        reply = msgspec.json.decode(raw, type=RecommendReply)
        out.print(f"\nA page for user {user}:")
        out.print(views.page(Answer(reply)))
        lines = curl_lines(url, user, reply.items[0].item_id if reply.items else "1")
        heading = "\nWithout --once it goes on serving, to try:" if once else "\nTry it:"
        out.print(heading, *lines, sep="\n", soft_wrap=True, highlight=False, markup=False)
        if not once:
            out.print("\nServing; Ctrl-C stops.")
            server.wait()
    finally:
        server.terminate()
        server.wait(30)


def curl_lines(url: str, user: str, item: str) -> list[str]:
    """Three commands to try: a page, a click, the page after it."""
    ask = f'curl -s {url}/v1/recommend -H \'content-type: application/json\' -d \'{{"user_id": "{user}", "size": 5}}\''
    click = f'{{"user_id": "{user}", "item_id": "{item}", "action": "click"}}'
    return [ask, f"curl -s {url}/v1/events -H 'content-type: application/json' -d '{click}'", ask]


def benchmarks(name: str) -> list[Path]:
    """The benchmark scripts of the source tree. Raises ConfigError when there are none, or none of that name."""
    folder = Path.cwd() / "benchmarks"
    found = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    chosen = [path for path in found if name in ("", path.stem)]
    if not chosen:
        names = ", ".join(path.stem for path in found) or "none; run it in a checkout of the source tree"
        raise ConfigError(f"{folder}: no benchmark {name!r}; there are: {names}")
    return chosen


def lacking(script: Path) -> list[str]:
    """The packages that a script, or a module beside it, imports when it starts and that are not installed."""
    modules, names = [script], {script.stem}
    missing: set[str] = set()
    for module in modules:
        for name in _imported(module):
            beside = script.with_name(f"{name}.py")
            if beside.is_file():
                modules += [beside] if name not in names else []
            elif name not in names and find_spec(name) is None:
                missing.add(name)
            names.add(name)
    return sorted(missing)


def _imported(module: Path) -> Iterator[str]:
    """The first names of what a module imports as soon as it is imported itself."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def wait_ready(server: "subprocess.Popen[bytes]", url: str) -> None:
    """Returns when the server at `url` is ready. Raises StateError when it stops before, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise StateError(f"the server stopped with exit code {server.returncode}; its messages are above")
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    raise StateError(f"{url}: not ready after {START_SECONDS:g} s")
