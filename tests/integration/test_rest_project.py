"""A trained project behind `tamis serve`: two workers, LMDB, real parts; and what is left after all were killed."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tamis.state.lmdb_ import Lmdb


@dataclass
class Served:
    """A server over a copy of the tiny project."""

    folder: Path
    url: str
    process: "subprocess.Popen[bytes]"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = httpx.request(method, self.url + path, json=body, timeout=30)
        assert response.status_code == 200, response.text
        return response.json()

    def page(self, user: str, **more: Any) -> list[str]:
        items = self.call("POST", "/v1/recommend", {"user_id": user, **more})["items"]
        return [item["item_id"] for item in items]

    def everyone(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it died meanwhile
        return False


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, f"waited 120 s for: {what}"
        time.sleep(0.05)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def served(tiny: Any, child_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for the whole file; its last test kills it."""
    tmp_path = tmp_path_factory.mktemp("served")
    folder = tmp_path / "feed"
    shutil.copytree(tiny.project.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("state"))
    with (folder / "tamis.toml").open("a") as settings:
        settings.write("\n[serving]\ndeadline_ms = 30000\n")  # what is tested is not how fast this machine is today
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tamis", "serve", str(folder), "--rest", str(port), "--workers", "2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=child_environment)
    made = Served(folder, f"http://127.0.0.1:{port}", process)
    try:
        until(lambda: ready(made.url) or process.poll() is not None, "the server to be ready")
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield made
    finally:
        process.terminate()
        process.wait(30)


def test_what_users_and_publishers_do_shows_in_the_next_page(served: Served, tiny: Any) -> None:
    user = tiny.dataset.user_ids.external(0)
    first = served.page(user, size=10)
    assert len(first) == len(set(first)) == 10
    shown = [{"user_id": user, "item_id": item, "action": "impression"} for item in first]
    assert served.call("POST", "/v1/events", shown)["accepted"] == 10
    assert not set(served.page(user, size=10)) & set(first)
    before = served.page(user, size=50)
    served.call("POST", "/v1/events", {"user_id": user, "item_id": before[-1], "action": "click"})
    assert served.page(user, size=50) != before

    served.call("PUT", "/v1/items/brand%20new", {"category": "music", "quality": 1.0})
    for _ in range(4):  # either worker
        page = served.call("POST", "/v1/recommend", {"user_id": user, "size": 200, "explain": True})
        (mine,) = [item for item in page["items"] if item["item_id"] == "brand new"]
        assert "newest" in mine["found_by"]
    served.call("DELETE", "/v1/items/brand%20new")
    assert all("brand new" not in served.page(user, size=200) for _ in range(4))

    assert served.page("somebody new", size=5)
    assert served.call("GET", f"/v1/items/{first[0]}")["item_id"] == first[0]
    assert served.call("POST", "/v1/rank", {"user_id": user, "item_ids": first})["missing"] == []
    served.call("DELETE", f"/v1/users/{user}")
    assert httpx.get(f"{served.url}/v1/users/{user}").status_code == 404


def test_every_acknowledged_event_is_there_once_after_a_worker_and_then_everything_was_killed(served: Served) -> None:
    item, acknowledged, stop = served.page("u", size=1)[0], [], threading.Event()  # type: ignore[var-annotated]

    def ingest(caller: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            ids = [f"{caller}-{turn}-{place}" for place in range(5)]
            events = [{"event_id": made, "user_id": "u", "item_id": item, "action": "click"} for made in ids]
            for _ in range(2):  # a call that broke is sent again with the same ids
                try:
                    response = httpx.post(f"{served.url}/v1/events", json=events, timeout=10)
                except httpx.TransportError:
                    continue
                if response.status_code == 200:
                    acknowledged.extend(ids)
                    break

    callers = [threading.Thread(target=ingest, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    until(lambda: len(acknowledged) > 100, "a hundred events")
    workers = [child for child in served.everyone()[1:] if is_worker(child)]
    workers[0].send_signal(signal.SIGKILL)
    count = len(acknowledged)
    until(lambda: len(acknowledged) > count + 200, "more events after a worker was killed")
    for process in served.everyone():
        process.send_signal(signal.SIGKILL)
    stop.set()
    for caller in callers:
        caller.join()
    served.process.wait(30)

    state = Lmdb(served.folder / "state")
    logged: Counter[str] = Counter()
    after = 0
    while entries := state.log(after, 1000):
        logged.update(event.event_id for _, event in entries)
        after = entries[-1][0]
    assert set(acknowledged) <= set(logged)
    assert set(logged.values()) == {1}
    assert state.user("u").counts.sum() == len(logged)
    state.close()
