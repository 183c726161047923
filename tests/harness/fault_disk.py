"""A disk that fails at the n-th operation: kills the process, tears a write, is full or read-only.

For a forked child only: an audit hook cannot be taken back.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

Fault = Literal["kill", "tear", "full", "read-only"]
NAMES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Disk:
    """Counts what changes files below ``roots`` and fails at the ``at``-th change, from 0.

    Args:
        roots: only files below these count.
        fault: ``kill`` by SIGKILL before the change; ``tear``: write half of it, then kill;
            ``full``: half of it, then ENOSPC, then and ever after for whatever needs room;
            ``read-only``: EROFS, then and ever after.
        at: when; None only counts.
    """

    def __init__(self, roots: tuple[Path, ...], fault: Fault = "kill", at: int | None = None):
        self.roots = tuple(str(root) for root in roots)
        self.fault, self.at, self.done = fault, at, 0
        self.writes: list[int] = []

    def install(self) -> None:
        """From now on."""
        sys.addaudithook(self._heard)
        true_open, true_sync = builtins.open, os.fsync

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            found = true_open(file, mode, *args, **options)
            mine = isinstance(file, str | os.PathLike) and self._counts(file)
            return Writing(found, self) if mine and set(mode) & set("wax+") else found

        def synced(handle: int) -> None:
            self.change()
            true_sync(handle)

        builtins.open = io.open = opened  # type: ignore[assignment]
        os.fsync = synced

    def change(self, torn: Callable[[], object] | None = None) -> None:
        """One change is about to happen; ``torn`` does half of it."""
        number = self.done
        self.done += 1
        if torn is not None:
            self.writes.append(number)
        if self.at is None or number < self.at or (number > self.at and self.fault in KILLS):
            return
        if torn is not None and self.fault in ("tear", "full") and number == self.at:
            torn()
        if self.fault in KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if self.fault == "full" else errno.EROFS
        raise OSError(code, os.strerror(code))

    def _counts(self, path: Any) -> bool:
        try:
            return os.path.abspath(os.fsdecode(path)).startswith(self.roots)
        except TypeError:
            return False

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if flags & WRITES and self._counts(path):
                self.change()
        elif event in NAMES and self._counts(args[0]):
            # What only takes away goes on where there is no room.
            if self.fault == "full" and event in ("os.remove", "os.rmdir", "os.truncate"):
                self.done += 1
            else:
                self.change()


KILLS = ("kill", "tear")


class Writing:
    """A file whose writes are changes."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, content: Any) -> Any:
        """Write, or half of it and then what the disk does."""

        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        self._disk.change(half)
        return self._file.write(content)

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
