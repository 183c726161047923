"""A zip of class folders of image files."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sfumato.data.decoding.decode import LARGEST_FILE
from sfumato.data.layout import inner_path, is_hidden, is_record_name
from sfumato.data.options import DataOptions
from sfumato.data.readers.tree import Tree, TreeSource, read_tree
from sfumato.data.source import Place, digest_of_files
from sfumato.errors import DataError

# The other methods let a member's header ask for gigabytes of dictionary.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipSource(TreeSource):
    """Image files in a zip, read one member at a time and never unpacked to disk."""

    def __init__(
        self, name: str, tree: Tree, location_key: str, path: Path, members: list[zipfile.ZipInfo]
    ) -> None:
        super().__init__(name, tree, location_key, [Place(str(path.resolve()), tree.found.folder)])
        self._path = path
        self._members = [members[index] for index in tree.found.chosen]

    def _contents(self) -> Iterator[bytes | None]:
        with open_zip(self._path, self.name) as archive:
            for member in self._members:
                yield _read(archive, member)

    def fingerprint(self) -> str:
        """Return a digest of the archive's size and modification time. PRIVATE."""
        return digest_of_files([self._path], reading=self.reading())


def open_archive(path: Path, name: str, declared: DataOptions) -> ZipSource:
    """Open a zip of ``class/name.png`` or ``split/class/name.png``; one common top is stripped.

    Members that are encrypted, damaged or oddly packed are unusable records, and a member whose
    path leads out of the archive is none. Raises DataError if the zip's directory cannot be read,
    or if its folders contradict what was stated.
    """
    with open_zip(path, name) as archive:
        members = archive.infolist()
    folders: set[str] = set()
    images: list[zipfile.ZipInfo] = []
    files: list[str] = []
    others: Counter[str] = Counter()
    for member in members:
        inner = inner_path(member.filename)
        if not inner or is_hidden(inner):
            continue
        if inner.endswith("/"):
            parts = inner.split("/")[:-1]
            folders |= {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
        elif is_record_name(inner):
            images.append(member)
            files.append(inner)
        else:
            others[PurePosixPath(inner).suffix.lower()] += 1
    tree = read_tree(files, folders or None, declared, name, strip_top=True, passed_over=others)
    folder = tree.found.folder
    key = f"{path.resolve()}" + (f":{folder}" if folder else "")
    return ZipSource(name, tree, key, path, images)


def open_zip(path: Path, name: str) -> zipfile.ZipFile:
    """Open a zip archive. Raises DataError if its directory cannot be read."""
    try:
        return zipfile.ZipFile(path)
    # A hostile directory makes zipfile raise struct.error, ValueError, NotImplementedError, ...
    except Exception:
        raise DataError(
            f"{name}: not a readable zip archive (damaged or cut off). Copy or pack it again."
        ) from None


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | None:
    if member.file_size > LARGEST_FILE or member.compress_type not in METHODS:
        return None
    try:
        with archive.open(member) as file:
            return file.read(LARGEST_FILE + 1)
    # One member's damage is one record's content: a bad checksum, a password, a cut-off stream.
    except Exception:
        return None
