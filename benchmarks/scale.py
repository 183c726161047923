"""Do time and memory grow as they should with images, classes, ranks and workers?

Generated images of 32 pixels stream through the curator, each case in processes of its own: the
whole of `moments`, the one pass of `mepf`, and the sharding and first vote of `datalens`. Memory is
to be flat in the number of images (the largest within 1.3 times of the smallest), time linear.
Beside the time stands that of the processors, which other programs on the machine hardly change.

`--ranks 2` starts each case under torchrun. `--workers 1 2` writes the images as Parquet shards
and sums them by a Ray cluster of this machine with so many workers.

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

from sfumato import open_images
from sfumato.data import ImageSource, PublicSpec
from sfumato.data.decoding.decode import fit_pixels
from sfumato.data.shards import write_shards
from sfumato.data.source import Record
from sfumato.methods.datalens.method import DataLens
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.moments.method import Moments
from sfumato.privacy import Budget, Curator, distributed
from sfumato.privacy.cluster import on_cluster

FLAT = 1.3
BLOCK = 1000
SHARDS = 20


class Generated(ImageSource):
    """As many images of noise as are asked for; only a block of them exists at a time."""

    def __init__(self, count: int, classes: int) -> None:
        names = tuple(str(label) for label in range(classes))
        super().__init__("generated", PublicSpec(32, 32, 1, names, count), f"/generated/{count}")
        self.count, self.classes = count, classes

    def _records(self) -> Iterator[Record]:
        noise = np.random.default_rng(0).integers(0, 256, (BLOCK, 32, 32), np.uint8)
        block = [fit_pixels(image, self.spec) for image in noise]
        for index in range(self.count):
            yield block[index % BLOCK], index % self.classes

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


def case(what: str, count: int, classes: int, workers: int) -> None:
    """Do the work of one case and print what it took."""
    torch.set_num_threads(1)
    distributed.join()
    with tempfile.TemporaryDirectory() as own:
        # All ranks keep the run in the first one's folder.
        state = Path(distributed.from_first(own))
        source: ImageSource = Generated(count, classes)
        if workers:
            write_shards(source, state / "shards", SHARDS, by_unit=False)
            named = {"classes": classes, "channels": 1, "image_size": 32, "declared_size": count}
            source = open_images(state / "shards", **named)
            seconds, processor = by_cluster(what, source, state / "ledgers", workers)
        else:
            seconds, processor = timed(what, source, state / "ledgers")
        own = json.dumps([processor, peak_mb()])
        processors, peaks = zip(*map(json.loads, distributed.everyones(own)), strict=True)
    if distributed.is_first():
        found = {"what": what, "images": count, "classes": classes, "seconds": round(seconds, 2)}
        found |= {} if workers else {"processor_s": round(sum(processors), 2)}
        print(json.dumps({**found, "peak_mb": max(peaks)}))


def timed(what: str, source: ImageSource, state: Path) -> tuple[float, float]:
    """The seconds that the work on a data set takes, and those of this process's processor."""
    with Curator(source, Budget(10.0, 1e-9), state=state, quiet=True) as curator:
        started, worked = time.perf_counter(), time.process_time()
        WORK[what](curator)
        return time.perf_counter() - started, time.process_time() - worked


def by_cluster(what: str, source: ImageSource, state: Path, workers: int) -> tuple[float, float]:
    """The same by a local Ray cluster of so many cores; its start is not counted."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers})
    try:
        with on_cluster(source, f"ray://{cluster.address}"):
            return timed(what, source, state)
    finally:
        cluster.shutdown()


def measured(what: str, count: int, classes: int, ranks: int, workers: int) -> dict[str, object]:
    """One case in processes of its own."""
    started = [sys.executable]
    if ranks > 1:
        started += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    numbers = [str(number) for number in (count, classes, workers)]
    command = [*started, __file__, "--case", what, *numbers]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(answer.stdout.strip().splitlines()[-1])
    return {**found, "ranks": ranks, "workers": workers}


def main() -> None:
    """Run all cases and say where memory is not flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--classes", type=int, nargs="*", default=[10])
    parser.add_argument("--what", nargs="*", default=list(WORK), choices=WORK)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1])
    parser.add_argument("--workers", type=int, nargs="*", default=[], help="of Ray")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results are added to it")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        what, *numbers = options.case
        case(what, *map(int, numbers))
        return
    results, uneven = [], []
    if options.json and options.json.exists():
        results = json.loads(options.json.read_text())["results"]
    spreads = [(1, workers) for workers in options.workers] or [(r, 0) for r in options.ranks]
    for what in options.what:
        for classes in options.classes:
            for spread in spreads:
                peaks = []
                for count in options.sizes:
                    found = measured(what, count, classes, *spread)
                    print(json.dumps(found), flush=True)
                    results.append(found)
                    peaks.append(int(str(found["peak_mb"])))
                    if options.json:
                        text = json.dumps({"flat": FLAT, "results": results}, indent=1)
                        options.json.write_text(text + "\n")
                if peaks[-1] > FLAT * peaks[0]:
                    ratio = f"{peaks[-1] / peaks[0]:.2f} times the memory"
                    uneven.append(f"{what} with {classes} classes: {ratio}")
    print("\n".join(uneven) or f"memory within {FLAT} times")


if __name__ == "__main__":
    main()
