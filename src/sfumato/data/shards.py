"""Any data set as Parquet shards, each unit whole in one of them, with a manifest that says so.

The shards hold private images and are the owner's alone. ``shards.json`` beside them lists each
shard once; a shard that it does not list, or that is gone, is an error, never a smaller sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sfumato.data.decoding.decode import quiet
from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec, is_count
from sfumato.data.storage import Location
from sfumato.data.units import Key, Part, shard_of, text_of
from sfumato.data.writers import encode_png, parquet_schema
from sfumato.disk import OWNER_ONLY, private_folder, write_private
from sfumato.errors import DataError, UsageError

MANIFEST = "shards.json"
UNIT = "unit"
MOST_SHARDS = 10_000
_GROUP_BYTES, _GROUP_ROWS = 2**20, 1000
"""Encoded bytes and rows of a row group: so much of each shard waits in memory at most."""
_LARGEST_NUMBER = 2**63


def write_shards(source: ImageSource, folder: Path, count: int, by_unit: bool) -> None:
    """Write all records as ``count`` Parquet shards, in their order, with the bytes they have.

    With ``by_unit`` the records of a unit lie in one shard, chosen by a hash of its key, which a
    column ``unit`` then holds; else records go to the shards in turn.

    Raises:
        UsageError: ``count`` is outside its rule, the folder is not empty, or no unit is stated.
        DataError: the data cannot be read.
    """
    if not (is_count(count) and count <= MOST_SHARDS):
        raise UsageError(f"shards={count!r} must be an integer from 1 to {MOST_SHARDS}.")
    if by_unit and source.spec.unit is None:
        raise UsageError("by_unit needs to know what a unit is: state unit or unit_pattern.")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"out={folder}: already holds files. Name a new folder.")
    private_folder(folder)
    names = [f"train-{index:05d}-of-{count:05d}.parquet" for index in range(count)]
    shards = [_Shard(folder / name, source, by_unit) for name in names]
    keys: Iterator[Key] = source._unit_keys() if by_unit else repeat(None)
    with quiet():
        for number, ((stored, label), key) in enumerate(zip(source._records(), keys, strict=False)):
            text = None if key is None else text_of(key)
            place = number % count if text is None else shard_of(text, count)
            data = stored if isinstance(stored, bytes | None) else encode_png(stored)
            shards[place].add(data, label, text)
    for shard in shards:
        shard.close()
    said = {"shards": names, "by_unit": by_unit}
    write_private(folder / MANIFEST, json.dumps(said, indent=1) + "\n")


class _Shard:
    """One file that is being written."""

    def __init__(self, path: Path, source: ImageSource, by_unit: bool) -> None:
        self._schema = parquet_schema(source.spec.classes, source.spec.channels)
        if by_unit:
            self._schema = self._schema.append(pa.field(UNIT, pa.string()))
        path.touch(OWNER_ONLY)
        path.chmod(OWNER_ONLY)
        self._file = pq.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, object]] = []
        self._bytes = 0

    def add(self, data: bytes | None, label: int | None, unit: str | None) -> None:
        """Write one record."""
        known = label is not None and -_LARGEST_NUMBER <= label < _LARGEST_NUMBER
        row: dict[str, object] = {"image": {"bytes": data, "path": None}}
        row |= {"label": label if known else None, UNIT: unit}
        self._rows.append({name: row[name] for name in self._schema.names})
        self._bytes += len(data or b"")
        if self._bytes >= _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0


@dataclass(frozen=True)
class Manifest:
    """What ``shards.json`` says: the names of all shards, and whether units are whole in them."""

    shards: tuple[str, ...]
    by_unit: bool

    def part_of(self, spec: PublicSpec) -> Part | None:
        """The rule by which the units of ``spec`` lie in shards; None where there is none."""
        known = self.by_unit and spec.unit is not None and spec.unit.column == UNIT
        return Part(None, len(self.shards)) if known else None


def read_manifest(folder: Location, present: Sequence[Location]) -> Manifest | None:
    """The manifest beside ``present``, all Parquet files of a folder; None where there is none.

    Raises:
        DataError: it is damaged, lists a shard twice, or lists others than there are.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_bytes())
        manifest = Manifest(tuple(said["shards"]), said["by_unit"])
        if not all(isinstance(name, str) for name in manifest.shards):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path} is damaged. Make the shards again with sfumato shard.") from None
    listed, found = set(manifest.shards), {shard.name for shard in present}
    if len(listed) < len(manifest.shards):
        raise DataError(f"{path} lists a shard twice. Make the shards again with sfumato shard.")
    if listed - found:
        raise DataError(f"{folder}: the shard {min(listed - found)} is missing. Copy it again.")
    if found - listed:
        raise DataError(
            f"{folder}: {min(found - listed)} is not in {MANIFEST}. Remove it, or make the shards "
            "again with sfumato shard."
        )
    return manifest
