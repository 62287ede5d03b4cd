"""Compiled loops that hold no lock, run side by side in threads.

Work is always cut in the same parts, whatever the number of threads, so that sums do not depend on it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

PARTS: Final = 4
Span = tuple[int, int]
_workers = ThreadPoolExecutor(
    os.cpu_count() or 1, thread_name_prefix="tamis-kernel", initializer=torch.set_flush_denormal, initargs=(True,)
)


def spans(first: NDArray[np.int64]) -> list[Span]:
    """At most `PARTS` runs of requests with about equal rows, covering all; distinct, none empty.

    first: [r + 1] where each request's rows begin.
    """
    marks = np.searchsorted(first, np.linspace(0, first[-1], PARTS + 1))
    marks[0], marks[-1] = 0, len(first) - 1
    return [(a, b) for a, b in pairwise(marks.tolist()) if b > a]


def side_by_side(parts: Sequence[Span], work: Callable[[int, Span], None]) -> None:
    """Does work(i, parts[i]) for all i, in other threads unless torch may use only one."""
    if torch.get_num_threads() == 1 or len(parts) < 2:
        for i, part in enumerate(parts):
            work(i, part)
        return
    for done in [_workers.submit(work, i, part) for i, part in enumerate(parts)]:
        done.result()
