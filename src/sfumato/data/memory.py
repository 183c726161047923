"""Private images that a program holds already: NumPy arrays, PyTorch or Hugging Face data sets.

Such images lie at no location, so the caller names the data set, and its ledger hangs on that name:
``memory:NAME``. The same name stands for one data set for ever, whatever arrays come with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sfumato.data.decoding.decode import fit_pixels
from sfumato.data.options import DataOptions
from sfumato.data.source import ImageSource, Record
from sfumato.data.spec import PublicSpec
from sfumato.data.units import Key, PrivacyUnit, as_key
from sfumato.errors import DataError, UsageError
from sfumato.options import gathered

LONGEST_NAME = 200
UNITS = "units"


class MemorySource(ImageSource):
    """Records of a data set that is indexed: ``items[i]`` is an image and its label."""

    def __init__(self, name: str, spec: PublicSpec, items: _Items, units: Sequence[Any]) -> None:
        super().__init__(name, spec, f"memory:{name}")
        self._items, self._units = items, units

    def _records(self) -> Iterator[Record]:
        for index in range(len(self._items)):
            try:
                content, label = self._items.read_at(index)
                fitted = fit_pixels(_upright(content), self.spec)
                value = np.asarray(0 if label is None else label)
                named = int(value) if value.ndim == 0 and value == int(value) else None
            # Code of the caller's may raise anything at a record, and its text may quote it.
            except Exception:
                yield None, None
            else:
                yield fitted, named

    def _unit_keys(self) -> Iterator[Key]:
        for value in self._units:
            yield as_key(value.item() if isinstance(value, np.generic) else value)

    def _private_length(self) -> int:
        return len(self._items)

    def fingerprint(self) -> str:
        """Return a digest of all pixels, labels and units as they are read. PRIVATE."""
        digest = hashlib.sha256()
        for images, labels in self.batches(256):
            digest.update(images.tobytes() + labels.tobytes())
        for key in self._units:
            digest.update(str(key).encode() + b"\0")
        return digest.hexdigest()


class _Items:
    """Images and labels by number, from what the caller holds. PRIVATE."""

    def __init__(self, dataset: Any, image: Any, label: Any) -> None:
        self._dataset, self._image, self._label = dataset, image, label

    def __len__(self) -> int:
        return len(self._dataset)

    def read_at(self, index: int) -> tuple[Any, Any]:
        """The image and the label (None without labels) of a record."""
        item = self._dataset[index]
        return item[self._image], None if self._label is None else item[self._label]


class _Zipped:
    """Images and labels in arrays, as a data set of pairs. PRIVATE."""

    def __init__(self, images: np.ndarray, labels: Any) -> None:
        self._images = images
        self._labels = np.zeros(len(images), np.int64) if labels is None else np.asarray(labels)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._images[index], self._labels[index]


def from_arrays(
    images: np.ndarray,
    labels: Any = None,
    *objects: DataOptions,
    name: str,
    units: Sequence[Any] | None = None,
    **stated: Any,
) -> ImageSource:
    """Private images in memory, as :func:`open_images` gives those at a location.

    Args:
        images: uint8 ``[n, h, w]``, ``[n, h, w, c]`` or ``[n, c, h, w]`` with c 1 or 3.
        labels: class numbers ``[n]``; None for unlabelled images.
        objects, stated: :class:`DataOptions`, or its fields. ``classes`` is needed with labels:
            names in label order, or how many, because the labels themselves are private.
        name: names the data set. Its ledger is found by it, so use one name for the same people's
            images, in this program and the next.
        units: whose each image is, ``[n]``; all images with one value are protected as one.

    Raises:
        DataError: the arrays do not have these shapes or types.
        UsageError: the name or an option is outside its rule.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise DataError(
            f"{name}: images of dtype {images.dtype} must be uint8 from 0 to 255; floats from 0 to "
            "1 become such by (255 * images).round().astype('uint8')."
        )
    shape = images.shape[1:]
    if images.ndim == 4 and shape[2] not in (1, 3) and shape[0] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
        shape = images.shape[1:]
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)) or min(shape) < 1:
        raise DataError(
            f"{name}: images must be [n, h, w], [n, h, w, c] or [n, c, h, w] with c 1 or 3, and "
            f"have {len(shape) + 1} axes [n, {', '.join(map(str, shape))}]."
        )
    for what, values in (("labels", labels), ("units", units)):
        if values is not None and len(values) != len(images):
            raise DataError(f"{name}: there must be as many {what} as images.")
    declared = _declared(objects, stated, units)
    channels = shape[2] if len(shape) == 3 else 1
    classes = () if labels is None else declared.numbered_classes(name)
    if labels is None and declared.classes:
        raise UsageError(f"{name}: classes were stated, but no labels are given.")
    spec = declared.spec(classes, min(shape[:2]), channels)
    items = _Items(_Zipped(images, labels), 0, 1)
    return MemorySource(_checked(name), spec, items, [] if units is None else units)


def from_dataset(
    dataset: Any,
    *objects: DataOptions,
    name: str,
    image: Any = None,
    label: Any = None,
    units: Sequence[Any] | None = None,
    **stated: Any,
) -> ImageSource:
    """Private images of a PyTorch or Hugging Face data set that is indexed; it is read lazily.

    Args:
        dataset: has a length, and items ``(image, label)`` or mappings with columns. An image is a
            PIL image, an array as in :func:`from_arrays`, or a tensor ``[c, h, w]`` of uint8 or of
            floats from 0 to 1.
        objects, stated: :class:`DataOptions`, or its fields. ``classes`` is needed unless a
            Hugging Face label column names them. Images become squares of 32 pixels in colour
            unless ``image_size`` and ``channels`` say otherwise.
        name, units: as in :func:`from_arrays`.
        image, label: column or position in an item; by default the only columns of such a type,
            or positions 0 and 1.

    Raises:
        DataError: no column of images is found.
        UsageError: the name or an option is outside its rule.
    """
    if units is not None and len(units) != len(dataset):
        raise DataError(f"{name}: there must be as many units as images.")
    columns = getattr(dataset, "features", None)  # of a Hugging Face data set, what each one holds
    declared = _declared(objects, stated, units)
    classes: tuple[str, ...] | None = None
    if isinstance(columns, dict):
        kinds = {column: type(feature).__name__ for column, feature in columns.items()}
        image = image or _only(name, kinds, "Image", "image")
        labelled = [column for column, kind in kinds.items() if kind == "ClassLabel"]
        if label is None and not declared.unlabelled:
            label = _only(name, kinds, "ClassLabel", "label") if labelled else None
        if label in labelled and declared.classes is None:
            classes = tuple(columns[label].names)
    else:
        image = 0 if image is None else image
        label = 1 if label is None and not declared.unlabelled else label
    if label is None or declared.unlabelled:
        label, classes = None, ()
    spec = declared.spec(declared.numbered_classes(name) if classes is None else classes)
    items = _Items(dataset, image, label)
    return MemorySource(_checked(name), spec, items, [] if units is None else units)


def _only(name: str, kinds: dict[str, str], kind: str, option: str) -> str:
    found = [column for column, its in kinds.items() if its == kind]
    if len(found) != 1:
        raise DataError(
            f"{name}: there must be one column of type {kind}, not {len(found)}. Name it with "
            f"{option}=; the columns are {', '.join(kinds)}."
        )
    return found[0]


def _declared(
    objects: Sequence[DataOptions], stated: dict[str, Any], units: Sequence[Any] | None
) -> DataOptions:
    if units is not None:
        stated = {**stated, "unit": stated.get("unit", UNITS)}
    (declared,) = gathered("a data set in memory", [DataOptions], objects, stated)
    unit: PrivacyUnit | None = declared.privacy_unit
    if unit is not None and (units is None or unit.pattern is not None):
        raise UsageError("unit and unit_pattern have no meaning in memory: pass units=.")
    if declared.split is not None:
        raise UsageError("split has no meaning in memory: pass the images of that split.")
    return declared


def _checked(name: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise UsageError(
            f"name={name!r:.80} must be a printable text of 1 to {LONGEST_NAME} characters: the "
            "data set's ledger is found by it."
        )
    return name


def _upright(content: Any) -> np.ndarray:
    """One image as uint8 ``[h, w]`` or ``[h, w, 3]``."""
    if isinstance(content, Image.Image):
        return np.asarray(content.convert("L" if content.mode in ("1", "L", "I", "F") else "RGB"))
    values = np.asarray(content)
    if values.ndim == 3 and values.shape[2] not in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.dtype.kind == "f":
        values = np.rint(values * 255).clip(0, 255)  # NaN is no number of a grey level
        if not np.isfinite(values).all():
            raise ValueError
    pixels = values.astype(np.uint8)
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1:] == (1,) else pixels)
