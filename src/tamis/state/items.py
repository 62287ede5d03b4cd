"""Items as the backends store them: msgpack, so that nobody can change a stored item through what he put or got."""

from typing import Final

import msgspec

from tamis.errors import RequestError
from tamis.state.checks import check_item, require
from tamis.state.protocol import ItemRow

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(ItemRow)


def prepare_item(item: ItemRow) -> tuple[bytes, bytes]:
    """(key, packed) of an item that can be read back. Raises RequestError naming the field for any other."""
    require(check_item(item))
    try:
        packed = _ENCODER.encode(item)
        _DECODER.decode(packed)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise RequestError(f"item: cannot be stored: {error}", field="item") from None
    return item.item_id.encode("utf-8"), packed


def decode_item(packed: bytes) -> ItemRow:
    """The item that `prepare_item` packed."""
    return _DECODER.decode(packed)
