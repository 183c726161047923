"""Tar shards, plain or with gzip: their contents by place, and class folders packed in them.

Each shard's table of contents is read once, at opening; records are then read by their place in
the file, so nothing is ever unpacked to disk. A shard with gzip is unpacked as a stream each time.
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BufferedIOBase
from itertools import groupby
from pathlib import PurePosixPath
from typing import cast

from sfumato.data.decoding.decode import LARGEST_FILE
from sfumato.data.layout import (
    choose_split,
    inner_path,
    is_hidden,
    is_record_name,
    split_name,
)
from sfumato.data.options import DataOptions
from sfumato.data.readers.tree import Tree, TreeSource, read_tree
from sfumato.data.source import ImageSource, Place, digest_of_files
from sfumato.data.storage import Location, opened, place_of, size_of
from sfumato.errors import DataError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True, repr=False)
class Member:
    """A file in a shard, or a folder that it lists: its path, and where its bytes lie."""

    shard: int
    path: str
    is_folder: bool
    offset: int
    size: int


class TarSource(TreeSource):
    """Image files of class folders in tar shards, in the order of the shards' contents."""

    def __init__(
        self,
        name: str,
        tree: Tree,
        location_key: str,
        shards: Sequence[Location],
        members: list[Member],
    ) -> None:
        places = [Place(place_of(shard), tree.found.folder) for shard in shards]
        super().__init__(name, tree, location_key, places)
        self._shards = shards
        self._members = [members[index] for index in tree.found.chosen]

    def _contents(self) -> Iterator[bytes | None]:
        for index, members in groupby(self._members, key=lambda member: member.shard):
            with open_shard(self._shards[index]) as file:
                for member in members:
                    yield read_at(file, (member.offset, member.size), LARGEST_FILE)

    def fingerprint(self) -> str:
        """Return a digest of the shards' names, sizes and modification times. PRIVATE."""
        return digest_of_files(self._shards, reading=self.reading())


def open_tar(
    shards: Sequence[Location], name: str, declared: DataOptions, root: Location
) -> ImageSource:
    """Open tar shards: files in folders if the tar lists several, else WebDataset.

    (With a table of labels, or DICOM, files in folders too.)

    ``root`` is the folder or file that identifies the data set. Raises DataError for a damaged tar,
    or where class names are needed and not stated.
    """
    from sfumato.data.readers.webdataset import open_webdataset

    by_split: dict[str, list[Location]] = {}
    for shard in sorted(shards):
        by_split.setdefault(_split_of(shard), []).append(shard)
    splits = [found for found in by_split if found]
    split = choose_split(splits, declared.split, name) if splits else None
    chosen = by_split[split or ""]
    members = [member for index, shard in enumerate(chosen) for member in _table(shard, index)]
    key = place_of(chosen[0]) if len(chosen) == 1 else f"{place_of(root)}:{split or ''}"
    folders = {member.path for member in members if member.is_folder}
    files = [member for member in members if not member.is_folder]
    if splits:
        declared = replace(declared, split=None)
    if not (len(folders) > 1 or declared.labels is not None or declared.dicom):
        choose_split([], declared.split, name)
        return open_webdataset(chosen, name, declared, key, files)
    images = [member for member in files if is_record_name(member.path)]
    paths = [member.path for member in images]
    others = Counter(
        PurePosixPath(member.path).suffix.lower()
        for member in files
        if not is_record_name(member.path)
    )
    tree = read_tree(paths, folders or None, declared, name, True, others)
    # The stream's order: a shard with gzip cannot be read backwards.
    places = tree.found.chosen
    tree = tree.reordered(sorted(range(len(places)), key=lambda at: places[at]))
    key += f":{tree.found.folder}" if tree.found.folder else ""
    return TarSource(name, tree, key, chosen, images)


@contextmanager
def open_shard(shard: Location) -> Iterator[BufferedIOBase]:
    """Open a shard for reading by place. Raises DataError if it is gone."""
    with ExitStack() as stack:
        try:
            file: BufferedIOBase = stack.enter_context(opened(shard))
        except OSError:
            raise _damaged(shard) from None
        if _is_packed(shard):
            file = cast(BufferedIOBase, stack.enter_context(gzip.GzipFile(fileobj=file)))
        yield file


def read_at(file: BufferedIOBase, place: tuple[int, int] | None, limit: int) -> bytes | None:
    """The bytes at (offset, size); None if there are none, or more than ``limit``."""
    if place is None or place[1] > limit:
        return None
    try:
        file.seek(place[0])
        return file.read(place[1])
    except (OSError, EOFError):
        return None


def _split_of(shard: Location) -> str:
    stem = re.sub(r"(\.tar|\.tgz|\.gz)+$", "", shard.name, flags=re.IGNORECASE)
    return split_name(stem.rstrip("0123456789-_")) or ""


def _is_packed(shard: Location) -> bool:
    return shard.suffix.lower() != ".tar"


def _table(shard: Location, index: int) -> Iterator[Member]:
    length = None if _is_packed(shard) else size_of(shard)
    for member in _members(shard):
        inner = inner_path(member.name)
        # A member that leads out of the archive, a link or a device is no record.
        if not inner or is_hidden(inner):
            continue
        if member.isdir():
            yield Member(index, inner.rstrip("/"), True, 0, 0)
        if not member.isreg() or member.issparse():
            continue
        if length is not None and member.offset_data + member.size > length:
            raise _damaged(shard)
        yield Member(index, inner, False, member.offset_data, member.size)


def _members(shard: Location) -> Iterator[tarfile.TarInfo]:
    try:
        with ExitStack() as stack:
            file = stack.enter_context(opened(shard))
            tar = tarfile.open(fileobj=file, mode="r:gz" if _is_packed(shard) else "r:")
            stack.enter_context(tar)
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
                yield member
            # tarfile takes a damaged header for the end; the true end is zeros or nothing.
            tar.fileobj.seek(tar.offset)
            if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
                raise _damaged(shard)
    except DataError:
        raise
    # A hostile header makes tarfile raise ValueError, OverflowError, UnicodeDecodeError, ...
    except Exception:
        raise _damaged(shard) from None


def _damaged(shard: Location) -> DataError:
    return DataError(f"{shard}: not a readable tar (damaged or cut off). Copy or pack it again.")
