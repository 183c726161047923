"""NumPy archives (``np.savez``), streamed out of the zip and never unpickled.

A declared range of values, else the dtype alone, says what a pixel value means, so that no content
is looked at to find out: ``data/pixels.py``.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib import format as npy

from sfumato.data.decoding.decode import quiet
from sfumato.data.decoding.pixels import axes, check_images, check_labels, picture, row_label
from sfumato.data.layout import choose_split, match_ordered_classes, split_name
from sfumato.data.options import MOST_CLASSES, DataOptions
from sfumato.data.readers.archive import METHODS, open_zip
from sfumato.data.readers.rows import damage_as_data_error, rows, short_rows
from sfumato.data.source import ImageSource, Place, Record, digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.units import Key, PrivacyUnit, as_key, check_rule
from sfumato.errors import DataError

LARGEST_KEY = 4096
"""Bytes of a text that names a unit or a class; a longer one names nothing."""
_IMAGES = ("images", "image", "x", "data", "arr_0")
_LABELS = ("labels", "label", "y", "targets", "target", "arr_1")
_CLASSES = ("classes", "class_names")


@dataclass(frozen=True)
class _Array:
    """One member's public header."""

    member: str
    shape: tuple[int, ...]
    dtype: np.dtype


class NpzSource(ImageSource):
    """Images and labels of one ``.npz`` file."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        path: Path,
        split: str,
        images: _Array,
        labels: _Array | None,
        units: _Array | None,
    ) -> None:
        super().__init__(name, spec, location_key, [Place(str(path.resolve()), split)])
        self._path = path
        self._images = images
        self._labels = labels
        self._units = units

    def _records(self) -> Iterator[Record]:
        channels_first = axes(self._images.shape)[2]
        with damage_as_data_error(self.name), open_zip(self._path, self.name) as archive:
            labels: Iterator[int | None] = repeat(None, self._images.shape[0])
            if self._labels is not None:
                labels = self._label_values(archive, self._labels)
            for values, label in zip(_stream(archive, self._images), labels, strict=True):
                yield picture(values, channels_first, self.spec, self.options.value_range), label

    def _label_values(self, archive: zipfile.ZipFile, labels: _Array) -> Iterator[int | None]:
        """What the array of labels says: numbers, names of classes, or a one in its column."""
        if labels.dtype.kind in "SU":
            label_of = {name: label for label, name in enumerate(self.spec.classes)}
            for text in _texts(archive, labels):
                yield label_of.get(text.strip()) if isinstance(text, str) else None
            return
        yield from map(row_label, _stream(archive, labels))

    def _unit_keys(self) -> Iterator[Key]:
        assert self._units is not None
        with damage_as_data_error(self.name), open_zip(self._path, self.name) as archive:
            if self._units.dtype.kind in "SU":
                yield from map(as_key, _texts(archive, self._units))
                return
            for value in _stream(archive, self._units):
                yield as_key(value.reshape(()).item())

    def _private_length(self) -> int:
        return self._images.shape[0]

    def fingerprint(self) -> str:
        """Return a digest of the file's size and modification time. PRIVATE."""
        return digest_of_files([self._path], reading=self.reading())


def open_npz(path: Path, name: str, declared: DataOptions) -> NpzSource:
    """Open arrays ``images``/``x`` and ``labels``/``y``, also with ``_train`` and ``_test``.

    Images are [n, h, w], [n, h, w, c] or [n, c, h, w] with c 1 or 3; labels class numbers,
    booleans or class names, [n] or [n, 1], or one-hot rows [n, classes]; an optional text array
    ``classes`` names the classes. Raises DataError otherwise.
    """
    check_rule(declared.privacy_unit, name, "column")
    with damage_as_data_error(name), open_zip(path, name) as archive:
        by_split: dict[str, dict[str, str]] = {}
        for member in archive.namelist():
            of_split, role = _role(member, declared)
            if role:
                by_split.setdefault(of_split, {})[role] = member
        plain = by_split.get("", {})
        images_in = {split: roles for split, roles in by_split.items() if "images" in roles}
        if len(images_in) > 1 and "" in images_in:
            images_in.setdefault("train", images_in.pop(""))
        if not images_in:
            labels_only = any("labels" in roles for roles in by_split.values())
            found = ", ".join(member.removesuffix(".npy") for member in archive.namelist())
            raise DataError(
                f"{name}: {'labels without images' if labels_only else 'no array of images'}; "
                f"it holds {found[:200] or 'nothing'}. Name the arrays images and labels."
            )
        split = choose_split([found for found in images_in if found], declared.split, name)
        roles = images_in[split or ""]
        images = _header(archive, roles["images"], name)
        labels = None
        if "labels" in roles and not declared.unlabelled:
            labels = _header(archive, roles["labels"], name)
        _check(images, labels, name)
        units = _units(archive, declared.privacy_unit, images, name)
        classes: tuple[str, ...] = ()
        if labels is not None and "classes" in plain:
            names = _class_names(archive, plain["classes"], name)
            classes = match_ordered_classes(names, declared, name)
        elif labels is not None:
            classes = _numbered(labels, declared, name)
        elif declared.classes:
            raise DataError(
                f"{name}: classes were stated, but there is no array of labels. "
                "Save it as labels, or leave classes out."
            )
    side, channels, _ = axes(images.shape)
    key = f"{path.resolve()}" + (f":{split}" if split else "")
    spec = declared.spec(classes, side, channels)
    return NpzSource(name, spec, key, path, split or "", images, labels, units)


def _numbered(labels: _Array, declared: DataOptions, name: str) -> tuple[str, ...]:
    """The stated classes, else as many as one-hot rows are wide, or two of booleans."""
    width = math.prod(labels.shape[1:])
    if declared.classes is None and (width > 1 or labels.dtype.kind == "b"):
        return tuple(str(label) for label in range(max(2, width)))
    classes = declared.numbered_classes(name)
    if 1 < width != len(classes):
        raise DataError(
            f"{name}: the one-hot labels have {width} columns, but {len(classes)} classes were "
            "stated. State as many as there are columns, in their order."
        )
    return classes


def _role(member: str, declared: DataOptions) -> tuple[str, str]:
    """Return the split and the role (images, labels, classes or nothing) a key stands for."""
    words = member.removesuffix(".npy")
    stated = {declared.image_key: "images", declared.label_key: "labels"}
    stated.pop(None, None)
    if words in stated:
        return "", stated[words]
    words = words.lower()
    first, _, rest = words.partition("_")
    start, _, last = words.rpartition("_")
    split = split_name(first) if rest else None
    if split:
        words = rest
    elif start and (split := split_name(last)):
        words = start
    for role, names in (("images", _IMAGES), ("labels", _LABELS), ("classes", _CLASSES)):
        if words in names and role not in stated.values():
            return split or "", role
    return "", ""


def _open_member(
    archive: zipfile.ZipFile, member: str, where: str
) -> tuple[BufferedIOBase, _Array]:
    info = archive.getinfo(member)
    if info.compress_type not in METHODS:
        raise DataError(f"{where}: save it with np.savez or np.savez_compressed.")
    stream = cast(BufferedIOBase, archive.open(info))
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise DataError(f"{where}: an array has fields. Save plain arrays, images and labels.")
    with quiet():
        shape, fortran_order, dtype = read(stream)
    key = member.removesuffix(".npy")
    if dtype.hasobject:
        raise DataError(
            f"{where}: the array {key} holds pickled objects, which can run code and are never "
            f"loaded. Save it as numbers, for example np.asarray({key}, dtype=np.uint8)."
        )
    if fortran_order and len(shape) > 1:
        raise DataError(
            f"{where}: the array {key} lies in Fortran order and cannot be streamed. "
            "Save np.ascontiguousarray of it."
        )
    if info.file_size - stream.tell() != math.prod(shape) * dtype.itemsize:
        raise EOFError
    return stream, _Array(member, shape, dtype)


def _header(archive: zipfile.ZipFile, member: str, where: str) -> _Array:
    stream, array = _open_member(archive, member, where)
    stream.close()
    return array


def _stream(archive: zipfile.ZipFile, array: _Array) -> Iterator[np.ndarray]:
    stream, _ = _open_member(archive, array.member, array.member)
    with stream:
        yield from rows(stream, array.shape[0], array.shape[1:], array.dtype)


def _texts(archive: zipfile.ZipFile, array: _Array) -> Iterator[str | None]:
    """The texts of an array; None for one that is too long or no text, whatever width it gave."""
    kind, width = array.dtype.kind, array.dtype.itemsize
    stream, _ = _open_member(archive, array.member, array.member)
    most = min(width, LARGEST_KEY)
    held = np.dtype(f"{array.dtype.byteorder}U{most // 4}" if kind == "U" else f"S{most}")
    with stream:
        for row in short_rows(stream, array.shape[0], width, most):
            try:
                value = "" if row is None else np.frombuffer(row, held)[0].item() if most else ""
                text = value if isinstance(value, str) else value.decode()
                # A row can hold numbers that no character has: looking at each finds them.
                yield None if row is None else "".join(text)
            except (ValueError, SystemError):
                yield None


def _check(images: _Array, labels: _Array | None, where: str) -> None:
    check_images(images.shape, images.dtype, where)
    if labels is None:
        return
    check_labels(labels.shape, labels.dtype, MOST_CLASSES, where)
    if labels.shape[0] != images.shape[0]:
        raise DataError(
            f"{where}: {images.member} and {labels.member} hold different numbers of records. "
            "Save arrays of the same set."
        )


def _units(
    archive: zipfile.ZipFile, unit: PrivacyUnit | None, images: _Array, where: str
) -> _Array | None:
    if unit is None or unit.column is None:
        return None
    if f"{unit.column}.npy" not in archive.namelist():
        found = ", ".join(member.removesuffix(".npy") for member in archive.namelist())
        raise DataError(
            f"{where}: no array {unit.column!r} for the unit; it holds {found[:200]}. Name one."
        )
    array = _header(archive, f"{unit.column}.npy", where)
    if array.dtype.kind not in "biufSU" or array.shape[1:] not in ((), (1,)):
        raise DataError(
            f"{where}: the array {unit.column!r} must hold one number or text a record, not "
            f"{array.dtype} with {len(array.shape)} axes."
        )
    if array.shape[0] != images.shape[0]:
        raise DataError(
            f"{where}: {images.member} and {array.member} hold different numbers of records. "
            "Save arrays of the same set."
        )
    return array


def _class_names(archive: zipfile.ZipFile, member: str, where: str) -> tuple[str, ...]:
    array = _header(archive, member, where)
    if array.dtype.kind != "U" or len(array.shape) != 1 or array.dtype.itemsize > 4096:
        raise DataError(f"{where}: the array of classes must be texts [k], short and in order.")
    if array.shape[0] > 100_000:
        raise DataError(f"{where}: more than 100000 classes.")
    names = tuple(_texts(archive, array))
    if None in names:
        raise DataError(f"{where}: a name in the array of classes is no text. Save it again.")
    return tuple(name for name in names if name is not None)
