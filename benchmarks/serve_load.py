"""The demo server under an open-loop load: 2 workers, 2000 → 500 → 200 → 20, and the memory of a worker.

Needs a built demo (`make demo DEMO_FLAGS=--once`).  Usage: python benchmarks/serve_load.py [FOLDER] [--rate 100]
"""

import argparse
import subprocess
import sys
from pathlib import Path

import psutil
from rich.console import Console

from _results import result
from tamis import views
from tamis.data.dataset import Dataset
from tamis.demo import wait_ready
from tamis.serving.load import LoadPlan, run_load

PORT = 8099


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo-feed"))
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    dataset = Dataset.open(arguments.folder / "data")
    users = tuple(dataset.user_ids.externals(range(len(dataset.user_ids))))
    command = [sys.executable, "-m", "tamis", "serve", str(arguments.folder), "--rest", str(PORT), "--workers", "2"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{PORT}"
    try:
        wait_ready(server, url)
        run_load(LoadPlan(url=url, rate=30, seconds=5, users=users))  # warm caches, not counted
        report = run_load(LoadPlan(url=url, rate=arguments.rate, seconds=arguments.seconds, users=users))
        Console().print(views.load(report))
        workers = [child.memory_info().rss / 2**20 for child in psutil.Process(server.pid).children(recursive=True)]
        result("requests per second answered", report.rate_answered, None, "1/s", f"≥ {arguments.rate:g}")
        result("p99 of a page", report.p99, None, "ms", "≤ 60")
        result("errors", float(sum(report.errors.values())), None, "", "0")
        result("largest worker", max(workers), None, "MiB RSS", "< 400")
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    main()
