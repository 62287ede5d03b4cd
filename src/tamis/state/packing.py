"""Events and items as msgpack, the form in which they outlive a process; only what can be read back is let in.

Packed, they are also out of reach: nobody can change a stored item through the object that he put or got.
"""

from typing import Any, Final

import msgspec
import numpy as np

from tamis.errors import RequestError
from tamis.state.checks import check_event, check_item, require
from tamis.state.protocol import Event, ItemRow


def _plain(value: Any) -> Any:
    """The Python number of a NumPy scalar, which msgpack does not know."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be stored")


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
_EVENT: Final = msgspec.msgpack.Decoder(Event)
_ITEM: Final = msgspec.msgpack.Decoder(ItemRow)


def pack_event(event: Event, where: str = "") -> bytes:
    """The event packed. Raises RequestError, its field after `where` ("events[3]."), for one that must not get in."""
    require(check_event(event), where)
    return _pack(event, _EVENT, where + "event")


def unpack_event(packed: bytes) -> Event:
    """The event that `pack_event` packed."""
    return _EVENT.decode(packed)


def pack_item(item: ItemRow) -> bytes:
    """The item packed. Raises RequestError naming the field for one that must not get in."""
    require(check_item(item))
    return _pack(item, _ITEM, "item")


def unpack_item(packed: bytes) -> ItemRow:
    """The item that `pack_item` packed."""
    return _ITEM.decode(packed)


def _pack(row: Event | ItemRow, decoder: msgspec.msgpack.Decoder[Any], field: str) -> bytes:
    try:
        packed = _ENCODER.encode(row)
        decoder.decode(packed)  # a bool as a number would be written and never be read again
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise RequestError(f"{field}: cannot be stored: {error}", field=field) from None
    return packed
