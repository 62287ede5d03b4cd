"""Products of small matrices inside compiled loops, where a call of BLAS would cost more than its work.

A tile of the result, 4 rows and up to 32 columns, stays in the registers of the processor while all of the two factors
that it needs passes by; LLVM's vectors are of any length, so the same code serves processors with short ones.
"""

from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

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


def _tile(rows: int, vectors: int, lanes: int) -> Any:
    """tile(out, left, right, a, k): out[a : a + rows, k : k + vectors · lanes] += left[a : a + rows] @ right[:, k : …]."""

    def typed(_: Any, out: Any, left: Any, right: Any, a: Any, k: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            matrices = [context.make_array(signature.args[i])(context, builder, value=values[i]) for i in range(3)]
            number = context.get_value_type(out.dtype)
            vector, small = ir.VectorType(number, lanes), ir.VectorType(ir.IntType(32), lanes)
            size, word = context.get_abi_sizeof(number), values[3].type

            def at(matrix: Any, row: Any, column: Any, kind: Any) -> Any:
                steps = cgutils.unpack_tuple(builder, matrix.strides)
                offset = builder.add(builder.mul(row, steps[0]), builder.mul(column, steps[1]))
                return cgutils.pointer_add(builder, matrix.data, offset, kind.as_pointer())

            def load(matrix: Any, row: Any, column: Any) -> Any:
                return builder.load(at(matrix, row, column, vector), align=size)

            def splat(value: Any) -> Any:
                one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
                return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(small, None))

            first = [builder.add(values[3], ir.Constant(word, i)) for i in range(rows)]
            places = [builder.add(values[4], ir.Constant(word, v * lanes)) for v in range(vectors)]
            sums = [[cgutils.alloca_once(builder, vector) for _ in places] for _ in first]
            for row, own in zip(first, sums, strict=True):
                for place, total in zip(places, own, strict=True):
                    builder.store(load(matrices[0], row, place), total)
            inner = cgutils.unpack_tuple(builder, matrices[2].shape)[0]
            with cgutils.for_range(builder, inner) as loop:
                others = [load(matrices[2], loop.index, place) for place in places]
                for row, own in zip(first, sums, strict=True):
                    factor = splat(builder.load(at(matrices[1], row, loop.index, number)))
                    for other, total in zip(others, own, strict=True):
                        more = builder.fmul(factor, other, flags=_FAST)
                        builder.store(builder.fadd(builder.load(total), more, flags=_FAST), total)
            for row, own in zip(first, sums, strict=True):
                for place, total in zip(places, own, strict=True):
                    builder.store(builder.load(total), at(matrices[0], row, place, vector), align=size)
            return context.get_dummy_value()

        return types.void(out, left, right, a, k), code

    return intrinsic(typed)


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
