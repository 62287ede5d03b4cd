import subprocess
import sys
from pathlib import Path

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
