"""The server's processes: a parent that binds the port and watches, workers that each load the bundle and answer.

    serve(launch)     the parent: settings and a scratch folder into the environment, then granian's workers
    create_app()      a worker: state, gates, the bundle, the application

A worker that replaces one that died loads its bundle *before* it takes connections, so that no caller meets it cold; at
the first start workers answer at once that they are alive, and not ready.
"""

import logging
import multiprocessing
import os
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog
from granian import Granian
from granian.constants import Interfaces
from litestar import Litestar

from tamis.artifact import open_bundle
from tamis.assemble import ServingConfig, load_model
from tamis.config import Config
from tamis.errors import ConfigError
from tamis.serving.engine import Engine, EngineLimits
from tamis.serving.limits import Gate
from tamis.serving.prom import FOLDER
from tamis.serving.reload import BundleWatch, warm_up
from tamis.serving.rest import create
from tamis.serving.service import Fleet, Service
from tamis.state.lmdb_ import Lmdb
from tamis.state.settings import StateConfig

LAUNCH: Final = "TAMIS_LAUNCH"
TARGET: Final = "tamis.serving.worker:create_app"
_STORE_THREADS: Final = 8  # writers that wait for the disk together share one commit
_STORE_QUEUE: Final = 256
_STORE_DEADLINE_MS: Final = 5000.0
_STOP_SECONDS: Final = 10
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Launch(Config, frozen=True):
    """What a worker is told by its parent. bundles, state: folders.   fleet: where workers mark that they are ready."""

    bundles: str
    state: str
    serving: ServingConfig = ServingConfig()
    remember: StateConfig = StateConfig()
    fleet: str = ""


def serve(launch: Launch, target: str = TARGET) -> None:
    """Runs the server until it is told to stop (SIGTERM or SIGINT), then lets the calls under way finish.

    target: the application factory that the workers import.   Raises ConfigError when the port is taken.
    """
    serving = launch.serving
    _free(serving.host, serving.rest_port)
    multiprocessing.set_start_method("spawn", force=True)  # a forked copy of threads and nets is not safe to run
    with tempfile.TemporaryDirectory(prefix="tamis-", ignore_cleanup_errors=True) as scratch:
        for name in ("fleet", "metrics"):
            Path(scratch, name).mkdir()
        workers_see = msgspec.structs.replace(launch, fleet=str(Path(scratch, "fleet")))
        os.environ[LAUNCH] = msgspec.json.encode(workers_see).decode()
        os.environ[FOLDER] = str(Path(scratch, "metrics"))
        for name in _ONE_THREAD:  # the processes are the parallelism
            os.environ.setdefault(name, "1")
        with suppress(SystemExit):
            _server(serving, target).serve()


def create_app() -> Litestar:
    """A worker's application, for the settings in its environment."""
    raw = os.environ.get(LAUNCH)
    if raw is None:
        raise ConfigError(f"{LAUNCH} is not set; `tamis serve` starts the workers")
    launch = msgspec.json.decode(raw, type=Launch)
    log_as_json()
    state = Lmdb(Path(launch.state), launch.remember)
    serving = launch.serving
    service = Service(
        compute=Gate("rank", serving.threads, serving.queue, serving.deadline_ms),
        store=Gate("store", _STORE_THREADS, _STORE_QUEUE, _STORE_DEADLINE_MS),
        fleet=Fleet(Path(launch.fleet) if launch.fleet else None, serving.workers),
        most_events=serving.most_events,
        most_body_bytes=serving.most_body_bytes,
    )
    limits = EngineLimits(most_items=serving.most_items)

    def load(path: Path) -> Engine:
        engine = Engine(load_model(open_bundle(path)), state, limits)
        warm_up(engine)
        return engine

    watch = watch_bundles(service, Path(launch.bundles), load, serving.reload_seconds)
    return create(service, on_shutdown=(watch.stop, service.close, state.close))


def watch_bundles(service: Service, bundles: Path, load: "Load", interval_seconds: float) -> BundleWatch:
    """Follows the published bundle for a service; a worker that replaces another has it when this returns."""

    def swap(engine: Engine) -> None:
        service.use(engine)
        service.fleet.mark(os.getpid())

    watch = BundleWatch(bundles, load, swap, service.meters.refused, interval_seconds)
    if service.fleet.any_ready():
        watch.first()
    watch.start()
    return watch


def log_as_json() -> None:
    """One JSON line per entry on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda entry, **_: msgspec.json.encode(entry, enc_hook=str).decode()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _server(serving: ServingConfig, target: str) -> Granian:
    return Granian(
        target,
        address=serving.host,
        port=serving.rest_port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=serving.workers,
        websockets=False,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_SECONDS,
        log_access=False,
    )


def _free(host: str, port: int) -> None:
    """Two servers could bind one port and share its callers by accident."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --rest") from None
