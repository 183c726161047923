"""A short run of ``tests/harness/fuzz.py``: the same targets and limits, a few hundred inputs."""

from __future__ import annotations

import json
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

HARNESS = Path(__file__).parents[1] / "harness"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sfumato.__file__).parents[1])}


@pytest.fixture(scope="module")
def targets() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HARNESS))
        import fuzz_targets

        yield fuzz_targets


NAMES = (
    "image decoder", "folder", "zip", "IDX", "NPZ", "Parquet", "WebDataset",
    "DICOM", "label table", "HDF5", "save_to_disk", "certificate",
    "certificate of steps", "released images", "whole release", "model", "embedding",
    "evaluation", "ledger",
)  # fmt: skip


def test_every_target_is_tried(targets: ModuleType) -> None:
    assert tuple(target.name for target in targets.TARGETS) == NAMES


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of a few inputs; in a process of its own, where no type is checked."""
    written = tmp_path_factory.mktemp("fuzz") / "fuzz.json"
    program = [sys.executable, str(HARNESS / "fuzz.py"), "--seed", "1"]
    subprocess.run([*program, "--inputs", "800", "--json", str(written)], env=ENVIRONMENT)
    return json.loads(written.read_bytes())["targets"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_a_clear_error_comes_of_a_hostile_input(
    figures: dict[str, Any], name: str
) -> None:
    assert figures[name]["inputs"] >= 3
    assert figures[name]["failures"] == []


FAULTS = {
    "raise KeyError(3)": "KeyError",
    "raise DataError('')": "without a message",
    "open('/etc/passwd').read()": "outside",
    "open(folder.parent.parent / 'escaped', 'w').close()": "outside",
    "open(folder.parent.parent / 'canary.png').close()": "outside",
    "os.system('true')": "os.system",
    "pickle.loads(b'cos\\nsystem\\n.')": "pickle.find_class",
    "os.write(2, b'patient 42')": "wrote to standard error",
    "bytearray(2 ** 33)": "MemoryError",
    "time.sleep(9) if (folder.parent / 'stderr').exists() else None": "hangs",
    "raise DataError('in order')": "[]",
    "None": "[]",
}
PROGRAM = """
import os, pickle, sys, time
sys.path.insert(0, sys.argv[1])
import fuzz, fuzz_targets
from sfumato.errors import DataError
fuzz.SECONDS_PER_INPUT = 2.0
fuzz.FIRST = 60.0
fuzz.prepare_torch()
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
    command = [sys.executable, "-c", PROGRAM, str(HARNESS), *FAULTS]
    seen = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
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


def test_damage_does_not_change_what_later_inputs_are_made_of(targets: ModuleType) -> None:
    import fuzz_mutations

    before = repr(fuzz_mutations.VALUES)
    for number in range(300):
        fuzz_mutations.json_of({"a": [1, {"b": 2}]}, random.Random(number))
    assert repr(fuzz_mutations.VALUES) == before
