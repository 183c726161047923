"""HDF5 files (extra ``sfumato[hdf5]``): one array of images, one of labels, read row by row.

Only arrays that lie in the file itself are read: never a link to another file, a virtual array, or
raw data stored outside.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.data.decoding.pixels import axes, check_images, check_labels, picture, row_label
from sfumato.data.options import MOST_CLASSES, DataOptions
from sfumato.data.source import ImageSource, Place, Record, digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.units import Key, as_key, check_rule
from sfumato.errors import DataError, UsageError

SUFFIXES = (".h5", ".hdf5", ".hdf")
_IMAGES = ("images", "image", "x", "X", "data")
_LABELS = ("labels", "label", "y", "Y", "targets", "target")
_ROWS = 2**22
"""Bytes of rows that are read at once, unless one row or one chunk of the file is longer."""
_LARGEST_CHUNK = 2**28
_FILTERS = (None, "gzip", "lzf", "szip")


class Hdf5Source(ImageSource):
    """Images and labels of one HDF5 file."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        path: Path,
        images: str,
        labels: str | None,
    ) -> None:
        super().__init__(name, spec, location_key, [Place(str(path.resolve()))])
        self._path = path
        self._images = images
        self._label_array = labels
        self._label_of = {text: label for label, text in enumerate(spec.classes)}

    def _records(self) -> Iterator[Record]:
        with _opened(self._path, self.name) as file:
            images = file[self._images]
            channels_first = axes(images.shape)[2]
            labels: Iterator[Any] = repeat(None, images.shape[0])
            if self._label_array is not None:
                labels = _rows(file[self._label_array])
            for values, label in zip(_rows(images), labels, strict=True):
                pixels = picture(values, channels_first, self.spec, self.options.value_range)
                yield pixels, None if label is None else self._label(label)

    def _label(self, row: Any) -> int | None:
        text = _text(row)
        return row_label(np.asarray(row)) if text is None else self._label_of.get(text.strip())

    def _unit_keys(self) -> Iterator[Key]:
        assert self.spec.unit is not None and self.spec.unit.column is not None
        with _opened(self._path, self.name) as file:
            for row in _rows(file[self.spec.unit.column]):
                text = _text(row)
                yield as_key(np.asarray(row).reshape(-1)[0].item() if text is None else text)

    def _private_length(self) -> int:
        with _opened(self._path, self.name) as file:
            return int(file[self._images].shape[0])

    def fingerprint(self) -> str:
        """Return a digest of the file's size and modification time. PRIVATE."""
        return digest_of_files([self._path], reading=self.reading())


def open_hdf5(path: Path, name: str, declared: DataOptions) -> Hdf5Source:
    """Open arrays ``images``/``x`` and ``labels``/``y``, or those that are stated.

    Labels are class numbers, texts, booleans or one-hot rows. Raises DataError where arrays are
    missing or of another shape, UsageError without the extra.
    """
    if importlib.util.find_spec("h5py") is None:
        raise UsageError(f"{name}: HDF5 needs a further package: pip install 'sfumato[hdf5]'")
    check_rule(declared.privacy_unit, name, "column")
    with _opened(path, name) as file:
        found = [str(key) for key in file]
        images = _pick(found, declared.image_key, _IMAGES, "image_key", name)
        array = _array(file, images, name)
        check_images(array.shape, array.dtype, name)
        labels: str | None = None
        classes: tuple[str, ...] = ()
        if not declared.unlabelled and (declared.label_key or set(found) & set(_LABELS)):
            labels = _pick(found, declared.label_key, _LABELS, "label_key", name)
            classes = _classes(_array(file, labels, name, array.shape[0]), declared, name)
        elif declared.classes:
            raise DataError(f"{name}: classes were stated, but there is no array of labels.")
        unit = declared.privacy_unit
        if unit is not None and unit.column is not None:
            keys = _array(file, unit.column, name, array.shape[0])
            if keys.shape[1:] not in ((), (1,)):
                raise DataError(f"{name}: {unit.column} must hold one number or text a record.")
        side, channels, _ = axes(array.shape)
    spec = declared.spec(classes, side, channels)
    return Hdf5Source(name, spec, str(path.resolve()), path, images, labels)


def _classes(labels: Any, declared: DataOptions, where: str) -> tuple[str, ...]:
    check_labels(labels.shape, labels.dtype, MOST_CLASSES, where)
    width = math.prod(labels.shape[1:])
    if declared.classes is None and (width > 1 or labels.dtype.kind == "b"):
        return tuple(str(label) for label in range(max(2, width)))
    return declared.numbered_classes(where)


def _pick(
    found: list[str], stated: str | None, usual: tuple[str, ...], option: str, where: str
) -> str:
    if stated is not None:
        return stated
    name = next((name for name in usual if name in found), None)
    if name is None:
        raise DataError(
            f"{where}: holds {', '.join(found)[:200] or 'nothing'}, none of it called like images. "
            f"State {option}=."
        )
    return name


def _array(file: Any, key: str, where: str, length: int | None = None) -> Any:
    """An array of the file itself, with filters and chunks that are read within bounds."""
    import h5py

    at: Any = file
    for part in key.strip("/").split("/"):
        link = at.get(part, getlink=True) if isinstance(at, h5py.Group) else None
        at = at[part] if isinstance(link, h5py.HardLink) else None
    if not isinstance(at, h5py.Dataset) or at.shape is None or len(at.shape) < 1:
        raise DataError(f"{where}: no array {key!r} in the file itself.")
    chunk = math.prod(at.chunks or (1,)) * max(1, at.dtype.itemsize)
    if at.is_virtual or at.external or at.compression not in _FILTERS or chunk > _LARGEST_CHUNK:
        raise DataError(
            f"{where}: the array {key!r} lies outside the file, or is packed in a way that is not "
            "read here. Save it again as a plain array, or with gzip."
        )
    if at.dtype.kind == "O":
        raise DataError(
            f"{where}: the array {key!r} holds values of varying length, which no limit of memory "
            "bounds. Save numbers, or texts of one width: array.astype('S')."
        )
    if length is not None and at.shape[0] != length:
        raise DataError(f"{where}: {key!r} and the images hold different numbers of records.")
    return at


def _rows(array: Any) -> Iterator[Any]:
    width = math.prod(array.shape[1:]) * max(1, array.dtype.itemsize)
    step = max(1, _ROWS // max(1, width))
    for start in range(0, array.shape[0], step):
        yield from array[start : start + step]


def _text(row: Any) -> str | None:
    """A row as text; None for a number. A text of bad bytes is empty, and names nothing."""
    value = row.reshape(-1)[0] if isinstance(row, np.ndarray) and row.size == 1 else row
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") if len(value) <= 4096 else ""
    return value if isinstance(value, str) else None


@contextmanager
def _opened(path: Path, where: str) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError):
        raise DataError(
            f"{where}: not a readable HDF5 file (damaged or cut off). Copy it again."
        ) from None
