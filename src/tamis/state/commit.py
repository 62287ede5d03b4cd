"""One LMDB environment as transactions: reads beside writes, group commit, and a map that grows by itself.

*Group commit.* A commit waits for the disk (two flushes), so writers that come meanwhile queue up, and whoever goes
next takes the whole queue into one transaction. Each caller still gets his own result or error: when a group fails,
its members are tried again one by one.

*Growing.* LMDB must not be remapped while this process has a transaction open, so every transaction passes a gate, and
the thread that remaps waits until the gate is empty. Other processes notice the larger file when their next
transaction begins, and remap likewise.

A process that dies inside a write holds the write lock no longer: LMDB's lock is a robust mutex, and what was not
committed was never there.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import lmdb

from tamis.errors import StateError
from tamis.state.settings import StateConfig

T = TypeVar("T")
Work = Callable[[Any], T]
"""What to do inside a transaction, given an lmdb.Transaction; pure apart from it, for it may be run again."""

_GROUP: Final = 64  # most callers in one transaction: bounds how long the first of them waits
_LARGEST_STEP: Final = 16 * 2**30
_SMALLEST_MAP: Final = 2**20


class Gate:
    """Open to many transactions at once, or closed for the one thread that remaps."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0
        self._shut = False

    def enter(self) -> None:
        """Waits while the gate is shut. Every `enter` needs its `leave`; a thread enters once at a time."""
        with self._condition:
            while self._shut:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        """Must follow each `enter`."""
        with self._condition:
            self._inside -= 1
            if self._shut and not self._inside:
                self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Shuts the gate and waits until nobody is inside."""
        with self._condition:
            while self._shut:
                self._condition.wait()
            self._shut = True
            while self._inside:
                self._condition.wait()
        try:
            yield
        finally:
            with self._condition:
                self._shut = False
                self._condition.notify_all()


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
        self._turn = threading.Condition()
        self._queue: list[Ticket] = []
        self._busy = False
        self._closed = False
        self._environment = self._open(names, config)
        self.databases: dict[str, Any] = self.write(
            lambda txn: {name: self._environment.open_db(name.encode(), txn=txn) for name in names}
        )

    def _open(self, names: Sequence[str], config: StateConfig) -> Any:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
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
        except (lmdb.Error, OSError) as error:
            raise StateError(f"{self._folder}: cannot open the state store: {error}") from error
        return environment

    def read(self, work: Work[T]) -> T:
        """What `work` gives on one consistent snapshot. It must copy what it returns, and open no other transaction."""
        cleared = False
        while True:
            self._enter()
            try:
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
        with self._gate.alone():
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
            group, self._queue = self._queue[:_GROUP], self._queue[_GROUP:]
            return group

    def _settle(self, group: list[Ticket]) -> None:
        try:
            results = self._commit([ticket.work for ticket in group])
        except Exception as error:
            if len(group) == 1:
                group[0].settle(error=error)
                return
            for ticket in group:  # one caller's failure, or the size of the group, must not be the others'
                self._settle([ticket])
        else:
            for ticket, result in zip(group, results, strict=True):
                ticket.settle(result)
        finally:
            for ticket in group:
                if not ticket.done:  # a KeyboardInterrupt: the others must not wait for ever
                    ticket.settle(error=StateError(f"{self._folder}: interrupted before the commit was known"))

    def _commit(self, works: list[Work[Any]]) -> list[Any]:
        while True:
            self._enter()
            try:
                with self._environment.begin(write=True) as txn:
                    return [work(txn) for work in works]
            except lmdb.MapFullError:
                grow = True
            except lmdb.MapResizedError:
                grow = False
            except lmdb.Error as error:
                raise self._refusal(error) from error
            finally:
                self._gate.leave()
            self._remap(grow)

    def _enter(self) -> None:
        self._gate.enter()
        if self._closed or os.getpid() != self._process:
            self._gate.leave()
            why = "is closed" if self._closed else "was opened before this process was forked; open it again here"
            raise StateError(f"{self._folder}: the state store {why}")

    def _remap(self, grow: bool) -> None:
        """Takes over the size that another process gave the map, or doubles it."""
        with self._gate.alone():
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
