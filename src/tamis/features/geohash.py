"""GeoHash: positions as cells of a grid that halves and halves again, longitude first, five bits per character.

A code is a whole number: a leading 1 and below it the 5·length bits of the cell, so that codes of different lengths
never meet, 0 is "no position", and the cell around a cell is a shift. (G. Niemeyer, 2008; a cell of 6 characters spans
0.011° of longitude and 0.0055° of latitude.)
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

LONGEST: Final = 12
_ALPHABET: Final = "0123456789bcdefghjkmnpqrstuvwxyz"
_LEVELS: Final = 30  # halvings of either side in a code of the longest length
_SPREAD: Final = (
    (16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333), (1, 0x5555555555555555),
)  # fmt: skip


def encode(latitude: Any, longitude: Any, length: int = LONGEST) -> NDArray[np.int64]:
    """[n] codes of positions in degrees; 0 where either is NaN, infinite or outside ±90, ±180.

    The edges 90 and 180 belong to the last cell. Raises ValueError for a length outside 1 to 12.
    """
    _check_length(length)
    latitude, longitude = (np.atleast_1d(np.asarray(side, np.float64)) for side in (latitude, longitude))
    there = (np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)
    rows = _place(np.where(there, latitude, 0.0), 90.0)
    columns = _place(np.where(there, longitude, 0.0), 180.0)
    bits = (_spread(columns) << np.uint64(1)) | _spread(rows)
    codes = bits.astype(np.int64) | np.int64(1 << 2 * _LEVELS)
    return np.where(there, shorter(codes, length), 0)


def shorter(codes: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """[n] the cells of `length` characters around codes of the longest length; no position stays none."""
    _check_length(length)
    return codes >> np.int64(5 * (LONGEST - length))


def around(code: int) -> NDArray[np.int64]:
    """[≤ 9] a cell, first, and the cells that touch it: over the date line, but not over a pole; [0] for none."""
    if not code:
        return np.empty(0, np.int64)
    levels = int(code).bit_length() - 1
    high, low = (levels + 1) // 2, levels // 2  # halvings of longitude and of latitude
    column, row = _sides(code, levels)
    lines = [line for line in (row, row - 1, row + 1) if 0 <= line < 1 << low]
    cells = [_joined((column + step) % (1 << high), line, levels) for step in (0, -1, 1) for line in lines]
    return np.array(list(dict.fromkeys(cells)), np.int64)


def to_text(code: int) -> str:
    """The code as usual GeoHash text, lower case; "" for none."""
    length = max(0, int(code).bit_length() - 1) // 5
    return "".join(_ALPHABET[code >> 5 * place & 31] for place in reversed(range(length)))


def from_text(text: str) -> int:
    """The code of GeoHash text, in either case; 0 for "". Raises ValueError for another character, or above 12."""
    code = 1
    for letter in text.lower():
        place = _ALPHABET.find(letter)
        if place < 0 or len(text) > LONGEST:
            raise ValueError(f"geohash {text!r}: wanted at most {LONGEST} characters of {_ALPHABET}")
        code = code << 5 | place
    return code if text else 0


def bounds(code: int) -> tuple[float, float, float, float]:
    """(south, north, west, east) of a cell in degrees. Raises ValueError for 0, which is none."""
    if code <= 0:
        raise ValueError(f"code {code} is no cell")
    levels = int(code).bit_length() - 1
    column, row = _sides(code, levels)
    height, width = 180.0 / (1 << levels // 2), 360.0 / (1 << (levels + 1) // 2)
    return row * height - 90, (row + 1) * height - 90, column * width - 180, (column + 1) * width - 180


def _check_length(length: int) -> None:
    if not 1 <= length <= LONGEST:
        raise ValueError(f"length is {length}: wanted 1 to {LONGEST}")


def _place(degrees: NDArray[np.float64], most: float) -> NDArray[np.uint64]:
    """[n] the place on the finest grid from −most to most."""
    cells = 1 << _LEVELS
    place = np.floor((degrees + most) / (2 * most) * cells)
    return np.minimum(place, cells - 1).astype(np.uint64)


def _spread(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[n] with a zero between any two of the 30 bits."""
    for shift, mask in _SPREAD:
        bits = (bits | bits << np.uint64(shift)) & np.uint64(mask)
    return bits


def _sides(code: int, levels: int) -> tuple[int, int]:
    """(column, row) of a cell on its own grid."""
    column = row = 0
    for level in range(levels):  # from the coarsest halving on
        bit = int(code) >> levels - 1 - level & 1
        if level % 2:
            row = row << 1 | bit
        else:
            column = column << 1 | bit
    return column, row


def _joined(column: int, row: int, levels: int) -> int:
    """The code of a column and a row on the grid of that many halvings."""
    code, high, low = 1, (levels + 1) // 2, levels // 2
    for level in range(levels):
        side, place = (row, low - 1 - level // 2) if level % 2 else (column, high - 1 - level // 2)
        code = code << 1 | (side >> place & 1)
    return code
