"""Peak resident memory and time of reading each format; the bound is 1.5 GB at 50,000 images.

Generated 32x32 colour images are written in every format and read back, each in a process of its
own, at two sizes: memory that grows with the number of images shows as a difference beyond a list
of paths (about 250 bytes a file).
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from sfumato.data import open_images, write_images
from sfumato.data.writers import encode_png

BOUND_MB = 1500
CLASSES = tuple("0123456789")
FORMATS = ("folder", "zip", "idx", "npz", "parquet", "webdataset")
BATCH = 1000


def generated(count: int, channels: int = 3) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield noise: the least compressible, so the longest files."""
    rng = np.random.default_rng(0)
    for _ in range(count // BATCH):
        images = rng.integers(0, 256, (BATCH, channels, 32, 32), np.uint8)
        yield images, rng.integers(0, 10, BATCH)


def write(kind: str, folder: Path, count: int) -> Path:
    """Write ``count`` images and return their location."""
    if kind in ("folder", "parquet", "webdataset"):
        write_images(generated(count), CLASSES, folder, kind)
        return folder / "images"
    if kind == "zip":
        number = 0
        with zipfile.ZipFile(folder / "set.zip", "w") as archive:
            for images, labels in generated(count):
                for image, label in zip(images, labels, strict=True):
                    archive.writestr(f"{label}/{number:06d}.png", encode_png(image))
                    number += 1
        return folder / "set.zip"
    if kind == "npz":
        shape = (count, 3, 32, 32)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with zipfile.ZipFile(folder / "set.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("images.npy", "w", force_zip64=True) as file:
                npy.write_array_header_1_0(file, header)
                for images, _ in generated(count):
                    file.write(images.tobytes())
        return folder / "set.npz"
    path = folder / "images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(struct.pack(">4I", 0x803, count, 32, 32))
        for images, _ in generated(count, channels=1):
            file.write(images.tobytes())
    return path


def read(location: str) -> None:
    """Read everything once and print what it took."""
    started = time.perf_counter()
    classes = None if location.endswith((".gz", ".npz")) else CLASSES
    source = open_images(location, image_size=32, classes=classes)
    usable = sum(int((labels >= 0).sum()) for _, labels in source.batches(BATCH))
    seconds = time.perf_counter() - started
    print(json.dumps({"images": usable, "seconds": round(seconds, 1), "peak_mb": peak_mb()}))


def peak_mb() -> int:
    """Return this process's peak resident memory in MB."""
    try:
        # Linux hands the parent's ru_maxrss down to a child; the peak of its own is VmHWM.
        status = Path("/proc/self/status").read_text()
        kilobytes = int(status.split("VmHWM:")[1].split()[0])
    except OSError:
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes * 1024 / 1e6)


def main() -> None:
    """Write and read every format, in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="*", default=[5_000, 50_000])
    parser.add_argument("--formats", nargs="*", default=FORMATS, choices=FORMATS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read)
        return
    results = []
    for kind in options.formats:
        for count in options.counts:
            with tempfile.TemporaryDirectory() as folder:
                location = write(kind, Path(folder), count)
                command = [sys.executable, __file__, "--read", str(location)]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
            result = {"format": kind} | json.loads(answer.stdout)
            if result["images"] != count:
                raise SystemExit(f"{kind}: {result['images']} of {count} images came back.")
            results.append(result)
            if not options.json:
                print(
                    f"{kind:10s} {count:7d} images {result['seconds']:6.1f} s "
                    f"{result['peak_mb']:5d} MB",
                    flush=True,
                )
    within = all(result["peak_mb"] <= BOUND_MB for result in results)
    if options.json:
        print(json.dumps({"bound_mb": BOUND_MB, "within": within, "results": results}))
    else:
        print(f"{'all below' if within else 'NOT ALL below'} {BOUND_MB} MB")


if __name__ == "__main__":
    main()
