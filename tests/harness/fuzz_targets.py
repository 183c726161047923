"""What is fuzzed: each target makes its hostile input from a number, and reads it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fuzz_artefacts import (
    bundle,
    certificate,
    certificate_of_steps,
    embedding,
    evaluation,
    ledger,
    model,
    released_images,
)
from fuzz_data import folder_of_images, idx, image, npz, parquet, webdataset, zip_file
from fuzz_hospital import dicom, hdf5, label_table, saved_arrow
from fuzz_seeds import forget, prepare

Read = Callable[[Path, random.Random], bool]


@dataclass(frozen=True)
class Target:
    """``read`` puts an input into a folder and reads it; False is a refusal without an error."""

    name: str
    share: float
    read: Read


TARGETS = (
    Target("image decoder", 24, image),
    Target("folder", 8, folder_of_images),
    Target("zip", 10, zip_file),
    Target("IDX", 10, idx),
    Target("NPZ", 10, npz),
    Target("Parquet", 8, parquet),
    Target("WebDataset", 10, webdataset),
    Target("DICOM", 10, dicom),
    Target("label table", 6, label_table),
    Target("HDF5", 6, hdf5),
    Target("save_to_disk", 6, saved_arrow),
    Target("certificate", 8, certificate),
    Target("certificate of steps", 0.5, certificate_of_steps),
    Target("released images", 8, released_images),
    Target("whole release", 0.8, bundle),
    Target("model", 6, model),
    Target("embedding", 5, embedding),
    Target("evaluation", 5, evaluation),
    Target("ledger", 4, ledger),
)


def inputs(target: Target, first: int, seed: int) -> Iterator[tuple[int, random.Random]]:
    """The endless inputs of a target, each by its number."""
    number = first
    while True:
        yield number, random.Random(f"{seed}:{target.name}:{number}")
        number += 1


__all__ = ["TARGETS", "Target", "forget", "inputs", "prepare"]
