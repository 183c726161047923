"""Remove what writers left that were killed, and nothing of one that is at work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is removed there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def writing_into(folder: Path, leftovers: str) -> Iterator[None]:
    """Write in ``folder``; before that, where nobody else does, remove what is left by the dead.

    Writers share the kernel's lock on the folder, and it ends with their process. So whoever has it
    alone knows that none of the folders that match ``leftovers`` is being written. Where a file
    system knows no such locks, nothing is removed.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(leftovers):
                shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)
