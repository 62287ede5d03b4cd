"""kill -9 during ingest at full rate: every acknowledged event is there, exactly once, and the rows match the log."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tamis.state.lmdb_ import Lmdb
from tamis.state.memory import Memory
from tamis.state.protocol import Event
from tamis.state.settings import StateConfig

CONFIG = StateConfig(timeline_limit=20, seen_capacity=30, seen_generations=2, map_size_gib=0.002)
USERS = 40

# Several threads apply batches without end and print the ids of each batch once it is acknowledged. Every third event
# is one that the other threads send too, so that duplicates race.
CHILD = f"""
import os, random, sys, threading
from pathlib import Path
from tamis.state.lmdb_ import Lmdb
from tamis.state.protocol import Event
from tamis.state.settings import StateConfig
from tamis.types import ACTIONS

folder, run = Path(sys.argv[1]), sys.argv[2]
state = Lmdb(folder, StateConfig(timeline_limit=20, seen_capacity=30, seen_generations=2, map_size_gib=0.002))
os.write(1, b"ready\\n")

def event(name):
    rng = random.Random(name)
    return Event(event_id=name, user_id=f"u{{rng.randrange({USERS})}}", item_id=f"i{{rng.randrange(500)}}",
                 action=rng.choice(ACTIONS), time=float(rng.randrange(10**6)), value=rng.random())

def ingest(thread):
    rng, number = random.Random(f"{{run}}/{{thread}}"), 0
    while True:
        batch = []
        for _ in range(rng.randrange(1, 20)):
            batch.append(event(f"{{run}}/shared/{{number}}" if number % 3 == 0 else f"{{run}}/{{thread}}/{{number}}"))
            number += 1
        state.apply(batch)
        os.write(1, b"".join(entry.event_id.encode() + b" " for entry in batch) + b"\\n")

for thread in range(3):
    threading.Thread(target=ingest, args=(thread,)).start()
"""


class Child:
    """A process that prints the ids it got acknowledged; a thread reads them, so that it never waits for the pipe."""

    def __init__(self, folder: Path, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder), *arguments], stdout=subprocess.PIPE, bufsize=0
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self._pieces: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while piece := self.process.stdout.read(2**16):
            self._pieces.append(piece)

    def kill(self) -> list[str]:
        """Kills it as the system would; the ids it had printed."""
        self.process.send_signal(signal.SIGKILL)
        self._reader.join()
        assert self.process.wait() == -signal.SIGKILL
        assert self.process.stdout is not None
        self.process.stdout.close()
        complete = b"".join(self._pieces).split(b"\n")[:-1]  # the last line may be cut off
        return [name.decode() for line in complete for name in line.split()]


def check(folder: Path, acknowledged: list[str]) -> int:
    """Opens the store as a new process would and checks all that was promised; the number of events in it."""
    state = Lmdb(folder, CONFIG)
    pairs = state.log(limit=10**9)
    counted = Counter(entry.event_id for _, entry in pairs)
    assert set(counted.values()) <= {1}
    assert set(acknowledged) <= set(counted)
    rebuilt = Memory(CONFIG)
    rebuilt.apply([entry for _, entry in pairs])
    for number in range(USERS):
        assert contents(state, f"u{number}") == contents(rebuilt, f"u{number}")
    assert not any(state.apply([entry for _, entry in pairs]))
    state.close()
    return len(pairs)


def contents(state: Lmdb | Memory, user: str) -> tuple[Any, ...]:
    row = state.user(user)
    return row.known, row.timeline.tobytes(), row.counts.tolist(), [bloom.to_bytes() for bloom in row.seen]


def crash_and_check(folder: Path, kills: int, longest_seconds: float, seed: int) -> None:
    rng = random.Random(seed)
    acknowledged: list[str] = []
    before = 0
    for run in range(kills):
        child = Child(folder, CHILD, f"run{run}")
        time.sleep(rng.uniform(0.05, longest_seconds))
        acknowledged += child.kill()
        stored = check(folder, acknowledged)
        assert stored > before
        before = stored
    assert acknowledged


def test_no_acknowledged_event_is_lost_or_doubled_by_a_kill(tmp_path: Path) -> None:
    crash_and_check(tmp_path / "state", kills=3, longest_seconds=0.4, seed=1)


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_or_doubled_by_many_kills(tmp_path: Path) -> None:
    crash_and_check(tmp_path / "state", kills=25, longest_seconds=1.0, seed=2)


@pytest.mark.slow
def test_one_process_is_killed_again_and_again_while_others_go_on(tmp_path: Path) -> None:
    rng = random.Random(3)
    folder = tmp_path / "state"
    state = Lmdb(folder, CONFIG)
    steady = Child(folder, CHILD, "steady")
    acknowledged: list[str] = []
    for run in range(12):
        child = Child(folder, CHILD, f"victim{run}")
        time.sleep(rng.uniform(0.02, 0.4))
        acknowledged += child.kill()
        own = Event(event_id=f"parent/{run}", user_id="u0", item_id="i", action="click", time=float(run))
        assert state.apply([own]) == [True]
        acknowledged.append(own.event_id)
    state.close()
    acknowledged += steady.kill()
    assert check(folder, acknowledged) > 0


HOLDER = """
import os, sys, time
from pathlib import Path
from tamis.state.commit import Transactions
from tamis.state.settings import StateConfig

store = Transactions(Path(sys.argv[1]), ("log", "users"), StateConfig(map_size_gib=0.002))

def hold(txn):
    txn.put(b"u0", b"half written", db=store.databases["users"])
    os.write(1, b"ready\\n")
    time.sleep(600)

store.{verb}(hold)
"""


@pytest.mark.parametrize("verb", ["write", "read"])
def test_who_dies_inside_a_transaction_stands_in_nobodys_way(tmp_path: Path, verb: str) -> None:
    script = HOLDER.format(verb=verb).replace("    txn.put", "    # txn.put" if verb == "read" else "    txn.put")
    state = Lmdb(tmp_path, CONFIG)
    first = Event(event_id="1", user_id="u0", item_id="i", action="click", time=1.0)
    state.apply([first])
    child = Child(tmp_path, script)
    assert state.user("u0").counts.sum() == 1
    child.kill()
    second = Event(event_id="2", user_id="u0", item_id="i", action="click", time=2.0)
    assert state.apply([first, second]) == [False, True]
    assert state.user("u0").counts.sum() == 2
    state.close()
    assert check(tmp_path, ["1", "2"]) == 2
