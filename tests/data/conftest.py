"""A small set of images, and the same set in every format."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Encode uint8 [1|3, h, w]."""
    buffer = io.BytesIO()
    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def idx_bytes(array: np.ndarray) -> bytes:
    """Encode uint8 [n] or [n, h, w] as IDX."""
    return struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write files in the given order."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """Write files in the given order."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def write_tree(root: Path, files: dict[str, bytes]) -> None:
    """Write files below a folder."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def write_parquet(path: Path, cells: list[bytes | None], labels: list[int] | None) -> None:
    """Write what the Hugging Face library writes."""
    columns: dict[str, object] = {
        "image": pa.array(
            [{"bytes": cell, "path": None} for cell in cells],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        )
    }
    features = '"image": {"_type": "Image"}'
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
        names = ", ".join(f'"{name}"' for name in CLASSES)
        features += f', "label": {{"names": [{names}], "_type": "ClassLabel"}}'
    table = pa.table(columns)
    metadata = {"huggingface": f'{{"info": {{"features": {{{features}}}}}}}'}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Nine grey 32x32 images, no two alike."""
    return np.random.default_rng(0).integers(0, 256, (9, 1, 32, 32), np.uint8)


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return np.repeat(np.arange(3), 3)


Build = Callable[[Path, list[bytes], np.ndarray, np.ndarray], Path]


def _folder(root: Path, cells: list[bytes], images: np.ndarray, labels: np.ndarray) -> Path:
    names = [f"{CLASSES[label]}/{i}.png" for i, label in enumerate(labels)]
    write_tree(root / "set", dict(zip(names, cells, strict=True)))
    return root / "set"


def _zip(root: Path, cells: list[bytes], images: np.ndarray, labels: np.ndarray) -> Path:
    names = [f"set/{CLASSES[label]}/{i}.png" for i, label in enumerate(labels)]
    write_zip(root / "set.zip", dict(zip(names, cells, strict=True)))
    return root / "set.zip"


def _parquet(root: Path, cells: list[bytes], images: np.ndarray, labels: np.ndarray) -> Path:
    write_parquet(root / "set.parquet", list(cells), labels.tolist())
    return root / "set.parquet"


def _tar(root: Path, cells: list[bytes], images: np.ndarray, labels: np.ndarray) -> Path:
    files = {}
    for i, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        files |= {f"{i}.png": cell, f"{i}.cls": str(label).encode()}
    write_tar(root / "set.tar", files)
    return root / "set.tar"


def _idx(root: Path, cells: list[bytes], images: np.ndarray, labels: np.ndarray) -> Path:
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images[:, 0])))
    (root / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels.astype(np.uint8)))
    return root / "train-images-idx3-ubyte.gz"


def _npz(root: Path, cells: list[bytes], images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez_compressed(root / "set.npz", images=images, labels=labels)
    return root / "set.npz"


BUILDERS: dict[str, Build] = {
    "folder": _folder,
    "zip": _zip,
    "parquet": _parquet,
    "webdataset": _tar,
    "idx": _idx,
    "npz": _npz,
}


@pytest.fixture(params=BUILDERS)
def any_format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["folder", "zip", "parquet", "webdataset"])
def encoded_format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def build(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> Callable[..., Path]:
    """Return a function that writes the set in a format, with some encoded records replaced."""

    def make(kind: str, replaced: dict[int, bytes] | None = None) -> Path:
        cells = [encoded(image) for image in images]
        for index, data in (replaced or {}).items():
            cells[index] = data
        return BUILDERS[kind](tmp_path, cells, images, labels)

    return make


@pytest.fixture(scope="session")
def write() -> SimpleNamespace:
    """The encoders and writers above, under short names."""
    return SimpleNamespace(
        encoded=encoded,
        idx=idx_bytes,
        tar=write_tar,
        zip=write_zip,
        tree=write_tree,
        parquet=write_parquet,
    )
