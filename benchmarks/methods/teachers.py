"""What does a student step cost with thousands of teachers? DataLens through the curator.

Question: seconds of one step (all teachers train once on their 15 records or so and vote on 30
images of 28x28 with k = 200 stochastic signs each; sum, exact noise, and the student's own steps),
for several numbers of teachers; whether a step grows no faster than linearly in them; and its ratio
to the bare arithmetic, the stacked forward and backward passes alone, in the same run. What is read
and probed once, before the first step, is left out; storing the teachers' memories, which is done
at every 20th step, is timed by itself. Bounds on 2 cores: 4,000 teachers 10 s; per teacher, no more
than with the fewest.

    python benchmarks/methods/teachers.py --teachers 1000 2000 4000 [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.data import ImageSource, PublicSpec
from sfumato.data.source import Record
from sfumato.methods import DataLens
from sfumato.methods.datalens.student import recipe
from sfumato.methods.datalens.teachers import NetworkTeachers
from sfumato.privacy import SAVED_EVERY, Budget, Curator, GeneratedBatch, Teachers
from sfumato.privacy.records.teacher_states import TeacherStates

RECORDS = 15
SPEC = PublicSpec(28, 28, 1, tuple("0123456789"))


class Noise(ImageSource):
    """Random images as a private source: what they show does not change what a step costs."""

    def __init__(self, count: int) -> None:
        super().__init__("noise", SPEC, "")
        self._count = count

    def _records(self) -> Iterator[Record]:
        drawn = np.random.default_rng(0)
        for number in range(self._count):
            yield drawn.integers(0, 256, (1, 28, 28), np.uint8), number % len(SPEC.classes)

    def _private_length(self) -> int:
        return self._count

    def fingerprint(self) -> str:
        return str(self._count)


class TimedCurator(Curator):
    """A curator that notes when each vote was asked for; from one to the next is one step."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked: list[float] = []

    def vote(self, name: str, step: int, teachers: Teachers, generated: GeneratedBatch) -> Tensor:
        """Note the time, and answer."""
        self.asked.append(time.perf_counter())
        return super().vote(name, step, teachers, generated)


def step_seconds(method: DataLens, source: ImageSource) -> float:
    """Seconds of the fastest step but the first, in which everything is read and probed."""
    with (
        tempfile.TemporaryDirectory() as state,
        TimedCurator(source, Budget(10.0, 1e-5), state=Path(state), quiet=True) as curator,
    ):
        method.fit(curator)
        curator.close()
    times = [*curator.asked, time.perf_counter()]
    return float(min(np.diff(times[1:])))


def bare_seconds(teachers: NetworkTeachers, count: int, turns: int) -> float:
    """Seconds of the forward and backward passes of a step of ``count`` teachers."""
    group = min(teachers.at_once, count)
    memory = teachers.begin(group, torch.Generator().manual_seed(0))
    records = torch.randn(group, 2 * teachers.batch, 1, 28, 28)
    asked = torch.randn(group, 30, 1, 28, 28)
    labels = torch.arange(2 * teachers.batch).expand(group, -1) % len(SPEC.classes)

    def passes() -> None:
        flat = memory[:, : teachers.weights].clone().requires_grad_()
        weights = teachers._unpacked(flat)
        torch.autograd.grad(F.softplus(teachers.logits(weights, records, labels)).sum(), flat)
        weights = {name: value.detach() for name, value in weights.items()}
        seen = asked.clone().requires_grad_()
        loss = F.softplus(-teachers.logits(weights, seen, labels[:, :30])).sum()
        torch.autograd.grad(loss, seen)

    passes()
    best = math.inf
    for _ in range(turns):
        started = time.perf_counter()
        passes()
        best = min(best, time.perf_counter() - started)
    return best * math.ceil(count / group)


def stored_seconds(teachers: NetworkTeachers, count: int) -> float:
    """Seconds that storing the memories of ``count`` teachers takes."""
    group = min(teachers.at_once, count)
    with tempfile.TemporaryDirectory() as folder:
        memory = TeacherStates(Path(folder), math.ceil(count / group), group, teachers.memory)
        started = time.perf_counter()
        memory.save()
        return time.perf_counter() - started


def peak_gb() -> float:
    """The most memory that this process has held so far, pages of mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(count: int, steps: int) -> dict[str, Any]:
    """One row."""
    method = DataLens(**{**DataLens.preset("paper", SPEC), "teachers": count, "steps": steps + 1})
    teachers = recipe(method, SPEC)
    assert isinstance(teachers, NetworkTeachers)
    step = step_seconds(method, Noise(RECORDS * count))
    peak = peak_gb()
    bare = bare_seconds(teachers, count, steps)
    storing = stored_seconds(teachers, count)
    return {
        "teachers": count,
        "step_s": step,
        "step_over_bare": step / bare,
        "milliseconds_per_teacher": 1000 * step / count,
        "bytes_per_teacher": 4 * teachers.memory,
        "peak_gb": peak,
        f"storing_s_every_{SAVED_EVERY}_steps": storing,
        "peak_gb_storing": peak_gb(),
    }


def main() -> None:
    """Print a row for each number of teachers, fewest first; the peak is that of all so far."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teachers", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--steps", type=int, default=3, help="timed steps; the fastest counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    rows = [measured(count, options.steps) for count in sorted(options.teachers)]
    for row in rows:
        row["per_teacher_over_fewest"] = (
            row["milliseconds_per_teacher"] / rows[0]["milliseconds_per_teacher"]
        )
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))
        return
    print(f"threads: {torch.get_num_threads()}")
    for row in rows:
        print("\n".join(f"{key}: {value}" for key, value in row.items()), end="\n\n")


if __name__ == "__main__":
    main()
