"""Fit the public axes that ship with the package, on public photographs.

    python benchmarks/photograph_axes.py TINY_IMAGENET.parquet --out src/sfumato/features

Principal axes of pooled encoder features, half-whitened, in steps of 1/127 of each axis's largest
entry. The file holds its card; the photographs themselves are not kept. On one machine a rerun
writes the same bytes; another processor may differ in a step here and there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from sfumato.data.arrays import load_labelled
from sfumato.data.opening import open_images
from sfumato.features import PooledFeatures, load_encoder
from sfumato.features.pooled import fitted_axes
from sfumato.features.shipped import AXES

COUNT, SIDE, ENCODER_SIZE, IMAGES = 600, 32, 64, 30_000


def shrunk(photographs: Path, count: int) -> np.ndarray:
    """The first ``count`` photographs at 32 pixels, uint8 ``[count, 3, 32, 32]``."""
    images = load_labelled(open_images(photographs, channels=3)).images[:count]
    small = [
        np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))
        for image in images.transpose(0, 2, 3, 1)
    ]
    return np.ascontiguousarray(np.stack(small).transpose(0, 3, 1, 2))


def write(images: np.ndarray, out: Path) -> dict[str, object]:
    """Fit on uint8 images, write the file, and return its card."""
    encoder = load_encoder()
    public = PooledFeatures(encoder, ENCODER_SIZE).of(images)
    fitted = fitted_axes(public, COUNT)
    steps = fitted.axes.abs().amax(dim=0) / 127
    card = {
        "source": "Tiny ImageNet: photographs of ImageNet at 64 pixels, 200 classes",
        "licence": "ImageNet's terms of access hold for the photographs; none is in this file",
        "images": len(images),
        "images_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
        "side": SIDE,
        "encoder": encoder.name,
        "encoder_sha256": encoder.digest,
        "encoder_size": ENCODER_SIZE,
        "made_by": "benchmarks/photograph_axes.py",
    }
    arrays = {
        "mean": fitted.mean.numpy(),
        # safetensors writes memory as it lies, which is transposed for a view that is.
        "axes": torch.round(fitted.axes / steps).to(torch.int8).contiguous().numpy(),
        "steps": steps.numpy(),
    }
    save_file(arrays, out / AXES, metadata={"card": json.dumps(card, sort_keys=True)})
    return card


def main() -> None:
    """Read, fit, write, and print the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=IMAGES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, and with it the last bits, follows from threads
    images = shrunk(arguments.photographs, arguments.images)
    print(json.dumps(write(images, arguments.out), indent=2))


if __name__ == "__main__":
    main()
