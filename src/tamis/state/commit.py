"""One LMDB environment as transactions: reads beside writes, group commit, and a map that grows by itself.

*Group commit.* A commit waits for the disk (two flushes), so writers that come meanwhile queue up, and whoever goes
next takes the whole queue into one transaction. Each caller still gets his own result or error: when a group fails,
its members are tried again one by one.

*Growing.* LMDB must not be remapped while this process has a transaction open, so every read passes a gate, and the
thread that remaps closes it and waits until nobody is inside. Other processes notice the larger file when their next
transaction begins, and remap likewise.

A process that dies inside a write holds the write lock no longer: LMDB's lock is a robust mutex, and what was not
committed was never there.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import lmdb

from tamis.artifact import folder_durably, sync
from tamis.errors import StateError
from tamis.state.settings import StateConfig

T = TypeVar("T")
Work = Callable[[Any], T]
"""What to do inside a transaction, given an lmdb.Transaction; pure apart from it, for it may be run again."""

_GROUP: Final = 64  # most callers in one transaction: bounds how long the first of them waits
_LARGEST_STEP: Final = 16 * 2**30
_SMALLEST_MAP: Final = 2**20
_FILE: Final = "data.mdb"
_YOUNG_SECONDS: Final = 1.0  # an empty file this young may be one that another process is just making
_WALK: Final = """
import lmdb, sys
folder, *names = sys.argv[1:]
with lmdb.open(folder, max_dbs=len(names), create=False) as store, store.begin() as txn:
    for name in names:
        if txn.get(name.encode()) is not None:
            for _ in txn.cursor(store.open_db(name.encode(), txn=txn, create=False)):
                pass
"""


class Gate:
    """Open to many reads at once, or closed by the one thread that wants to be alone.

    Closing starts with a flag that those who come look at before they take the lock: a thread that has to fight for the
    lock with busy readers may otherwise wait for a minute, since Python's locks are not fair.
    """

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._left = threading.Condition(threading.Lock())
        self._inside = 0

    def enter(self) -> None:
        """Waits while the gate is closed. Every `enter` needs its `leave`; a thread enters once at a time."""
        while True:
            if not self._open.is_set():
                self._open.wait()
            with self._left:
                if self._open.is_set():
                    self._inside += 1
                    return

    def leave(self) -> None:
        """Must follow each `enter`."""
        with self._left:
            self._inside -= 1
            if not self._inside:
                self._left.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Closes the gate, waits until nobody is inside, and opens it afterwards. For one thread at a time."""
        self._open.clear()
        try:
            with self._left:
                while self._inside:
                    self._left.wait()
            yield
        finally:
            self._open.set()


class Ticket:
    """One caller's work in the queue, and later its result or its error."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None

    def settle(self, result: Any = None, error: Exception | None = None) -> None:
        self.result, self.error, self.done = result, error, True


class Transactions:
    """The environment of one folder, open in this process. Every method may be called from any thread.

    databases: the handle of each name given.   Raises StateError for whatever LMDB or the disk refuses.
    """

    def __init__(self, folder: Path, names: Sequence[str], config: StateConfig) -> None:
        self._folder = folder
        self._process = os.getpid()
        self._gate = Gate()
        self._writing = threading.Lock()  # held by whoever writes, remaps or closes
        self._turn = threading.Condition()
        self._queue: list[Ticket] = []
        self._busy = False
        self._closed = False
        self._environment = self._open(names, config)
        self.databases: dict[str, Any] = self.write(
            lambda txn: {name: self._environment.open_db(name.encode(), txn=txn) for name in names}
        )

    def _open(self, names: Sequence[str], config: StateConfig) -> Any:
        file = self._folder / _FILE
        try:
            self._refuse_emptied(file)
            there = next(folder for folder in self._folder.absolute().parents if folder.is_dir())
            folder_durably(self._folder.absolute(), there)
            environment = lmdb.open(
                str(self._folder),
                map_size=max(_SMALLEST_MAP, int(config.map_size_gib * 2**30) // _SMALLEST_MAP * _SMALLEST_MAP),
                max_dbs=len(names),
                max_readers=config.max_readers,
                max_spare_txns=16,
                readahead=False,  # rows are read at random, and the file may be larger than memory
                sync=config.durable,
                metasync=config.durable,
            )
            environment.reader_check()  # slots of processes that were killed would keep old pages alive
            sync(self._folder)  # LMDB flushes its file but not the file's name
        except lmdb.InvalidError:
            raise self._damaged("is no state store of LMDB") from None
        except (lmdb.Error, OSError) as error:
            raise StateError(f"{self._folder}: cannot open the state store: {error}") from error
        wanted, there_are = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"], file.stat().st_size
        if there_are < wanted and not _readable(self._folder, names):
            environment.close()
            raise self._damaged(f"is cut short: {there_are:,} bytes, wanted {wanted:,}")
        return environment

    def _refuse_emptied(self, file: Path) -> None:
        """LMDB takes an empty file for a new store, and what was in it would be forgotten without a word."""
        if file.exists() and not file.stat().st_size and time.time() - file.stat().st_mtime > _YOUNG_SECONDS:
            raise self._damaged("is empty")

    def _damaged(self, what: str) -> StateError:
        hint = "put back a copy of the folder, or remove it to begin a new state from the imported data"
        return StateError(f"{self._folder / _FILE}: {what}; {hint}")

    def read(self, work: Work[T]) -> T:
        """What `work` gives on one consistent snapshot. It must copy what it returns, and open no other transaction."""
        cleared = False
        while True:
            self._gate.enter()
            try:
                self._check_usable()
                with self._environment.begin() as txn:
                    return work(txn)
            except lmdb.MapResizedError:
                pass
            except lmdb.ReadersFullError as error:
                if cleared or not self._environment.reader_check():
                    raise self._refusal(error) from error
                cleared = True
                continue
            except lmdb.Error as error:
                raise self._refusal(error) from error
            finally:
                self._gate.leave()
            with self._writing:
                self._remap(grow=False)

    def write(self, work: Work[T]) -> T:
        """What `work` gives, once it is committed and on disk. On any error nothing of it was applied."""
        ticket = Ticket(work)
        with self._turn:
            self._queue.append(ticket)
        while group := self._turn_of(ticket):
            try:
                self._settle(group)
            finally:
                with self._turn:
                    self._busy = False
                    self._turn.notify_all()
        if ticket.error is not None:
            raise ticket.error
        return cast(T, ticket.result)

    def close(self) -> None:
        """Waits for the transactions under way. Closing twice does nothing; any other call afterwards is an error."""
        with self._writing, self._gate.closed():
            self._closed = True
            self._environment.close()

    def _turn_of(self, ticket: Ticket) -> list[Ticket]:
        """The group this thread has to commit now; empty once its own ticket is done. The oldest come first."""
        with self._turn:
            while self._busy and not ticket.done:
                self._turn.wait()
            if ticket.done:
                return []
            self._busy = True
            return self._take(_GROUP)

    def _take(self, most: int) -> list[Ticket]:
        """The oldest tickets of the queue. Needs `_turn`."""
        taken, self._queue = self._queue[:most], self._queue[most:]
        return taken

    def _settle(self, group: list[Ticket], joinable: bool = True) -> None:
        """Commits the group and settles all of it. joinable: whoever comes before the commit may still join."""
        try:
            results = self._commit(group, joinable)
        except Exception as error:
            if len(group) == 1:
                group[0].settle(error=error)
                return
            for ticket in group:  # one caller's failure, or the size of the group, must not be the others'
                self._settle([ticket], joinable=False)
        else:
            for ticket, result in zip(group, results, strict=True):
                ticket.settle(result)
        finally:
            for ticket in group:
                if not ticket.done:  # a KeyboardInterrupt: the others must not wait for ever
                    ticket.settle(error=StateError(f"{self._folder}: interrupted before the commit was known"))

    def _commit(self, group: list[Ticket], joinable: bool) -> list[Any]:
        """The results of the group's works, committed; what joined is added to `group`."""
        with self._writing:
            while True:
                try:
                    return self._attempt(group, joinable)
                except lmdb.MapFullError:
                    grow = True
                except lmdb.MapResizedError:
                    grow = False
                except lmdb.Error as error:
                    raise self._refusal(error) from error
                self._remap(grow)

    def _attempt(self, group: list[Ticket], joinable: bool) -> list[Any]:
        self._check_usable()
        txn = self._environment.begin(write=True)
        results: list[Any] = []
        try:
            while len(results) < len(group):
                results += [ticket.work(txn) for ticket in group[len(results) :]]
                # Those served by the last commit are just coming back: without them every second group is of one.
                if joinable:
                    with self._turn:
                        group += self._take(_GROUP - len(group))
            txn.commit()
        except BaseException:
            # py-lmdb waits in an abort until no operation is under way, which busy readers would put off without end.
            with self._gate.closed():
                txn.abort()
            raise
        return results

    def _check_usable(self) -> None:
        if self._closed:
            raise StateError(f"{self._folder}: the state store is closed")
        if os.getpid() != self._process:
            raise StateError(f"{self._folder}: the state store was opened before this process was forked; open its own")

    def _remap(self, grow: bool) -> None:
        """Takes over the size that another process gave the map, or doubles it. Needs `_writing`."""
        with self._gate.closed():
            self._check_usable()
            try:
                before = self._environment.info()["map_size"]
                self._environment.set_mapsize(0)  # the size in the file
                now = self._environment.info()["map_size"]
                if grow and now <= before:
                    self._environment.reader_check()
                    self._environment.set_mapsize(before + min(before, _LARGEST_STEP))
            except lmdb.Error as error:
                raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> StateError:
        return StateError(f"{self._folder}: the state store refused: {error}")


def _readable(folder: Path, names: Sequence[str]) -> bool:
    """Whether every entry can be read, found out by another process, since reading behind the end of a map kills.

    Only for files that end before their last page: nearly all are damaged, but LMDB may leave free pages unwritten.
    """
    walk = [sys.executable, "-c", _WALK, str(folder), *names]
    return not subprocess.run(walk, capture_output=True, check=False).returncode
