"""Class folders of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sfumato.data.decode import LARGEST_FILE, decode
from sfumato.data.layout import arrange, is_image_name
from sfumato.data.options import DataOptions
from sfumato.data.source import ImageSource, Record, digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.units import Key, check_rule
from sfumato.errors import DataError

PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".npy", ".joblib"})
_PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


class FolderSource(ImageSource):
    """Image files below a folder; links and hidden files are not followed."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        root: Path,
        files: list[str],
        labels: list[int | None],
        names: list[str],
    ) -> None:
        super().__init__(name, spec, location_key)  # the place too: a resolved folder
        self._root = root
        self._files = files
        self._labels = labels
        self._names = names

    def _records(self) -> Iterator[Record]:
        for file, label in zip(self._files, self._labels, strict=True):
            data = _read(self._root / file)
            yield None if data is None else decode(data, self.spec), label

    def _unit_keys(self) -> Iterator[Key]:
        assert self.spec.unit is not None
        return self.spec.unit.keys_of(self._names)

    def _private_length(self) -> int:
        return len(self._files)

    def _private_name(self, index: int) -> str:
        return self._files[index]

    def fingerprint(self) -> str:
        """Return a digest of the files' names, sizes and modification times. PRIVATE."""
        return digest_of_files((self._root / file for file in self._files), self._root)


def open_folder(root: Path, name: str, declared: DataOptions) -> FolderSource:
    """Open ``class/name.png``, ``split/class/name.png`` or a flat folder of images.

    Raises DataError if it holds no image, or folders outside the declared classes.
    """
    check_rule(declared.privacy_unit, name, "pattern")
    files, folders, hint = _scan(root)
    if not files:
        raise DataError(
            f"{name}: no images here (PNG, JPEG, BMP, TIFF or WebP).{hint} "
            "Give a folder with one subfolder of images per class, or images only."
        )
    found = arrange(files, folders, declared, name)
    key = str((root / found.folder).resolve())
    chosen = [files[index] for index in found.chosen]
    spec = declared.spec(found.classes)
    return FolderSource(name, spec, key, root, chosen, found.labels, found.names)


def is_pickle(path: Path) -> bool:
    """Tell from its name or its first bytes whether loading a file would run code from it."""
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(2) in _PICKLE_STARTS
    except OSError:
        return False


def _scan(root: Path) -> tuple[list[str], list[str], str]:
    """Return image files, folders (both relative, sorted) and what was seen in place of images."""
    files: list[str] = []
    folders: list[str] = []
    hints: set[str] = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}{entry.name}"
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if entry.is_symlink():
                        hints.add(" Links are not followed: copy what they point to.")
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                        waiting.append(f"{path}/")
                    elif entry.is_file(follow_symlinks=False) and is_image_name(entry.name):
                        files.append(path)
                    elif not files and len(hints) < 2 and is_pickle(Path(entry.path)):
                        hints.add(" A pickle is never loaded, because it can run code.")
        except OSError as error:
            raise DataError(
                f"{root / folder}: the folder cannot be read ({error.strerror}). "
                "Check its permissions."
            ) from None
    return sorted(files), sorted(folders), "".join(sorted(hints))


def _read(path: Path) -> bytes | None:
    try:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        with open(descriptor, "rb") as file:
            return file.read(LARGEST_FILE + 1)
    except OSError:
        return None
