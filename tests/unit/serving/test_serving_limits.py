import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tamis.errors import DeadlineExceeded, Overloaded
from tamis.serving.limits import Gate


@contextmanager
def gate(threads: int = 1, queue: int = 2, deadline_ms: float = 10_000.0) -> Iterator[Gate]:
    made = Gate("test", threads, queue, deadline_ms)
    try:
        yield made
    finally:
        made.close()


class Held:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        self.go.wait(10)
        return "done"


def test_a_result_and_an_error_come_through() -> None:
    def fails() -> None:
        raise KeyError("x")

    async def both(made: Gate) -> int:
        with pytest.raises(KeyError):
            await made.run(fails)
        return await made.run(lambda: 42)

    with gate() as made:
        assert asyncio.run(both(made)) == 42
        assert made.admitted == 0


def test_without_threads_work_runs_in_the_loop() -> None:
    with gate(threads=0) as made:
        assert asyncio.run(made.run(threading.get_ident)) == threading.get_ident()


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room() -> None:
    async def fill(made: Gate) -> list[str]:
        held = Held()
        calls = [asyncio.create_task(made.run(held)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 calls under way") as refused:
            await made.run(held)
        assert refused.value.retry_after_seconds >= 1
        held.go.set()
        done = await asyncio.gather(*calls)
        return [*done, await made.run(lambda: "again")]

    with gate(threads=1, queue=2) as made:
        assert asyncio.run(fill(made)) == ["done", "done", "done", "again"]


def test_what_cannot_be_done_in_time_is_refused_before_the_queue_is_full() -> None:
    async def slow_ones(made: Gate) -> None:
        held = Held()
        first = asyncio.create_task(made.run(held))
        await asyncio.sleep(0)
        made.seconds = 6.0  # one call takes 6 s, so the second to wait would need 12
        second = asyncio.create_task(made.run(held))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await made.run(held)
        assert refused.value.retry_after_seconds == 12
        held.go.set()
        await asyncio.gather(first, second)

    with gate(threads=1, queue=100, deadline_ms=10_000) as made:
        asyncio.run(slow_ones(made))


def test_a_call_that_takes_too_long_is_given_up_and_its_slot_is_freed_when_it_ends() -> None:
    async def late(made: Gate) -> None:
        held = Held()
        with pytest.raises(DeadlineExceeded, match="no answer within 30 ms"):
            await made.run(held)
        assert made.admitted == 1
        held.go.set()
        while made.admitted:
            await asyncio.sleep(0.001)

    with gate(deadline_ms=30) as made:
        asyncio.run(late(made))


def test_a_call_whose_time_ran_out_in_the_queue_is_never_begun() -> None:
    async def queued(made: Gate) -> Callable[[], bool]:
        held, never = Held(), Held()
        calls = [asyncio.create_task(made.run(work)) for work in (held, never)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in done] == [DeadlineExceeded, DeadlineExceeded]
        held.go.set()
        while made.admitted:
            await asyncio.sleep(0.001)
        return never.begun.is_set

    with gate(deadline_ms=30) as made:
        assert not asyncio.run(queued(made))()


def test_a_timeout_error_of_the_work_itself_is_not_a_deadline() -> None:
    def fails() -> None:
        raise TimeoutError("a store")

    with gate() as made, pytest.raises(TimeoutError, match="a store"):
        asyncio.run(made.run(fails))


def test_a_caller_who_leaves_does_not_break_the_count() -> None:
    async def leave(made: Gate) -> None:
        held = Held()
        call = asyncio.create_task(made.run(held))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        held.go.set()
        while made.admitted:
            await asyncio.sleep(0.001)
        assert await made.run(lambda: 1) == 1

    with gate() as made:
        asyncio.run(leave(made))
