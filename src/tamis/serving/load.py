"""Load on a running server at a fixed rate, whether it keeps up or not.

The loop is *open*: requests leave at times fixed in advance, and a latency counts from the time its request was meant
to leave, so that a server that stalls is charged for every request it kept waiting (no coordinated omission). The
client is one event loop over raw keep-alive connections, taken in turn, cheap enough not to be what is measured.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

import msgspec
import numpy as np

from tamis.config import Config
from tamis.errors import ConfigError
from tamis.serving.http1 import Connection
from tamis.serving.records import new_id

_DEGRADED: Final = b'"degraded":true'
_KEPT_PAGES: Final = 1000  # pages that events are drawn from


class LoadPlan(Config, frozen=True):
    """What to send.

    rate: requests per second.   users: ids to draw from; without any "1", "2" … `user_count`.   event_share: share of
    the requests that report what a user did with a page he got (10 impressions and a click).   poisson: random gaps of
    that mean instead of equal ones.   connections: kept open and used in turn.
    """

    url: str
    rate: float = 100.0
    seconds: float = 30.0
    users: tuple[str, ...] = ()
    user_count: int = 1000
    size: int = 20
    event_share: float = 0.0
    poisson: bool = True
    connections: int = 64
    timeout_seconds: float = 10.0
    seed: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.rate < math.inf and 0 < self.seconds < math.inf):
            raise ConfigError(f"rate {self.rate:g} and seconds {self.seconds:g}: wanted both above 0")


class LoadReport(msgspec.Struct, frozen=True):
    """What came of it. Latencies in milliseconds from the time a request was meant to leave, of successes.

    late_ms_p99: how late the client itself sent; a large value says that the client was the bottleneck.
    errors: count by HTTP status or by what broke.   degraded_share: of the pages answered.
    """

    sent: int
    seconds: float
    rate_wanted: float
    rate_answered: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    worst: float
    events_p50: float
    events_p99: float
    errors: dict[str, int]
    degraded_share: float
    most_in_flight: int
    late_ms_p99: float


class _Item(msgspec.Struct):
    item_id: str


class _Page(msgspec.Struct):
    """The part of a page that events are made from."""

    request_id: str
    user_id: str
    items: list[_Item]


def run_load(plan: LoadPlan) -> LoadReport:
    """Sends the load and waits for all answers. Raises ConfigError when nobody listens at the address."""
    return asyncio.run(_Load(plan).run())


class _Load:
    """One run. Answers are kept as (kind, intended time, done time, status or error, degraded)."""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan: Final = plan
        self.host, self.port = _address(plan.url)
        self.random: Final = random.Random(plan.seed)
        self.idle: deque[Connection] = deque()
        self.waiting: deque[asyncio.Future[Connection]] = deque()
        self.pages: deque[_Page] = deque(maxlen=_KEPT_PAGES)
        self.latency: dict[str, list[float]] = {"recommend": [], "events": []}
        self.late: list[float] = []
        self.errors: dict[str, int] = {}
        self.answered = self.degraded = self.in_flight = self.most_in_flight = 0
        self.decode_page: Final = msgspec.json.Decoder(_Page).decode

    async def run(self) -> LoadReport:
        for _ in range(self.plan.connections):
            self.idle.append(await self._connect())
        began = perf_counter()
        tasks = []
        for offset in self._departures():
            pause = began + offset - perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            tasks.append(asyncio.ensure_future(self._one(began + offset)))
        await asyncio.gather(*tasks)
        seconds = perf_counter() - began
        for connection in self.idle:
            connection.close()
        return self._report(len(tasks), seconds)

    async def _connect(self) -> Connection:
        try:
            return await Connection.open(self.host, self.port)
        except OSError as error:
            raise ConfigError(f"{self.plan.url}: {error.strerror or error}; is the server running?") from None

    def _departures(self) -> list[float]:
        """Seconds after the start at which requests leave."""
        plan, now = self.plan, 0.0
        moments: list[float] = []
        while True:
            now += self.random.expovariate(plan.rate) if plan.poisson else 1 / plan.rate
            if now >= plan.seconds:
                return moments
            moments.append(now)

    async def _one(self, intended: float) -> None:
        self.late.append(perf_counter() - intended)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        kind, path, body = self._request()
        connection = None
        try:
            async with asyncio.timeout(self.plan.timeout_seconds):
                connection = await self._take()
                if connection.closed:
                    connection = await Connection.open(self.host, self.port)
                status, answer = await connection.post(path, body)
            self._count(kind, intended, status, answer)
        except (OSError, TimeoutError) as error:
            self._failed("timeout" if isinstance(error, TimeoutError) else type(error).__name__)
            if connection is not None:
                connection.close()
        finally:
            self.in_flight -= 1
            if connection is not None:
                self._give_back(connection)

    def _request(self) -> tuple[str, str, bytes]:
        plan = self.plan
        if self.pages and self.random.random() < plan.event_share:
            return "events", "/v1/events", _events(self.random.choice(self.pages))
        users = plan.users or None
        user = self.random.choice(users) if users else str(self.random.randint(1, plan.user_count))
        return "recommend", "/v1/recommend", msgspec.json.encode({"user_id": user, "size": plan.size})

    def _count(self, kind: str, intended: float, status: int, answer: bytes) -> None:
        if status != 200:
            self._failed(str(status))
            return
        self.latency[kind].append((perf_counter() - intended) * 1000)
        if kind == "recommend":
            self.answered += 1
            self.degraded += _DEGRADED in answer
            if self.plan.event_share:
                self.pages.append(self.decode_page(answer))

    def _failed(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1

    async def _take(self) -> Connection:
        """The connection that was idle longest; waits when there is none."""
        if self.idle:
            return self.idle.popleft()
        turn: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        return await turn

    def _give_back(self, connection: Connection) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        self.idle.append(connection)

    def _report(self, sent: int, seconds: float) -> LoadReport:
        pages, events = self.latency["recommend"], self.latency["events"]
        p50, p90, p99, p99_9 = (_percentile(pages, q) for q in (50, 90, 99, 99.9))
        return LoadReport(
            sent=sent,
            seconds=round(seconds, 3),
            rate_wanted=self.plan.rate,
            rate_answered=round((len(pages) + len(events)) / seconds, 2) if seconds else 0.0,
            p50=p50,
            p90=p90,
            p99=p99,
            p99_9=p99_9,
            worst=_percentile(pages, 100),
            events_p50=_percentile(events, 50),
            events_p99=_percentile(events, 99),
            errors=dict(sorted(self.errors.items())),
            degraded_share=self.degraded / self.answered if self.answered else 0.0,
            most_in_flight=self.most_in_flight,
            late_ms_p99=_percentile([late * 1000 for late in self.late], 99),
        )


def _address(url: str) -> tuple[str, int]:
    """Host and port. Raises ConfigError for what is no http://host:port."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise ConfigError(f"{url}: wanted http://host:port: {error}") from None
    if parts.scheme != "http" or not host:
        raise ConfigError(f"{url}: wanted http://host:port")
    return host, port


def _percentile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 3) if values else 0.0


def _events(page: _Page) -> bytes:
    shown = page.items[:10]
    events = [
        {"event_id": new_id(0.0), "user_id": page.user_id, "item_id": item.item_id, "action": "impression",
         "request_id": page.request_id, "position": place}
        for place, item in enumerate(shown)
    ]  # fmt: skip
    if shown:
        events.append(events[0] | {"event_id": new_id(0.0), "action": "click"})
    return msgspec.json.encode(events)
