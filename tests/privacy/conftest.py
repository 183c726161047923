"""Private data in memory, queries on it, and a curator whose state is thrown away."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.data.source import ImageSource, Record
from sfumato.data.spec import PublicSpec
from sfumato.privacy import Budget, Curator

SPEC = PublicSpec(height=2, width=2, channels=1, classes=("a", "b", "c"))


class MemorySource(ImageSource):
    """Records (first two pixels, label): enough for a test to make a contribution of anything."""

    def __init__(self, records: list[tuple[int, int | None]], spec: PublicSpec = SPEC) -> None:
        super().__init__("memory", spec, "memory:test")
        self.records = records
        self.reads = 0

    def _records(self) -> Iterator[Record]:
        self.reads += 1
        for value, label in self.records:
            image = np.zeros((self.spec.channels, self.spec.height, self.spec.width), np.uint8)
            image[0, 0, :2] = value % 256, value // 256
            yield image, label

    def _private_length(self) -> int:
        return len(self.records)

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self.records).encode()).hexdigest()


@pytest.fixture(scope="session")  # a class: hypothesis may use it for all its examples
def make_source() -> type[MemorySource]:
    return MemorySource


@pytest.fixture
def make_curator(tmp_path: Path) -> Callable[..., Curator]:
    def make(
        source: ImageSource | None = None,
        budget: Budget = Budget(1.0, 1e-5),  # noqa: B008 (frozen)
        **options: object,
    ) -> Curator:
        source = source or MemorySource([(3, 0), (7, 1), (9, 2), (200, -1)])
        return Curator(source, budget, state=tmp_path / "own-state", quiet=True, **options)

    return make


TIMEOUT = 120


def _run_ranks(content: str, place: Path, ranks: int) -> list[dict]:
    """What each of ``ranks`` processes saw that ran ``content``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = place / "rank.py"
    script.write_text(content)
    base = {key: value for key, value in os.environ.items() if not key.startswith("MASTER_")}
    base |= {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(ranks), "CUDA_VISIBLE_DEVICES": ""}
    base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # Whatever finds the package here finds it there.
    base["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(place)],
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=TIMEOUT)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(place / f"seen-{rank}.pt") for rank in range(ranks)]


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., list[dict]]:
    """Runs a script in several processes that share a run; see :func:`_run_ranks`."""
    return _run_ranks
