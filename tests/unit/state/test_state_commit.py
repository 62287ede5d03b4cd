"""Transactions of one environment: group commit, growing, closing, and what the disk refuses."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tamis.errors import StateError
from tamis.state.commit import Transactions
from tamis.state.lmdb_ import Lmdb
from tamis.state.protocol import Event
from tamis.state.settings import StateConfig

CONFIG = StateConfig(map_size_gib=0.001, durable=False, max_readers=16)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Transactions]:
    opened = Transactions(tmp_path / "state", ("a",), CONFIG)
    yield opened
    opened.close()


def put(store: Transactions, key: bytes, value: bytes = b"1") -> Any:
    return store.write(lambda txn: txn.put(key, value, db=store.databases["a"]))


def get(store: Transactions, key: bytes) -> bytes | None:
    value: bytes | None = store.read(lambda txn: txn.get(key, db=store.databases["a"]))
    return value


def in_threads(calls: list[Any]) -> list[Any]:
    """The results, or errors, of calls that run at once, in their order."""
    results: list[Any] = [None] * len(calls)

    def run(place: int) -> None:
        try:
            results[place] = calls[place]()
        except StateError as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def transaction_number(store: Transactions) -> int:
    return int(store.read(lambda txn: txn.id()))


def while_busy(store: Transactions, calls: list[Any]) -> list[Any]:
    """Runs calls so that all of them queue behind one transaction that is under way."""
    entered, leave = threading.Event(), threading.Event()

    def hold(_: Any) -> None:
        entered.set()
        assert leave.wait(30)

    def release() -> None:
        while len(store._queue) < len(calls):
            time.sleep(0.001)
        leave.set()

    holder = threading.Thread(target=store.write, args=(hold,))
    holder.start()
    assert entered.wait(30)
    releaser = threading.Thread(target=release)
    releaser.start()
    results = in_threads(calls)
    holder.join()
    releaser.join()
    return results


def test_the_names_of_a_new_store_are_on_disk_too(tmp_path: Path, synced: list[Path]) -> None:
    Transactions(tmp_path / "feed" / "state", ("a",), CONFIG).close()
    assert {tmp_path, tmp_path / "feed", tmp_path / "feed" / "state"} <= set(synced)


def test_writers_that_wait_share_one_transaction(store: Transactions) -> None:
    put(store, b"first")
    before = transaction_number(store)
    results = while_busy(store, [lambda n=n: put(store, b"%d" % n) for n in range(12)])
    assert results == [True] * 12
    assert transaction_number(store) - before == 1
    assert all(get(store, b"%d" % n) == b"1" for n in range(12))


def test_more_writers_than_fit_into_one_group_are_all_served(store: Transactions) -> None:
    assert while_busy(store, [lambda n=n: put(store, b"%d" % n) for n in range(150)]) == [True] * 150


def test_the_failure_of_one_writer_is_not_that_of_its_group(store: Transactions) -> None:
    def fail(txn: Any) -> None:
        txn.put(b"bad", b"1", db=store.databases["a"])
        raise StateError("mine alone")

    calls = [lambda n=n: put(store, b"%d" % n) for n in range(5)]
    results = while_busy(store, [*calls, lambda: store.write(fail)])
    assert results[:5] == [True] * 5
    assert str(results[5]) == "mine alone"
    assert get(store, b"bad") is None
    assert all(get(store, b"%d" % n) == b"1" for n in range(5))


def test_a_refusal_of_the_store_is_a_state_error_and_leaves_it_usable(store: Transactions) -> None:
    with pytest.raises(StateError, match="refused"):
        put(store, b"x" * 600)
    assert put(store, b"x")


def test_the_map_grows_as_often_as_needed_while_others_read(store: Transactions) -> None:
    put(store, b"always", b"there")
    stop = threading.Event()
    missing: list[bytes | None] = []

    def read() -> None:
        while not stop.is_set():
            if (value := get(store, b"always")) != b"there":
                missing.append(value)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(40):
        put(store, b"%d" % number, os.urandom(200_000))
    stop.set()
    for reader in readers:
        reader.join()
    assert missing == []
    assert len(get(store, b"39") or b"") == 200_000


GROW = """
import sys
from pathlib import Path
from tamis.state.commit import Transactions
from tamis.state.settings import StateConfig

store = Transactions(Path(sys.argv[1]), ("a",), StateConfig(map_size_gib=0.001, durable=False, max_readers=16))
store.write(lambda txn: txn.put(b"large", b"x" * 9_000_000, db=store.databases["a"]))
store.close()
"""


@pytest.mark.parametrize("first", ["read", "write"])
def test_a_map_that_another_process_made_larger_is_taken_over(store: Transactions, tmp_path: Path, first: str) -> None:
    put(store, b"small")
    subprocess.run([sys.executable, "-c", GROW, str(tmp_path / "state")], check=True, timeout=60)
    if first == "write":
        assert put(store, b"next")
    assert len(get(store, b"large") or b"") == 9_000_000
    assert put(store, b"next")


def test_more_reads_at_once_than_there_are_slots_are_refused_and_later_ones_are_not(tmp_path: Path) -> None:
    store = Transactions(tmp_path, ("a",), StateConfig(map_size_gib=0.001, durable=False, max_readers=2))
    put(store, b"a")
    entered, leave = threading.Barrier(3), threading.Event()

    def hold(_: Any) -> None:
        entered.wait(30)
        leave.wait(30)

    holders = [threading.Thread(target=store.read, args=(hold,)) for _ in range(2)]
    for holder in holders:
        holder.start()
    entered.wait(30)
    with pytest.raises(StateError, match="READERS_FULL"):
        get(store, b"a")
    leave.set()
    for holder in holders:
        holder.join()
    assert get(store, b"a") == b"1"
    store.close()


def test_one_transaction_larger_than_the_map_fits_after_growing(store: Transactions) -> None:
    put(store, b"large", b"x" * 9_000_000)
    assert len(get(store, b"large") or b"") == 9_000_000


def test_after_closing_every_call_says_so_and_closing_again_is_nothing(tmp_path: Path) -> None:
    store = Transactions(tmp_path, ("a",), CONFIG)
    store.close()
    store.close()
    for call in (get, put):
        with pytest.raises(StateError, match="is closed"):
            call(store, b"x")


def test_a_folder_that_is_open_in_this_process_is_refused(store: Transactions, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot open"):
        Transactions(tmp_path / "state", ("a",), CONFIG)
    assert put(store, b"still works")


def test_a_folder_that_cannot_be_made_is_refused_by_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StateError, match="file"):
        Transactions(tmp_path / "file", ("a",), CONFIG)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(StateError, match=r"data\.mdb: is no state store"):
        Transactions(tmp_path, ("a",), CONFIG)


def test_a_forked_child_is_told_to_open_its_own(store: Transactions) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of forking beside threads
        child = os.fork()
    if not child:
        try:
            get(store, b"x")
        except StateError as error:
            sender.send(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert receiver.poll()
    assert "forked" in receiver.recv()


WRITER = """
import sys
from pathlib import Path
from tamis.state.lmdb_ import Lmdb
from tamis.state.protocol import Event
from tamis.state.settings import StateConfig

name, folder = sys.argv[1], Path(sys.argv[2])
state = Lmdb(folder, StateConfig(map_size_gib=0.001, durable=False))
print("ready", flush=True)
sys.stdin.readline()
accepted = 0
for number in range(150):
    own = [Event(event_id=f"{name}/{number}/{k}", user_id=f"u{k}", item_id=f"i{number}", action="click", time=number)
           for k in range(10)]
    shared = Event(event_id=f"shared/{number}", user_id="shared", item_id=f"i{number}", action="like", time=number)
    accepted += sum(state.apply([*own, shared]))
    state.user("shared")
print(accepted, flush=True)
state.close()
"""


def test_processes_that_write_at_once_lose_nothing_and_follow_each_others_growth(tmp_path: Path) -> None:
    state = Lmdb(tmp_path, CONFIG)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(number), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    accepted = []
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        accepted.append(int(out))
    assert sum(accepted) == 2 * 1500 + 150
    logged = [entry.event_id for _, entry in state.log(limit=10**6)]
    assert len(logged) == len(set(logged)) == 3150
    assert state.user("shared").counts.sum() == 150
    assert [state.user(f"u{number}").counts.sum() for number in range(10)] == [300] * 10
    assert state.apply([Event(event_id="last", user_id="u1", item_id="i", action="click", time=1.0)]) == [True]
    state.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from tamis.errors import StateError
from tamis.state.lmdb_ import Lmdb
from tamis.state.protocol import Event
from tamis.state.settings import StateConfig

state = Lmdb(Path(sys.argv[1]), StateConfig(map_size_gib=0.1, durable=False))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
accepted = 0
try:
    for number in range(100_000):
        state.apply([Event(event_id=f"{number}/{k}", user_id=f"u{number}", item_id=f"i{k}", action="click", time=1.0)
                     for k in range(20)])
        accepted += 20
except StateError as error:
    print("refused:", error)
refused = [Event(event_id=f"r/{k}", user_id=f"r{k}", item_id="i", action="click", time=1.0) for k in range(2000)]
try:
    state.apply(refused)
except StateError as error:
    print("refused:", error)
assert len(state.log(limit=10**6)) == accepted > 0
assert not state.user("r1").known
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert all(state.apply(refused))
assert len(state.log(limit=10**6)) == accepted + 2000
state.close()
print("fine")
"""


def test_a_full_disk_refuses_acknowledges_nothing_and_heals(tmp_path: Path) -> None:
    # A limit on the file's size stands for the disk: the write fails in the same place, at the commit.
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    *refusals, last = run.stdout.splitlines()
    assert last == "fine"
    assert len(refusals) == 2
    assert all(str(tmp_path) in line for line in refusals)


@pytest.mark.parametrize("left", [0, 1, 5000, 0.5, 0.9])
def test_a_file_that_was_cut_short_is_refused_with_what_to_do(tmp_path: Path, left: float) -> None:
    store = Transactions(tmp_path, ("a",), CONFIG)
    for number in range(100):
        put(store, b"%d" % number, b"x" * 3000)
    store.close()
    file = tmp_path / "data.mdb"
    os.truncate(file, int(left * file.stat().st_size) if isinstance(left, float) else left)
    os.utime(file, (0, 0))
    with pytest.raises(StateError, match=r"data\.mdb: is .*; put back a copy of the folder, or remove it"):
        Transactions(tmp_path, ("a",), CONFIG)


def test_a_file_that_lacks_free_pages_only_is_opened(tmp_path: Path) -> None:
    store = Transactions(tmp_path, ("a",), CONFIG)
    put(store, b"large", b"x" * 400_000)
    store.write(lambda txn: txn.delete(b"large", db=store.databases["a"]))
    for number in range(9):  # written into pages that are free
        put(store, b"%d" % number)
    store.close()
    os.truncate(tmp_path / "data.mdb", 200_000)
    store = Transactions(tmp_path, ("a",), CONFIG)
    assert get(store, b"8") == b"1"
    store.close()
