"""WebDataset: tar shards in which files of one base name are one record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BufferedIOBase
from itertools import groupby

from sfumato.data.decoding.decode import LARGEST_FILE
from sfumato.data.layout import IMAGE_SUFFIXES, label_of_folder
from sfumato.data.options import DataOptions
from sfumato.data.readers.tar import Member, open_shard, read_at
from sfumato.data.source import ImageSource, Place, Record, digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.storage import Location, place_of
from sfumato.data.units import Key, as_key

_LABEL_SUFFIXES = ("cls", "json")
_JSON_KEYS = ("label", "cls", "class")
_LARGEST_LABEL = 2**20


@dataclass(slots=True, repr=False)
class _Entry:
    """One record: its path without suffixes, and where (offset, bytes) its files lie."""

    shard: int
    path: str
    image: tuple[int, int] | None = None
    label: tuple[int, int] | None = None
    is_json: bool = False
    facts: tuple[int, int] | None = None


class WebDatasetSource(ImageSource):
    """Images and labels in tar shards, in the order of the shards' names and contents."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        shards: Sequence[Location],
        entries: list[_Entry],
    ) -> None:
        places = [Place(place_of(shard)) for shard in shards]
        super().__init__(name, spec, location_key, places)
        self._shards = shards
        self._entries = entries
        self._label_of = {class_name: label for label, class_name in enumerate(spec.classes)}
        self._label_of_folder = label_of_folder(spec.classes)

    def by_shard(self) -> list[ImageSource]:
        """One source a file."""
        entries: list[list[_Entry]] = [[] for _ in self._shards]
        for entry in self._entries:
            entries[entry.shard].append(replace(entry, shard=0))
        options = (self.name, self.spec)
        found: list[ImageSource] = []
        for shard, its in zip(self._shards, entries, strict=True):
            one = WebDatasetSource(*options, place_of(shard), [shard], its)
            one.options = self.options
            found.append(one)
        return found

    def _records(self) -> Iterator[Record]:
        for file, entry in self._opened():
            # In the order of the stream: a shard with gzip cannot be read backwards.
            places = {"image": (entry.image, LARGEST_FILE)}
            if self.spec.classes:
                places["label"] = (entry.label, _LARGEST_LABEL)
            parts: dict[str, bytes | None] = {}
            for part in sorted(places, key=lambda part: places[part][0] or (0, 0)):
                parts[part] = read_at(file, *places[part])
            label = self._label(parts["label"], entry) if self.spec.classes else None
            yield parts["image"], label

    def _opened(self) -> Iterator[tuple[BufferedIOBase, _Entry]]:
        """Every entry with its shard, one shard open at a time."""
        for index, entries in groupby(self._entries, key=lambda entry: entry.shard):
            with open_shard(self._shards[index]) as file:
                for entry in entries:
                    yield file, entry

    def _label(self, data: bytes | None, entry: _Entry) -> int | None:
        """What the label file says, else the first folder on the path called like a class."""
        # One record's label can hold anything; whatever goes wrong, it has none.
        with suppress(Exception):
            stored: object = None if data is None else data.decode()
            if data is not None and entry.is_json:
                record = json.loads(data)
                keys = [self.options.label_key] if self.options.label_key else _JSON_KEYS
                stored = next((record[key] for key in keys if key in record), None)
            if stored is None:
                folders = entry.path.split("/")[:-1]
                return next(self._label_of_folder[f] for f in folders if f in self._label_of_folder)
            text = str(stored).strip()
            return int(text) if text.isdecimal() else self._label_of[text]
        return None

    def _unit_keys(self) -> Iterator[Key]:
        unit = self.spec.unit
        assert unit is not None
        if unit.pattern is not None:
            yield from unit.keys_of(entry.path for entry in self._entries)
            return
        for file, entry in self._opened():
            yield _field(read_at(file, entry.facts, _LARGEST_LABEL), unit.column)

    def _private_length(self) -> int:
        return len(self._entries)

    def _private_name(self, index: int) -> str:
        return self._entries[index].path

    def fingerprint(self) -> str:
        """Return a digest of the shards' names, sizes and modification times. PRIVATE."""
        return digest_of_files(self._shards, reading=self.reading())


def open_webdataset(
    shards: Sequence[Location],
    name: str,
    declared: DataOptions,
    location_key: str,
    members: Sequence[Member],
) -> WebDatasetSource:
    """Open the files of tar shards as records.

    Labels are ``.cls`` files (a number or a class name) or ``.json`` with a key ``label``, ``cls``
    or ``class``; a record without either has the label of the folder it lies in, if that is called
    like a class. Raises DataError if no classes are stated: whether there are labels is private.
    """
    spec = declared.spec(declared.numbered_classes(name))
    return WebDatasetSource(name, spec, location_key, shards, list(_grouped(members)))


def _grouped(members: Sequence[Member]) -> Iterator[_Entry]:
    base, entry = None, _Entry(0, "")
    for member in members:
        folder, _, file = member.path.rpartition("/")
        stem, _, suffixes = file.partition(".")
        if (member.shard, folder, stem) != base:
            if entry.image or entry.label:
                yield entry
            base = member.shard, folder, stem
            entry = _Entry(member.shard, f"{folder}/{stem}".lstrip("/"))
        suffix = suffixes.lower().rpartition(".")[2]
        place = (member.offset, member.size)
        if suffix == "json" and entry.facts is None:
            entry.facts = place
        if f".{suffix}" in IMAGE_SUFFIXES and entry.image is None:
            entry.image = place
        # A .cls is a label and nothing else; a .json may be other metadata.
        elif suffix in _LABEL_SUFFIXES and (
            entry.label is None or (entry.is_json and suffix == "cls")
        ):
            entry.label, entry.is_json = place, suffix == "json"
    if entry.image or entry.label:
        yield entry


def _field(data: bytes | None, name: str | None) -> Key:
    try:
        return as_key(json.loads(data or b"")[name])
    # One record's JSON can hold anything; whatever goes wrong, it names no unit.
    except Exception:
        return None
