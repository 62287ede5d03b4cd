"""What every transport shares: the engine in service, the two gates, the metrics."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final, TypeVar

import structlog

from tamis.errors import NotReady
from tamis.serving.engine import Engine
from tamis.serving.limits import Gate
from tamis.serving.prom import Meters
from tamis.serving.wire import EventRequest, EventsReply, RecommendReply, RecommendRequest, RejectedEvent

T = TypeVar("T")

log = structlog.get_logger()


class Fleet:
    """The worker processes of one server, known to each other by one empty file each in a shared folder."""

    def __init__(self, folder: Path | None = None, workers: int = 1) -> None:
        self._folder: Final = folder
        self._workers: Final = workers
        self._complete = folder is None

    def any_ready(self) -> bool:
        """Whether some worker has been ready before, so that this one replaces one that died."""
        return self._folder is not None and any(self._folder.iterdir())

    def mark(self, process: int) -> None:
        """This worker is ready."""
        if self._folder is not None:
            (self._folder / str(process)).touch()

    def complete(self) -> bool:
        """Whether as many workers have been ready as the server has; true for ever once it was."""
        if not self._complete and self._folder is not None:
            self._complete = sum(1 for _ in self._folder.iterdir()) >= self._workers
        return self._complete


@dataclass(slots=True)
class Service:
    """One worker. compute: for calls that rank; store: for calls that only read or write the state.

    most_events, most_body_bytes: bounds of one call, for the transports.
    """

    compute: Gate
    store: Gate
    meters: Meters = field(default_factory=Meters)
    fleet: Fleet = field(default_factory=Fleet)
    most_events: int = 1000
    most_body_bytes: int = 1 << 20
    engine: Engine | None = None

    def use(self, engine: Engine) -> None:
        """Takes an engine into service. Calls under way finish on the one they began with."""
        before, self.engine = self.engine, engine
        self.meters.bundle(engine.model.name, before.model.name if before else "")
        del before
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # what a bundle holds lives long: the collector need not walk over it

    def bundle(self) -> str:
        """The name of the bundle in service. Raises NotReady."""
        return self._engine().model.name

    def ready(self) -> bool:
        """Whether this worker and all its colleagues can answer."""
        return self.engine is not None and self.fleet.complete()

    async def call(self, gate: Gate, work: Callable[[Engine], T]) -> T:
        """`work` with the engine, through a gate. Raises NotReady, Overloaded, DeadlineExceeded, or what it raised."""
        engine = self._engine()
        return await gate.run(lambda: work(engine))

    def recommend(self, engine: Engine, request: RecommendRequest) -> RecommendReply:
        """A page, counted and logged."""
        began = perf_counter()
        reply = engine.recommend(request, self.meters)
        log.info(
            "served",
            request_id=reply.request_id,
            user_id=reply.user_id,
            scene=request.scene,
            bundle=reply.bundle,
            items=len(reply.items),
            degraded=reply.degraded,
            milliseconds=round((perf_counter() - began) * 1000, 2),
        )
        return reply

    def observe(self, engine: Engine, events: list[EventRequest | RejectedEvent]) -> EventsReply:
        """Events taken, and counted by what became of them."""
        reply = engine.observe(events)
        self.meters.events(reply.accepted, reply.duplicates, len(reply.rejected))
        return reply

    def close(self) -> None:
        """Waits for the calls under way; nothing is admitted afterwards."""
        self.compute.close()
        self.store.close()

    def _engine(self) -> Engine:
        if self.engine is None:
            raise NotReady("no bundle is in service yet: one is being loaded, or none is published (see `tamis train`)")
        return self.engine
