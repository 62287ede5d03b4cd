"""`tamis demo --once` over a project that is built already: it serves, shows a page over REST, and stops the server."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def test_the_demo_serves_shows_a_page_and_leaves_no_server(
    tiny: Any, child_environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(tiny.project.folder, tmp_path / "feed", symlinks=True, ignore=shutil.ignore_patterns("state"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "tamis", "demo", str(tmp_path / "feed"), "--once", "--rest", str(port)],
        env=child_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "A page for user" in done.stdout
    assert f"curl -s http://127.0.0.1:{port}/v1/recommend" in done.stdout
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
