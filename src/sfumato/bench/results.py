"""The lines of a benchmark: one JSON object for each finished or failed run, appended whole."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import sfumato
from sfumato.errors import DataError

Line = dict[str, Any]
RESULTS = "results.jsonl"
VERSIONED = ("torch", "numpy", "dp-accounting", "cryptography", "scikit-learn")


def read_results(folder: Path) -> list[Line]:
    """All lines of a benchmark's folder, oldest first; none if it has not run yet.

    A line that a crash cut off is left out, and its run is done again.

    Raises:
        DataError: a line in the middle is damaged.
    """
    path = folder / RESULTS
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    try:
        return [json.loads(line) for line in lines[:-1] if line.strip()]
    except ValueError:
        raise DataError(f"{path}: a line is not JSON. Remove it; its run is done again.") from None


def append_result(folder: Path, line: Mapping[str, Any]) -> None:
    """Add one line in one durable write; what a crash had cut off before it is removed."""
    path = folder / RESULTS
    text = json.dumps(line, allow_nan=False).encode() + b"\n"
    with FileLock(folder / ".results.lock"), open(path, "ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def environment() -> dict[str, Any]:
    """What else a result depends on: versions, commit and machine; no name of host or user."""
    return {
        "sfumato": sfumato.__version__,
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in VERSIONED},
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def commit() -> str | None:
    """The commit of the checkout that this package lies in, ``-dirty`` if the package differs."""
    package = Path(__file__).parents[1]

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(
            command, capture_output=True, check=True, timeout=10, text=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--", str(package))
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def newest(lines: Sequence[Line]) -> list[Line]:
    """The last line of each run, in the order of the first ones."""
    return list({line["key"]: line for line in lines}.values())
