"""Products of small matrices inside compiled loops, where a call of BLAS would cost more than its work.

A tile of the result, 4 rows and up to 32 columns, stays in the registers of the processor while all of the two factors
that it needs passes by; LLVM's vectors are of any length, so the same code serves processors with short ones.
"""

from functools import partial
from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils as _untyped
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

cgutils: Any = _untyped  # numba has no types for it
_LINE: Final = 16  # numbers of a cache line in float32
_FAST: Final = ("reassoc", "contract", "nsz", "nnan", "arcp")
A = NDArray[Any]


@numba.njit(cache=True, nogil=True)
def scratch(rows: int, columns: int, like: A) -> A:
    """[rows, at least `columns`] uninitialised numbers of the type of `like`; each row begins on a cache line."""
    whole = (columns + _LINE - 1) // _LINE * _LINE
    raw = np.empty(rows * whole + _LINE, like.dtype)
    start = (-raw.ctypes.data % (_LINE * raw.itemsize)) // raw.itemsize
    return raw[start : start + rows * whole].reshape(rows, whole)


def _at(builder: Any, matrix: Any, row: Any, column: Any, kind: Any) -> Any:
    """Where number [row, column] of a matrix is, as a pointer to `kind`."""
    steps = cgutils.unpack_tuple(builder, matrix.strides)
    offset = builder.add(builder.mul(row, steps[0]), builder.mul(column, steps[1]))
    return cgutils.pointer_add(builder, matrix.data, offset, kind.as_pointer())


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    """The vector that holds one value in all places."""
    index = ir.IntType(32)
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(index, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(index, vector.count), None))


def _tile(rows: int, vectors: int, lanes: int) -> Any:
    """Compiled code for one tile of a product, from row a and column k on, `rows` by `vectors` · `lanes` large.

    tile(out, left, right, a, k):   out[a : a + rows, k : k + width] += left[a : a + rows] @ right[:, k : k + width]
    """
    cells = [(i, v) for i in range(rows) for v in range(vectors)]

    def typed(_: Any, out: Any, left: Any, right: Any, a: Any, k: Any) -> Any:
        return types.void(out, left, right, a, k), partial(_code, cells, lanes)

    return intrinsic(typed)


def _code(cells: list[tuple[int, int]], lanes: int, context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """The instructions of a tile with these cells (row, vector), for arguments (out, left, right, a, k)."""
    out, left, right = (
        context.make_array(kind)(context, builder, value=value)
        for kind, value in zip(signature.args[:3], values[:3], strict=True)
    )
    number = context.get_value_type(signature.args[0].dtype)
    vector, size, word = ir.VectorType(number, lanes), context.get_abi_sizeof(number), values[3].type
    row = {i: builder.add(values[3], ir.Constant(word, i)) for i, _ in cells}
    column = {v: builder.add(values[4], ir.Constant(word, v * lanes)) for _, v in cells}
    place = {(i, v): _at(builder, out, row[i], column[v], vector) for i, v in cells}
    total = {cell: cgutils.alloca_once(builder, vector) for cell in cells}
    for cell in cells:
        builder.store(builder.load(place[cell], align=size), total[cell])
    with cgutils.for_range(builder, cgutils.unpack_tuple(builder, right.shape)[0]) as loop:
        b = loop.index
        across = {v: builder.load(_at(builder, right, b, at, vector), align=size) for v, at in column.items()}
        down = {i: _splat(builder, builder.load(_at(builder, left, at, b, number)), vector) for i, at in row.items()}
        for i, v in cells:
            more = builder.fmul(down[i], across[v], flags=_FAST)
            builder.store(builder.fadd(builder.load(total[i, v]), more, flags=_FAST), total[i, v])
    for cell in cells:
        builder.store(builder.load(total[cell]), place[cell], align=size)
    return context.get_dummy_value()


_wide, _middle, _narrow = _tile(4, 2, 16), _tile(4, 1, 16), _tile(4, 1, 4)


@numba.njit(cache=True, nogil=True)
def multiply(out: A, left: A, right: A) -> None:
    """out [a, k] += left [a, b] @ right [b, k]; a and k are multiples of 4, rows of `out` and `right` without gaps."""
    rows, columns = out.shape
    for k in range(0, columns - 31, 32):
        for a in range(0, rows, 4):
            _wide(out, left, right, a, k)
    k = columns // 32 * 32
    if columns - k >= 16:
        for a in range(0, rows, 4):
            _middle(out, left, right, a, k)
        k += 16
    for narrow in range(k, columns, 4):
        for a in range(0, rows, 4):
            _narrow(out, left, right, a, narrow)
