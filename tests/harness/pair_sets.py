"""Small data sets in every container, and one hostile record to add, remove or put in place of one.

A *case* is a container with its container-level facts and options fixed; only records differ
between the two data sets of a pair. Every function draws from the ``random.Random`` it is given.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import fuzz_mutations as mutate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ant", "bee", "cat")
SIDE = 28
LABELS: tuple[Any, ...] = (
    0, 1, 2, 3, -1, 2**31, 2**63 - 1, -(2**63), None, "", "ant", "wasp", "ant|bee", "\0",
    "9" * 5000,
    "x" * 5000, b"\xff\xfe", b"0\n", b'{"label": 1}', b"[" * 5000, b'{"label": {"a": []}}',
)  # fmt: skip
NAMES = (
    "a:b.png", "12:30.png", "C:/x.png", ".hidden.png", "x" * 200 + ".png", "\udcff\udc80.png",
    "x.tar", "x.parquet", "x.npz", "x.zip", "certificate.json", "dataset_info.json", "state.json",
    "train-images-idx3-ubyte", "x.pkl", "x.npy", "noending", "x.dcm", "x.jp2", "1", "DICOMDIR",
    "a\nb.png", "a'b\"c;d,e|f.png", "\u202egnp.png", "x.png.png", "X.PNG", " .png", "..png",
    "r0.png",
    "r0.jpg", "r1.cls", "r1.json", "classes.txt", "metadata.csv", "a\\b.png", "patient_1_x.png",
)  # fmt: skip
FOLDERS = ("", "ant/", "bee/deep/", "ant/bee/", "ant/test/", "ant/.h/")
NEW_FOLDERS = (
    "wasp/",
    "set/",
    "test/",
    "train/ant/",
    "val/bee/",
    "set/ant/",
    "__MACOSX/ant/",
    "./",
)


@dataclass(frozen=True)
class Cell:
    """A record: where it lies in a tree, what it holds, its label, and whose it is."""

    folder: str
    name: str
    data: bytes
    label: Any
    unit: Any = "p"


@dataclass(frozen=True)
class Case:
    """``write`` puts cells into a container of a folder; ``options`` are given with it."""

    write: Callable[[Path, list[Cell]], Path]
    options: dict[str, Any]
    folders: tuple[str, ...] = FOLDERS + NEW_FOLDERS
    names: tuple[str, ...] = NAMES + mutate.PATHS


@lru_cache(maxsize=1)
def honest() -> list[Cell]:
    """Six records, two a class, whose pixels differ."""
    rng = np.random.default_rng(5)
    found = []
    for index in range(6):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(buffer, "PNG")
        label = index % 3
        name = f"r{index}.png"
        found.append(Cell(f"{CLASSES[label]}/", name, buffer.getvalue(), label, f"p{index % 2}"))
    return found


@lru_cache(maxsize=1)
def contents() -> tuple[bytes, ...]:
    """What a record may hold: images of odd kinds, other files, and nothing."""
    found = [
        b"",
        b"text",
        b"\x80\x04.",
        b"PK\x05\x06" + bytes(18),
        bytes(128) + b"DICM",
        b"\x93NUMPY",
    ]
    rng = np.random.default_rng(6)
    grey = rng.integers(0, 256, (40, 30), np.uint8)
    images = [
        Image.fromarray(grey), Image.fromarray(np.stack([grey] * 3, -1)).convert("RGBA"),
        Image.fromarray(grey.astype(np.uint16) * 16), Image.fromarray(grey > 99),
        Image.fromarray(grey).convert("P"), Image.new("L", (1, 1)), Image.new("L", (3000, 2)),
    ]  # fmt: skip
    for image in images:
        for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"):
            buffer = io.BytesIO()
            try:
                image.save(buffer, kind)
            except (OSError, KeyError, ValueError):
                continue
            found.append(buffer.getvalue())
    return tuple(found)


def hostile(case: Case, rng: random.Random) -> Cell:
    """A record with something odd about its place, its name, its bytes, its label or its unit."""
    cell = rng.choice(honest())
    odd = rng.randrange(1, 32)
    if odd & 1:
        data = rng.choice(contents())
        cell = replace(cell, data=mutate.bytes_of(data, rng) if rng.random() < 0.5 else data)
    if odd & 2:
        cell = replace(cell, folder=rng.choice(case.folders))
    if odd & 4:
        cell = replace(cell, name=rng.choice(case.names))
    if odd & 8:
        cell = replace(cell, label=rng.choice(LABELS))
    if odd & 16:
        cell = replace(cell, unit=rng.choice(LABELS))
    return cell


def pair(case: Case, rng: random.Random) -> tuple[list[Cell], list[Cell]]:
    """Two data sets that differ in one record: one more, one fewer, or another."""
    base = honest()[: rng.choice((0, 1, 2, 6, 6))]
    other = list(base)
    deed = rng.randrange(4)
    if deed == 0 and base:
        del other[rng.randrange(len(base))]
    elif deed == 1 and base:
        other[rng.randrange(len(base))] = hostile(case, rng)
    else:
        other.insert(rng.randint(0, len(base)), hostile(case, rng))
    return base, other


def is_odd(cell: Cell) -> bool:
    """On a disk a name is there once, and the honest record's is its own."""
    return cell not in honest()


def _text(path: str) -> str:
    return path.encode("utf-8", "replace").decode()


def folder(place: Path, cells: list[Cell]) -> Path:
    """Class folders, which are there whether images are or not."""
    root = place / "set"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    for cell in sorted(cells, key=is_odd):
        path = root / f"{cell.folder}{cell.name}".replace("\0", "")
        try:
            inside = path.resolve().is_relative_to(root.resolve())
            if inside and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(cell.data)
        except OSError:  # too long a name for the disk
            continue
    return root


def flat(place: Path, cells: list[Cell]) -> Path:
    """Images without labels."""
    (place / "set").mkdir()
    for cell in sorted(cells, key=is_odd):
        path = place / "set" / cell.name.replace("/", "_").replace("\0", "")[-90:]
        if not path.exists():
            path.write_bytes(cell.data)
    return place / "set"


def _zip(place: Path, cells: list[Cell], top: str, listed: bool) -> Path:
    with zipfile.ZipFile(place / "set.zip", "w") as archive:
        for name in CLASSES if listed else ():
            archive.writestr(f"{top}{name}/", b"")
        for cell in cells:
            at = f"{cell.folder}{cell.name}"
            info = zipfile.ZipInfo(_text(at if at.startswith(("/", "..", "C:")) else f"{top}{at}"))
            if not info.filename.endswith("/"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of two members of one name
                    archive.writestr(info, cell.data)
    return place / "set.zip"


def zip_listed(place: Path, cells: list[Cell]) -> Path:
    """A zip that lists its folders."""
    return _zip(place, cells, "", True)


def zip_below_top(place: Path, cells: list[Cell]) -> Path:
    """The same below one common folder."""
    return _zip(place, cells, "pack/", True)


def zip_unlisted(place: Path, cells: list[Cell]) -> Path:
    """A zip of files alone."""
    return _zip(place, cells, "", False)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    try:
        tar.addfile(member, io.BytesIO(data))
    except (ValueError, UnicodeError):
        return


def tar_of_folders(place: Path, cells: list[Cell], packed: bool = False) -> Path:
    """A tar that lists its class folders."""
    path = place / ("set.tar.gz" if packed else "set.tar")
    with tarfile.open(path, "w:gz" if packed else "w") as tar:
        for name in CLASSES:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        for cell in cells:
            _add(tar, f"{cell.folder}{cell.name}".rstrip("/"), cell.data)
    return path


def tar_packed(place: Path, cells: list[Cell]) -> Path:
    """The same with gzip."""
    return tar_of_folders(place, cells, packed=True)


def webdataset(place: Path, cells: list[Cell]) -> Path:
    """A tar of images and label files."""
    with tarfile.open(place / "set.tar", "w") as tar:
        for cell in cells:
            # Files of one base name are one record, so nobody else's lie where the honest ones do.
            at = f"{'h/' if cell in honest() else cell.folder}{cell.name}"
            folder, slash, name = at.rpartition("/")
            stem = folder + slash + (name.partition(".")[0] or name)
            _add(tar, at, cell.data)
            label = cell.label if isinstance(cell.label, bytes) else str(cell.label).encode()
            _add(tar, f"{stem}.{'json' if label[:1] == b'{' else 'cls'}", label)
    return place / "set.tar"


def _parquet(place: Path, cells: list[Cell], labels: pa.Array, features: dict[str, Any]) -> Path:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": c.data or None, "path": _text(c.name)} for c in cells], kind)
    units = as_texts([raw(cell.unit) for cell in cells])
    table = pa.table({"image": images, "label": labels, "patient": units})
    about = json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})
    table = table.replace_schema_metadata({"huggingface": about})
    pq.write_table(table, place / "set.parquet", row_group_size=2)
    return place / "set.parquet"


def raw(value: Any) -> bytes | None:
    if value is None:
        return None
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def as_texts(values: list[bytes | None]) -> pa.Array:
    """Texts that need not be UTF-8: the buffers of an array of bytes under another type."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), raw.null_count)


def parquet_numbers(place: Path, cells: list[Cell]) -> Path:
    """Numbers for labels, and their names in the schema."""
    labels = [cell.label if isinstance(cell.label, int) else None for cell in cells]
    features = {"label": {"names": CLASSES, "_type": "ClassLabel"}}
    return _parquet(place, cells, pa.array(labels, pa.int64()), features)


def parquet_texts(place: Path, cells: list[Cell]) -> Path:
    """Texts for labels, of whatever bytes."""
    shown = [CLASSES[c.label] if c.label in (0, 1, 2) else c.label for c in cells]
    return _parquet(place, cells, as_texts([raw(label) for label in shown]), {})


def arrays(cells: list[Cell]) -> np.ndarray:
    """Each cell's bytes as pixels, whatever they are."""
    area = SIDE * SIDE
    rows = [np.frombuffer((cell.data * area)[:area].ljust(area, b"\0"), np.uint8) for cell in cells]
    return np.array(rows, np.uint8).reshape(len(cells), SIDE, SIDE)


def npz_numbers(place: Path, cells: list[Cell]) -> Path:
    """Numbers for labels, and floating-point pixels that may be anything."""
    labels = [c.label if isinstance(c.label, int) and abs(c.label) < 2**63 else -5 for c in cells]
    pixels = arrays(cells).astype(np.float32) / 255
    for index, cell in enumerate(cells):
        if cell.data in contents():
            pixels[index, 3, 4] = (np.nan, np.inf, -1, 256, 1e30)[len(cell.data) % 5]
    np.savez(place / "set.npz", images=pixels, labels=np.array(labels, np.int64))
    return place / "set.npz"


def npz_texts(place: Path, cells: list[Cell]) -> Path:
    """Texts for labels and units, as wide as the longest of them."""
    labels = [CLASSES[c.label] if c.label in (0, 1, 2) else str(c.label) for c in cells]
    units = np.array([str(cell.unit) for cell in cells], str)
    np.savez_compressed(
        place / "set.npz", images=arrays(cells), labels=np.array(labels, str), patient=units
    )
    return place / "set.npz"


def idx(place: Path, cells: list[Cell]) -> Path:
    """A pair of IDX files."""
    labels = bytes(c.label % 256 if isinstance(c.label, int) else 255 for c in cells)
    images = struct.pack(">4I", 0x803, len(cells), SIDE, SIDE) + arrays(cells).tobytes()
    (place / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, 1))
    (place / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(cells)) + labels)
    return place


FILES = tuple(name for name in NAMES if "/" not in name)
"""Names that make no new folder, which would be another fact of the container."""
STATED = {"classes": list(CLASSES)}
UNITS = {"unit_pattern": r"(patient_\d+)"}
READERS: dict[str, tuple[Case, ...]] = {
    "folder": (
        Case(folder, {}, FOLDERS, FILES),
        Case(folder, STATED),
        Case(folder, STATED | UNITS),
        Case(folder, {"classes": 0}),
        Case(flat, {"channels": 1}, names=tuple(n for n in NAMES if n.endswith(".png"))),
    ),
    "zip": (
        Case(zip_listed, {}),
        Case(zip_listed, STATED),
        Case(zip_below_top, {}),
        Case(zip_below_top, STATED | UNITS),
        Case(zip_unlisted, STATED),
        Case(zip_unlisted, STATED | {"split": "test"}),
        Case(zip_unlisted, {"classes": 0}),
    ),
    "tar": (
        Case(tar_of_folders, {}),
        Case(tar_of_folders, STATED | UNITS),
        Case(tar_packed, STATED),
    ),
    "WebDataset": (
        Case(webdataset, STATED),
        Case(webdataset, {"classes": 3}),
        Case(webdataset, {"classes": 0}),
        Case(webdataset, {}),
        Case(webdataset, STATED | {"unit": "label"}),
    ),
    "Parquet": (
        Case(parquet_numbers, {}),
        Case(parquet_numbers, STATED | {"unit": "patient"}),
        Case(parquet_texts, STATED),
        Case(parquet_texts, {}),
    ),
    "NPZ": (
        Case(npz_numbers, STATED),
        Case(npz_numbers, {}),
        Case(npz_texts, STATED | {"unit": "patient"}),
        Case(npz_texts, {"classes": 3}),
    ),
    "IDX": (Case(idx, STATED), Case(idx, {"classes": 0})),
}
