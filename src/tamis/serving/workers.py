"""Worker processes: started, told what to do, watched and replaced; and what each of them does about bundles and logs.

A worker that replaces one that died loads its bundle *before* it takes connections, so that no caller meets it cold; at
the first start workers answer at once that they are alive, and not ready.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, Final

import msgspec
import structlog
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.server.mp import MPServer

from tamis.errors import ConfigError
from tamis.serving.engine import Engine
from tamis.serving.prom import FOLDER
from tamis.serving.reload import BundleWatch, Load
from tamis.serving.service import Service

LAUNCH: Final = "TAMIS_LAUNCH"
FLEET: Final = "TAMIS_FLEET"
_STOP_SECONDS: Final = 10
_HEADER_MS: Final = 5000  # a connection whose request has no end of headers by then is dropped
_CONNECTIONS: Final = 4096  # of one worker; callers beyond that wait, so idle ones must not use them up easily
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen, with how many processes."""

    host: str
    port: int
    workers: int = 1


def run(address: Address, target: str, launch: msgspec.Struct) -> None:
    """Starts the workers, replaces those that die, and returns when told to stop (SIGTERM or SIGINT).

    target: the application factory that the workers import, "module:function".   launch: what they find, as JSON, in
    the environment (`launched`).   Raises ConfigError when the port is taken.
    """
    _free(address)
    multiprocessing.set_start_method("spawn", force=True)  # a forked copy of threads and nets is not safe to run
    vars(sys.modules["__main__"]).pop("__file__", None)  # or each worker would run the command line's module again
    with tempfile.TemporaryDirectory(prefix="tamis-", ignore_cleanup_errors=True) as scratch:
        for name, variable in (("fleet", FLEET), ("metrics", FOLDER)):
            Path(scratch, name).mkdir()
            os.environ[variable] = str(Path(scratch, name))
        os.environ[LAUNCH] = msgspec.json.encode(launch).decode()
        for name in _ONE_THREAD:  # the processes are the parallelism
            os.environ.setdefault(name, "1")
        _server(address, target).serve()


def launched() -> bytes:
    """What the parent told this worker. Raises ConfigError in a process that has no such parent."""
    try:
        return os.environ[LAUNCH].encode()
    except KeyError:
        raise ConfigError(f"{LAUNCH} is not set; `tamis serve` starts the workers") from None


def fleet_folder() -> Path | None:
    """Where workers mark that they are ready; None in a process without a parent."""
    folder = os.environ.get(FLEET)
    return Path(folder) if folder else None


def end_with_parent() -> None:
    """Lets this worker stop by itself when its parent was killed: an orphan would keep the port and serve on unseen."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_follow, args=(parent.sentinel,), name="parent", daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def watch_bundles(service: Service, bundles: Path, load: Load, interval_seconds: float) -> BundleWatch:
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
    """One JSON line per log entry, on standard error."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _line(entry: Any, **_: Any) -> str:
    return msgspec.json.encode(entry, enc_hook=str).decode()


def _server(address: Address, target: str) -> MPServer:
    return MPServer(
        target,
        address=address.host,
        port=address.port,
        interface=Interfaces.ASGI,
        factory=True,
        workers=address.workers,
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=_HEADER_MS),
        backpressure=_CONNECTIONS,
        respawn_failed_workers=True,
        workers_kill_timeout=_STOP_SECONDS,
        log_access=False,
    )


def _free(address: Address) -> None:
    """Two servers could bind one port and share its callers by accident."""
    where = (address.host, address.port)
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            message = f"cannot listen on {address.host}:{address.port}: {error.strerror}; choose another with --rest"
            raise ConfigError(message) from None
