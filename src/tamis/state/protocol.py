"""What the system remembers between requests, and the one protocol that every backend of it keeps.

The event log is the truth. Applying an event and appending it to the log happen in one transaction: an event that was
acknowledged is on disk, a repeated event id is applied once, and the state can be rebuilt from the log.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tamis.bloom import Bloom
from tamis.types import TIMELINE

FORGOTTEN: Final = 2**32 - 1
"""`UserRow.imported` of somebody who was deleted and came back: later than any import."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something a user did. action: a name of types.ACTIONS. time: seconds since the epoch. position −1 = unknown."""

    event_id: str
    user_id: str
    item_id: str
    action: str
    time: float
    value: float = 0.0
    request_id: str = ""
    position: int = -1
    scene: str = ""


class ItemRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item as it was put: the well-known fields plus `extra` ones. closed: taken down, must not be shown."""

    item_id: str
    author: str | None = None
    category: str | None = None
    keywords: tuple[str, ...] = ()
    text: str | None = None
    vector: tuple[float, ...] | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    duration_seconds: float | None = None
    publish_time: float | None = None
    quality: float | None = None
    extra: dict[str, Any] = {}
    closed: bool = False


@dataclass(frozen=True, slots=True)
class UserRow:
    """All that is remembered of a user. An unknown user has an empty one.

    timeline: structured array of types.TIMELINE, oldest first, at most `timeline_limit` newest entries, only the
    actions the state was told to keep there.   seen: Bloom filters of shown items, newest last; an item is seen when
    any of them has it.   counts: events per action code.   imported: the last import of the project's data whose events
    are in the row, 0 = none; FORGOTTEN = the user was deleted before, and no import counts.
    """

    profile: Mapping[str, Any]
    timeline: NDArray[Any]
    seen: tuple[Bloom, ...]
    counts: NDArray[np.int64]
    known: bool
    imported: int = 0

    @property
    def trusted(self) -> bool:
        """Whether what a bundle learnt under this id may be used: the user is known and was never deleted."""
        return self.known and self.imported != FORGOTTEN

    @staticmethod
    def unknown(actions: int) -> "UserRow":
        return UserRow({}, np.empty(0, TIMELINE), (), np.zeros(actions, np.int64), False)


@dataclass(frozen=True, slots=True)
class Past:
    """What imports say that one user did, for `State.absorb`.

    entries: [n] of types.TIMELINE, oldest first, of all actions.   imports: [n] the import that brought each entry.
    event_ids: [n] "" where the data set has none.   imported: the newest import there is.
    """

    user_id: str
    entries: NDArray[Any]
    imports: NDArray[np.int64]
    event_ids: Sequence[str]
    imported: int


class State(Protocol):
    """A backend. Every method may be called from several threads and, for shared backends, from several processes."""

    def user(self, user_id: str) -> UserRow:
        """The user's row; `UserRow.unknown` when nothing is remembered."""
        ...

    def apply(self, events: Sequence[Event]) -> list[bool]:
        """Appends events to the log and folds them into the state, atomically and durably; all or nothing.

        [n] True: applied. False: the event id was applied before (or earlier in this call). On return every event is on
        disk. Raises StateError, or RequestError for an event that `checks.check_event` refuses, and then none of them
        was applied.
        """
        ...

    def log(self, after: int = 0, limit: int = 1000) -> list[tuple[int, Event]]:
        """Up to `limit` (sequence number, event) pairs with sequence number > `after`, in order."""
        ...

    def put_user(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile."""
        ...

    def delete_user(self, user_id: str) -> bool:
        """Forgets the user everywhere: row, log entries, event ids, leftovers. False when he was unknown.

        What stays is that he was deleted: his row is FORGOTTEN should he come back.

        Sequence numbers are never given out again, so a reader of the log misses nothing. An event of his that is sent
        again afterwards is a new one.
        """
        ...

    def leftovers(self, user_id: str) -> NDArray[Any]:
        """[n] of types.LEFTOVER: what `keep_leftovers` kept last, empty for nothing."""
        ...

    def keep_leftovers(self, user_id: str, rows: NDArray[Any]) -> None:
        """Replaces what is left over of the user's requests; somebody unknown has nothing.

        It costs no transaction of its own: a backend may write it with the next events, and other processes see it
        then. What was not written when a process dies is lost, and nothing else.
        """
        ...

    def put_item(self, item: ItemRow) -> None: ...

    def item(self, item_id: str) -> ItemRow | None: ...

    def item_version(self) -> int:
        """A number that grows with every `put_item`; cheap enough for every request."""
        ...

    def items_since(self, version: int) -> tuple[int, list[ItemRow]]:
        """(current version, the newest row of each item put after `version`, in the order of the puts)."""
        ...

    def seed(self, users: Iterator[tuple[str, UserRow]]) -> int:
        """Loads rows built from a data set's history (`fold.row_from_history`), in batches. → rows written.

        Users already known are left alone, and users who were deleted do not come back.
        """
        ...

    def absorb(self, pasts: Iterator[Past]) -> int:
        """Folds imported events into the rows of users already known, each import once per user. → events folded.

        Entries of imports that a row has already, and events whose id was applied live, are left out; so are users who
        are unknown (`seed` brings them) and those who were deleted before.
        """
        ...

    def facts(self) -> dict[str, str]:
        """Small named facts about the store itself (for instance the data set it was seeded from)."""
        ...

    def remember(self, name: str, value: str) -> None:
        """Stores one fact."""
        ...

    def close(self) -> None: ...
