"""The REST server of a project: `serve` in the parent, `create_app` in each worker."""

from pathlib import Path
from typing import Final

import msgspec
from litestar import Litestar

from tamis.artifact import open_bundle
from tamis.assemble import ProjectConfig, ServingConfig, load_model
from tamis.config import Config, read
from tamis.serving.app import create
from tamis.serving.engine import Engine
from tamis.serving.limits import Gate
from tamis.serving.opening import open_state
from tamis.serving.reload import warm_up
from tamis.serving.residence import release_compiler
from tamis.serving.service import Fleet, Service
from tamis.serving.workers import Address, end_with_parent, fleet_folder, launched, log_as_json, run, watch_bundles
from tamis.state.lmdb_ import Lmdb
from tamis.state.settings import StateConfig

TARGET: Final = "tamis.serving.rest:create_app"
_STORE_THREADS: Final = 8  # writers that wait for the disk together share one commit
_STORE_QUEUE: Final = 256
_STORE_DEADLINE_MS: Final = 5000.0


class Launch(Config, frozen=True):
    """What a worker is told by its parent. project: the folder."""

    project: str
    serving: ServingConfig = ServingConfig()
    state: StateConfig = StateConfig()


def serve(folder: Path, serving: ServingConfig) -> None:
    """Serves a project until it is told to stop (SIGTERM or SIGINT), then lets the calls under way finish.

    The state is opened and seeded here, once, before there are workers that would all do it.
    Raises ConfigError when the port is taken.
    """
    project = read(folder / "tamis.toml", ProjectConfig)
    open_state(folder, project.state).close()
    address = Address(serving.host, serving.rest_port, serving.workers)
    run(address, TARGET, Launch(project=str(folder.resolve()), serving=serving, state=project.state))


def create_app() -> Litestar:
    """A worker's application: state, gates, the published bundle, and the watch for newer ones."""
    launch = msgspec.json.decode(launched(), type=Launch)
    log_as_json()
    end_with_parent()
    folder, serving = Path(launch.project), launch.serving
    state = Lmdb(folder / "state", launch.state)
    service = Service(
        compute=Gate("rank", serving.threads, serving.queue, serving.deadline_ms),
        store=Gate("store", _STORE_THREADS, _STORE_QUEUE, _STORE_DEADLINE_MS),
        fleet=Fleet(fleet_folder(), serving.workers),
        most_events=serving.most_events,
        most_body_bytes=serving.most_body_bytes,
    )

    def load(path: Path) -> Engine:
        engine = Engine(load_model(open_bundle(path)), state, serving)
        warm_up(engine)
        release_compiler()
        return engine

    watch = watch_bundles(service, folder / "bundles", load, serving.reload_seconds)
    return create(service, on_shutdown=(watch.stop, service.close, state.close))
