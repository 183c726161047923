"""Fuzz every reader of sfumato with inputs that are nearly right.

Each target runs in a process of its own, under a limit of memory and of seconds per input, with
every file in a scratch folder. An input fails if anything but a ``SfumatoError`` comes out, if it
takes too long or too much memory, or if reading it writes or looks outside the scratch folder,
writes to standard error, starts a program, connects to anything or unpickles. Input number k of a
target is always the same.

    python tests/harness/fuzz.py --inputs 100000 --seconds 1500 --json benchmarks/results/fuzz.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SECONDS_PER_INPUT = 20.0
FIRST = 120.0
"""Seconds for the first input of a process, which waits for what is made once."""
MEMORY = 2 * 2**30
"""Bytes of address space that reading may take beyond what the program itself has."""
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
    "pickle.find_class", "code.__new__", "webbrowser.open",
)  # fmt: skip
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")


@dataclass
class Figures:
    """What came of one target; ``peak_mb`` is memory beyond what the process had before."""

    inputs: int = 0
    rejected: int = 0
    accepted: int = 0
    crashes: int = 0
    slowest_seconds: float = 0.0
    peak_mb: float = 0.0
    failures: list[str] = field(default_factory=list)


class Watch:
    """Notes what an input does to the world outside its scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.active, self.seen = str(scratch.resolve()), False, []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in FORBIDDEN:
            self.seen.append(event)
        elif event in CHANGES or event == "open":
            self._note_path(event, args)

    def _note_path(self, event: str, args: tuple[Any, ...]) -> None:
        named = args[1] if event == "os.symlink" else args[0]
        if not isinstance(named, (str, bytes, os.PathLike)):
            return
        path = os.path.realpath(os.fsdecode(named))
        inside = path.startswith(self.scratch + os.sep)
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        writes = event != "open" or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        forbidden = path == "/etc/passwd" or os.path.basename(path).startswith("canary")
        if (writes and not inside and path != os.devnull) or (not inside and forbidden):
            self.seen.append(f"{event} {path[:200]}")


def address_space() -> int:
    """Bytes of address space that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def limit_memory() -> None:
    """From here on this process may have as much as now, and ``MEMORY``."""
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + MEMORY, resource.RLIM_INFINITY))


def peak() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(name: str, first: int, last: int, seed: int, pipe: Connection) -> None:
    """Read the inputs of one target and report after each."""
    from fuzz_targets import TARGETS, inputs

    from sfumato.errors import SfumatoError

    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    target = next(target for target in TARGETS if target.name == name)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "canary.png").write_bytes(b"outside")
        scratch = root / "scratch"
        scratch.mkdir()
        watch = Watch(scratch)
        folder, errors = scratch / "input", scratch / "stderr"
        limit_memory()
        for number in range(3):  # what these import and keep is not held against the inputs
            folder.mkdir()
            attempt(target.read, folder, random.Random(number), SfumatoError)
            shutil.rmtree(folder)
        folder.mkdir()
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        limit_memory()
        before = peak()
        for number, rng in inputs(target, first, seed):
            if number >= last:
                break
            started = time.monotonic()
            watch.active = True
            outcome, note = attempt(target.read, folder, rng, SfumatoError)
            watch.active = False
            took = time.monotonic() - started
            if any(folder.iterdir()):
                shutil.rmtree(folder)
                folder.mkdir()
            if watch.seen:
                outcome, note = "crash", f"outside: {sorted(set(watch.seen))}"
            elif errors.stat().st_size:
                outcome, note = "crash", f"wrote to standard error: {errors.read_bytes()[:200]!r}"
                os.truncate(errors, 0)
            watch.seen.clear()
            pipe.send((number, outcome, note, took, peak() - before))
    pipe.send(None)


def attempt(read: Any, folder: Path, rng: random.Random, clear: type[Exception]) -> tuple[str, str]:
    """Read one input in a new folder; say what came of it, and where it failed."""
    try:
        return ("accepted" if read(folder, rng) else "rejected"), ""
    except clear as error:
        return ("rejected", "") if str(error) else ("crash", "an error without a message")
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        own = [f for f in traceback.extract_tb(error.__traceback__) if "/sfumato/" in f.filename]
        where = own[-1] if own else frame
        return "crash", f"{type(error).__name__} {error!s:.200} at {where.name}:{where.lineno}"


def prepare_torch() -> None:
    """Do once what PyTorch does at first use, for all processes that are forked from this one."""
    import torch

    torch.set_num_threads(1)  # a fork has none of its parent's threads
    torch.nn.Embedding(1, 1, device="meta")  # the first one lets PyTorch make a folder of its own


def fuzz(name: str, count: int, seconds: float, seed: int = 0) -> Figures:
    """Give ``count`` inputs to a target, or as many as ``seconds`` allow.

    What :func:`prepare_torch` and ``fuzz_targets.prepare`` make must have been made.
    """
    figures, number, until = Figures(), 0, float("inf")
    context = multiprocessing.get_context("fork")  # what the parent has made is there
    while number < count and time.monotonic() < until:
        mine, other = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(name, number, count, seed, other))
        process.start()
        other.close()
        patience = FIRST
        while True:
            try:
                answer = mine.recv() if mine.poll(patience) else (number, "crash", "hangs", 0, 0)
            except EOFError:
                answer = (number, "crash", f"the process died ({process.exitcode})", 0, 0)
            if answer is None:
                number = count
                break
            if patience == FIRST and answer[2]:
                raise RuntimeError(f"{name}: {answer[2]} before its first input")
            at, outcome, note, took, memory = answer
            until = min(until, time.monotonic() + seconds)
            figures.inputs += 1
            number, patience = at + 1, SECONDS_PER_INPUT
            figures.slowest_seconds = max(figures.slowest_seconds, round(took, 3))
            figures.peak_mb = max(figures.peak_mb, round(memory, 1))
            if outcome == "crash":
                figures.crashes += 1
                figures.failures.append(f"input {at}: {note}")
            elif outcome == "accepted":
                figures.accepted += 1
            else:
                figures.rejected += 1
            if note == "hangs" or note.startswith("the process died"):
                break
            if time.monotonic() > until:
                break
        process.kill()
        process.join()
        mine.close()
    return figures


def main() -> None:
    """Fuzz all targets, or those that are named, and print the figures."""
    from fuzz_targets import TARGETS, forget, prepare

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="over all targets")
    parser.add_argument("--seconds", type=float, default=1500, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[t.name for t in TARGETS])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--table", type=Path, help="only print such a file's figures as Markdown")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_bytes())))
        return
    chosen = [target for target in TARGETS if target.name in options.only]
    shares = sum(target.share for target in chosen)
    found: dict[str, Figures] = {}
    started = time.monotonic()
    prepare_torch()
    try:
        prepare()
        for place, target in enumerate(chosen):
            count = -(-options.inputs * target.share // shares)
            # What one target does not need, the others may have.
            left = options.seconds - (time.monotonic() - started)
            fair = left / (len(chosen) - place)
            found[target.name] = fuzz(target.name, int(count), max(fair, 1.0), options.seed)
            shown = asdict(found[target.name])
            shown["failures"] = shown["failures"][:5]
            print(json.dumps({"target": target.name, **shown}), flush=True)
            report = summary(found, options.seed, time.monotonic() - started)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    finally:
        forget()
    print(json.dumps(report["total"]))
    sys.exit(1 if report["total"]["crashes"] else 0)


def summary(found: dict[str, Figures], seed: int, seconds: float) -> dict[str, Any]:
    """The figures of all targets so far, and how they came about."""
    kinds = ("inputs", "rejected", "accepted", "crashes")
    return {
        "seconds": round(seconds),
        "python": platform.python_version(),
        "seed": seed,
        "limits": {"seconds_per_input": SECONDS_PER_INPUT, "memory_mb": MEMORY >> 20},
        "total": {kind: sum(getattr(one, kind) for one in found.values()) for kind in kinds},
        "targets": {name: asdict(figures) for name, figures in found.items()},
    }


def table(report: dict[str, Any]) -> str:
    """The figures as a table for ``docs/trust.md``."""
    lines = [
        "| target | inputs | refused | accepted | failed | slowest, s | peak memory, MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in report["targets"].items():
        counts = " | ".join(f"{one[key]:,}" for key in ("inputs", "rejected", "accepted"))
        limits = f"{one['crashes']} | {one['slowest_seconds']:.2f} | {one['peak_mb']:.0f}"
        lines.append(f"| {name} | {counts} | {limits} |")
    total = report["total"]
    counts = " | ".join(f"{total[key]:,}" for key in ("inputs", "rejected", "accepted", "crashes"))
    return "\n".join([*lines, f"| **all** | {counts} | | |"])


if __name__ == "__main__":
    main()
