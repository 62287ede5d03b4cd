"""ml-1m, time split: recall of the union and NDCG of the page, against popular and ItemCF alone in the same run.

The training runs in a child process, so that its peak memory can be told.
Usage: python benchmarks/quality_movielens.py [--keep FOLDER]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from _results import data, result
from tamis import views
from tamis.artifact import current_name
from tamis.data.sources import read_source
from tamis.data.write import import_tables
from tamis.evaluate.report import Report
from tamis.project import create, open_project


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", type=Path, default=None)
    folder = parser.parse_args().keep or Path(tempfile.mkdtemp()) / "feed"
    if not (folder / "tamis.toml").exists():
        create(folder, "movielens")
    project = open_project(folder)
    if not project.data.exists():
        import_tables(read_source("movielens", data("ml-1m-rebuilt")), project.data)
    child = subprocess.Popen([sys.executable, "-m", "tamis", "train", str(folder)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit("training failed")
    report = Report.from_json((project.bundles / f"{current_name(project.bundles)}.report.json").read_bytes())
    Console(width=180).print(views.report(report))
    union = report.channels["union"]["recall@500"]
    page = report.page["ndcg@10"]
    result("ml-1m recall@500, union over popular", union, report.channels["popular"]["recall@500"], "", "> 1")
    result("ml-1m recall@500, union over ItemCF", union, report.channels["itemcf"]["recall@500"], "", "> 1")
    result("ml-1m page NDCG@10 over popular", page, report.baselines["popular"]["ndcg@10"], "", "> 1")
    result("ml-1m page NDCG@10 over ItemCF alone", page, report.baselines["itemcf alone"]["ndcg@10"], "", "> 1")
    result("ml-1m peak memory of tamis train", usage.ru_maxrss / 2**20, None, "GiB", "< 2")


if __name__ == "__main__":
    main()
