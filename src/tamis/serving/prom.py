"""The server's metrics in the Prometheus text format, summed over its worker processes.

With PROMETHEUS_MULTIPROC_DIR set (the parent does that) every process writes its numbers into that folder and any of
them can answer for all; without it the numbers are this process's own.
"""

import os
import re
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from tamis.types import Page, Query

FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.001, 0.002, 0.004, 0.006, 0.01, 0.015, 0.02, 0.03, 0.045, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0)


class Meters:
    """What is counted and timed."""

    def __init__(self) -> None:
        self._registry: Final = CollectorRegistry()
        self._requests: Final = Counter(
            "tamis_requests", "Calls by route and HTTP status", ("route", "status"), registry=self._registry
        )
        self._seconds: Final = Histogram(
            "tamis_request_seconds", "Time to answer", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self._stages: Final = Histogram(
            "tamis_stage_seconds", "Time in each stage", ("stage",), buckets=_SECONDS, registry=self._registry
        )
        self._failed: Final = Counter(
            "tamis_steps_not_ok", "Steps that were late, failed or skipped", ("step", "status"), registry=self._registry
        )
        self._relaxed: Final = Counter(
            "tamis_rules_relaxed", "Picks that had to break a rule", ("step", "rule"), registry=self._registry
        )
        self._degraded: Final = Counter("tamis_pages_degraded", "Pages answered degraded", registry=self._registry)
        self._events: Final = Counter("tamis_events", "Events by outcome", ("outcome",), registry=self._registry)
        self._loads: Final = Counter("tamis_bundle_loads", "Bundles by outcome", ("outcome",), registry=self._registry)
        self._bundle: Final = Gauge(
            "tamis_bundle_workers",
            "Workers that serve a bundle",
            ("bundle",),
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """One call was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def emit(self, query: Query, page: Page) -> None:
        """One page was made (the verb of stages.Sink)."""
        spent: dict[str, float] = {}
        for step in page.trace:
            spent[step.stage] = spent.get(step.stage, 0.0) + step.milliseconds / 1000
            if step.status != "ok":
                self._failed.labels(f"{step.stage}.{step.step}", step.status).inc()
            for rule, count in step.relaxed.items():
                self._relaxed.labels(f"{step.stage}.{step.step}", rule).inc(count)
        for stage, seconds in spent.items():
            self._stages.labels(stage).observe(seconds)
        if page.degraded:
            self._degraded.inc()

    def events(self, accepted: int, duplicates: int, rejected: int) -> None:
        """One call with events was answered."""
        for outcome, count in (("accepted", accepted), ("duplicate", duplicates), ("rejected", rejected)):
            if count:
                self._events.labels(outcome).inc(count)

    def bundle(self, name: str, before: str) -> None:
        """This worker serves bundle `name` now, and `before` ("" = none) no more."""
        self._loads.labels("loaded").inc()
        if before:
            self._bundle.labels(before).set(0)
        self._bundle.labels(name).set(1)

    def refused(self) -> None:
        """This worker refused a bundle."""
        self._loads.labels("refused").inc()

    def text(self) -> bytes:
        """All metrics of all workers."""
        if not os.environ.get(FOLDER):
            return generate_latest(self._registry)
        _bury(Path(os.environ[FOLDER]))
        everything = CollectorRegistry()
        MultiProcessCollector(everything)  # type: ignore[no-untyped-call]
        return generate_latest(everything)


def _bury(folder: Path) -> None:
    """Takes workers that died out of what counts the living; what they counted themselves stays."""
    for file in folder.glob("gauge_live*_*.db"):
        process = int(re.sub(r"\D", "", file.stem.rpartition("_")[2]) or 0)
        if process and not _lives(process):
            mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody's
    return True
