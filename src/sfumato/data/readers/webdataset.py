"""WebDataset: tar shards in which files of one base name are one record.

Each shard's table of contents is read once, at opening; records are then read by their place in
the file, so nothing is ever unpacked to disk.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import groupby
from pathlib import Path

from sfumato.data.decode import LARGEST_FILE, decode
from sfumato.data.layout import IMAGE_SUFFIXES, choose_split, split_name
from sfumato.data.options import DataOptions
from sfumato.data.readers.archive import climbs_out
from sfumato.data.source import ImageSource, Place, Record, digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.units import Key, as_key
from sfumato.errors import DataError

_LABEL_SUFFIXES = ("cls", "json")
_JSON_KEYS = ("label", "cls", "class")
_LARGEST_LABEL = 2**20


@dataclass(slots=True, repr=False)
class _Entry:
    """Where one record's files lie: (offset, bytes) of its image, its label and its JSON.

    ``name`` is the record's, and kept only where a declared unit needs it.
    """

    shard: int
    image: tuple[int, int] | None = None
    label: tuple[int, int] | None = None
    is_json: bool = False
    facts: tuple[int, int] | None = None
    name: str | None = None


class WebDatasetSource(ImageSource):
    """Images and labels in tar shards, in the order of the shards' names and contents."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        shards: Sequence[Path],
        entries: list[_Entry],
        label_of: Mapping[str, int],
    ) -> None:
        places = [Place(str(shard.resolve())) for shard in shards]
        super().__init__(name, spec, location_key, places)
        self._shards = shards
        self._entries = entries
        self._label_of = label_of

    def _records(self) -> Iterator[Record]:
        for file, entry in self._opened():
            data = _read(file, entry.image, LARGEST_FILE)
            label = self._label(file, entry) if self.spec.classes else None
            yield None if data is None else decode(data, self.spec), label

    def _opened(self) -> Iterator[tuple[BufferedIOBase, _Entry]]:
        """Every entry with its shard, one shard open at a time."""
        for index, entries in groupby(self._entries, key=lambda entry: entry.shard):
            with _open(self._shards[index]) as file:
                for entry in entries:
                    yield file, entry

    def _label(self, file: BufferedIOBase, entry: _Entry) -> int | None:
        data = _read(file, entry.label, _LARGEST_LABEL)
        if data is None:
            return None
        try:
            stored: object = data.decode()
            if entry.is_json:
                record = json.loads(data)
                stored = next(record[key] for key in _JSON_KEYS if key in record)
            text = str(stored).strip()
            return int(text) if text.isdecimal() else self._label_of[text]
        # One record's label can hold anything; whatever goes wrong, it has none.
        except Exception:
            return None

    def _unit_keys(self) -> Iterator[Key]:
        unit = self.spec.unit
        assert unit is not None
        if unit.pattern is not None:
            yield from unit.keys_of(entry.name or "" for entry in self._entries)
            return
        for file, entry in self._opened():
            yield _field(_read(file, entry.facts, _LARGEST_LABEL), unit.column)

    def _private_length(self) -> int:
        return len(self._entries)

    def fingerprint(self) -> str:
        """Return a digest of the shards' names, sizes and modification times. PRIVATE."""
        return digest_of_files(self._shards)


def open_webdataset(
    shards: Sequence[Path], name: str, declared: DataOptions, root: Path
) -> WebDatasetSource:
    """Open tar shards; ``root`` is the folder or file that identifies the data set.

    Labels are ``.cls`` files (a number or a class name) or ``.json`` with a key ``label``, ``cls``
    or ``class``. Raises DataError for a damaged tar, a path that climbs out, or no images.
    """
    by_split: dict[str, list[Path]] = {}
    for shard in sorted(shards):
        by_split.setdefault(split_name(shard.stem.rstrip("0123456789-_")) or "", []).append(shard)
    split = choose_split([found for found in by_split if found], declared.split, name)
    chosen = by_split[split or ""]
    named = declared.privacy_unit is not None and declared.privacy_unit.pattern is not None
    entries = [
        entry for index, shard in enumerate(chosen) for entry in _contents(shard, index, named)
    ]
    labels = any(entry.label for entry in entries)
    if not any(entry.image for entry in entries):
        what = "labels without images" if labels else "no images"
        raise DataError(
            f"{name}: {what} in the tar. Each record needs an image such as 000017.png "
            "(or .jpg) beside its 000017.cls."
        )
    if declared.classes and not labels:
        raise DataError(
            f"{name}: classes were stated, but there are no .cls or .json files of labels."
        )
    classes = declared.numbered_classes(name) if labels else ()
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    key = str(chosen[0].resolve()) if len(chosen) == 1 else f"{root.resolve()}:{split or ''}"
    return WebDatasetSource(name, declared.spec(classes), key, chosen, entries, label_of)


def _contents(shard: Path, index: int, named: bool) -> Iterator[_Entry]:
    length = shard.stat().st_size
    base, entry = None, _Entry(index)
    for member in _members(shard):
        if climbs_out(member.name):
            raise DataError(
                f"{shard}: a path inside the tar climbs out of it. "
                "Do not trust this file; pack the images again with relative names."
            )
        if not member.isreg() or member.issparse():
            continue
        if member.offset_data + member.size > length:
            raise _damaged(shard)
        folder, _, file = member.name.rpartition("/")
        stem, _, suffix = file.partition(".")
        if not stem:
            continue
        if (folder, stem) != base:
            if entry.image or entry.label:
                yield entry
            base, entry = (folder, stem), _Entry(index)
            entry.name = f"{folder}/{stem}".lstrip("/") if named else None
        suffix = suffix.lower().rpartition(".")[2]
        place = (member.offset_data, member.size)
        if suffix == "json" and entry.facts is None:
            entry.facts = place
        if f".{suffix}" in IMAGE_SUFFIXES and entry.image is None:
            entry.image = place
        # A .cls is a label and nothing else; a .json may be other metadata.
        elif suffix in _LABEL_SUFFIXES and (entry.label is None or suffix == "cls"):
            entry.label, entry.is_json = place, suffix == "json"
    if entry.image or entry.label:
        yield entry


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(shard, "r:") as tar:
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


def _open(shard: Path) -> BufferedIOBase:
    try:
        return shard.open("rb")
    except OSError:
        raise _damaged(shard) from None


def _read(file: BufferedIOBase, place: tuple[int, int] | None, limit: int) -> bytes | None:
    if place is None or place[1] > limit:
        return None
    try:
        file.seek(place[0])
        return file.read(place[1])
    except OSError:
        return None


def _field(data: bytes | None, name: str | None) -> Key:
    try:
        return as_key(json.loads(data or b"")[name])
    # One record's JSON can hold anything; whatever goes wrong, it names no unit.
    except Exception:
        return None


def _damaged(shard: Path) -> DataError:
    return DataError(
        f"{shard}: not a readable tar (damaged, cut off or compressed). "
        "Copy it again; unpack .gz first."
    )
