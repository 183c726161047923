"""The images of a release in the order of their numbers, as the bytes that it holds."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from sfumato.data.layout import class_folders, safe_folder_names
from sfumato.release.certificate import is_classifier
from sfumato.release.files import IMAGES
from sfumato.release.versions import FIRST_FORMAT
from sfumato.release.writing.grid import MOST_ROWS, PER_CLASS

Labelled = tuple[int, bytes]


def first_pictures(release: Path, certificate: Mapping[str, Any]) -> list[list[bytes]]:
    """Return PNG files, a list for each of the first classes; one list where there are none.

    The release must have been verified: its files are trusted here. A classifier's has none.
    """
    if is_classifier(certificate):
        return []
    classes = certificate["classes"]
    rows: list[list[bytes]] = [[] for _ in classes[:MOST_ROWS] or [""]]
    most = PER_CLASS if classes else PER_CLASS**2
    for label, png in numbered_images(release, certificate):
        if label < len(rows) and len(rows[label]) < most:
            rows[label].append(png)
            if all(len(row) == most for row in rows):
                break
    return rows


def numbered_images(release: Path, certificate: Mapping[str, Any]) -> Iterator[Labelled]:
    """Yield the label and the PNG file of every image, in the order of the images' numbers.

    The release's files must have been checked.
    """
    classes, form = certificate["classes"], certificate["release"]["format"]
    folder = release / IMAGES
    if form == "parquet":
        yield from _in_parquet(folder)
    elif form == "webdataset":
        yield from _in_tars(folder, labelled=bool(classes))
    else:
        yield from _in_folders(folder, folders_of(certificate))


def pixels_of(png: bytes) -> NDArray[np.uint8]:
    """A PNG, grey or in colour, as uint8 ``[1 or 3, height, width]``."""
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def folders_of(certificate: Mapping[str, Any]) -> list[str]:
    """The folder of each class below ``images``, in label order; ``.`` where there are none."""
    first = certificate.get("format") == FIRST_FORMAT
    names = (safe_folder_names if first else class_folders)(certificate["classes"])
    return names or ["."]


def _in_folders(folder: Path, names: list[str]) -> Iterator[Labelled]:
    found = [
        (int(path.stem), label, path)
        for label, name in enumerate(names)
        for path in (folder / name).glob("*.png")
    ]
    for _, label, path in sorted(found):
        yield label, path.read_bytes()


def _in_parquet(folder: Path) -> Iterator[Labelled]:
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield row.get("label", 0), row["image"]["bytes"]


def _in_tars(folder: Path, labelled: bool) -> Iterator[Labelled]:
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path, "r:") as tar:
            image = ("", b"")
            for member in tar:
                content = tar.extractfile(member)
                data = content.read() if content else b""
                stem, _, kind = member.name.partition(".")
                if not labelled:
                    yield 0, data
                elif kind == "png":
                    image = stem, data
                elif stem == image[0]:  # the writer puts each label behind its image
                    yield int(data), image[1]
