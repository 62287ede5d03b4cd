"""What the LMDB state does on this machine: events per second with fsync, the time of one `user()`, bytes per user.

    python benchmarks/state_ingest.py [--folder DIR] [--seconds S] [--users N] [--timeline N]

Events: 80 % impressions, users and items at random, every user met before (rows with full timelines where it matters).
The first line is the disk's own limit: appends of one page, each flushed. LMDB flushes twice per commit.
"""

import argparse
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np

from _results import result
from tamis.state.fold import row_from_history
from tamis.state.lmdb_ import Lmdb
from tamis.state.memory import Memory
from tamis.state.protocol import Event, State, UserRow
from tamis.state.rows import pack_row
from tamis.state.settings import StateConfig
from tamis.types import ACTION_CODE, TIMELINE

ACTIONS = ["impression"] * 8 + ["click", "like"]
Row = tuple[str, float, str]


def full_row(config: StateConfig) -> UserRow:
    """A user who has used up all that is remembered of one: the timeline and every generation."""
    entries = np.zeros(max(config.seen_capacity * config.seen_generations, config.timeline_limit), TIMELINE)
    entries["key"] = np.arange(len(entries)) * 7919
    entries["time"] = np.arange(len(entries))
    entries["action"] = ACTION_CODE["click"]
    return row_from_history(entries, config)


def batches(users: int, size: int, name: str) -> Iterator[list[Event]]:
    rng = random.Random(name)
    for start in count(0, size):
        yield [
            Event(
                event_id=f"{name}-{number:09d}-0f3a",
                user_id=f"user-{rng.randrange(users):07d}",
                item_id=f"item-{rng.randrange(1_000_000)}",
                action=rng.choice(ACTIONS),
                time=1.7e9 + number,
            )
            for number in range(start, start + size)
        ]


def events_per_second(state: State, users: int, size: int, threads: int, seconds: float) -> float:
    """Acknowledged events per second while `threads` callers apply batches of `size`; making the events not counted."""
    ready = 1 + int(seconds * (30_000 if size > 1 else 4_000) / size / threads)
    name = f"{time.perf_counter_ns()}"
    prepared = [
        [batch for batch, _ in zip(batches(users, size, f"{name}/{thread}"), range(ready), strict=False)]
        for thread in range(threads)
    ]
    done = [0] * threads
    end = time.perf_counter() + seconds

    def work(thread: int) -> None:
        for batch in prepared[thread]:
            if time.perf_counter() > end:
                return
            done[thread] += sum(state.apply(batch))

    callers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    start = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(done) / (time.perf_counter() - start)


def microseconds(call: Callable[[], object], rounds: int = 4000) -> tuple[float, float]:
    """(median, 99th percentile) of one call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1000)
    times.sort()
    return statistics.median(times), times[int(rounds * 0.99)]


def flushes_per_second(folder: Path, seconds: float) -> float:
    with (folder / "flush").open("wb", buffering=0) as file:
        page, done, start = os.urandom(4096), 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            file.write(page)
            os.fdatasync(file.fileno())
            done += 1
        return done / (time.perf_counter() - start)


def rows(folder: Path, seconds: float, users: int, config: StateConfig) -> Iterator[Row]:
    """(what, figure, unit), line by line."""
    yield "disk: one page appended and flushed", flushes_per_second(folder, min(seconds, 2)), "1/s"
    store, full = Lmdb(folder / "state", config), full_row(config)
    start = time.perf_counter()
    store.seed((f"user-{number:07d}", full) for number in range(users))
    yield f"seed {users:,} full rows", users / (time.perf_counter() - start), "rows/s"
    for size in (1, 100):
        for threads in (1, 8):
            rate = events_per_second(store, users, size, threads, seconds)
            yield f"apply, batch {size}, {threads} threads, full rows", rate, "events/s"
    rate = events_per_second(store, users, 1000, 8, seconds)
    yield "apply, batch 1000, 8 threads, full rows", rate, "events/s"
    store.close()
    store = Lmdb(folder / "fresh", config)
    rate = events_per_second(store, users, 100, 8, seconds)
    yield "apply, batch 100, 8 threads, new users", rate, "events/s"
    store.close()
    memory = Memory(config)
    memory.seed((f"user-{number:07d}", full) for number in range(users))
    rate = events_per_second(memory, users, 100, 1, min(seconds, 2))
    yield "memory backend, batch 100, 1 thread, full rows", rate, "events/s"
    store = Lmdb(folder / "state", config)
    numbers = iter(np.random.default_rng(0).integers(0, users, 10**6).tolist())
    middle, late = microseconds(lambda: store.user(f"user-{next(numbers):07d}"))
    yield f"user(), {config.timeline_limit} entries, 4 generations, p50", middle, "µs"
    yield f"user(), {config.timeline_limit} entries, 4 generations, p99", late, "µs"
    middle, late = microseconds(store.item_version)
    yield "item_version(), p50", middle, "µs"
    yield "item_version(), p99", late, "µs"
    stored = len(store.log(limit=10**8))
    yield "full user, packed", len(pack_row(full, config.timeline_limit, config.seen_generations)), "bytes"
    file_bytes = os.path.getsize(folder / "state" / "data.mdb")
    yield f"file with {users:,} users and {stored:,} events", file_bytes / 2**20, "MiB"
    store.close()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure; default: a temporary one")
    parser.add_argument("--seconds", type=float, default=4.0, help="per line")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--timeline", type=int, default=200, help="entries kept per user")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="state-", dir=given.folder))
    try:
        for what, value, unit in rows(folder, given.seconds, given.users, StateConfig(timeline_limit=given.timeline)):
            print(f"{what:<56}{value:>16,.1f} {unit}", flush=True)
            result(f"state: {what}", value, None, unit)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
