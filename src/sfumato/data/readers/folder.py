"""Class folders of image files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sfumato.data.decoding.decode import LARGEST_FILE
from sfumato.data.layout import is_record_name
from sfumato.data.options import DataOptions
from sfumato.data.readers.tree import Tree, TreeSource, read_tree
from sfumato.data.source import digest_of_files
from sfumato.errors import DataError


class FolderSource(TreeSource):
    """Image files below a folder, but hidden ones, and links only where they are asked for."""

    def __init__(self, name: str, tree: Tree, location_key: str, root: Path) -> None:
        super().__init__(name, tree, location_key, ())  # the place too: a resolved folder
        self._root = root

    def _contents(self) -> Iterator[bytes | None]:
        return (_read(self._root / file, self.options.follow_links) for file in self._files)

    def fingerprint(self) -> str:
        """Return a digest of the files' names, sizes and modification times. PRIVATE."""
        files = (self._root / file for file in self._files)
        return digest_of_files(files, self._root, self.reading())


def open_folder(root: Path, name: str, declared: DataOptions) -> FolderSource:
    """Open ``class/name.png``, ``split/class/name.png`` or a flat folder of images.

    A folder without any image is a data set without records: that it holds none is private. Raises
    DataError if it cannot be listed, or if its folders contradict what was stated.
    """
    files, folders, others = _scan(root, name, declared.follow_links)
    tree = read_tree(files, folders, declared, name, passed_over=others)
    return FolderSource(name, tree, str((root / tree.found.folder).resolve()), root)


def _scan(root: Path, name: str, follow: bool) -> tuple[list[str], list[str], Counter[str]]:
    """Return image files and folders, both relative and sorted, and suffixes of other files."""
    files: list[str] = []
    folders: list[str] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            if follow:  # links can lead in a circle
                status = os.stat(root / folder)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}{entry.name}"
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if entry.is_dir(follow_symlinks=follow):
                        folders.append(path)
                        waiting.append(f"{path}/")
                    elif entry.is_file(follow_symlinks=follow) and is_record_name(entry.name):
                        files.append(path)
                    elif entry.is_symlink():
                        others["link"] += 1
                    else:
                        others[Path(entry.name).suffix.lower()] += 1
        except OSError as error:
            # What lies further down may be one person's folder.
            if not folder:
                raise DataError(
                    f"{name}: the folder cannot be read ({error.strerror}). Check its permissions."
                ) from None
    return sorted(files), sorted(folders), others


def _read(path: Path, follow: bool) -> bytes | None:
    try:
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
        flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(path, flags), "rb") as file:
            return file.read(LARGEST_FILE + 1)
    except OSError:
        return None
