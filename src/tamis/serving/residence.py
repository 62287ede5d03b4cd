"""Memory that a worker needs only while it starts: the code of numba's compiler.

Compiled kernels are read from numba's cache by LLVM, and on the way the system maps up to the whole of its library,
90 MB, page by page or in large pieces. Nothing of it runs again once a bundle is warm.
"""

import ctypes
import sys
from pathlib import Path
from typing import Final

_COMPILER: Final = "libllvmlite"
_CODE: Final = "r-xp"  # read and executed, never written: the file has all of it
_DONT_NEED: Final = 4  # MADV_DONTNEED


def release_compiler() -> int:
    """Gives the pages of the compiler's code back; when it is called after all, they are mapped again from the file.

    Gives the number of bytes released from view, 0 where the system has no /proc (other than Linux) or refuses.
    """
    if not sys.platform.startswith("linux"):
        return 0
    advise = ctypes.CDLL(None, use_errno=True).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    released = 0
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, access, *_, name = line.split(maxsplit=5)
        if access == _CODE and Path(name).name.startswith(_COMPILER):
            begin, end = (int(part, 16) for part in span.split("-"))
            released += end - begin if advise(begin, end - begin, _DONT_NEED) == 0 else 0
    return released
