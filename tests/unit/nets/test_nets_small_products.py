"""Products of small matrices against NumPy's, in every shape that the tiles have to piece together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.nets.small_products import multiply, scratch


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(0, 9), st.integers(0, 20), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_product_is_added_whatever_its_shape(seed: int, fours: int, inner: int, columns: int, turned: bool) -> None:
    random = np.random.default_rng(seed)
    left, right = random.normal(size=(4 * fours, inner)), random.normal(size=(inner, 4 * columns))
    out = random.normal(size=(4 * fours, 4 * columns))
    want = out + left @ right
    multiply(out, np.ascontiguousarray(left.T).T if turned else left, right)
    np.testing.assert_allclose(out, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_only_the_part_that_is_given_is_written(kind: type) -> None:
    whole, random = np.full((12, 80), 7, kind), np.random.default_rng(1)
    left, right = random.normal(size=(8, 5)).astype(kind), random.normal(size=(5, 80)).astype(kind)
    multiply(whole[4:, 8:60], left, right[:, 8:60])
    np.testing.assert_allclose(whole[4:, 8:60], 7 + left @ right[:, 8:60], rtol=1e-5)
    assert (whole[:4] == 7).all()
    assert (whole[4:, :8] == 7).all()
    assert (whole[4:, 60:] == 7).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 16), (5, 50)])
def test_scratch_has_room_and_its_rows_begin_on_cache_lines(rows: int, columns: int) -> None:
    made = scratch(rows, columns, np.zeros(1, np.float32))
    assert made.shape[0] == rows
    assert columns <= made.shape[1] < columns + 16
    assert made.ctypes.data % 64 == 0
    assert made.strides[0] % 64 == 0
