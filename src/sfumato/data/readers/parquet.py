"""Hugging Face Parquet: a column of encoded images, a column of labels, names in the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sfumato.data.layout import choose_split, match_classes, split_name
from sfumato.data.options import DataOptions
from sfumato.data.source import ImageSource, Place, Record, digest_of_files
from sfumato.data.spec import DEFAULT_CHANNELS, PublicSpec
from sfumato.data.storage import Location, RemotePath, place_of
from sfumato.data.units import Key, Part, PrivacyUnit, as_key, check_rule
from sfumato.errors import DataError

_IMAGES = ("image", "img", "images")
_LABELS = ("label", "labels", "fine_label", "class", "target")
_ROWS = 16  # more would not be faster, and each row can be as long as it likes
_KEYS = 1024
_BUFFER = 2**20
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError)


@dataclass(frozen=True)
class _Columns:
    """Which columns hold images and labels, and what the schema says of them."""

    image: str
    nested: bool
    channels: int
    label: str | None
    text_labels: bool
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class _Unit:
    """Where units' keys lie: a column, or fields inside of one."""

    column: str
    fields: tuple[str, ...]


class ParquetSource(ImageSource):
    """Encoded images in Parquet shards, read a few rows at a time."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        shards: Sequence[Location],
        columns: _Columns,
        label_of: dict[object, int],
        unit: _Unit | None,
    ) -> None:
        places = [Place(place_of(shard)) for shard in shards]
        super().__init__(name, spec, location_key, places)
        self._shards = shards
        self._columns = columns
        self._label_of = label_of
        self._unit = unit

    def by_shard(self) -> list[ImageSource]:
        """One source a file; ``part`` says which of them it is."""
        return [self._only(number) for number in range(len(self._shards))]

    def _only(self, number: int) -> ParquetSource:
        one, shard = copy(self), self._shards[number]
        one._shards, one.places, one.cluster = [shard], (Place(place_of(shard)),), None
        one.location_key = one.places[0].path
        if self.part is not None:
            one.part = Part(number, self.part.count)
        return one

    def _records(self) -> Iterator[Record]:
        for shard in self._shards:
            try:
                yield from self._shard(shard)
            except _DAMAGE:
                raise _damaged(shard) from None

    def _shard(self, shard: Location) -> Iterator[Record]:
        image, label = self._columns.image, self._columns.label
        wanted = [f"{image}.bytes" if self._columns.nested else image]
        if label is not None:
            wanted.append(label)
        for batch in self._batches(shard, wanted, _ROWS):
            images = batch.column(image)
            if self._columns.nested:
                images = pc.struct_field(images, "bytes")
            images.validate(full=True)
            labels = [None] * len(images) if label is None else _values(batch.column(label))
            for data, key in zip(images, labels, strict=True):
                yield data.as_py(), self._label_of.get(key)

    def _batches(self, shard: Location, wanted: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        """At most so many rows at a time of the wanted columns, or of fields as ``image.bytes``."""
        with _open(shard) as file:
            yield from file.iter_batches(rows, columns=wanted, use_threads=False)

    def _unit_keys(self) -> Iterator[Key]:
        assert self._unit is not None
        for shard in self._shards:
            try:
                wanted = ".".join([self._unit.column, *self._unit.fields])
                for batch in self._batches(shard, [wanted], _KEYS):
                    values = batch.column(self._unit.column)
                    for field in self._unit.fields:
                        values = pc.struct_field(values, field)
                    yield from map(as_key, _values(values))
            except _DAMAGE:
                raise _damaged(shard) from None

    def _private_length(self) -> int:
        return sum(self._rows_in(shard) for shard in self._shards)

    def _rows_in(self, shard: Location) -> int:
        with _open(shard) as file:
            return int(file.metadata.num_rows)

    def fingerprint(self) -> str:
        """Return a digest of the shards' names, sizes and modification times. PRIVATE."""
        return digest_of_files(self._shards, reading=self.reading())


def open_parquet(
    shards: Sequence[Location], name: str, declared: DataOptions, root: Location
) -> ParquetSource:
    """Open Parquet shards; ``root`` is the folder or file that identifies the data set.

    Shards called ``train-00000-of-00002.parquet`` or ``train.parquet`` belong to the split train.
    Raises DataError for an unknown schema, or shards whose schemas differ.
    """
    check_rule(declared.privacy_unit, name, "column")
    by_split: dict[str, list[Location]] = {}
    for shard in sorted(shards):
        by_split.setdefault(_split_of(shard), []).append(shard)
    split = choose_split([found for found in by_split if found], declared.split, name)
    chosen = by_split[split or ""]
    key = place_of(chosen[0]) if len(chosen) == 1 else f"{place_of(root)}:{split or ''}"
    return open_table(ParquetSource, _schema, chosen, name, declared, key)


def open_table(
    kind: type[ParquetSource],
    schema_of: Callable[[Location], pa.Schema],
    shards: Sequence[Location],
    name: str,
    declared: DataOptions,
    key: str,
) -> ParquetSource:
    """Open shards of columns. Raises DataError for an unknown schema, or schemas that differ."""
    schemas = [schema_of(shard) for shard in shards]
    for shard, schema in zip(shards, schemas, strict=True):
        try:
            schema.names  # noqa: B018 (Arrow decodes them only now)
        except UnicodeDecodeError:
            raise DataError(f"{shard}: a column's name is no UTF-8 text. Save it again.") from None
        if not schema.equals(schemas[0]):
            raise DataError(
                f"{shard}: its schema differs from {shards[0].name}'s. Give shards of one data set."
            )
    columns = _columns(schemas[0], declared, name)
    classes, label_of = _classes(columns, declared, name)
    spec = declared.spec(classes, channels=columns.channels)
    unit = _unit(schemas[0], declared.privacy_unit, name)
    return kind(name, spec, key, shards, columns, label_of, unit)


def _columns(schema: pa.Schema, declared: DataOptions, where: str) -> _Columns:
    features = _features(schema)
    image = declared.image_key or _pick(schema.names, _IMAGES, features, "Image")
    image = image if schema.names.count(image) == 1 else None
    kind = None if image is None else schema.field(image).type
    nested = kind is not None and pa.types.is_struct(kind)
    if kind is not None and nested:
        index = kind.get_field_index("bytes")
        kind = kind.field(index).type if index >= 0 else None
    if image is None or kind not in (pa.binary(), pa.large_binary()):
        raise DataError(
            f"{where}: no column of encoded images among {', '.join(schema.names)[:200]}. "
            "It must be called image and be binary, or a struct with a binary field bytes, "
            "as the Hugging Face datasets library writes it."
        )
    channels = 1 if features.get(image, {}).get("mode") == "L" else DEFAULT_CHANNELS
    label = None
    if not declared.unlabelled:
        label = declared.label_key or _pick(schema.names, _LABELS, features, "ClassLabel")
        if label is not None and schema.names.count(label) != 1:
            raise DataError(
                f"{where}: no column {label!r} among {', '.join(schema.names)[:200]}. Name one."
            )
    if label is None:
        return _Columns(image, nested, channels, None, False, None)
    kind = schema.field(label).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not is_text and not pa.types.is_integer(kind):
        raise DataError(
            f"{where}: the column {label} has type {kind}; labels must be integers or texts."
        )
    names = features.get(label, {}).get("names")
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return _Columns(image, nested, channels, label, is_text, tuple(names) if is_list else None)


def _unit(schema: pa.Schema, unit: PrivacyUnit | None, where: str) -> _Unit | None:
    if unit is None or unit.column is None:
        return None
    column = unit.column
    fields: list[str] = []
    if column not in schema.names:
        column, *fields = column.split(".")
    kind = schema.field(column).type if schema.names.count(column) == 1 else None
    for field in fields:
        if kind is not None:
            inside = pa.types.is_struct(kind) and kind.get_field_index(field) >= 0
            kind = kind.field(field).type if inside else None
    if kind is None:
        raise DataError(
            f"{where}: no column {unit.column!r} for the unit among "
            f"{', '.join(schema.names)[:200]}. Name one of them, or a field inside as meta.patient."
        )
    stored = kind.value_type if pa.types.is_dictionary(kind) else kind
    known = (
        pa.types.is_integer(stored) or pa.types.is_floating(stored) or pa.types.is_boolean(stored)
        or pa.types.is_string(stored) or pa.types.is_large_string(stored)
        or pa.types.is_binary(stored) or pa.types.is_large_binary(stored)
    )  # fmt: skip
    if not known:
        raise DataError(
            f"{where}: the column {unit.column!r} has type {kind}; a unit must be numbers or texts."
        )
    return _Unit(column, tuple(fields))


def _values(column: pa.Array) -> list[object]:
    """The values of a column; None for a text that is none, which is one record's fault."""

    if pa.types.is_dictionary(column.type):
        column.validate()
        column = column.dictionary.take(column.indices)  # checks its bounds
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        # As bytes: what is checked is where texts lie, not whether each of them is one.
        wide = pa.types.is_large_string(column.type)
        column.validate()
        column = column.view(pa.large_binary() if wide else pa.binary())
        column.validate(full=True)
        column = column.view(pa.large_string() if wide else pa.string())
    else:
        column.validate(full=True)

    def one(value: pa.Scalar) -> object:
        try:
            return value.as_py()
        except ValueError:
            return None

    return [one(value) for value in column]


def _classes(
    columns: _Columns, declared: DataOptions, where: str
) -> tuple[tuple[str, ...], dict[object, int]]:
    """Return the classes and what each stored label stands for."""
    if columns.label is None:
        if declared.classes:
            raise DataError(f"{where}: classes were stated, but there is no column of labels.")
        return (), {}
    if columns.names is None:
        classes = declared.numbered_classes(where)
        stored: Sequence[object] = classes if columns.text_labels else range(len(classes))
        return classes, {value: label for label, value in enumerate(stored)}
    classes, label_by_name = match_classes(columns.names, declared, where)
    stored = columns.names if columns.text_labels else range(len(columns.names))
    return classes, {
        value: label_by_name[found] for value, found in zip(stored, columns.names, strict=True)
    }


def _pick(
    names: Sequence[str], usual: Sequence[str], features: Mapping[str, Any], kind: str
) -> str | None:
    """Return the column that the schema calls an image or a label, else one with a usual name."""
    typed = [name for name in names if features.get(name, {}).get("_type") == kind]
    called = [name for name in usual if name in names]
    return next((name for name in [*called, *typed] if not typed or name in typed), None)


def _features(schema: pa.Schema) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _split_of(shard: Location) -> str:
    stem = re.sub(r"-\d+(-of-\d+)?(-[0-9a-f]+)?$", "", shard.stem)
    return split_name(stem) or split_name(shard.parent.name) or ""


def _open(shard: Location) -> pq.ParquetFile:
    try:
        source = shard.open() if isinstance(shard, RemotePath) else shard
        return pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False)
    except _DAMAGE:
        raise _damaged(shard) from None


def _schema(shard: Location) -> pa.Schema:
    with _open(shard) as file:
        try:
            return file.schema_arrow
        except _DAMAGE:
            raise _damaged(shard) from None


def _damaged(shard: Location) -> DataError:
    kind = "Arrow" if shard.suffix == ".arrow" else "Parquet"
    return DataError(f"{shard}: not a readable {kind} file (damaged or cut off). Copy it again.")
