"""Write a release's images: class folders of PNG, Parquet shards, or WebDataset tars.

Everything streams, and the same images give the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sfumato.data.layout import class_folders
from sfumato.errors import UsageError

SHARD_BYTES = 2**28
"""A shard is closed once it holds this many bytes of encoded images."""
_ROW_GROUP = 1000
METADATA = "metadata.parquet"
"""Beside images in folders: file and label of each, where Hugging Face's ``imagefolder`` looks."""
CLASSES = "classes.txt"
"""Beside ``images``: the name by which loaders see each class, one a line, in label order."""


def write_images(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    classes: tuple[str, ...],
    out_dir: Path,
    format: str = "folder",
    split: str = "train",
) -> int:
    """Write batches of images under ``out_dir/images`` and return how many there were.

    Loaders find each label where they look for it: in folders that sort in label order, with
    ``images/metadata.parquet`` and ``classes.txt``; in the shards' schema; in ``.cls`` members.

    batches: images uint8 [b, 1 or 3, height, width] and labels int64 [b], 0 to len(classes) - 1,
    or 0 for unlabelled images (``classes == ()``). format: ``folder``, ``images/<class>/<number>
    .png``; ``parquet``, ``images/<split>-00000-of-0000N.parquet`` as the Hugging Face library
    ``datasets`` reads it; ``webdataset``, ``images/<split>-000000.tar`` with ``.png`` and ``.cls``.

    Raises UsageError for an unknown format, a label outside the classes, or if images are there.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r} must be one of {', '.join(FORMATS)}.")
    folder = Path(out_dir) / "images"
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: already holds files. Choose another folder or empty it.")
    folder.mkdir(parents=True, exist_ok=True)
    writer = FORMATS[format](folder, classes, split)
    written = 0
    for images, labels in batches:
        for pixels, label in zip(images, labels.tolist(), strict=True):
            if not 0 <= label < max(1, len(classes)):
                raise UsageError(f"label {label} is outside 0 to {max(1, len(classes)) - 1}.")
            writer.add(written, pixels, label)
            written += 1
    writer.close()
    if classes:
        (Path(out_dir) / CLASSES).write_bytes(class_list(classes, format))
    return written


def class_list(classes: tuple[str, ...], format: str) -> bytes:
    """Return the content of ``classes.txt``: of folders their names, else those of the classes."""
    names = class_folders(classes) if format == "folder" else classes
    return "".join(f"{name}\n" for name in names).encode()


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 [1 or 3, height, width] as PNG."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def parquet_schema(classes: tuple[str, ...], channels: int) -> pa.Schema:
    """Return the schema of a release's shards, with the features of Hugging Face's ``datasets``."""
    features: dict[str, object] = {
        "image": {"mode": "L" if channels == 1 else "RGB", "_type": "Image"}
    }
    fields = {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}
    if classes:
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
        fields["label"] = pa.int64()
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def metadata_schema(classes: tuple[str, ...]) -> pa.Schema:
    """Return the schema of ``metadata.parquet``, with the features of ``datasets``."""
    features: dict[str, object] = {"file_name": {"dtype": "string", "_type": "Value"}}
    fields = {"file_name": pa.string()}
    if classes:
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
        fields["label"] = pa.int64()
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


class _Writer(ABC):
    def __init__(self, folder: Path, classes: tuple[str, ...], split: str) -> None:
        self.folder = folder
        self.classes = classes
        self.split = split

    @abstractmethod
    def add(self, number: int, pixels: np.ndarray, label: int) -> None:
        """Write one image uint8 [c, h, w]."""

    @abstractmethod
    def close(self) -> None:
        """Finish the last file."""


class _FolderWriter(_Writer):
    def __init__(self, folder: Path, classes: tuple[str, ...], split: str) -> None:
        super().__init__(folder, classes, split)
        self._folders = class_folders(classes) or [""]
        for name in self._folders:
            (folder / name).mkdir(exist_ok=True)
        self._schema = metadata_schema(classes)
        self._names: list[str] = []
        self._labels: list[int] = []

    def add(self, number: int, pixels: np.ndarray, label: int) -> None:
        name = f"{number:06d}.png"
        (self.folder / self._folders[label] / name).write_bytes(encode_png(pixels))
        self._names.append(f"{self._folders[label]}/{name}".removeprefix("/"))
        self._labels.append(label)

    def close(self) -> None:
        """Write file and label of every image."""
        columns = [self._names, self._labels][: len(self._schema)]
        table = pa.table(columns, schema=self._schema)
        pq.write_table(table, self.folder / METADATA, row_group_size=_ROW_GROUP)


class _ParquetWriter(_Writer):
    def __init__(self, folder: Path, classes: tuple[str, ...], split: str) -> None:
        super().__init__(folder, classes, split)
        self._shards: list[Path] = []
        self._rows: list[dict[str, object]] = []
        self._bytes = 0
        self._file: pq.ParquetWriter | None = None

    def add(self, number: int, pixels: np.ndarray, label: int) -> None:
        if self._file is None:
            self._open(len(pixels))
        data = encode_png(pixels)
        row: dict[str, object] = {"image": {"bytes": data, "path": f"{number:06d}.png"}}
        self._rows.append(row | ({"label": label} if self.classes else {}))
        self._bytes += len(data)
        if len(self._rows) == _ROW_GROUP:
            self._flush()
        if self._bytes >= SHARD_BYTES:
            self._close_shard()

    def close(self) -> None:
        """Close the last shard and give all of them their final names."""
        if self._file is None and not self._shards:
            self._open(3)
        self._close_shard()
        for index, shard in enumerate(self._shards):
            shard.rename(
                self.folder / f"{self.split}-{index:05d}-of-{len(self._shards):05d}.parquet"
            )

    def _open(self, channels: int) -> None:
        self._schema = parquet_schema(self.classes, channels)
        # How many shards there will be, which their names tell, is known at the end.
        path = self.folder / f"{self.split}-{len(self._shards):05d}.part"
        self._file = pq.ParquetWriter(path, self._schema)
        self._shards.append(path)
        self._bytes = 0

    def _flush(self) -> None:
        assert self._file is not None
        self._file.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def _close_shard(self) -> None:
        if self._file is not None:
            if self._rows:
                self._flush()
            self._file.close()
            self._file = None


class _WebDatasetWriter(_Writer):
    def __init__(self, folder: Path, classes: tuple[str, ...], split: str) -> None:
        super().__init__(folder, classes, split)
        self._count = 0
        self._open()

    def add(self, number: int, pixels: np.ndarray, label: int) -> None:
        if self._tar.offset >= SHARD_BYTES:
            self._tar.close()
            self._open()
        self._put(f"{number:06d}.png", encode_png(pixels))
        if self.classes:
            self._put(f"{number:06d}.cls", str(label).encode())

    def close(self) -> None:
        """Close the last shard."""
        self._tar.close()

    def _open(self) -> None:
        path = self.folder / f"{self.split}-{self._count:06d}.tar"
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)
        self._count += 1

    def _put(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)  # its defaults hold no time, user or machine
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        self._tar.members = []  # type: ignore[attr-defined]  # else it keeps every header


FORMATS: dict[str, type[_Writer]] = {
    "folder": _FolderWriter,
    "parquet": _ParquetWriter,
    "webdataset": _WebDatasetWriter,
}
