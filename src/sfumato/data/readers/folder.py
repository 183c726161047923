"""Class folders of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sfumato.data.decode import LARGEST_FILE
from sfumato.data.layout import Arrangement, arrange, is_image_name
from sfumato.data.options import DataOptions
from sfumato.data.readers.tree import TreeSource
from sfumato.data.source import digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.units import check_rule
from sfumato.errors import DataError


class FolderSource(TreeSource):
    """Image files below a folder; links and hidden files are not followed."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        files: Sequence[str],
        found: Arrangement,
        named: bool,
        root: Path,
    ) -> None:
        super().__init__(name, spec, location_key, files, found, named)
        self._root = root

    def _contents(self) -> Iterator[bytes | None]:
        return (_read(self._root / file) for file in self._files)

    def fingerprint(self) -> str:
        """Return a digest of the files' names, sizes and modification times. PRIVATE."""
        return digest_of_files((self._root / file for file in self._files), self._root)


def open_folder(root: Path, name: str, declared: DataOptions) -> FolderSource:
    """Open ``class/name.png``, ``split/class/name.png`` or a flat folder of images.

    A folder without any image is a data set without records: that it holds none is private. Raises
    DataError if it cannot be listed, or if its folders contradict what was stated.
    """
    check_rule(declared.privacy_unit, name, "pattern")
    files, folders = _scan(root, name)
    found = arrange(files, folders, declared, name)
    key = str((root / found.folder).resolve())
    named = declared.classes is not None
    return FolderSource(name, declared.spec(found.classes), key, files, found, named, root)


def _scan(root: Path, name: str) -> tuple[list[str], list[str]]:
    """Return image files and folders, both relative and sorted."""
    files: list[str] = []
    folders: list[str] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}{entry.name}"
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                        waiting.append(f"{path}/")
                    elif entry.is_file(follow_symlinks=False) and is_image_name(entry.name):
                        files.append(path)
        except OSError as error:
            # What lies further down may be one person's folder.
            if not folder:
                raise DataError(
                    f"{name}: the folder cannot be read ({error.strerror}). Check its permissions."
                ) from None
    return sorted(files), sorted(folders)


def _read(path: Path) -> bytes | None:
    try:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        with open(descriptor, "rb") as file:
            return file.read(LARGEST_FILE + 1)
    except OSError:
        return None
