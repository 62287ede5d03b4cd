import subprocess
import sys
from pathlib import Path

import numpy as np

from tamis.funnel import Funnel, Stage
from tamis.rerank.rules import RunConfig, Scatter, ScatterConfig
from tamis.serving.prom import Meters
from tamis.types import Candidates, Catalog, Features, History, Query

WORKER = """
from tamis.serving.prom import Meters
meters = Meters()
meters.request("recommend", 200, 0.01)
meters.bundle("b", "")
print(meters.text().decode())
"""


def test_workers_that_died_are_not_counted_as_living_and_what_they_did_is(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    environment = child_environment | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    text = ""
    for _ in range(3):  # each dies before the next one starts
        text = subprocess.run(
            [sys.executable, "-c", WORKER], env=environment, capture_output=True, text=True, check=True
        ).stdout
    assert 'tamis_bundle_workers{bundle="b"} 1.0' in text
    assert 'tamis_requests_total{route="recommend",status="200"} 3.0' in text


def test_rules_that_had_to_be_relaxed_are_in_the_trace_and_counted() -> None:
    kinds = np.array([1, 1, 1, 2], np.int64)
    catalog = Catalog.of(np.arange(4, dtype=np.uint64), {"type": kinds}, np.arange(4))
    nobody = Features(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32))
    query = Query(-1, 0.0, 4, "feed", 0, History.empty(), nobody, catalog)
    part = Scatter(ScatterConfig(rules={"run": RunConfig(column="type", at_most=1)}))
    funnel, meters = Funnel([Stage("rerank", {"scatter": part}, 4)]), Meters()
    for size, relaxed in ((4, {"run": 1}), (3, {})):
        page = funnel.run(query, Candidates.of(np.arange(4)[-size:], score=-np.arange(float(size))))
        assert [step.relaxed for step in page.trace] == [relaxed]
        meters.emit(query, page)
    assert 'tamis_rules_relaxed_total{rule="run",step="rerank.scatter"} 1.0' in meters.text().decode()
