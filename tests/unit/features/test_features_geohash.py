import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.features.geohash import LONGEST, around, bounds, encode, from_text, shorter, to_text

latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)


def test_geo_1_the_public_test_vector() -> None:
    assert to_text(int(encode(57.64911, 10.40744, 11)[0])) == "u4pruydqqvj"


@pytest.mark.parametrize(
    ("cell", "corners"),
    [
        ("6g6vvf", (-25.697021484375, -25.6915283203125, -52.130126953125, -52.119140625)),
        ("6fh4mc", (-33.3489990234375, -33.343505859375, -50.372314453125, -50.361328125)),
    ],
)
def test_geo_1_known_cells_both_ways_and_in_either_case(cell: str, corners: tuple[float, float, float, float]) -> None:
    south, north, west, east = bounds(from_text(cell))
    assert (south, north, west, east) == corners
    assert to_text(int(encode((south + north) / 2, (west + east) / 2, 6)[0])) == cell
    assert from_text(cell.upper()) == from_text(cell)


@given(latitude=latitudes, longitude=longitudes, length=st.integers(1, LONGEST))
def test_a_position_lies_in_its_cell_and_a_shorter_code_is_the_cell_around(
    latitude: float, longitude: float, length: int
) -> None:
    code = encode(latitude, longitude, length)
    south, north, west, east = bounds(int(code[0]))
    assert south - 1e-9 <= latitude <= north + 1e-9
    assert west - 1e-9 <= longitude <= east + 1e-9
    assert from_text(to_text(int(code[0]))) == code[0]
    assert to_text(int(encode(latitude, longitude)[0])).startswith(to_text(int(code[0])))
    assert shorter(encode(latitude, longitude), length) == code


@given(latitude=st.floats(-89, 89), longitude=longitudes, length=st.integers(2, 8))
def test_neighbours_are_the_cells_one_step_away(latitude: float, longitude: float, length: int) -> None:
    own = int(encode(latitude, longitude, length)[0])
    south, north, west, east = bounds(own)
    middle, height, width = ((south + north) / 2, (west + east) / 2), north - south, east - west
    steps = [(up, side) for up in (-1, 0, 1) for side in (-1, 0, 1) if abs(middle[0] + up * height) < 90]
    wanted = {
        int(encode(middle[0] + up * height, (middle[1] + side * width + 180) % 360 - 180, length)[0])
        for up, side in steps
    }
    cells = around(own)
    assert set(cells.tolist()) == wanted
    assert cells[0] == own


def test_no_position_is_no_cell() -> None:
    assert encode([np.nan, 0.0, 91.0, np.inf, 0.0], [0.0, np.nan, 0.0, 0.0, -180.5]).tolist() == [0] * 5
    assert shorter(np.zeros(1, np.int64), 5).tolist() == [0]
    assert around(0).tolist() == []
    assert to_text(0) == ""
    assert from_text("") == 0
    with pytest.raises(ValueError, match="no cell"):
        bounds(0)


def test_the_corners_of_the_map_have_cells() -> None:
    codes = encode([-90.0, 90.0, 90.0], [-180.0, 180.0, -180.0], 2)
    assert [to_text(int(code)) for code in codes] == ["00", "zz", "bp"]
    assert len(around(int(codes[0]))) == 6  # nothing lies south of the pole


def test_lengths_and_letters_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="length is 13"):
        encode(0.0, 0.0, 13)
    for text in ("a", "0" * 13):
        with pytest.raises(ValueError, match="geohash"):
            from_text(text)
