"""One record shows nowhere: known examples, and a short run of ``tests/harness/pairs.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sfumato

HARNESS = Path(__file__).parents[1] / "harness"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sfumato.__file__).parents[1])}
READERS = ("folder", "zip", "tar", "WebDataset", "Parquet", "NPZ", "IDX",
           "DICOM", "label table", "HDF5", "save_to_disk")  # fmt: skip
STATED = {"classes": ["ant", "bee", "cat"]}


@pytest.fixture(scope="module")
def pairs() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HARNESS))
        import pairs as module

        yield module


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of a few pairs; in a process of its own, where no type is checked."""
    written = tmp_path_factory.mktemp("pairs") / "pairs.json"
    program = [sys.executable, str(HARNESS / "pairs.py"), "--seed", "1", "--json", str(written)]
    subprocess.run([*program, "--pairs", "40", "--whole-every", "0"], env=ENVIRONMENT)
    return json.loads(written.read_bytes())["readers"]


@pytest.mark.parametrize("reader", READERS)
def test_no_hostile_record_shows(figures: dict[str, Any], reader: str) -> None:
    assert set(figures) == set(READERS)
    assert figures[reader]["pairs"] == 40
    assert figures[reader]["refused"] < 30 and figures[reader]["failures"] == []


EXAMPLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a label field decides the classes": ("webdataset", {}, {"label": "wasp"}),
    "a name with a drive": ("zip_listed", {}, {"folder": "", "name": "C:/x.png"}),
    "a name that climbs": ("zip_listed", {}, {"folder": "", "name": "../x.png"}),
    "an absolute name in a tar": ("webdataset", STATED, {"folder": "/etc/", "name": "x.png"}),
    "a text label of bad bytes": ("parquet_texts", STATED, {"label": b"\xff\xfe"}),
    "a unit of bad bytes": ("parquet_numbers", {"unit": "patient"}, {"unit": b"\xff\xfe"}),
    "a unit of any length": ("npz_texts", STATED | {"unit": "patient"}, {"unit": "x" * 5000}),
    "a file beside the class folders": ("zip_listed", {}, {"folder": "", "name": "x.png"}),
    "a file beside the common folder": ("zip_below_top", {}, {"folder": "../", "name": "x.png"}),
    "a folder that is not listed": ("zip_listed", {}, {"folder": "wasp/"}),
    "a folder in no stated class": ("folder", STATED, {"folder": "wasp/"}),
    "a path in no stated class": ("zip_unlisted", STATED, {"folder": "wasp/"}),
    "a split that one path names": ("zip_unlisted", STATED, {"folder": "test/ant/"}),
    "a file called like a container": ("folder", {}, {"folder": "", "name": "x.tar"}),
    "a name that no pattern matches": ("folder", {"unit_pattern": r"(patient_\d+)"}, {}),
    "a label out of range": ("parquet_numbers", {}, {"label": 2**62}),
}


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("others", [0, 6], ids=["alone", "among others"])
def test_a_known_way_to_show_is_closed(
    pairs: ModuleType, tmp_path: Path, example: str, others: int
) -> None:
    """With no others the record is all there is: an empty data set is no error either."""
    import pair_sets

    kind, options, odd = EXAMPLES[example]
    case = pair_sets.Case(getattr(pair_sets, kind), options)
    base = pair_sets.honest()[:others]
    record = replace(pair_sets.honest()[0], name="patient_1_new.png")
    seen, rows = pairs.look(case, base, tmp_path, False)
    other, more = pairs.look(case, [*base, replace(record, **odd)], tmp_path, False)
    assert pairs.difference(seen, other) == []
    assert (rows - more).total() == 0 and (more - rows).total() <= 1


FAULTS = {
    "print(source.spec, source._private_length())": ["printed"],
    "os.write(2, bytes(source._private_length()))": ["stream 2"],
    "warnings.warn(str(source._private_length()))": ["warned"],
    "logging.getLogger('x').info('%d', source._private_length())": ["logged"],
    "source.notes = (str(source._private_length()),)": ["notes"],
    "source.name = str(source._private_length())": ["shown"],
    "raise DataError(str(source._private_length()))": ["text"],
    "None": [],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_harness_notices_what_it_looks_for(
    pairs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    import pair_sets

    from sfumato.data import open_images
    from sfumato.errors import DataError

    def planted(*arguments: Any, **options: Any) -> Any:
        import logging
        import warnings

        source = open_images(*arguments, **options)
        exec(fault, {"source": source, "os": os, "warnings": warnings, "logging": logging,
                     "DataError": DataError})  # fmt: skip
        return source

    monkeypatch.setattr(pairs, "open_images", planted)
    case = pair_sets.Case(pair_sets.folder, {})
    (seen, _), (other, _) = (
        pairs.look(case, pair_sets.honest()[:count], tmp_path, False) for count in (5, 6)
    )
    assert pairs.difference(seen, other) == FAULTS[fault]


def test_the_whole_command_shows_a_fault_behind_the_ledger(
    pairs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pair_sets

    monkeypatch.setattr(pairs, "constant", lambda total, *_: total)
    case = pair_sets.Case(pair_sets.folder, {})
    (seen, _), (other, _) = (
        pairs.look(case, pair_sets.honest()[:count], tmp_path, True) for count in (5, 6)
    )
    assert pairs.difference(seen, other) == ["whole"]
    assert seen["whole"]["exit code"] == 0 and "certificate.json" in seen["whole"]["files"]
