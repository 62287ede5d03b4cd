"""The real thing: a parent process, two granian workers, sockets; over fake bundles, so that it takes seconds."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tamis.artifact import BundleWriter, publish

FAKES = Path(__file__).parents[1] / "unit" / "serving"
START = """
import sys
from serving_fakes import Launch
from tamis.serving.workers import Address, run
if __name__ == "__main__":
    run(Address("127.0.0.1", int(sys.argv[1]), 2), "serving_fakes:create_app", Launch(sys.argv[2], 2))
"""


@dataclass
class Server:
    """A running server. `client` opens a connection per call, so that calls spread over the workers."""

    process: "subprocess.Popen[bytes]"
    url: str
    bundles: Path
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(timeout=10, limits=httpx.Limits(max_keepalive_connections=0))
    )

    def get(self, path: str) -> httpx.Response:
        return self.client.get(self.url + path)

    def recommend(self) -> httpx.Response:
        return self.client.post(f"{self.url}/v1/recommend", json={"user_id": "u1", "size": 3})

    def workers(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [child for child in parent.children() if is_worker(child)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:  # it died meanwhile
        return False


def put_bundle(root: Path, slow_ms: float = 0.0) -> str:
    writer = BundleWriter(root)
    facts = {"items": 60, "works": True, "slow_ms": slow_ms}
    (writer.folder("fake") / "model.json").write_bytes(json.dumps(facts).encode())
    bundle = writer.finish({"code_version": "0", "config_digest": "0", "seed": 0, "trained_to": 0.0})
    publish(bundle)
    return bundle.name


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"waited 60 s for: {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(server: Server, path: str) -> int:
    try:
        return server.get(path).status_code
    except httpx.TransportError:
        return 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port, script = free_port(), tmp_path / "start.py"
    script.write_text(START)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FAKES), *sys.path])}
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, str(script), str(port), str(tmp_path / "bundles")]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    made = Server(process, f"http://127.0.0.1:{port}", tmp_path / "bundles")
    try:
        until(lambda: answers(made, "/healthz") == 200, "the server to live")
        yield made
    finally:
        made.client.close()
        process.terminate()
        process.wait(30)


def ask_until(server: Server, stop: threading.Event, seen: list[Any]) -> None:
    while not stop.is_set():
        try:
            response = server.recommend()
            seen.append((response.status_code, response.json().get("bundle")))
        except httpx.TransportError as error:
            seen.append((0, type(error).__name__))


def test_the_server_from_no_bundle_to_the_second_one_and_a_killed_worker(server: Server) -> None:
    assert server.get("/readyz").status_code == 503
    assert server.recommend().status_code == 503
    first = put_bundle(server.bundles)
    until(lambda: answers(server, "/readyz") == 200, "all workers to be ready")
    assert {server.recommend().status_code for _ in range(20)} == {200}

    stop, seen = threading.Event(), []  # type: ignore[var-annotated]
    callers = [threading.Thread(target=ask_until, args=(server, stop, seen)) for _ in range(2)]
    for caller in callers:
        caller.start()
    second = put_bundle(server.bundles)
    until(lambda: {name for _, name in seen[-30:]} == {second}, "both workers to have swapped")
    assert {status for status, _ in seen} == {200}
    assert {name for _, name in seen} == {first, second}

    victim = server.workers()[0]
    victim.send_signal(signal.SIGKILL)
    killed_at = len(seen)
    until(lambda: len(server.workers()) == 2 and victim.pid not in {w.pid for w in server.workers()}, "a new worker")
    until(lambda: len(seen) > killed_at + 200, "two hundred more answers")
    stop.set()
    for caller in callers:
        caller.join()
    after = [status for status, _ in seen[killed_at:]]
    assert set(after) <= {200, 0}  # a call the dead worker held breaks; nobody meets a cold or failing server
    assert after.count(0) <= 4

    text = server.get("/metrics").text  # summed over the workers, the dead one included
    counted = float(text.split('tamis_requests_total{route="recommend",status="200"} ')[1].split("\n")[0])
    assert counted >= sum(status == 200 for status, _ in seen)
    assert 'tamis_requests_total{route="recommend",status="503"}' in text


def test_a_stop_lets_the_call_under_way_finish_and_a_taken_port_is_refused(server: Server, tmp_path: Path) -> None:
    put_bundle(server.bundles, slow_ms=20.0)
    until(lambda: answers(server, "/readyz") == 200, "all workers to be ready")
    port = server.url.rsplit(":", 1)[1]
    again = subprocess.run(
        [sys.executable, str(tmp_path / "start.py"), port, str(server.bundles)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(FAKES), *sys.path])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert again.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in again.stderr
    seen: list[int] = []
    slow = put_bundle(server.bundles, slow_ms=600.0)
    until(lambda: all(server.get("/healthz").json()["bundle"] == slow for _ in range(12)), "the slow bundle everywhere")
    caller = threading.Thread(target=lambda: seen.append(server.recommend().status_code))
    caller.start()
    time.sleep(0.2)  # the call is under way now
    server.process.terminate()
    caller.join()
    assert seen == [200]
    assert server.process.wait(30) == 0
    assert answers(server, "/healthz") == 0


def test_bad_calls_over_a_socket_are_refused_like_in_process(server: Server) -> None:
    put_bundle(server.bundles)
    until(lambda: answers(server, "/readyz") == 200, "all workers to be ready")
    post, url = server.client.post, f"{server.url}/v1/recommend"
    assert server.client.put(f"{server.url}/v1/items/caf%C3%A9%20x", json={}).json()["item_id"] == "café x"
    assert post(url, content=b"{").status_code == 400
    assert post(url, content=b'{"user_id": "' + b"a" * (1 << 20) + b'"}').status_code == 413
    assert post(url, content=(b"x" * 65536 for _ in range(20))).status_code == 413
    assert post(url, json={"user_id": "u1", "size": 10**9}).json()["error"]["field"] == "size"
    assert server.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert server.recommend().status_code == 200


def test_workers_do_not_outlive_a_parent_that_was_killed(server: Server) -> None:
    put_bundle(server.bundles)
    until(lambda: answers(server, "/readyz") == 200, "all workers to be ready")
    workers = server.workers()
    server.process.kill()
    until(lambda: not any(worker.is_running() for worker in workers), "the workers to stop")
    assert answers(server, "/healthz") == 0


def test_thousands_of_requests_without_an_end_of_headers_hold_up_nobody(server: Server) -> None:
    port, held = int(server.url.rpartition(":")[2]), []
    try:
        for _ in range(3000):  # two workers used to take 1024 each
            held.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            held[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: ")
        assert server.get("/healthz").status_code == 200
        assert held[0].recv(100)[:12] in (b"", b"HTTP/1.1 408")  # dropped; a timeout would raise
    finally:
        for connection in held:
            connection.close()
