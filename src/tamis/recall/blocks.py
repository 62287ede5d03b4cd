"""Work over blocks of rows on several threads, with an answer that does not depend on their number.

Blocks are cut the same way whatever runs them, and a matrix product inside a block is computed by one thread: libraries
that share one product among threads may add its terms in another order.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeVar

from numba import get_num_threads
from threadpoolctl import ThreadpoolController

T = TypeVar("T")


def in_blocks(work: Callable[[int, int], T], rows: int, block: int) -> Iterator[T]:
    """work(first, stop) of each block of at most `block` of the rows 0 … rows − 1; the answers in order of the rows.

    As many threads as numba is set to; they help only where `work` gives up the lock of the interpreter.
    """
    with one_thread(), ThreadPoolExecutor(int(get_num_threads())) as pool:
        yield from pool.map(lambda first: work(first, min(first + block, rows)), range(0, rows, block))


def one_thread() -> AbstractContextManager[Any]:
    """While it is open, a product or decomposition of dense matrices is computed by one thread."""
    limits: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limits


@cache
def _controller() -> ThreadpoolController:
    """What knows the libraries that are loaded; made at the first call, since looking for them takes a while."""
    return ThreadpoolController()
