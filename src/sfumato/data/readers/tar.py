"""Tar shards, plain or with gzip: their contents by place, and class folders packed in them.

Each shard's table of contents is read once, at opening; records are then read by their place in
the file, so nothing is ever unpacked to disk. A shard with gzip is unpacked as a stream each time.
"""

from __future__ import annotations

import gzip
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from itertools import groupby
from pathlib import Path
from typing import cast

from sfumato.data.decode import LARGEST_FILE
from sfumato.data.layout import (
    Arrangement,
    arrange,
    choose_split,
    inner_path,
    is_hidden,
    is_image_name,
    split_name,
)
from sfumato.data.options import DataOptions
from sfumato.data.readers.tree import TreeSource
from sfumato.data.source import ImageSource, Place, digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.units import check_rule
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
        spec: PublicSpec,
        location_key: str,
        files: Sequence[str],
        found: Arrangement,
        named: bool,
        shards: Sequence[Path],
        members: list[Member],
    ) -> None:
        places = [Place(str(shard.resolve()), found.folder) for shard in shards]
        super().__init__(name, spec, location_key, files, found, named, places)
        self._shards = shards
        self._members = [members[index] for index in found.chosen]

    def _contents(self) -> Iterator[bytes | None]:
        for index, members in groupby(self._members, key=lambda member: member.shard):
            with open_shard(self._shards[index]) as file:
                for member in members:
                    yield read_at(file, (member.offset, member.size), LARGEST_FILE)

    def fingerprint(self) -> str:
        """Return a digest of the shards' names, sizes and modification times. PRIVATE."""
        return digest_of_files(self._shards)


def open_tar(shards: Sequence[Path], name: str, declared: DataOptions, root: Path) -> ImageSource:
    """Open tar shards: class folders if the tar lists such folders, else WebDataset.

    ``root`` is the folder or file that identifies the data set. Raises DataError for a damaged tar,
    or where class names are needed and not stated.
    """
    from sfumato.data.readers.webdataset import open_webdataset

    by_split: dict[str, list[Path]] = {}
    for shard in sorted(shards):
        by_split.setdefault(_split_of(shard), []).append(shard)
    splits = [found for found in by_split if found]
    split = choose_split(splits, declared.split, name) if splits else None
    chosen = by_split[split or ""]
    members = [member for index, shard in enumerate(chosen) for member in _table(shard, index)]
    key = str(chosen[0].resolve()) if len(chosen) == 1 else f"{root.resolve()}:{split or ''}"
    folders = {member.path for member in members if member.is_folder}
    files = [member for member in members if not member.is_folder]
    if splits:
        declared = replace(declared, split=None)
    if not _has_class_folders(folders):
        choose_split([], declared.split, name)
        return open_webdataset(chosen, name, declared, key, files)
    check_rule(declared.privacy_unit, name, "pattern")
    images = [member for member in files if is_image_name(member.path)]
    paths = [member.path for member in images]
    found = arrange(paths, folders, declared, name, strip_top=True)
    # The stream's order: a shard with gzip cannot be read backwards.
    order = sorted(range(len(found.chosen)), key=lambda at: found.chosen[at])
    found = Arrangement(
        found.folder,
        found.classes,
        [found.chosen[at] for at in order],
        [found.labels[at] for at in order],
        [found.names[at] for at in order],
    )
    key += f":{found.folder}" if found.folder else ""
    spec, named = declared.spec(found.classes), declared.classes is not None
    return TarSource(name, spec, key, paths, found, named, chosen, images)


def open_shard(shard: Path) -> BufferedIOBase:
    """Open a shard for reading by place. Raises DataError if it is gone."""
    try:
        return cast(BufferedIOBase, gzip.open(shard)) if _is_packed(shard) else shard.open("rb")
    except OSError:
        raise _damaged(shard) from None


def read_at(file: BufferedIOBase, place: tuple[int, int] | None, limit: int) -> bytes | None:
    """The bytes at (offset, size); None if there are none, or more than ``limit``."""
    if place is None or place[1] > limit:
        return None
    try:
        file.seek(place[0])
        return file.read(place[1])
    except (OSError, EOFError):
        return None


def _has_class_folders(folders: set[str]) -> bool:
    """Whether a tar lists more than one folder that everything lies in."""
    return len(folders) > 1


def _split_of(shard: Path) -> str:
    stem = re.sub(r"(\.tar|\.tgz|\.gz)+$", "", shard.name, flags=re.IGNORECASE)
    return split_name(stem.rstrip("0123456789-_")) or ""


def _is_packed(shard: Path) -> bool:
    return shard.suffix.lower() != ".tar"


def _table(shard: Path, index: int) -> Iterator[Member]:
    length = None if _is_packed(shard) else shard.stat().st_size
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


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(shard, "r:gz" if _is_packed(shard) else "r:") as tar:
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


def _damaged(shard: Path) -> DataError:
    return DataError(f"{shard}: not a readable tar (damaged or cut off). Copy or pack it again.")
