"""Private files and folders: the owner's alone, and whole or not at all after a crash.

Modes are set and not asked for, so that no umask opens or closes more than is written here.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from filelock import FileLock, Timeout

OWNER_ONLY = 0o600


def private_folder(path: Path) -> Path:
    """Make ``path`` and what is missing above it, for the owner alone; an old one stays as it is.

    Raises:
        OSError: the system refuses.
    """
    for folder in [folder for folder in (path, *path.parents) if not folder.exists()][::-1]:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
    path.mkdir(exist_ok=True)  # an OSError where it is a file
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` so that a crash leaves the old or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb", opener=_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock file ``path`` just now; nobody does in a missing folder."""
    if not path.parent.is_dir():
        return False
    lock = FileLock(path, timeout=0, mode=OWNER_ONLY)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def append_durably(path: Path, line: bytes) -> None:
    """Add ``line`` at the end of ``path`` and wait for the disk: all of it, or none and OSError."""
    # Unbuffered: a buffer would write its rest at closing, after the file was cut back.
    with open(path, "ab", buffering=0, opener=_private) as file:
        start = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, start)
            raise
    sync_directory(path.parent)


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file for the owner alone, over whatever is there, also through a link or a pipe."""
    with open(path, "wb", opener=_private) as file:
        if isinstance(content, str):  # it may quote a file's name whose bytes are no text
            content = content.encode(errors="backslashreplace")
        file.write(content)


def _private(path: str, flags: int) -> int:
    handle = os.open(path, flags, OWNER_ONLY)
    if os.name == "posix" and stat.S_ISREG(os.fstat(handle).st_mode):
        os.fchmod(handle, OWNER_ONLY)
    return handle


def sync_directory(path: Path) -> None:
    """Make a created or renamed name in ``path`` survive a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
