"""Targets that read data sets: the image decoder and every format."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

import fuzz_mutations as mutate
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz_seeds import CANARY, CLASSES, arrays, certificate_of_moments, records

from sfumato.data import PublicSpec, open_images
from sfumato.data.decoding.decode import decode, quiet


def some_record(rng: random.Random) -> bytes:
    """A record, damaged three times in four."""
    data = rng.choice(records())
    deed = rng.randrange(4)
    if deed == 0:
        return data
    return mutate.png_of(data, rng) if deed == 1 and data[:4] == b"\x89PNG" else (
        mutate.bytes_of(data, rng)
    )  # fmt: skip


def read_all(path: Path, rng: random.Random) -> bool:
    """Open with some of the options, then ask everything that a source answers."""
    classes = rng.choice((None, None, 3, 3, 0, CLASSES, CLASSES, 1))
    source = open_images(
        path,
        image_size=rng.choice((None, 28)),
        channels=rng.choice((None, 1, 3)),
        classes=classes,
        split="train" if rng.random() < 0.1 else None,
    )
    assert repr(source) and source.fingerprint() and source._private_length() >= 0
    spec = source.spec
    for images, labels in source.batches(4):
        assert images.dtype == np.uint8 and labels.dtype == np.int64
        assert images.shape == (len(labels), spec.channels, spec.height, spec.width)
        assert labels.max() < max(1, len(spec.classes)) and labels.min() >= -1
        assert not images[labels < 0].any()
    return True


def files_of(rng: random.Random) -> dict[str, bytes]:
    """Class folders with a few records."""
    count = rng.randint(1, 4)
    return {f"{rng.choice(CLASSES)}/{i}.png": some_record(rng) for i in range(count)}


def image(folder: Path, rng: random.Random) -> bool:
    """The decoder of one record, with what Pillow reads."""
    data = some_record(rng)
    spec = PublicSpec(28, 28, rng.choice((1, 3)), ())
    with quiet():
        pixels = decode(data, spec)
    assert pixels is None or (pixels.shape == (spec.channels, 28, 28) and pixels.dtype == np.uint8)
    return pixels is not None


def folder_of_images(folder: Path, rng: random.Random) -> bool:
    """Class folders, with links, odd names and a release's certificate among them."""
    root = folder / "set"
    names = files_of(rng)
    for name, data in names.items():
        if rng.random() < 0.1:
            name = rng.choice((f"{name}\n", f"ü{name}", f".h/{name}", f"a/{name}", f"{name}.pkl"))
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if rng.random() < 0.1:
            path.symlink_to(rng.choice((f"../../../{CANARY}", "/etc/passwd", path.name, "..")))
        elif rng.random() < 0.03:
            path.mkdir()
        else:
            path.write_bytes(data)
    if rng.random() < 0.1:
        data = mutate.json_text(mutate.json_of(certificate_of_moments(), rng), rng)
        (root / "certificate.json").write_bytes(data)
        (root / "ant").rename(root / "images") if (root / "ant").exists() else None
    return read_all(root, rng)


def zip_file(folder: Path, rng: random.Random) -> bool:
    """A zip of class folders."""
    (folder / "set.zip").write_bytes(mutate.zip_of(files_of(rng), rng))
    return read_all(folder / "set.zip", rng)


def webdataset(folder: Path, rng: random.Random) -> bool:
    """A tar of images and labels."""
    files = {}
    for index in range(rng.randint(1, 4)):
        files[f"{index}.png"] = some_record(rng)
        labels = (b"1", b"ant", b"-1", b"9" * 5000, b"\xff", b'{"label": 1}', b"[" * 5000)
        files[f"{index}.{rng.choice(('cls', 'json'))}"] = rng.choice(labels)
    (folder / "set.tar").write_bytes(mutate.tar_of(files, rng))
    return read_all(folder / "set.tar", rng)


@lru_cache(maxsize=1)
def gzip_bomb() -> bytes:
    """20 MB of zeros."""
    return gzip.compress(bytes(2 * 10**7), 1)


def idx(folder: Path, rng: random.Random) -> bool:
    """A pair of IDX files, plain or packed."""
    for axes, name in ((3, "train-images-idx3-ubyte"), (1, "train-labels-idx1-ubyte")):
        shape = [9, 32, 32][:axes]
        payload = rng.randbytes(9 * 32 * 32 if axes == 3 else 9)
        for place in range(axes):
            if rng.random() < 0.15:
                shape[place] = rng.choice(mutate.NUMBERS) % 2**32
        data = struct.pack(f">{axes + 1}I", 0x800 + axes, *shape) + payload
        if rng.random() < 0.2:
            data = mutate.bytes_of(data, rng)
        if rng.random() < 0.5:
            data = gzip.compress(data, 1)
            if rng.random() < 0.3:
                data = mutate.bytes_of(data, rng)
            elif rng.random() < 0.05:
                data = gzip_bomb() + data
            name += ".gz"
        if rng.random() < 0.97:
            (folder / name).write_bytes(data)
    return read_all(folder, rng)


def npz(folder: Path, rng: random.Random) -> bool:
    """A NumPy archive."""
    members = dict(arrays())
    for name in members:
        if rng.random() < 0.4:
            members[name] = mutate.npy_of(members[name], rng)
    if rng.random() < 0.3:
        members.pop("classes.npy")
    if rng.random() < 0.1:
        members[f"images_{rng.choice(('train', 'test', 'x'))}.npy"] = members["images.npy"]
    if rng.random() < 0.5:
        data = mutate.zip_of(members, rng)
    else:
        buffer = io.BytesIO()
        with mutate.zipfile.ZipFile(buffer, "w") as archive:
            for name, member in members.items():
                archive.writestr(name, member)
        data = buffer.getvalue()
    (folder / "set.npz").write_bytes(data)
    return read_all(folder / "set.npz", rng)


def parquet(folder: Path, rng: random.Random) -> bool:
    """A Parquet file as the Hugging Face library writes it."""
    cells = [some_record(rng) if rng.random() < 0.9 else None for _ in range(rng.randint(1, 4))]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column: Any = pa.array([{"bytes": cell, "path": "../canary.png"} for cell in cells], kind)
    if rng.random() < 0.2:
        column = pa.array(cells, rng.choice((pa.binary(), pa.large_binary())))
    labels = [rng.choice((0, 1, 2, 3, -1, 2**62, None)) for _ in cells]
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    about = {"info": {"features": features}}
    if rng.random() < 0.4:
        about = mutate.json_of(about, rng)
    stated = json.dumps(about).encode()[: rng.choice((None, None, 30))]
    named = {rng.choice(("image", "img", "image", "x")): column}
    named[rng.choice(("label", "label", "y"))] = pa.array(
        labels if rng.random() < 0.8 else ["ant" for _ in labels]
    )
    table = pa.table(named).replace_schema_metadata({"huggingface": stated})
    squeeze = rng.choice(("none", "snappy", "gzip", "zstd", "brotli"))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=squeeze, row_group_size=2)
    data = buffer.getvalue()
    if rng.random() < 0.7:
        # The footer says where everything is and how long; half of the damage goes there.
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        at = footer if rng.random() < 0.5 else 0
        data = data[:at] + mutate.bytes_of(data[at:], rng)
    (folder / "set.parquet").write_bytes(data)
    return read_all(folder / "set.parquet", rng)
