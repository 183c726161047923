"""What a run will take on this machine: a short measurement on public images, extrapolated."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from sfumato.data.spec import PublicSpec
from sfumato.features import public_patches
from sfumato.privacy import SumQuery

PROBE = 128
SUPPOSED_SIZE = 10_000
LIBRARIES_GB = 0.6


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of the second of two calls, in which nothing is set up any more."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def reading(query: SumQuery, spec: PublicSpec) -> dict[str, str]:
    """Expected time of the one pass over the private images, and memory of its answer.

    The number of records is private, so the time holds for the declared size, or for a size that
    is named.
    """
    images = torch.from_numpy(public_patches(spec, PROBE))
    labels = torch.zeros(PROBE, dtype=torch.int64)

    def pass_over() -> None:
        with torch.inference_mode():
            query.contribution(images, labels)

    size = spec.declared_size or SUPPOSED_SIZE
    rows, columns = query.shape(len(spec.classes))
    # int64 sums, the noisy copy with its Python integers, and a batch of float32 contributions.
    coordinates = rows * columns + query.shared
    gigabytes = LIBRARIES_GB + (coordinates * 80 + PROBE * query.dimension * 12) / 1e9
    return {
        "reading_time": f"{seconds_of(pass_over) * size / PROBE:.0f} s for {size:,} images",
        "memory": f"{gigabytes:.1f} GB",
    }
