"""The state in this process's memory: for tests, simulations and trying things out. Nothing outlives the process."""

import threading
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tamis.state.checks import check_id, item_key_bytes, require, user_key_bytes
from tamis.state.fold import Rules, fold, fold_past
from tamis.state.packing import pack_event, pack_item, unpack_item
from tamis.state.protocol import Event, ItemRow, Past, UserRow
from tamis.state.rows import pack_profile, pack_row, returned, user_row, with_profile
from tamis.state.settings import StateConfig
from tamis.types import LEFTOVER

_NOTHING: Final = np.empty(0, LEFTOVER)


class Memory:
    """A state that lives as long as the object. One lock; rows are kept packed, as every backend keeps them."""

    def __init__(self, config: StateConfig | None = None) -> None:
        self.config = config or StateConfig()
        self._rules = Rules.of(self.config)
        self._lock = threading.RLock()
        self._rows: dict[bytes, bytes] = {}
        self._log: list[tuple[int, Event]] = []
        self._sequence = 0
        self._event_ids: set[str] = set()
        self._items: dict[bytes, tuple[int, bytes]] = {}  # in the order of the newest puts
        self._version = 0
        self._facts: dict[str, str] = {}
        self._erased: set[bytes] = set()
        self._leftovers: dict[bytes, NDArray[Any]] = {}

    def user(self, user_id: str) -> UserRow:
        """The user's row; `UserRow.unknown` when nothing is remembered."""
        key = user_key_bytes(user_id)
        with self._lock:
            raw = self._rows.get(key)
        return user_row(raw)

    def apply(self, events: Sequence[Event]) -> list[bool]:
        """[n] True: applied. Raises RequestError for the first bad event, and then none was applied."""
        for index, event in enumerate(events):
            pack_event(event, f"events[{index}].")  # refuses what another backend would
        with self._lock:
            applied: list[bool] = []
            fresh: dict[bytes, list[tuple[int, Event]]] = {}
            new: dict[str, tuple[int, Event]] = {}
            for event in events:
                applied.append(event.event_id not in self._event_ids and event.event_id not in new)
                if applied[-1]:
                    new[event.event_id] = (self._sequence + len(new) + 1, event)
                    fresh.setdefault(event.user_id.encode("utf-8"), []).append(new[event.event_id])
            rows = {user: fold(self._row(user), entries, self._rules) for user, entries in fresh.items()}
            self._rows.update(rows)
            self._event_ids.update(new)
            self._log.extend(new.values())
            self._sequence += len(new)
        return applied

    def _row(self, user: bytes) -> bytes | None:
        """The row to go on from; None for somebody new. Needs the lock."""
        return self._rows.get(user) or (returned() if user in self._erased else None)

    def log(self, after: int = 0, limit: int = 1000) -> list[tuple[int, Event]]:
        """Up to `limit` (sequence number, event) pairs with sequence number > `after`, in order."""
        with self._lock:
            start = bisect_right(self._log, after, key=lambda entry: entry[0])
            return self._log[start : start + max(limit, 0)]

    def put_user(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile. Raises RequestError for one that msgpack cannot hold."""
        key, packed = user_key_bytes(user_id), pack_profile(profile)
        with self._lock:
            self._rows[key] = with_profile(self._row(key), packed)

    def delete_user(self, user_id: str) -> bool:
        """Forgets the user: row, log entries, event ids. Kept: his id, so that no import brings him back."""
        key = user_key_bytes(user_id)
        with self._lock:
            if self._rows.pop(key, None) is None:
                return False
            self._event_ids.difference_update(event.event_id for _, event in self._log if event.user_id == user_id)
            self._log = [entry for entry in self._log if entry[1].user_id != user_id]
            self._erased.add(key)
            self._leftovers.pop(key, None)
        return True

    def leftovers(self, user_id: str) -> NDArray[Any]:
        """What is left over of the user's requests."""
        return self._leftovers.get(user_key_bytes(user_id), _NOTHING)

    def keep_leftovers(self, user_id: str, rows: NDArray[Any]) -> None:
        """Replaces it; somebody unknown has nothing."""
        key = user_key_bytes(user_id)
        with self._lock:
            if key in self._rows:
                self._leftovers[key] = rows

    def put_item(self, item: ItemRow) -> None:
        """Stores the item as its newest version. Raises RequestError naming the field that is wrong."""
        packed, key = pack_item(item), item_key_bytes(item.item_id)
        with self._lock:
            self._version += 1
            self._items.pop(key, None)
            self._items[key] = (self._version, packed)

    def item(self, item_id: str) -> ItemRow | None:
        """The newest row of an item; None when it was never put."""
        key = item_key_bytes(item_id)
        with self._lock:
            entry = self._items.get(key)
        return None if entry is None else unpack_item(entry[1])

    def item_version(self) -> int:
        """A number that grows with every `put_item`."""
        return self._version

    def items_since(self, version: int) -> tuple[int, list[ItemRow]]:
        """(current version, the newest row of each item put after `version`, in the order of the puts)."""
        with self._lock:
            if version >= self._version:
                return self._version, []
            changed = [packed for put, packed in self._items.values() if put > version]
            return self._version, [unpack_item(packed) for packed in changed]

    def seed(self, users: Iterator[tuple[str, UserRow]]) -> int:
        """Loads rows; users already known or deleted before are left alone. → rows written."""
        written = 0
        for user_id, row in users:
            key = user_key_bytes(user_id)
            raw = pack_row(row, self.config.timeline_limit, self.config.seen_generations)
            with self._lock:
                if key not in self._rows and key not in self._erased:
                    self._rows[key] = raw
                    written += 1
        return written

    def absorb(self, pasts: Iterator[Past]) -> int:
        """Folds the imports that rows lack; what was applied live under its event id is left out. → events folded"""
        folded = 0
        for past in pasts:
            key = user_key_bytes(past.user_id)
            with self._lock:
                if key in self._rows:
                    self._rows[key], count = fold_past(self._rows[key], past, self._event_ids.__contains__, self._rules)
                    folded += count
        return folded

    def facts(self) -> dict[str, str]:
        """All facts that were remembered."""
        with self._lock:
            return dict(self._facts)

    def remember(self, name: str, value: str) -> None:
        """Stores one fact, in place of an older one of that name."""
        require(check_id("name", name))
        with self._lock:
            self._facts[name] = value

    def close(self) -> None:
        """Nothing to close; the state stays readable."""
