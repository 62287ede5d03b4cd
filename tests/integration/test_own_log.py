"""A log of one's own: who, what, when, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tamis.config import override
from tamis.data.sources import read_source
from tamis.data.write import import_tables
from tamis.project import create, open_project
from tamis.train import train

MAPPING = """
[[events]]
file = "log.csv"
columns = { user_id = "who", item_id = "what" }
times = { time = { column = "when", unit = "s" } }
emit = [{ action = "click" }]
"""
SMALL: dict[str, Any] = {
    f"funnel.{step}.{name}": 1
    for step in ("recall.steps.two_tower", "prerank.steps.three_tower", "rank.steps.heads")
    for name in ("threads", "epochs")
}


def test_a_log_of_users_items_and_times_alone_is_trained_on_and_served(tmp_path: Path) -> None:
    random, count = np.random.default_rng(0), 3_000
    user = random.integers(0, 240, count)
    item = user % 3 * 100 + random.integers(0, 100, count)
    time = 1_767_225_600 + np.sort(random.integers(0, 10 * 86_400, count))
    pl.DataFrame({"who": user, "what": item, "when": time}).write_csv(tmp_path / "log.csv")
    (tmp_path / "mapping.toml").write_text(MAPPING, encoding="utf-8")
    create(tmp_path / "feed", "table")
    import_tables(read_source("table", tmp_path / "mapping.toml"), tmp_path / "feed/data")
    project = open_project(tmp_path / "feed")
    trained = train(override(project.config, SMALL), project.data, project.bundles)
    assert trained.published
    assert trained.report.users > 50
    served = open_project(tmp_path / "feed")
    for name in ("4", "newcomer"):
        page = served.recommend(name, size=10)
        assert len({found["item_id"] for found in page.items}) == 10
