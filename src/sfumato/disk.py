"""Files that survive a crash: whole or not at all, and on the disk before the call returns."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` so that a crash leaves the old or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def append_durably(path: Path, line: bytes) -> None:
    """Add ``line`` at the end of ``path`` and wait for the disk: all of it, or none and OSError."""
    # Unbuffered: a buffer would write its rest at closing, after the file was cut back.
    with open(path, "ab", buffering=0) as file:
        start = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, start)
            raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make a created or renamed name in ``path`` survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
