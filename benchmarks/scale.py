"""Do time and memory grow as they should with images and classes?

Generated images of 32 pixels stream through the curator, each case in a process of its own: the
whole of `moments`, the one pass of `mepf`, and the sharding and first vote of `datalens`. Memory is
to be flat in the number of images (the largest within 1.3 times of the smallest), time linear.

    python benchmarks/scale.py [--sizes 10000 100000] [--classes 10 100 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from read_memory import peak_mb

from sfumato.data import ImageSource, PublicSpec
from sfumato.data.source import Record
from sfumato.methods.datalens.method import DataLens
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.moments import Moments
from sfumato.privacy import Budget, Curator

FLAT = 1.3
BLOCK = 1000


class Generated(ImageSource):
    """As many images of noise as are asked for; only a block of them exists at a time."""

    def __init__(self, count: int, classes: int) -> None:
        names = tuple(str(label) for label in range(classes))
        super().__init__("generated", PublicSpec(32, 32, 1, names, count), f"/generated/{count}")
        self.count = count

    def _records(self) -> Iterator[Record]:
        block = np.random.default_rng(0).integers(0, 256, (BLOCK, 1, 32, 32), np.uint8)
        for index in range(self.count):
            yield block[index % BLOCK], index % len(self.spec.classes)

    def _private_length(self) -> int:
        return self.count

    def fingerprint(self) -> str:
        return str(self.count)


def moments(curator: Curator) -> None:
    """The whole method."""
    Moments().fit(curator)


def mepf(curator: Curator) -> None:
    """The pass over the images with its noise; no training."""
    (query,) = curator.open(DPMEPF()).queries
    curator.sum(query.name)


def datalens(curator: Curator) -> None:
    """Shards for as many teachers as there are images, one vote, and one step of the student."""
    DataLens(steps=1, student_steps=1).fit(curator)


WORK: dict[str, Callable[[Curator], None]] = {
    "moments": moments,
    "mepf": mepf,
    "datalens": datalens,
}


def case(what: str, count: int, classes: int) -> None:
    """Do the work of one case and print what it took."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as state:
        source, budget = Generated(count, classes), Budget(10.0, 1e-9)
        with Curator(source, budget, state=Path(state), quiet=True) as curator:
            before, started = peak_mb(), time.perf_counter()
            WORK[what](curator)
            seconds = time.perf_counter() - started
    found = {"what": what, "images": count, "classes": classes, "seconds": round(seconds, 2)}
    print(json.dumps({**found, "peak_mb": peak_mb(), "before_mb": before}))


def main() -> None:
    """Run all cases and say where memory is not flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--classes", type=int, nargs="*", default=[10])
    parser.add_argument("--what", nargs="*", default=list(WORK), choices=WORK)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        what, count, classes = options.case
        case(what, int(count), int(classes))
        return
    results, uneven = [], []
    for what in options.what:
        for classes in options.classes:
            rows = []
            for count in options.sizes:
                command = [sys.executable, __file__, "--case", what, str(count), str(classes)]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                rows.append(json.loads(answer.stdout))
                print(answer.stdout.strip(), flush=True)
            ratio = rows[-1]["peak_mb"] / rows[0]["peak_mb"]
            if ratio > FLAT:
                uneven.append(f"{what} with {classes} classes: {ratio:.2f} times the memory")
            results += rows
    if options.json:
        options.json.write_text(json.dumps({"flat": FLAT, "results": results}, indent=1) + "\n")
    print("\n".join(uneven) or f"memory within {FLAT} times")


if __name__ == "__main__":
    main()
