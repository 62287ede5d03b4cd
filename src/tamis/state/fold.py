"""The reducer: what one event changes in a user's row. Both backends, and every rebuild from the log, use this one.

Pure: the same row and the same events in the same order give the same bytes, whatever the batches they came in.
"""

import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tamis.bloom import Bloom, add_to_bytes, count_of, expiry, parameters, started
from tamis.state.protocol import Event, Past, UserRow
from tamis.state.rows import Draft, last_import, pack, unpack, user_row
from tamis.state.settings import StateConfig
from tamis.types import ACTION_CODE, ACTIONS, TIMELINE, item_key

_ENTRY: Final = struct.Struct("<QdfB3x")  # one entry of types.TIMELINE
_TIME: Final = struct.Struct("<d")
_TIME_OFFSET: Final = 8
_DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings as the reducer needs them.

    actions: codes that go into the timeline.   empty: a new generation.   seconds: what was shown is remembered for
    at least so long, infinity = by number alone.
    """

    timeline_bytes: int
    actions: frozenset[int]
    capacity: int
    generations: int
    empty: bytes
    seconds: float

    @staticmethod
    def of(config: StateConfig) -> "Rules":
        """The rate of one generation follows from that of all: 1 − (1 − rate)^(1 / generations)."""
        seconds = config.seen_days * _DAY_SECONDS or math.inf
        rate = 1 - (1 - config.seen_false_positive_rate) ** (1 / config.seen_generations)
        return Rules(
            timeline_bytes=config.timeline_limit * TIMELINE.itemsize,
            actions=frozenset(ACTION_CODE[name] for name in config.timeline_actions),
            capacity=config.seen_capacity,
            generations=config.seen_generations,
            empty=Bloom(*parameters(config.seen_capacity, rate), 0.0 if config.seen_days else math.inf).to_bytes(),
            seconds=seconds,
        )

    def expires(self, time: float) -> float:
        """When a generation that takes what was shown at `time` is forgotten.

        Time is cut into slots of seconds / (generations − 1) since the epoch, a generation belongs to one slot and
        lives so many seconds past its end: those that are alive are never more than the settings keep.
        """
        if self.seconds == math.inf:
            return math.inf
        slot = self.seconds / (self.generations - 1)
        return (math.floor(time / slot) + 1) * slot + self.seconds


def fold(raw: bytes | None, events: Iterable[tuple[int, Event]], rules: Rules) -> bytes:
    """The user's packed row after some more of his events, given with their sequence numbers in log order.

    Every event is counted under its action. With an item, it marks that item as seen, whatever the action: data sets
    without impressions still know what a user has met, and what he hid he has seen. The actions of the settings also
    go into the timeline, at the place of their time (a late one in between, equal times in order of arrival), of which
    only the newest entries stay.
    """
    draft = unpack(raw)
    for sequence, event in events:
        key = item_key(event.item_id) if event.item_id else None
        _fold(draft, rules, ACTION_CODE[event.action], key, (event.time, event.value))
        draft.last = sequence
    return pack(draft)


def fold_past(raw: bytes, past: Past, applied: Callable[[str], bool], rules: Rules) -> tuple[bytes, int]:
    """(the row with the imports it lacks, events folded); the row as it is when it lacks none.

    applied: whether an event of that id is in the log already; such an event is not counted again.
    """
    before = last_import(raw)
    if before >= past.imported:
        return raw, 0
    draft, folded = unpack(raw), 0
    for row in np.flatnonzero(past.imports > before).tolist():
        if past.event_ids[row] and applied(past.event_ids[row]):
            continue
        entry = past.entries[row]
        moment = float(entry["time"]), float(entry["value"])
        _fold(draft, rules, int(entry["action"]), int(entry["key"]), moment)
        folded += 1
    draft.imported = past.imported
    return pack(draft), folded


def row_from_history(
    entries: NDArray[Any], config: StateConfig, profile: dict[str, Any] | None = None, imported: int = 0
) -> UserRow:
    """The row that folding a user's past gives, for `State.seed`.

    entries: [n] of types.TIMELINE, oldest first, *all* actions of the user, impressions included.
    imported: the newest import that the entries are from.
    """
    rules = Rules.of(config)
    draft = Draft.empty()
    draft.imported = imported
    draft.counts = np.bincount(entries["action"], minlength=len(ACTIONS)).tolist()
    kept = entries[np.isin(entries["action"], list(rules.actions))]
    draft.timeline = bytearray(kept[np.argsort(kept["time"], kind="stable")].tobytes()[-rules.timeline_bytes :])
    draft.seen = [bytearray(bloom.to_bytes()) for bloom in _generations(entries, rules)]
    if profile:
        draft.profile = msgspec.msgpack.encode(profile)
    return user_row(pack(draft))


def _generations(entries: NDArray[Any], rules: Rules) -> list[Bloom]:
    """What `_see` makes of many entries in turn: bit for bit the same, with all hashes computed at once."""
    empty = Bloom.from_bytes(rules.empty)
    out: list[Bloom] = []
    flags, count, expires = bytearray(empty.bits), 0, -math.inf
    times = entries["time"].tolist()
    for time, positions in zip(times, empty.positions(entries["key"]).tolist(), strict=True):
        if rules.expires(time) > expires:
            if count:
                out.append(empty.with_flags(flags, count, expires))
                flags, count = bytearray(empty.bits), 0
            expires = rules.expires(time)
        new = False
        for position in positions:
            if not flags[position]:
                flags[position] = 1
                new = True
        count += new
        if count >= rules.capacity:
            out.append(empty.with_flags(flags, count, expires))
            flags, count = bytearray(empty.bits), 0
    if times:
        out.append(empty.with_flags(flags, count, expires))
    return out[-rules.generations :]


def _fold(draft: Draft, rules: Rules, action: int, key: int | None, moment: tuple[float, float]) -> None:
    """One event into the draft. moment: (time, value). key None: an event without an item."""
    draft.counts[action] += 1
    if key is None:
        return
    time, value = moment
    _see(draft.seen, key, time, rules)
    if action in rules.actions:
        _insert(draft.timeline, _ENTRY.pack(key, time, value, action), time)
        excess = len(draft.timeline) - rules.timeline_bytes
        if excess > 0:
            del draft.timeline[:excess]


def _see(seen: list[bytearray], key: int, time: float, rules: Rules) -> None:
    """Adds the key to the newest generation, also when an older one has it: met again, remembered for longer."""
    if not seen or len(seen[-1]) != len(rules.empty):  # none yet, or the settings changed since it was started
        seen.append(started(rules.empty, rules.expires(time)))
    elif rules.seconds < math.inf and rules.expires(time) > expiry(seen[-1]):
        if not count_of(seen[-1]):
            seen.pop()
        seen.append(started(rules.empty, rules.expires(time)))  # what comes late goes to the newest, and stays longer
    if add_to_bytes(seen[-1], key) >= rules.capacity:
        seen.append(started(rules.empty, expiry(seen[-1])))
    del seen[: -rules.generations]


def _insert(timeline: bytearray, entry: bytes, time: float) -> None:
    """Puts an entry behind all that are not later than it."""
    size = TIMELINE.itemsize
    low, high = 0, len(timeline) // size
    if high and _TIME.unpack_from(timeline, len(timeline) - size + _TIME_OFFSET)[0] <= time:
        low = high  # nearly every event is the newest one
    while low < high:
        middle = (low + high) // 2
        if _TIME.unpack_from(timeline, middle * size + _TIME_OFFSET)[0] <= time:
            low = middle + 1
        else:
            high = middle
    timeline[low * size : low * size] = entry
