"""The page "from a hospital's folder to a verified release", command by command."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from typer.testing import CliRunner

from sfumato.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "first-release.md").read_text(encoding="utf-8")
FINDINGS = ("clear, normal", "opacity")


def scan(path: Path, number: int, patient: str) -> None:
    """One DICOM file: bits, photometric interpretation, window and slope change with the number."""
    rng = np.random.default_rng(number)
    bits, inverted = (12, 16)[number % 2], number % 3 == 0
    share = 0.2 + 0.1 * rng.random((40, 36))
    share[10:30, 8:28] += 0.6 * (number % 2)
    stored = ((1 - share if inverted else share) * (2**bits - 1)).astype("<u2")
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
    record = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    record.SOPClassUID, record.SOPInstanceUID = SecondaryCaptureImageStorage, f"1.2.{number}"
    record.PatientID, record.PatientName, record.Modality = patient, f"Doe^{patient}", "CR"
    record.Rows, record.Columns, record.SamplesPerPixel = 40, 36, 1
    record.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    record.BitsAllocated, record.BitsStored, record.HighBit = 16, bits, bits - 1
    record.PixelRepresentation = 0
    if number % 4 == 1:
        record.WindowCenter, record.WindowWidth = 2 ** (bits - 1), 2**bits
    if number % 4 == 2:
        record.RescaleSlope, record.RescaleIntercept, record.RescaleType = 1, -1024, "HU"
    record.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    record.save_as(path, enforce_file_format=True)


def hospital(folder: Path, table: Path, first: int) -> None:
    """60 scans of 15 patients in nested folders, a table of findings, and other files."""
    rows = []
    for number in range(first, first + 60):
        patient, name = f"P{number // 4:03}", f"IM{number:04}{'' if number % 5 == 0 else '.dcm'}"
        scan(folder / f"ward{number % 3}" / patient / name, number, patient)
        named = name if number % 2 else name.removesuffix(".dcm")
        rows.append((named, FINDINGS[number % 2], str(number % 3)))
    (folder / "notes.txt").write_text("none of this is read")
    (folder / "ward0" / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with table.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=";", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerows([("FILE", "FINDING", "WARD"), *rows])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile_features: None) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFUMATO_STATE", str(tmp_path / "state"))
    return tmp_path


def test_each_command_of_the_page_runs(here: Path) -> None:
    hospital(Path("scans"), Path("findings.csv"), 0)
    hospital(Path("heldout"), Path("heldout.csv"), 60)
    shell = PAGE.partition("```python")[0]
    blocks = re.findall(r"^```\n(.*?)^```", shell, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    said = {}
    for command in commands:
        program, name, *arguments = shlex.split(command)
        assert program == "sfumato"
        result = CliRunner().invoke(app, [name, *arguments])
        assert result.exit_code == 0, (command, result.output)
        said[name] = result.stdout
    assert len(commands) == len(said) == 10
    assert "61 records, 1 of them unusable" in said["check"]
    assert "ward0/cut.dcm: DICOM without pixels" in said["check"] and "1 *.txt" in said["check"]
    assert "value of `PatientID`" in said["plan"] and "What to expect" in said["plan"]
    assert "AUROC" in said["evaluate"]
    assert len(list(Path("more/images").rglob("*.png"))) == 20
    released = [path for path in Path("release").rglob("*") if path.is_file()]
    content = [path.read_bytes() for path in released]
    assert not any(b"P000" in held or b"Doe^P" in held for held in content)


def test_the_notebook_of_the_page_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(block, "first-release.md", "exec"), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1.0", "10.0"]
