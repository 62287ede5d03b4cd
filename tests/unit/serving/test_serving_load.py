import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from tamis.errors import ConfigError
from tamis.serving.load import LoadPlan, LoadReport, run_load

Answer = Callable[[str, bytes], Awaitable[tuple[int, bytes] | None]]
PAGE = json.dumps(
    {"request_id": "r", "user_id": "7", "degraded": False, "items": [{"item_id": "a"}, {"item_id": "b"}]}
).replace(" ", "")


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """A small HTTP server in a thread; `answer` gives (status, body), None closes the connection."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []
    stop = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_body = b"content-length: "
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(with_body)[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                made = await answer(head.split(b" ")[1].decode(), body)
                if made is None:
                    break
                status, content = made
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode())
                writer.write(content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        listening = await asyncio.start_server(talk, "127.0.0.1", 0)
        address.append(listening.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        listening.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(10)
    try:
        yield f"http://127.0.0.1:{address[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def load(url: str, **more: object) -> LoadReport:
    return run_load(LoadPlan(url=url, **({"rate": 200.0, "seconds": 0.4, "connections": 4} | more)))  # type: ignore[arg-type]


def test_a_run_counts_what_was_sent_and_answered() -> None:
    users: list[str] = []

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        assert path == "/v1/recommend"
        users.append(json.loads(body)["user_id"])
        return 200, PAGE.encode()

    with server(answer) as url:
        report = load(url, users=("x", "y"), poisson=False)
    assert report.sent == len(users) == 79
    assert set(users) == {"x", "y"}
    assert (report.errors, report.degraded_share) == ({}, 0.0)
    assert 0 < report.p50 <= report.p90 <= report.p99 <= report.p99_9 <= report.worst
    assert report.most_in_flight >= 1


def test_the_same_seed_sends_the_same_requests() -> None:
    seen: list[list[bytes]] = []

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        seen[-1].append(body)
        return 200, PAGE.encode()

    with server(answer) as url:
        for _ in range(2):
            seen.append([])
            load(url, connections=1)
    assert seen[0] == seen[1]


def test_errors_are_counted_by_status_and_degraded_pages_by_share() -> None:
    count = iter(range(10_000))

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        turn = next(count) % 4
        return {0: (429, b"{}"), 1: (200, PAGE.replace("false", "true").encode())}.get(turn, (200, PAGE.encode()))

    with server(answer) as url:
        report = load(url, poisson=False, connections=1)
    assert report.errors == {"429": 20}
    assert report.degraded_share == pytest.approx(1 / 3, abs=0.02)


def test_a_stalled_server_is_charged_for_every_request_it_kept_waiting() -> None:
    """One connection, 50 requests a second, the first answer takes 0.3 s: the others wait from their intended time."""
    first = iter([True])

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        if next(first, False):
            await asyncio.sleep(0.3)
        return 200, PAGE.encode()

    with server(answer) as url:
        report = load(url, rate=50.0, poisson=False, connections=1)
    assert report.sent == 19
    assert report.p50 > 50  # of 19 requests, 14 were meant to leave during the stall


def test_events_are_made_from_the_pages_that_came_back() -> None:
    events: list[dict[str, object]] = []

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/v1/events":
            events.extend(json.loads(body))
            return 200, b'{"accepted": 3}'
        return 200, PAGE.encode()

    with server(answer) as url:
        report = load(url, event_share=0.5)
    assert {event["action"] for event in events} == {"impression", "click"}
    assert {event["user_id"] for event in events} == {"7"}
    assert len({event["event_id"] for event in events}) == len(events)
    assert report.events_p50 > 0


def test_a_broken_connection_is_an_error_and_is_opened_again() -> None:
    count = iter(range(10_000))

    async def answer(path: str, body: bytes) -> tuple[int, bytes] | None:
        return None if next(count) == 5 else (200, PAGE.encode())

    with server(answer) as url:
        report = load(url, poisson=False, connections=1)
    assert sum(report.errors.values()) == 1


def test_an_answer_that_never_comes_is_a_timeout() -> None:
    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(30)
        return 200, b""

    with server(answer) as url:
        report = load(url, rate=20.0, timeout_seconds=0.1)
    assert report.errors == {"timeout": report.sent}
    assert (report.p50, report.rate_answered) == (0.0, 0.0)


def test_nobody_listening_and_a_wrong_address_are_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match="is the server running"):
        load(f"http://127.0.0.1:{port}")
    for wrong in ("localhost:8080", "http://127.0.0.1:99999", "http://x:abc", "http://[::1"):
        with pytest.raises(ConfigError, match="wanted http://host:port"):
            load(wrong)
