"""Time the exact path of a sum: clip, round, add, noise, beside a bare float32 sum of the rows.

Question: what does exactness add to feature extraction? Bound: a one-shot release of 300,000
coordinates over 60,000 images adds less than 30 s on 2 cores. The contributions are one batch of
random rows, given again for every batch, so that making them costs nothing; the privacy core reads
every one of them from memory. The smaller case is a release by class, as DP-MEPF asks it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sfumato.data.source import ImageSource, Record
from sfumato.data.spec import PublicSpec
from sfumato.privacy import SumQuery
from sfumato.privacy.answering.integer_sums import BATCH, total
from sfumato.privacy.grid import UNIT
from sfumato.privacy.noise.entropy import fresh_stream
from sfumato.privacy.noise.integer_gaussian import add_noise


class Counted(ImageSource):
    """``length`` one-pixel images with labels in turn."""

    def __init__(self, length: int, classes: int) -> None:
        names = tuple(str(label) for label in range(classes))
        super().__init__("counted", PublicSpec(1, 1, 1, names), "benchmark")
        self._length = length

    def batches(self, size: int, *_: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of black images."""
        for start in range(0, self._length, size):
            labels = np.arange(start, min(start + size, self._length))
            yield np.zeros((len(labels), 1, 1, 1), np.uint8), labels % len(self.spec.classes)

    def _records(self) -> Iterator[Record]:
        raise NotImplementedError

    def _private_length(self) -> int:
        return self._length

    def fingerprint(self) -> str:
        """None is needed: no run is opened."""
        raise NotImplementedError


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(rows: int, dimension: int, classes: int) -> dict[str, float]:
    """Time one release of ``classes`` x ``dimension`` coordinates over ``rows`` images."""
    batch = torch.randn(BATCH, dimension, generator=torch.Generator().manual_seed(0))
    batch /= 0.8 * dimension**0.5  # most rows are above the clip norm, some below

    def contribution(images: Tensor, labels: Tensor) -> Tensor:
        return batch[: len(images)]

    def bare() -> None:
        result = torch.zeros(dimension)
        for start in range(0, rows, BATCH):
            result += batch[: min(BATCH, rows - start)].sum(dim=0)

    query = SumQuery("benchmark", contribution, dimension, 1.0, by_class=classes > 1)
    source, answer = Counted(rows, classes), []
    sum_s = seconds(lambda: answer.append(total(query, source, BATCH, lambda share: None)))
    noise_s = seconds(lambda: add_noise(answer[0].numpy(), 4.0 * UNIT, fresh_stream()))
    bare_s = seconds(bare)
    return {
        "rows": rows,
        "coordinates": classes * dimension,
        "clip_round_sum_s": sum_s,
        "noise_s": noise_s,
        "ours_s": sum_s + noise_s,
        "bare_sum_s": bare_s,
        "ratio": (sum_s + noise_s) / bare_s,
        "ns_per_value": sum_s / rows / dimension * 1e9,
    }


def main() -> None:
    """Run both cases and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, object] = {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "one_shot": measure(options.rows, 300_000, 1),
        "by_class": measure(options.rows, 10_000, 10),
    }
    result["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.json:
        json.dump(result, sys.stdout)
    else:
        for key, value in result.items():
            print(key, value)


if __name__ == "__main__":
    main()
