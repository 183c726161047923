"""A short run of ``benchmarks/fuzz.py``: the same targets and limits, a few hundred inputs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sfumato
from sfumato.errors import SfumatoError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SOON = 100
"""Inputs of each target; the whole release and sampled certificates get fewer."""
SLOW = {"whole release": 15, "certificate with sampling": 15}


@pytest.fixture(scope="module")
def targets() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import fuzz_targets

        fuzz_targets.prepare()
        yield fuzz_targets
        fuzz_targets.forget()


NAMES = (
    "image decoder", "folder", "zip", "IDX", "NPZ", "Parquet", "WebDataset", "certificate",
    "certificate with sampling", "released images", "whole release", "model", "embedding",
    "evaluation", "ledger",
)  # fmt: skip


def test_every_target_is_tried(targets: ModuleType) -> None:
    assert tuple(target.name for target in targets.TARGETS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_a_clear_error_comes_of_a_hostile_input(
    targets: ModuleType, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (target,) = (target for target in targets.TARGETS if target.name == name)
    for number, rng in targets.inputs(target, 0, seed=1):
        if number >= SLOW.get(name, SOON):
            break
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            target.read(folder, rng)
        except SfumatoError as error:
            assert str(error)
    assert capfd.readouterr() == ("", "")


FAULTS = {
    "raise KeyError(3)": "KeyError",
    "raise DataError('')": "without a message",
    "open('/etc/passwd').read()": "outside",
    "open(folder.parent.parent / 'escaped', 'w').close()": "outside",
    "open(folder.parent.parent / 'canary.png').close()": "outside",
    "os.system('true')": "os.system",
    "pickle.loads(b'cos\\nsystem\\n.')": "pickle.find_class",
    "os.write(2, b'patient 42')": "wrote to standard error",
    "time.sleep(9) if (folder.parent / 'stderr').exists() else None": "hangs",
    "raise DataError('in order')": "[]",
    "None": "[]",
}
PROGRAM = """
import os, pickle, sys, time
sys.path.insert(0, sys.argv[1])
import fuzz, fuzz_targets
from sfumato.errors import DataError
fuzz_targets.prepare = lambda: None
fuzz.SECONDS_PER_INPUT = 2.0
fuzz.FIRST = 20.0
for fault in sys.argv[2:]:
    def read(folder, rng):
        exec(fault)
    fuzz_targets.TARGETS = (fuzz_targets.Target("planted", 1, read),)
    try:
        print(fuzz.fuzz("planted", 2, 60.0).failures[:1])
    except RuntimeError as error:
        print(error)
"""


def test_the_fuzzer_notices_what_it_looks_for() -> None:
    command = [sys.executable, "-c", PROGRAM, str(BENCHMARKS), *FAULTS]
    environment = {**os.environ, "PYTHONPATH": str(Path(sfumato.__file__).parents[1])}
    seen = subprocess.run(command, capture_output=True, text=True, env=environment)
    for found, (fault, expected) in zip(seen.stdout.splitlines(), FAULTS.items(), strict=True):
        assert expected in found, (fault, found, seen.stderr)


def test_a_numbered_input_is_always_the_same(targets: ModuleType, tmp_path: Path) -> None:
    (zip_file,) = (target for target in targets.TARGETS if target.name == "zip")

    def made(place: str) -> list[bytes]:
        (tmp_path / place).mkdir()
        with pytest.raises(Exception):  # noqa: B017 (only the file matters)
            zip_file.read(tmp_path / place, random.Random("0:zip:3"))
            raise SfumatoError("read")
        return [path.read_bytes() for path in sorted((tmp_path / place).iterdir())]

    assert made("one") == made("two")
