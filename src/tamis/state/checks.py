"""What the state accepts: the checks of ids, events and items that stand before every write.

A problem is a sentence that begins with the name of the field, "" when there is none, so that a server can reject one
event of a list and apply the others.
"""

import math
from typing import Final

from tamis.errors import RequestError
from tamis.state.protocol import Event, ItemRow
from tamis.types import ACTION_CODE, ACTIONS

ID_BYTES: Final = 256
"""Longest id, in bytes of UTF-8: LMDB keys hold at most 511."""

_LATEST: Final = 1e11  # seconds since the epoch: the year 5138. Milliseconds of any date since 1973 are above it.
_LARGEST_VALUE: Final = 3.4e38  # timelines keep 32-bit floats
_LARGEST_POSITION: Final = 2**31 - 1
_AMOUNTS: Final = {"play": "seconds played", "rate": "stars (0 = unknown)"}


def check_id(field: str, text: str) -> str:
    """What is wrong with an id: it must have 1 to 256 bytes of UTF-8. "" when nothing is."""
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            return f"{field}: not encodable as UTF-8 (a lone surrogate)"
    return "" if 0 < size <= ID_BYTES else f"{field}: {size} bytes of UTF-8, wanted 1 to {ID_BYTES}"


def check_event(event: Event) -> str:
    """What is wrong with an event, beginning with the field's name; "" when it can be applied.

    item_id, request_id and scene may be empty: an event without an item is counted, and that is all.
    """
    problem = check_id("event_id", event.event_id) or check_id("user_id", event.user_id)
    if problem:
        return problem
    for field, text in (("item_id", event.item_id), ("request_id", event.request_id), ("scene", event.scene)):
        if text and (problem := check_id(field, text)):
            return problem
    return _check_action(event) or _check_numbers(event)


def _check_action(event: Event) -> str:
    if event.action in ACTION_CODE:
        return ""
    return f"action: {event.action[:40]!r} is unknown; there are {', '.join(ACTIONS)}"


def _check_numbers(event: Event) -> str:
    if not (math.isfinite(event.time) and abs(event.time) < _LATEST):
        return f"time: {event.time!r}, wanted seconds (not milliseconds) since the epoch"
    if not (math.isfinite(event.value) and abs(event.value) < _LARGEST_VALUE):
        return f"value: {event.value!r}, wanted a finite number"
    if event.action in _AMOUNTS and event.value < 0:
        return f"value: {event.value!r}, wanted {_AMOUNTS[event.action]}, at least 0"
    if not -1 <= event.position <= _LARGEST_POSITION:
        return f"position: {event.position}, wanted −1 (unknown) or a place on the page"
    return ""


def check_item(item: ItemRow) -> str:
    """What is wrong with an item, beginning with the field's name; "" when it can be put."""
    problem = check_id("item_id", item.item_id)
    if problem:
        return problem
    for field in ("latitude", "longitude", "duration_seconds", "publish_time", "quality"):
        number = getattr(item, field)
        if number is not None and not math.isfinite(number):
            return f"{field}: {number!r}, wanted a finite number"
    if item.vector is not None and not all(map(math.isfinite, item.vector)):
        return "vector: has a value that is not finite"
    return ""


def require(problem: str, where: str = "") -> None:
    """Raises RequestError for a problem, its `field` set; `where` goes before the field ("events[3].")."""
    if problem:
        raise RequestError(where + problem, field=where + problem.partition(":")[0])


def user_key_bytes(user_id: str) -> bytes:
    """The checked bytes a user is stored under. Raises RequestError naming user_id."""
    require(check_id("user_id", user_id))
    return user_id.encode("utf-8")


def item_key_bytes(item_id: str) -> bytes:
    """The checked bytes an item is stored under. Raises RequestError naming item_id."""
    require(check_id("item_id", item_id))
    return item_id.encode("utf-8")
