"""Folders held against other processes; the system drops a hold when its process ends, however it ends."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_SCRATCH: Final = ".scratch-"


def hold(folder: Path) -> int:
    """A descriptor that holds the folder until it is closed, −1 when another process holds it or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Holds a folder of bundles against other processes; waits for its turn. The system drops it when a process ends.

    For whoever publishes or prunes: two trainings may end at the same time.
    """
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A new hidden folder in `root`, gone when the block is left; those of processes that were killed go too."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{_SCRATCH}{secrets.token_hex(4)}"
    with locked(root):  # nobody may find the new one before it is held
        for left in root.glob(f"{_SCRATCH}*"):
            if (held := hold(left)) >= 0:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)
        folder.mkdir()
        held = hold(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
