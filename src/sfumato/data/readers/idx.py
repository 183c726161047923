"""IDX, the format of MNIST: one file of images, one of labels, plain or with gzip.

Format: http://yann.lecun.com/exdb/mnist/ (magic 0x00000803 for ubyte images, 0x00000801 labels).
"""

from __future__ import annotations

import gzip
import math
import re
import struct
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np

from sfumato.data.decoding.decode import LARGEST_AREA
from sfumato.data.decoding.pixels import picture
from sfumato.data.layout import choose_split, split_name
from sfumato.data.options import DataOptions
from sfumato.data.readers.rows import CHUNK, damage_as_data_error, read_exactly, rows
from sfumato.data.source import ImageSource, Place, Record, digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.units import check_rule
from sfumato.errors import DataError

IMAGES_NAME = re.compile(r"(?P<set>.*?)[-._]?images[-._]idx3[-._]ubyte(\.gz)?", re.IGNORECASE)
LABELS_NAME = re.compile(r"(?P<set>.*?)[-._]?labels[-._]idx1[-._]ubyte(\.gz)?", re.IGNORECASE)
_IMAGES_MAGIC, _LABELS_MAGIC = 0x00000803, 0x00000801
_UBYTE = np.dtype(np.uint8)


class IdxSource(ImageSource):
    """Grey images and labels of an IDX pair, streamed."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        images: Path,
        labels: Path | None,
    ) -> None:
        # A file and its gzip are one place; the ledger of each name may be there already.
        resolved = str(images.resolve())
        place = resolved[:-3] if resolved.lower().endswith(".gz") else resolved
        super().__init__(name, spec, location_key, [Place(place)])
        self.aliases = (place, f"{place}.gz")
        self._images = images
        self._labels = labels
        self._shape = _header(images, _IMAGES_MAGIC)
        if labels is not None and _header(labels, _LABELS_MAGIC)[0] != self._shape[0]:
            raise DataError(
                f"{images} and {labels} hold different numbers of records. "
                "Take both files from the same set."
            )

    def _records(self) -> Iterator[Record]:
        count, *shape = self._shape
        labels: Iterator[int | None] = repeat(None, count)
        if self._labels is not None:
            labels = _label_rows(self._labels, count)
        with damage_as_data_error(str(self._images)), _open(self._images) as stream:
            read_exactly(stream, 16)
            images = rows(stream, count, tuple(shape), _UBYTE)
            for pixels, label in zip(images, labels, strict=True):
                yield picture(pixels, False, self.spec, self.options.value_range), label

    def _private_length(self) -> int:
        return self._shape[0]

    def fingerprint(self) -> str:
        """Return a digest of the files' sizes and modification times. PRIVATE."""
        files = [self._images] + ([self._labels] if self._labels else [])
        return digest_of_files(files, reading=self.reading())


def idx_images_in(folder: Path) -> list[Path]:
    """Return the files in a folder that are named like IDX images."""
    return sorted(path for path in folder.iterdir() if IMAGES_NAME.fullmatch(path.name))


def idx_labels_in(folder: Path) -> list[Path]:
    """Return the files in a folder that are named like IDX labels."""
    return sorted(path for path in folder.iterdir() if LABELS_NAME.fullmatch(path.name))


def open_idx(path: Path, name: str, declared: DataOptions, location_key: str = "") -> IdxSource:
    """Open a folder of IDX pairs, or one images file with its labels beside it.

    Raises DataError for a wrong magic, a header or payload that is cut off, labels without images,
    or two files that disagree.
    """
    check_rule(declared.privacy_unit, name)
    images = _choose(path, name, declared)
    labels = None if declared.unlabelled else _labels_beside(images)
    classes = declared.numbered_classes(name) if labels else ()
    if labels is None and declared.classes:
        raise DataError(
            f"{name}: classes were stated, but no labels file lies beside {images}. "
            "Put the ...-labels-idx1-ubyte file there, or leave classes out."
        )
    height, width = _header(images, _IMAGES_MAGIC)[1:]
    spec = declared.spec(classes, side=min(height, width), channels=1)
    return IdxSource(name, spec, location_key or str(images.resolve()), images, labels)


def _choose(path: Path, name: str, declared: DataOptions) -> Path:
    if path.is_file():
        if declared.split is not None:
            raise DataError(f"{name}: one file has no splits. Leave split out or give the folder.")
        if LABELS_NAME.fullmatch(path.name):
            raise DataError(f"{name}: these are labels. Give the images file or the folder.")
        return path
    found: dict[str, Path] = {}
    for file in idx_images_in(path):
        prefix = cast(re.Match[str], IMAGES_NAME.fullmatch(file.name))["set"]
        split = split_name(re.split(r"[-._]", prefix)[-1]) or prefix
        # The plain file and its gzip are the same set; the plain one reads faster.
        if split not in found or found[split].suffix == ".gz":
            found[split] = file
    if not found:
        raise DataError(
            f"{name}: labels without images. "
            "Put the ...-images-idx3-ubyte file beside the ...-labels-idx1-ubyte file."
        )
    return found[cast(str, choose_split(found, declared.split, name))]


def _labels_beside(images: Path) -> Path | None:
    match = IMAGES_NAME.fullmatch(images.name)
    wanted = match["set"] if match else None
    for path in idx_labels_in(images.parent):
        if cast(re.Match[str], LABELS_NAME.fullmatch(path.name))["set"] == wanted:
            return path
    return None


def _label_rows(path: Path, count: int) -> Iterator[int]:
    with damage_as_data_error(str(path)), _open(path) as stream:
        read_exactly(stream, 8)
        yield from (int(label) for label in rows(stream, count, (), _UBYTE))


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _header(path: Path, magic: int) -> tuple[int, ...]:
    """Return (count, height, width) or (count,), having checked magic and length."""
    axes = magic & 0xFF
    with damage_as_data_error(str(path)), _open(path) as stream:
        found, *shape = struct.unpack(f">{axes + 1}I", read_exactly(stream, 4 * (axes + 1)))
        if found != magic:
            raise DataError(
                f"{path}: starts with the magic number {found:#010x}, but an IDX file of "
                f"{'images' if axes == 3 else 'labels'} starts with {magic:#010x}. "
                "Check that it is the right file and not doubly compressed."
            )
        area = math.prod(shape[1:])
        if not 0 < area <= LARGEST_AREA:
            raise DataError(
                f"{path}: declares images of {' x '.join(map(str, shape[1:]))} pixels, outside "
                f"1 to {LARGEST_AREA} pixels. The header is damaged."
            )
        _check_length(path, stream, 4 * (axes + 1), math.prod(shape))
    return tuple(shape)


def _check_length(path: Path, stream: BufferedIOBase, header: int, payload: int) -> None:
    if path.suffix.lower() != ".gz":
        length = path.stat().st_size
    else:
        # A gzip file ends with its length modulo 2^32: cut-off files show without unpacking them.
        with path.open("rb") as raw:
            raw.seek(-4, 2)
            (length,) = struct.unpack("<I", raw.read(4))
        if length == (header + payload) % 2**32:
            return
        # Several gzip members one after the other are rare and valid: count.
        length = header
        while length <= header + payload and (part := stream.read(CHUNK)):
            length += len(part)
    if length != header + payload:
        raise DataError(
            f"{path}: is shorter or longer than its header says. Copy or download it again."
        )
