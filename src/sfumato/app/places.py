"""The folders that the page may look into, and nothing outside of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import UsageError

DATA_SUFFIXES = (".zip", ".npz", ".parquet", ".tar", ".tar.gz", ".tgz", ".h5", ".hdf5", ".gz")
MOST_SHOWN = 300


@dataclass(frozen=True)
class Listing:
    """A folder as the picker shows it: no image files, no counts.

    ``above`` are the folders from its root down to it. ``cut`` says that there is more.
    """

    folder: Path
    above: tuple[Path, ...]
    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    cut: bool


class Places:
    """The allowed roots.

    Args:
        roots: folders; links in them are resolved once, here.
        hidden: folders that are refused even inside a root: the private state folder.

    Raises:
        UsageError: a root is no folder.
    """

    def __init__(self, roots: Sequence[Path], hidden: Sequence[Path] = ()) -> None:
        for root in roots:
            if not root.is_dir():
                raise UsageError(f"--root {root} must be a folder that exists.")
        self.roots = tuple(dict.fromkeys(root.resolve() for root in roots))
        self._hidden = tuple(folder.resolve() for folder in hidden)

    def find(self, text: str) -> Path:
        """The real path of what a browser asked for.

        Raises:
            UsageError: it does not exist or lies outside the roots, itself or through a link; the
                sentence is the same, so that nothing is learned of what lies outside.
        """
        refused = UsageError(
            f"{text!r} is not in the folders that this page may use: "
            f"{', '.join(map(str, self.roots))}. Others are allowed with: sfumato app --root DIR."
        )
        if not text or "\0" in text:
            raise refused
        try:
            path = Path(text).resolve(strict=True)
        except (OSError, RuntimeError):  # a loop of links
            raise refused from None
        if not self._allows(path):
            raise refused
        return path

    def listing(self, folder: Path) -> Listing:
        """What a folder that :meth:`find` returned holds, as far as it can be chosen.

        Raises:
            UsageError: it is no folder, or the system does not let it be read.
        """
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name.casefold())
        except OSError as error:
            raise UsageError(f"{folder} cannot be listed: {error.strerror}.") from None
        folders: list[Path] = []
        files: list[Path] = []
        for entry in entries:
            is_folder = os.path.isdir(entry.path)  # a loop of links is none, and no error
            if entry.name.startswith(".") or not (
                is_folder or entry.name.lower().endswith(DATA_SUFFIXES)
            ):
                continue
            if self._allows(Path(os.path.realpath(entry.path))):
                (folders if is_folder else files).append(Path(entry.path))
        root = next(root for root in self._innermost() if folder.is_relative_to(root))
        above = [parent for parent in [folder, *folder.parents] if parent.is_relative_to(root)]
        cut = len(folders) > MOST_SHOWN or len(files) > MOST_SHOWN
        return Listing(
            folder,
            tuple(reversed(above)),
            tuple(folders[:MOST_SHOWN]),
            tuple(files[:MOST_SHOWN]),
            cut,
        )

    def _innermost(self) -> list[Path]:
        """The roots, the outer one of two nested ones first: its trail is the longer."""
        return sorted(self.roots, key=lambda root: len(root.parts))

    def _allows(self, path: Path) -> bool:
        inside = any(path.is_relative_to(root) for root in self.roots)
        return inside and not any(path.is_relative_to(folder) for folder in self._hidden)
