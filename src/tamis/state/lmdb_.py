"""The state in one LMDB environment: memory-mapped, shared by all processes of a machine, every change durable.

Databases (numbers are 8 bytes; big endian as keys, so that they sort):

    log        sequence number → previous sequence number of the same user, msgpack of the event
    event_ids  BLAKE2b of the event id, 16 bytes → sequence number
    users      user id → the row of `rows.py`, which knows the user's last sequence number
    items      item id → version, msgpack of the ItemRow
    changes    version → item id, the newest change of each item only
    numbers    the last sequence number and the last item version
    facts      name → text
    erased     BLAKE2b of the id of a user who was deleted → how often
    leftovers  user id → types.LEFTOVER rows, written with the next events instead of in transactions of their own

A user's log entries form a chain from his row backwards: forgetting him walks it, and ingest pays no index for it.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tamis.state.checks import check_id, item_key_bytes, require, user_key_bytes
from tamis.state.commit import Transactions
from tamis.state.fold import Rules, fold, fold_past
from tamis.state.packing import pack_event, pack_item, unpack_event, unpack_item
from tamis.state.protocol import Event, ItemRow, Past, UserRow
from tamis.state.rows import last_sequence, pack_profile, pack_row, returned, user_row, with_profile
from tamis.state.settings import StateConfig
from tamis.types import LEFTOVER

_NAMES: Final = ("log", "event_ids", "users", "items", "changes", "numbers", "facts", "erased", "leftovers")
_NUMBER: Final = struct.Struct(">Q")
_LARGEST: Final = 2**64 - 1
_SEQUENCE: Final = b"sequence"
_VERSION: Final = b"item_version"
_SEED_ROWS: Final = 500  # rows per transaction while seeding
_MOST_WAITING: Final = 4096  # users whose leftovers wait for the next events; those of more are lost, the oldest first
_TOGETHER: Final = 16  # of them written with one call's events


class Waiting(NamedTuple):
    """Leftovers that are not written yet. erased: the user's entry there when they came; they end with a deletion."""

    rows: bytes
    erased: bytes | None


class Prepared(NamedTuple):
    """An event checked and packed before the transaction, so that nothing in there can refuse it."""

    event: Event
    digest: bytes
    user: bytes
    packed: bytes


class Lmdb:
    """The state of one folder. Open it once per process, after any fork.

    Raises StateError when the folder cannot be opened, or is open in this process already.
    """

    def __init__(self, folder: Path, config: StateConfig | None = None) -> None:
        self.config = config or StateConfig()
        self._rules = Rules.of(self.config)
        self._store = Transactions(folder, _NAMES, self.config)
        handles = self._store.databases
        self._log, self._event_ids, self._users = handles["log"], handles["event_ids"], handles["users"]
        self._items, self._changes, self._numbers = handles["items"], handles["changes"], handles["numbers"]
        self._facts, self._erased, self._leftovers = handles["facts"], handles["erased"], handles["leftovers"]
        self._waiting: dict[bytes, Waiting] = {}  # user → leftovers that are not written yet, the oldest first
        self._waiting_lock = Lock()

    def user(self, user_id: str) -> UserRow:
        """The user's row; `UserRow.unknown` when nothing is remembered."""
        key = user_key_bytes(user_id)
        return user_row(self._store.read(lambda txn: txn.get(key, db=self._users)))

    def apply(self, events: Sequence[Event]) -> list[bool]:
        """[n] True: applied and on disk. Raises RequestError for the first bad event, and then none was applied."""
        prepared = [_prepare(event, f"events[{index}].") for index, event in enumerate(events)]
        if not prepared:
            return []
        waiting = self._some_waiting(_TOGETHER)

        def work(txn: Any) -> list[bool]:
            applied = self._apply(txn, prepared)
            self._write_leftovers(txn, waiting)
            return applied

        applied = self._store.write(work)
        self._written(waiting)
        return applied

    def _apply(self, txn: Any, prepared: Sequence[Prepared]) -> list[bool]:
        sequence = self._number(txn, _SEQUENCE)
        before: dict[bytes, bytes | None] = {}
        fresh: dict[bytes, list[tuple[int, Event]]] = {}
        applied = []
        for event, digest, user, packed in prepared:
            new = txn.put(digest, _NUMBER.pack(sequence + 1), overwrite=False, db=self._event_ids)
            applied.append(new)
            if not new:
                continue
            sequence += 1
            if user not in before:
                before[user] = self._row(txn, user)
                fresh[user] = []
            previous = fresh[user][-1][0] if fresh[user] else last_sequence(before[user])
            txn.put(_NUMBER.pack(sequence), _NUMBER.pack(previous) + packed, append=True, db=self._log)
            fresh[user].append((sequence, event))
        for user in sorted(fresh):
            txn.put(user, fold(before[user], fresh[user], self._rules), db=self._users)
        if fresh:
            txn.put(_SEQUENCE, _NUMBER.pack(sequence), db=self._numbers)
        return applied

    def _row(self, txn: Any, user: bytes) -> bytes | None:
        """The row to go on from; None for somebody new."""
        raw: bytes | None = txn.get(user, db=self._users)
        if raw is None and txn.get(_digest(user), db=self._erased) is not None:
            return returned()
        return raw

    def log(self, after: int = 0, limit: int = 1000) -> list[tuple[int, Event]]:
        """Up to `limit` (sequence number, event) pairs with sequence number > `after`, in order."""
        if limit < 1 or after >= _LARGEST:
            return []

        def page(txn: Any) -> list[tuple[bytes, bytes]]:
            cursor = txn.cursor(self._log)
            return list(islice(cursor, limit)) if cursor.set_range(_NUMBER.pack(max(after, 0) + 1)) else []

        pairs = self._store.read(page)
        return [(_NUMBER.unpack(key)[0], unpack_event(value[_NUMBER.size :])) for key, value in pairs]

    def put_user(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile. Raises RequestError for one that msgpack cannot hold."""
        key, packed = user_key_bytes(user_id), pack_profile(profile)
        self._store.write(lambda txn: txn.put(key, with_profile(self._row(txn, key), packed), db=self._users))

    def delete_user(self, user_id: str) -> bool:
        """Forgets the user: row, log entries, event ids. Kept: a hash of his id, so that no import brings him back.

        An event of his that is sent again afterwards counts as a new one. False when he was unknown.
        """
        key = user_key_bytes(user_id)
        with self._waiting_lock:
            self._waiting.pop(key, None)
        return self._store.write(lambda txn: self._delete(txn, key))

    def _delete(self, txn: Any, key: bytes) -> bool:
        raw = txn.pop(key, db=self._users)
        if raw is None:
            return False
        sequence = last_sequence(raw)
        while sequence and (value := txn.pop(_NUMBER.pack(sequence), db=self._log)) is not None:
            event = unpack_event(value[_NUMBER.size :])
            txn.delete(_digest(event.event_id.encode("utf-8")), db=self._event_ids)
            sequence = _NUMBER.unpack_from(value)[0]
        times = txn.get(_digest(key), db=self._erased) or _NUMBER.pack(0)  # older stores have nothing there
        txn.put(_digest(key), _NUMBER.pack(_NUMBER.unpack(times)[0] + 1), db=self._erased)
        txn.delete(key, db=self._leftovers)
        return True

    def leftovers(self, user_id: str) -> NDArray[Any]:
        """What is left over of the user's requests; of another process, what it has written."""
        key = user_key_bytes(user_id)
        waiting = self._waiting.get(key)

        def rows(txn: Any) -> bytes | None:
            if waiting and self._is_valid(txn, key, waiting):
                return waiting.rows
            raw: bytes | None = txn.get(key, db=self._leftovers)
            return raw

        return np.frombuffer(self._store.read(rows) or b"", LEFTOVER)

    def keep_leftovers(self, user_id: str, rows: NDArray[Any]) -> None:
        """Replaces it with the next events that are applied; somebody unknown has nothing."""
        key = user_key_bytes(user_id)

        def known_and_erased(txn: Any) -> tuple[bool, bytes | None]:
            return txn.get(key, db=self._users) is not None, txn.get(_digest(key), db=self._erased)

        known, erased = self._store.read(known_and_erased)
        if not known:
            return
        with self._waiting_lock:
            self._waiting.pop(key, None)  # behind all others
            self._waiting[key] = Waiting(rows.tobytes(), erased)
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]

    def _is_valid(self, txn: Any, key: bytes, waiting: Waiting) -> bool:
        """Whether the user was not deleted meanwhile, by whatever process, even if he came back."""
        erased: bytes | None = txn.get(_digest(key), db=self._erased)
        return erased == waiting.erased

    def _some_waiting(self, most: int) -> list[tuple[bytes, Waiting]]:
        with self._waiting_lock:
            return list(islice(self._waiting.items(), most))

    def _write_leftovers(self, txn: Any, some: Sequence[tuple[bytes, Waiting]]) -> None:
        for key, waiting in some:
            if self._is_valid(txn, key, waiting):
                txn.put(key, waiting.rows, db=self._leftovers)

    def _written(self, some: Sequence[tuple[bytes, Waiting]]) -> None:
        """What is on disk waits no longer, unless newer leftovers took its place."""
        with self._waiting_lock:
            for key, waiting in some:
                if self._waiting.get(key) is waiting:
                    del self._waiting[key]

    def put_item(self, item: ItemRow) -> None:
        """Stores the item as its newest version. Raises RequestError naming the field that is wrong."""
        packed, key = pack_item(item), item_key_bytes(item.item_id)
        self._store.write(lambda txn: self._put_item(txn, key, packed))

    def _put_item(self, txn: Any, key: bytes, packed: bytes) -> None:
        version = _NUMBER.pack(self._number(txn, _VERSION) + 1)
        old = txn.get(key, db=self._items)
        if old is not None:
            txn.delete(old[: _NUMBER.size], db=self._changes)
        txn.put(key, version + packed, db=self._items)
        txn.put(version, key, append=True, db=self._changes)
        txn.put(_VERSION, version, db=self._numbers)

    def item(self, item_id: str) -> ItemRow | None:
        """The newest row of an item; None when it was never put."""
        key = item_key_bytes(item_id)
        value = self._store.read(lambda txn: txn.get(key, db=self._items))
        return None if value is None else unpack_item(value[_NUMBER.size :])

    def item_version(self) -> int:
        """A number that grows with every `put_item`, in whatever process."""
        return self._store.read(lambda txn: self._number(txn, _VERSION))

    def items_since(self, version: int) -> tuple[int, list[ItemRow]]:
        """(current version, the newest row of each item put after `version`, in the order of the puts)."""

        def changed(txn: Any) -> tuple[int, list[bytes]]:
            current = self._number(txn, _VERSION)
            cursor = txn.cursor(self._changes)
            if version >= current or not cursor.set_range(_NUMBER.pack(max(version, 0) + 1)):
                return current, []
            return current, [txn.get(key, db=self._items) for key in cursor.iternext(keys=False)]

        current, values = self._store.read(changed)
        return current, [unpack_item(value[_NUMBER.size :]) for value in values]

    def seed(self, users: Iterator[tuple[str, UserRow]]) -> int:
        """Loads rows in batches; users already known or deleted before are left alone. → rows written."""
        limits = self.config.timeline_limit, self.config.seen_generations
        written = 0
        packed = ((user_key_bytes(user_id), pack_row(row, *limits)) for user_id, row in users)
        while batch := sorted(islice(packed, _SEED_ROWS)):
            written += self._store.write(partial(self._seed, batch=batch))
        return written

    def _seed(self, txn: Any, batch: Sequence[tuple[bytes, bytes]]) -> int:
        return sum(
            txn.get(_digest(key), db=self._erased) is None and txn.put(key, raw, overwrite=False, db=self._users)
            for key, raw in batch
        )

    def absorb(self, pasts: Iterator[Past]) -> int:
        """Folds the imports that rows lack, in batches; what was applied live under its event id is left out.

        → events folded
        """
        folded = 0
        while batch := list(islice(pasts, _SEED_ROWS)):
            folded += self._store.write(partial(self._absorb, batch=batch))
        return folded

    def _absorb(self, txn: Any, batch: Sequence[Past]) -> int:
        folded = 0

        def applied(event_id: str) -> bool:
            return txn.get(_digest(event_id.encode("utf-8")), db=self._event_ids) is not None

        for past in batch:
            key = user_key_bytes(past.user_id)
            raw = txn.get(key, db=self._users)
            if raw is None:
                continue
            row, count = fold_past(raw, past, applied, self._rules)
            folded += count
            if row is not raw:
                txn.put(key, row, db=self._users)
        return folded

    def facts(self) -> dict[str, str]:
        """All facts that were remembered."""
        pairs = self._store.read(lambda txn: list(txn.cursor(self._facts)))
        return {name.decode("utf-8"): value.decode("utf-8") for name, value in pairs}

    def remember(self, name: str, value: str) -> None:
        """Stores one fact, in place of an older one of that name."""
        require(check_id("name", name))
        key, text = name.encode("utf-8"), value.encode("utf-8")
        self._store.write(lambda txn: txn.put(key, text, db=self._facts))

    def close(self) -> None:
        """Writes what waits, waits for what is under way and closes the environment; closing twice does nothing."""
        if waiting := self._some_waiting(_MOST_WAITING):
            self._store.write(lambda txn: self._write_leftovers(txn, waiting))
            self._written(waiting)
        self._store.close()

    def _number(self, txn: Any, name: bytes) -> int:
        raw = txn.get(name, db=self._numbers)
        return 0 if raw is None else int(_NUMBER.unpack(raw)[0])


def _prepare(event: Event, where: str) -> Prepared:
    packed = pack_event(event, where)
    return Prepared(event, _digest(event.event_id.encode("utf-8")), event.user_id.encode("utf-8"), packed)


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=16).digest()
