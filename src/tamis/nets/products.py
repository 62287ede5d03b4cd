"""Matrix products of the layers that cost most, in 16-bit numbers where training asks for it and the device can.

A bfloat16 has the range of a float32 and 8 bits of precision; a product of two such matrices is summed in 32 bits and
rounded once. Weights, optimizer, activations, losses and everything that is exported stay float32, so only training
steps are rounded. On processors with instructions of their own for it (AVX512-BF16, AMX) the products are about four
times as fast; on others they would be slower, so they are never made there. (Micikevicius et al., "Mixed precision
training", ICLR 2018; Kalamkar et al., "A study of BFLOAT16 for deep learning training", 2019.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import torch
from torch import Tensor

from tamis.nets.plans import Precision

_CPU: Final = torch.device("cpu")
_HALF: Final = ContextVar("half", default=False)


def native(device: torch.device = _CPU) -> bool:
    """True when the device multiplies bfloat16 matrices with instructions made for it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


@contextmanager
def precision(wanted: Precision, device: torch.device = _CPU) -> Iterator[None]:
    """Inside the block `product` multiplies as `wanted`: "float32", or "mixed" where the device is made for it."""
    token = _HALF.set(wanted == "mixed" and native(device))
    try:
        yield
    finally:
        _HALF.reset(token)


def cast(x: Tensor) -> Tensor:
    """The matrix as the products of this block read it."""
    return x.bfloat16() if _HALF.get() and x.dtype == torch.float32 else x


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b (+ bias) of two matrices, or of stacks of them with a bias for each, given as `cast` gives them.

    16-bit matrices give a float32, others what they are.
    """
    if a.dtype == torch.bfloat16:
        out = (a @ b).float()
        return out if bias is None else out.add_(bias)
    return a @ b if bias is None else torch.baddbmm(bias, a, b)
