"""Find a record that shows: pairs of data sets that differ in one hostile record, for each reader.

Of both data sets of a pair, at the same place and with the same options, everything must be equal
that anybody but the curator may see: the specification, the notes, the places, an error and its
text, standard output and error, warnings and log records. And the records themselves may differ in
one row on each side at most, so that no record hides, labels or renames another: else the
sensitivity that is proved for one record would be that of two. One pair in ``--whole-every`` goes
through the whole command ``sfumato synthesize`` with answers held fixed, where the exit code, what
is printed and every byte of the release must be equal. Pair number k of a reader is always the
same.

    python tests/harness/pairs.py --pairs 20000 --json benchmarks/results/pairs.json
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import logging
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from pair_hospital import HOSPITAL
from pair_sets import READERS, Case, Cell, pair

from sfumato.data import open_images
from sfumato.errors import SfumatoError

WHOLE = ("--epsilon", "1", "--method", "moments", "--set", "coefficients=2", "--samples", "4")
ALL = {**READERS, **HOSPITAL}
FLAGS = {
    "classes": "--classes", "unit": "--unit", "unit_pattern": "--unit-pattern",
    "split": "--split", "channels": "--channels", "dicom": "--dicom", "label_key": "--label-key",
    "labels": "--labels",
}  # fmt: skip


class Heard(logging.Handler):
    """Log records of every library."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # A lock is logged by its address in memory.
        self.lines.append(re.sub(r"\d{12,}", "", record.getMessage()))


@contextmanager
def listening(folder: Path) -> Iterator[dict[str, Any]]:
    """What is printed, warned of, logged, and written to descriptors 1 and 2 while this lasts."""
    heard, seen = Heard(), {}
    saved = [(number, os.dup(number)) for number in (1, 2)]
    files = [os.open(folder / f"stream{number}", os.O_RDWR | os.O_CREAT) for number, _ in saved]
    root = logging.getLogger()
    level, root.level = root.level, logging.DEBUG
    root.addHandler(heard)
    try:
        for (number, _), file in zip(saved, files, strict=True):
            os.dup2(file, number)
        with (
            warnings.catch_warnings(record=True) as warned,
            redirect_stdout(io.StringIO()) as out,
            redirect_stderr(io.StringIO()) as errors,
        ):
            warnings.simplefilter("always")
            yield seen
    finally:
        seen["printed"] = out.getvalue(), errors.getvalue()
        root.removeHandler(heard)
        root.level = level
        for (number, old), file in zip(saved, files, strict=True):
            os.dup2(old, number)
            os.close(old)
            seen[f"stream {number}"] = os.pread(file, 10_000, 0)
            os.close(file)
        seen["logged"] = heard.lines
        seen["warned"] = [str(one.message) for one in warned]


def opened(path: Path, options: dict[str, Any]) -> tuple[dict[str, Any], Counter[Any]]:
    """What can be seen of a data set, and its usable rows (image, label, unit), which cannot."""
    try:
        source = open_images(path, **{"image_size": 28, **options})
        seen = {
            "spec": source.spec.to_dict(),
            "notes": source.notes,
            "shown": repr(source),
            "places": (source.location_key, source.places, source.aliases),
        }
        keys = list(source._unit_keys()) if source.spec.unit else itertools.repeat(None)
        rows: Counter[Any] = Counter()
        at = iter(keys)
        for images, labels in source.batches(4):
            for image, label in zip(images, labels, strict=True):
                key = next(at)
                if label >= 0:
                    rows[hashlib.blake2b(image.tobytes()).digest(), int(label), key] += 1
        assert source.fingerprint() and source._private_length() >= 0
        return seen, rows
    except SfumatoError as error:
        return {"error": type(error).__name__, "text": str(error)}, Counter()


def whole(path: Path, options: dict[str, Any], place: Path) -> dict[str, Any]:
    """Exit code, text and release of the whole command with constant answers."""
    from typer.testing import CliRunner

    from sfumato.cli.app import app

    flags = []
    for name, value in options.items():
        flags += [FLAGS[name]] if value is True else [FLAGS[name], shown(value)]
    command = [
        "synthesize",
        str(path),
        "--out",
        str(place / "out"),
        "--state",
        str(place / "state"),
    ]
    ticks = itertools.count()
    with (
        mock.patch("sfumato.privacy.answering.base.add_noise", constant),
        mock.patch("secrets.token_hex", lambda size: "0" * 2 * size),
        mock.patch("sfumato.progress.PLAIN_LINE_SECONDS", 0.0),
        mock.patch("sfumato.progress.time.monotonic", lambda: float(next(ticks))),
    ):
        result = CliRunner().invoke(app, [*command, "--image-size", "28", *WHOLE, *flags])
    files = {
        str(file.relative_to(place / "out")): file.read_bytes()
        for file in sorted((place / "out").rglob("*"))
        if file.is_file()
    }
    return {"exit code": result.exit_code, "printed": result.output, "files": files}


def shown(value: Any) -> str:
    """An option's value as the command line spells it."""
    return ",".join(value) if isinstance(value, list) else str(value)


def constant(total: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
    """An answer that depends on its shape alone."""
    return np.arange(len(total), dtype=np.int64) % 1000


def look(case: Case, cells: list[Cell], root: Path, everything: bool) -> tuple[Any, Counter[Any]]:
    """Write a data set at the place, and say what is seen of it; always the same place."""
    place = root / "place"
    place.mkdir()
    path = case.write(place, cells)
    options = dict(case.options)
    if "labels" in options:
        options["labels"] = str(place / options["labels"])
    beside = root / "beside"
    beside.mkdir()
    with listening(root) as heard:
        seen, rows = opened(path, options)
        if everything:
            seen["whole"] = whole(path, options, beside)
    shutil.rmtree(place)
    shutil.rmtree(beside)
    for name in ("stream1", "stream2"):
        (root / name).unlink()
    return {**seen, **heard}, rows


def difference(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The names of what differs."""
    return sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))


def run(reader: str, pairs: int, seed: int, whole_every: int, seconds: float) -> dict[str, Any]:
    """Try the pairs of a reader; say how many showed, and the first of them."""
    figures: dict[str, Any] = {"pairs": 0, "whole": 0, "refused": 0, "shown": 0, "failures": []}
    until = time.monotonic() + seconds
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for number in range(pairs):
            if time.monotonic() > until:
                break
            rng = random.Random(f"{seed}:{reader}:{number}")
            case = rng.choice(ALL[reader])
            everything = whole_every > 0 and number % whole_every == whole_every - 1
            (seen, rows), (other, others) = (
                look(case, cells, root, everything) for cells in pair(case, rng)
            )
            figures["pairs"] += 1
            figures["whole"] += everything
            figures["refused"] += "error" in seen
            differing = difference(seen, other)
            if max((rows - others).total(), (others - rows).total()) > 1:
                differing.append("rows of other records")
            if differing:
                figures["shown"] += 1
                note = f"pair {number} ({case.write.__name__} {case.options}): {differing}"
                if "text" in differing:
                    note += f" {seen.get('text')!s:.100} | {other.get('text')!s:.100}"
                figures["failures"].append(note)
    return figures


def main() -> None:
    """Try the pairs of all readers, or of those that are named, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20_000, help="of each reader")
    parser.add_argument("--seconds", type=float, default=1e9, help="the most for each reader")
    parser.add_argument("--whole-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(ALL))
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    found = {}
    for reader in options.only:
        started = time.monotonic()
        found[reader] = run(
            reader, options.pairs, options.seed, options.whole_every, options.seconds
        )
        found[reader]["seconds"] = round(time.monotonic() - started, 1)
        found[reader]["failures"] = found[reader]["failures"][:20]
        print(json.dumps({"reader": reader, **found[reader]}), flush=True)
        if options.json:
            about = {"python": platform.python_version(), "seed": options.seed}
            options.json.write_text(json.dumps({**about, "readers": found}, indent=1) + "\n")
    sys.exit(1 if any(one["shown"] for one in found.values()) else 0)


if __name__ == "__main__":
    main()
