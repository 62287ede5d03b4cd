"""Admission: a bounded number of calls at once, a bounded queue, one deadline per call.

    run(work)   refuse at once when the queue is full, or when what waits cannot be done within the deadline
                else a worker thread runs it; a call whose deadline passed while it waited is not begun any more

Refusing early is the point: a server that is asked for five times what it can do answers its share in time and tells
the rest to come back, instead of answering everybody too late.
"""

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final, TypeVar

from tamis.errors import DeadlineExceeded, Overloaded

T = TypeVar("T")

_SMOOTHING: Final = 0.05  # weight of the newest call in the mean of how long a call takes


class Gate:
    """The way into a pool of threads. All its bookkeeping happens in the event loop, so it needs no lock.

    threads: calls at once; 0 runs each call in the event loop itself, which then neither refuses nor counts time.
    queue: calls that may wait.   deadline_ms: from admission to answer.
    """

    def __init__(self, name: str, threads: int, queue: int, deadline_ms: float) -> None:
        self.name: Final = name
        self.threads: Final = threads
        self.queue: Final = queue
        self.deadline_seconds: Final = deadline_ms / 1000
        self.admitted = 0  # waiting and running
        self.seconds = 0.0  # smoothed time that one call takes
        self._pool: Final = ThreadPoolExecutor(threads, name) if threads else None

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises Overloaded, DeadlineExceeded or whatever `work` raised."""
        if self._pool is None:
            return work()
        self._admit()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        until = monotonic() + self.deadline_seconds

        def finish(result: T | None, error: BaseException | None, took: float) -> None:
            self.admitted -= 1
            if took:
                self.seconds += _SMOOTHING * (took - self.seconds) if self.seconds else took
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def perform() -> None:
            began, result, error = monotonic(), None, None
            if began >= until:
                loop.call_soon_threadsafe(finish, None, self._late(), 0.0)
                return
            try:
                result = work()
            except BaseException as raised:
                error = raised
            loop.call_soon_threadsafe(finish, result, error, monotonic() - began)

        self.admitted += 1
        self._pool.submit(perform)
        alarm = loop.call_later(self.deadline_seconds, self._expire, answer)
        try:
            return await answer
        finally:
            alarm.cancel()

    def close(self) -> None:
        """Waits for the calls that run and lets nothing in any more."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _admit(self) -> None:
        waiting = self.admitted + 1 - self.threads
        wait_seconds = max(0, waiting) * self.seconds / self.threads
        if waiting > self.queue or wait_seconds > self.deadline_seconds:
            message = f"overloaded: {self.admitted} calls under way, about {wait_seconds * 1000:.0f} ms to wait"
            raise Overloaded(message, max(1.0, math.ceil(wait_seconds)))

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer within {self.deadline_seconds * 1000:.0f} ms")

    def _expire(self, answer: "asyncio.Future[T]") -> None:
        if not answer.done():
            answer.set_exception(self._late())
