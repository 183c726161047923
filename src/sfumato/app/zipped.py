"""A folder as a zip file that is made while it is sent, with no copy in memory or on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast
from zipfile import ZIP_STORED, ZipFile, ZipInfo

CHUNK = 2**20


class _Pipe:
    """What zipfile writes to: it can only go forward, and hands over what came."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._held.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        data = b"".join(self._held)
        self._held.clear()
        return data


def zipped(folder: Path) -> Iterator[bytes]:
    """Yield the zip of all regular files below ``folder``, in a folder of its name; no links."""
    pipe = _Pipe()
    # Images are compressed already.
    with ZipFile(cast("IO[bytes]", pipe), mode="w", compression=ZIP_STORED) as archive:
        for place, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = Path(place, name)
                if path.is_symlink() or not path.is_file():
                    continue
                inside = Path(folder.name, path.relative_to(folder)).as_posix()
                entry = ZipInfo.from_file(path, inside)
                with open(path, "rb") as source, archive.open(entry, "w") as target:
                    while part := source.read(CHUNK):
                        target.write(part)
                        yield pipe.take()
    yield pipe.take()
