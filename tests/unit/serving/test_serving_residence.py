"""A worker gives back what only its start needed, and compiles all the same when it must."""

import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from tamis.serving.residence import release_compiler


def mapped(name: str) -> int:
    """Kilobytes of the code of a library that are in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = name in line and " r-xp " in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_code_of_the_compiler_leaves_and_comes_back_when_it_is_called() -> None:
    twice = numba.njit(lambda x: 2 * x)
    assert twice(np.float32(3)) == 6
    before = mapped("libllvmlite")
    assert release_compiler() > 0
    assert mapped("libllvmlite") < before / 2
    assert twice(4) == 8  # another type: compiled now
    assert mapped("libllvmlite") > 0


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert release_compiler() == 0
