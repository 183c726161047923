"""Does a Ray cluster of two nodes give one process's sum when a node is killed in the middle?

Generated images lie in shards; the sums of `moments` are taken by one process, and by a local
cluster of two nodes of one core each, one of which is killed once a quarter of the shards is done.
Both runs draw their noise from one seed, so that equal answers mean equal sums, bit for bit.

    python benchmarks/ray_nodes.py [--images 200000] [--shards 40] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from ray.cluster_utils import Cluster

from sfumato import from_arrays, open_images
from sfumato.data import ImageSource
from sfumato.data.shards import write_shards
from sfumato.methods.moments.method import Moments
from sfumato.privacy import Budget, Curator
from sfumato.privacy.cluster import on_cluster

DISTINCT = 5000


def summed(source: ImageSource, state: Path) -> tuple[np.ndarray, float]:
    """The noisy sum, and the seconds that it took."""
    options = {"state": state, "quiet": True, "insecure_seed": 1}
    with Curator(source, Budget(1.0, 1e-7), **options) as curator:
        (query,) = curator.open(Moments()).queries
        started = time.perf_counter()
        answer = curator.sum(query.name)
        return answer.total, round(time.perf_counter() - started, 1)


def kill(cluster: Cluster, node: object, state: Path, after: int, killed: list[int]) -> None:
    """End a node without a word once so many shards are done."""
    while (done := len(list(state.rglob("partials-*/*.safetensors")))) < after:
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    killed.append(done)


def main() -> None:
    """Take both sums and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (DISTINCT, 28, 28), np.uint8)
        chosen = rng.integers(0, DISTINCT, options.images)
        labels = rng.integers(0, 10, options.images)
        images = from_arrays(noise[chosen], labels, name="noise", classes=10)
        write_shards(images, here / "shards", options.shards, by_unit=False)
        source = open_images(here / "shards", image_size=28)
        alone, alone_s = summed(source, here / "alone")
        print(f"one process: {alone_s} s", flush=True)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        second, killed = cluster.add_node(num_cpus=1), []
        cluster.wait_for_nodes()
        arguments = (cluster, second, here / "spread", options.shards // 4, killed)
        watcher = threading.Thread(target=kill, args=arguments, daemon=True)
        watcher.start()
        with on_cluster(source, f"ray://{cluster.address}"):
            spread, spread_s = summed(source, here / "spread")
        cluster.shutdown()
    found = {
        "images": options.images,
        "shards": options.shards,
        "shards_done_when_a_node_was_killed": killed[0] if killed else None,
        "one_process_s": alone_s,
        "two_nodes_one_killed_s": spread_s,
        "equal_bit_for_bit": bool(np.array_equal(alone, spread)),
    }
    print(json.dumps(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
