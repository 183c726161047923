"""Private data in memory, queries on it, and a curator whose state is thrown away."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
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


TIMEOUT = 300

FORK = """
import os, socket, sys


def become_a_rank():
    # Copies of this process go on as the ranks of one world after the other; this one ends.
    top, *worlds = sys.argv[1:]
    for ranks in worlds:
        place, children = os.path.join(top, ranks), []
        os.makedirs(place, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for rank in map(str, range(int(ranks))):
            children.append(os.fork())
            if children[-1] == 0:
                os.environ.update(WORLD_SIZE=ranks, RANK=rank, LOCAL_RANK=rank, MASTER_PORT=port)
                sys.argv[1:] = [place]
                return
        if any([os.waitpid(child, 0)[1] for child in children]):
            sys.exit(1)
    sys.exit()


become_a_rank()
"""


def _run_ranks(content: str, place: Path, *worlds: int) -> list[list[dict]]:
    """What each rank saw that ran ``content``, for worlds of so many ranks one after the other.

    What precedes its ``distributed.join()`` runs once, and the ranks are forked from there, since
    importing PyTorch takes longer than what they do. A world has a folder of its own in ``place``,
    which is its argument.
    """
    before, join, after = content.partition("distributed.join()\n")
    script = place / "rank.py"
    script.write_text(before + FORK + join + after)
    base = {key: value for key, value in os.environ.items() if not key.startswith("MASTER_")}
    base |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "127.0.0.1"}
    # Whatever finds the package here finds it there.
    base["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, str(script), str(place), *map(str, worlds)],
        env=base,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, output[-3000:]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return [
        [torch.load(place / str(ranks) / f"seen-{rank}.pt") for rank in range(ranks)]
        for ranks in worlds
    ]


@pytest.fixture(scope="session")
def run_ranks() -> Callable[..., list[list[dict]]]:
    """Runs a script in several processes that share a run; see :func:`_run_ranks`."""
    return _run_ranks
