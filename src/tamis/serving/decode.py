"""From bytes to the structs of `wire`: strict, and every refusal names the field."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from tamis.errors import RequestError
from tamis.serving.wire import EventRequest, RejectedEvent

T = TypeVar("T")


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """A request body as its struct. Raises RequestError with the path of the offending field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(_malformed(body, error)) from None


_EVENTS: Final = msgspec.json.Decoder(EventRequest | list[EventRequest])
_EVENT: Final = msgspec.json.Decoder(EventRequest)
_PARTS: Final = msgspec.json.Decoder(list[msgspec.Raw])


def decode_events(body: bytes, most: int) -> tuple[list[EventRequest | RejectedEvent], bool]:
    """(one entry per event of the body, whether the body was a single event).

    An event of a list that is wrong in itself becomes a RejectedEvent in its place; a single one raises RequestError,
    as do a body that is not JSON and a list longer than `most`.
    """
    try:
        events = _EVENTS.decode(body)
        single = isinstance(events, EventRequest)
        found: list[EventRequest | RejectedEvent] = [events] if isinstance(events, EventRequest) else list(events)
    except ValueError:
        if not body.lstrip().startswith(b"["):
            found, single = [decode(_EVENT, body)], True
        else:
            parts: list[msgspec.Raw] = decode(_PARTS, body)
            found, single = [_event(index, bytes(part)) for index, part in enumerate(parts)], False
    if len(found) > most:
        raise RequestError(f"{len(found)} events in one call, at most {most}")
    return found, single


def _event(index: int, body: bytes) -> EventRequest | RejectedEvent:
    try:
        return decode(_EVENT, body)
    except RequestError as error:
        return RejectedEvent(index, str(error), error.field)


_PATH: Final = re.compile(r" - at (?:`key` in )?`(?P<path>[^`]*)`$")
_NAMED: Final = re.compile(r"(?:unknown|required) field `(?P<name>[^`]*)`")


def _invalid(message: str) -> RequestError:
    """The words of msgspec taken apart: "Expected `int`, got `str` - at `$.size`" → message and field `size`."""
    path = ""
    if at := _PATH.search(message):
        path = at["path"].removeprefix("$").removeprefix(".")
        message = message[: at.start()]
    if named := _NAMED.search(message):
        path = f"{path}.{named['name']}" if path else named["name"]
    message = message[:1].lower() + message[1:]
    return RequestError(f"{path}: {message}" if path else message, path)


def _malformed(body: bytes, error: Exception) -> str:
    if not body:
        return "the body is empty; wanted JSON"
    if isinstance(error, UnicodeDecodeError):
        return "the body is not UTF-8"
    if isinstance(error, RecursionError):
        return "the body is nested too deeply"
    text = str(error)
    if text == "Input data was truncated":  # which msgspec says of a string that ends in half a pair, too
        return "the body is cut off, or has half of a surrogate pair in a string"
    return text[:1].lower() + text[1:] if "JSON" not in text[:4] else text


def integer(query: Mapping[str, Sequence[str]], name: str, default: int) -> int:
    """An integer of a query string. Raises RequestError when it is not one."""
    values = query.get(name)
    if not values:
        return default
    text = values[-1]
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise RequestError(f"{name}: wanted an integer, got {text[:40]!r}", name)
    return int(text)
