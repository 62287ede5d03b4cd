"""A user's row as one packed value: what a backend stores, so that reading a user is one look-up and one copy.

Little endian, every section at a multiple of 8 bytes up to the timeline:

    header     format u16, counters u8, generations u8, timeline entries u32, profile bytes u32, imports folded in u32,
               sequence number of the user's last event u64 (0 = none)
    counters   i64 each, one per action code
    timeline   types.TIMELINE entries, oldest first
    sizes      u32 per generation
    seen       the generations, newest last, each as Bloom.to_bytes wrote it
    profile    msgpack of a mapping
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from tamis.bloom import Bloom
from tamis.errors import RequestError, StateError
from tamis.state.protocol import FORGOTTEN, UserRow
from tamis.types import ACTIONS, TIMELINE

_FORMAT: Final = 1
_HEADER: Final = struct.Struct("<HBBIIIQ")
_LAST: Final = struct.Struct("<Q")
_LAST_OFFSET: Final = _HEADER.size - _LAST.size
_IMPORTED: Final = struct.Struct("<I")
_IMPORTED_OFFSET: Final = _LAST_OFFSET - _IMPORTED.size
_EMPTY_PROFILE: Final = msgspec.msgpack.encode({})
_ENCODER: Final = msgspec.msgpack.Encoder()
_PROFILE: Final = msgspec.msgpack.Decoder(dict[str, Any])


@dataclass(slots=True)
class Draft:
    """An unpacked row that one fold owns and changes; nobody else ever sees it."""

    counts: list[int]
    timeline: bytearray
    seen: list[bytearray]
    profile: bytes
    last: int
    imported: int

    @staticmethod
    def empty() -> "Draft":
        return Draft([0] * len(ACTIONS), bytearray(), [], _EMPTY_PROFILE, 0, 0)


def returned() -> bytes:
    """The row with which somebody who was deleted begins anew."""
    draft = Draft.empty()
    draft.imported = FORGOTTEN
    return pack(draft)


def last_sequence(raw: bytes | None) -> int:
    """The sequence number of the user's last event; 0 when there is no row or no event."""
    return 0 if raw is None else int(_LAST.unpack_from(raw, _LAST_OFFSET)[0])


def last_import(raw: bytes) -> int:
    """The last import whose events are in the row; 0 when none is."""
    return int(_IMPORTED.unpack_from(raw, _IMPORTED_OFFSET)[0])


def unpack(raw: bytes | None) -> Draft:
    """The row as a draft; an empty one for None. Raises StateError for a value of another format."""
    if raw is None:
        return Draft.empty()
    counters, sizes, entries, last = _header(raw)
    at = _HEADER.size
    counts = list(struct.unpack_from(f"<{counters}q", raw, at))
    counts += [0] * (len(ACTIONS) - counters)  # a row from before the newest action was added
    at += 8 * counters
    timeline = bytearray(raw[at : at + entries * TIMELINE.itemsize])
    at += len(timeline) + 4 * len(sizes)
    seen = []
    for size in sizes:
        seen.append(bytearray(raw[at : at + size]))
        at += size
    return Draft(counts, timeline, seen, raw[at:], last, last_import(raw))


def pack(draft: Draft) -> bytes:
    """The one value that `unpack` and `user_row` read."""
    entries = len(draft.timeline) // TIMELINE.itemsize
    header = (_FORMAT, len(draft.counts), len(draft.seen), entries, len(draft.profile), draft.imported, draft.last)
    return b"".join(
        (
            _HEADER.pack(*header),
            struct.pack(f"<{len(draft.counts)}q", *draft.counts),
            draft.timeline,
            struct.pack(f"<{len(draft.seen)}I", *map(len, draft.seen)),
            *draft.seen,
            draft.profile,
        )
    )


def user_row(raw: bytes | None) -> UserRow:
    """The row as callers see it: read-only arrays over `raw`; `UserRow.unknown` for None."""
    if raw is None:
        return UserRow.unknown(len(ACTIONS))
    counters, sizes, entries, _ = _header(raw)
    at = _HEADER.size
    counts = np.frombuffer(raw, np.int64, counters, at)
    if counters < len(ACTIONS):
        counts = np.concatenate([counts, np.zeros(len(ACTIONS) - counters, np.int64)])
    at += 8 * counters
    timeline = np.frombuffer(raw, TIMELINE, entries, at)
    at += entries * TIMELINE.itemsize + 4 * len(sizes)
    seen = []
    for size in sizes:
        seen.append(Bloom.from_bytes(raw[at : at + size]))
        at += size
    return UserRow(_PROFILE.decode(raw[at:]), timeline, tuple(seen), counts, True, last_import(raw))


def pack_row(row: UserRow, timeline_limit: int, generations: int) -> bytes:
    """A row that was built elsewhere, packed: sorted by time, cut to the newest entries and generations."""
    timeline = row.timeline[np.argsort(row.timeline["time"], kind="stable")][-timeline_limit:]
    counts = [int(count) for count in row.counts]
    counts += [0] * (len(ACTIONS) - len(counts))
    seen = [bytearray(bloom.to_bytes()) for bloom in row.seen[-generations:]]
    return pack(Draft(counts, bytearray(timeline.tobytes()), seen, pack_profile(row.profile), 0, row.imported))


def pack_profile(profile: Mapping[str, Any]) -> bytes:
    """A profile as msgpack. Raises RequestError naming `profile` for what msgpack cannot hold."""
    try:
        packed = _ENCODER.encode(dict(profile))
        _PROFILE.decode(packed)  # what cannot be read back must not get in
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise RequestError(f"profile: cannot be stored: {error}", field="profile") from None
    return packed


def with_profile(raw: bytes | None, profile: bytes) -> bytes:
    """The row with another packed profile."""
    draft = unpack(raw)
    draft.profile = profile
    return pack(draft)


def _header(raw: bytes) -> tuple[int, tuple[int, ...], int, int]:
    """(counters, sizes of the generations, timeline entries, last sequence), checked against the length."""
    if len(raw) < _HEADER.size:
        raise StateError(f"user row of {len(raw)} bytes: wanted at least {_HEADER.size}; the store is damaged")
    version, counters, generations, entries, profile_bytes, _, last = _HEADER.unpack_from(raw)
    if version != _FORMAT:
        raise StateError(f"user row of format {version}: this version reads format {_FORMAT}")
    at = _HEADER.size + 8 * counters + entries * TIMELINE.itemsize
    if at + 4 * generations > len(raw):
        raise StateError(f"user row of {len(raw)} bytes is cut off; the store is damaged")
    sizes = struct.unpack_from(f"<{generations}I", raw, at)
    if at + 4 * generations + sum(sizes) + profile_bytes != len(raw):
        raise StateError(f"user row of {len(raw)} bytes does not fit its header; the store is damaged")
    return counters, sizes, entries, last
