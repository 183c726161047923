"""What a run will take on this machine: a short measurement on empty images, extrapolated."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import device_of, random_on
from sfumato.privacy import GradientQuery, SumQuery, UnitLoss

IMAGES, PROBE, TIMED = 64, 128, 32
"""Units of a private step that are timed, images of a pass, and those of them that are timed."""

SUPPOSED_SIZE = 10_000
LIBRARIES_GB = 0.6


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of the second of two calls, in which nothing is set up any more."""
    for _ in range(2):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # GPUs only note what is to be done
        taken = time.perf_counter() - started
    return taken


def gradient_steps(
    network: nn.Module, loss: UnitLoss, query: GradientQuery, spec: PublicSpec
) -> dict[str, str]:
    """Expected time of a gradient query's steps, at least, on the network's device."""
    device, units = device_of(network), max(1, IMAGES // loss.multiplicity)
    shape = (units, spec.channels, spec.height, spec.width)
    images = torch.zeros(shape, dtype=torch.uint8, device=device)
    labels = torch.zeros(units, dtype=torch.int64, device=device)
    draws = loss.draws(units, random_on(device, 0))

    def step() -> None:
        loss(network, images, labels, *draws).sum().backward()

    batch = query.sampling_rate * (spec.declared_size or SUPPOSED_SIZE)
    hours = seconds_of(step) * query.steps * batch / units / 3600
    return {"training_time": f"{hours:,.1f} hours or more for {query.steps:,} private steps"}


def reading(query: SumQuery, spec: PublicSpec) -> dict[str, str]:
    """Expected time of the one pass over the private images, and memory of its answer.

    The number of records is private, so the time holds for the declared size, or for a size that
    is named.
    """
    images = torch.zeros((TIMED, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    labels = torch.zeros(TIMED, dtype=torch.int64)

    def pass_over() -> None:
        with torch.inference_mode():
            query.contribution(images, labels)

    size = spec.declared_size or SUPPOSED_SIZE
    rows, columns = query.shape(len(spec.classes))
    # int64 sums, the noisy copy with its Python integers, and a batch of float32 contributions.
    coordinates = rows * columns + query.shared
    gigabytes = LIBRARIES_GB + (coordinates * 80 + PROBE * query.dimension * 12) / 1e9
    return {
        "reading_time": f"{seconds_of(pass_over) * size / TIMED:.0f} s for {size:,} images",
        "memory": f"{gigabytes:.1f} GB",
    }
