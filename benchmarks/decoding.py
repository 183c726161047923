"""How fast are encoded images read, next to PyTorch's DataLoader with as many workers?

Both read the same Parquet file (columns ``image`` with ``bytes``, and ``label``) and end with uint8
batches of the same squares in the program's own memory. The DataLoader is given all encoded bytes
beforehand; sfumato reads them from the file. Each takes turns; the ratio is that of the medians.

    python benchmarks/decoding.py train.parquet [--workers 2] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sfumato.data import open_images

BATCH = 128


class Encoded(Dataset):
    """What a program that uses the DataLoader writes: decode, colour, square, tensor."""

    def __init__(self, path: Path, side: int) -> None:
        rows = pq.read_table(path, columns=["image"]).column("image").to_pylist()
        self.contents, self.side = [row["bytes"] for row in rows], side

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(io.BytesIO(self.contents[index])) as image:
            pixels = image.convert("RGB")
        if pixels.size != (self.side, self.side):
            pixels = pixels.resize((self.side, self.side), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def main() -> None:
    """Read the file with each, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    encoded = Encoded(options.path, options.side)

    def loader() -> int:
        batches = DataLoader(encoded, BATCH, num_workers=options.workers)
        return sum(len(batch) for batch in batches)

    def ours() -> int:
        source = open_images(options.path, image_size=options.side, workers=options.workers)
        return sum(len(images) for images, _ in source.batches(BATCH))

    seconds: dict[str, list[float]] = {"sfumato": [], "DataLoader": []}
    for _ in range(options.repeats):
        for name, read in (("sfumato", ours), ("DataLoader", loader)):
            started = time.perf_counter()
            if read() != len(encoded):
                raise SystemExit(f"{name} read another number of images")
            seconds[name].append(round(time.perf_counter() - started, 2))
            print(f"{name}: {seconds[name][-1]} s", flush=True)
    ratio = statistics.median(seconds["DataLoader"]) / statistics.median(seconds["sfumato"])
    print(f"sfumato reads {ratio:.2f} times as fast as the DataLoader")
    if options.json:
        found = {"images": len(encoded), "workers": options.workers, "side": options.side}
        options.json.write_text(json.dumps({**found, "seconds": seconds, "ratio": ratio}) + "\n")


if __name__ == "__main__":
    main()
