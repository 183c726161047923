"""DICOM: what a viewer shows, patients as units, labels by tag; nothing of a record elsewhere."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from sfumato.data import PublicSpec, load_labelled, open_images
from sfumato.data.decoding.decode import decode, quiet
from sfumato.data.options import DataOptions
from sfumato.errors import UsageError

SIDE = 32
RAMP = np.linspace(0, 4095, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)


def dicom(pixels: np.ndarray = RAMP, bits: int = 12, syntax: Any = None, **tags: Any) -> bytes:
    """One file as pydicom writes it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax if syntax in (None, DeflatedExplicitVRLittleEndian) else None
    meta.TransferSyntaxUID = meta.TransferSyntaxUID or ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    record = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    record.SOPClassUID, record.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    record.PatientID, record.PatientName, record.Modality = "p-0042", "Doe^Jane", "CR"
    record.Rows, record.Columns = pixels.shape[-2:] if pixels.ndim < 4 else pixels.shape[1:3]
    record.SamplesPerPixel, record.PhotometricInterpretation = 1, "MONOCHROME2"
    record.BitsAllocated = 8 * pixels.itemsize
    record.BitsStored, record.HighBit = bits, bits - 1
    record.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3 and pixels.shape[-1] != 3:
        record.NumberOfFrames = len(pixels)
    if pixels.shape[-1] == 3:
        record.Rows, record.Columns = pixels.shape[:2]
        record.SamplesPerPixel, record.PlanarConfiguration = 3, 0
        record.PhotometricInterpretation = "RGB"
    record.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(record, name, value)
    if syntax not in (None, DeflatedExplicitVRLittleEndian):
        record.compress(syntax)
    buffer = io.BytesIO()
    record.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def shown(data: bytes, channels: int = 1, **options: Any) -> np.ndarray | None:
    with quiet():
        return decode(data, PublicSpec(SIDE, SIDE, channels, ()), DataOptions(**options))


def ramp(low: float, high: float, values: np.ndarray = RAMP) -> np.ndarray:
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255)[None]


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_without_a_window_all_stored_bits_are_the_range(syntax: Any) -> None:
    np.testing.assert_array_equal(shown(dicom(syntax=syntax)), ramp(0, 4095))
    # The range is the header's: a dark image stays dark.
    assert shown(dicom(RAMP // 8, syntax=syntax)).max() == 32


def test_windows_follow_the_standard() -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 401}
    np.testing.assert_array_equal(shown(dicom(**window)), ramp(799.5, 1199.5))
    exact = shown(dicom(**window, VOILUTFunction="LINEAR_EXACT"))
    np.testing.assert_array_equal(exact, ramp(799.5, 1200.5))
    sigmoid = shown(dicom(**window, VOILUTFunction="SIGMOID"))
    expected = np.rint(255 / (1 + np.exp(-4 * (RAMP.astype(float) - 1000) / 401)))[None]
    np.testing.assert_array_equal(sigmoid, expected)
    several = shown(dicom(WindowCenter=[1000, 5], WindowWidth=[401, 2]))
    np.testing.assert_array_equal(several, ramp(799.5, 1199.5))


def test_windows_agree_with_pydicom() -> None:
    data = dicom(WindowCenter=1500, WindowWidth=900, RescaleSlope=1, RescaleIntercept=0)
    record = pydicom.dcmread(io.BytesIO(data))
    theirs = pydicom.pixels.apply_voi_lut(record.pixel_array, record)
    ours = shown(data)[0].astype(float)
    assert np.abs(ours - theirs / 4095 * 255).max() <= 0.51


def test_rescale_signed_values_and_a_declared_range() -> None:
    hounsfield = (RAMP.astype(np.int32) - 2048).astype(np.int16)
    data = dicom(hounsfield, bits=12, RescaleSlope=2, RescaleIntercept=-10)
    values = hounsfield * 2.0 - 10
    np.testing.assert_array_equal(shown(data), ramp(-4106, 4084, values))
    np.testing.assert_array_equal(
        shown(data, value_range=(-1000.0, 400.0)), ramp(-1000, 400, values)
    )


def test_monochrome1_is_inverted_and_colour_is_kept() -> None:
    inverted = shown(dicom(PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 255 - ramp(0, 4095))
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    data = dicom(pixels, bits=8)
    np.testing.assert_array_equal(shown(data, channels=3), pixels.transpose(2, 0, 1))


def test_several_frames_are_unusable_unless_one_is_asked_for() -> None:
    data = dicom(np.stack([RAMP, RAMP // 2]))
    assert shown(data) is None
    np.testing.assert_array_equal(shown(data, frame=1), ramp(0, 4095, RAMP // 2))
    assert shown(data, frame=2) is None
    assert shown(dicom(), frame=0) is not None


def test_what_is_unusable_says_nothing(capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    caplog.set_level(0)
    hostile = [
        dicom()[:700], dicom()[:140], bytes(128) + b"DICM",
        dicom(syntax=DeflatedExplicitVRLittleEndian),
        dicom(Rows=60000, Columns=60000), dicom(BitsStored=99), dicom(syntax=RLELossless)[:-300],
        dicom(syntax=JPEG2000Lossless)[:-900], dicom(WindowWidth="0", WindowCenter="0")[:900],
    ]  # fmt: skip
    caplog.clear()
    for data in hostile:
        shown(data)
        shown(data, dicom=True)
    assert shown(hostile[0]) is None and shown(hostile[3]) is None and shown(hostile[4]) is None
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Patients in folders, files called by their UIDs or without a suffix."""
    for index in range(6):
        folder = tmp_path / "scans" / f"study{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"1.2.840.{index}" if index % 3 else f"IM{index}"
        tags = {"PatientID": f"p{index // 2}", "Modality": "CR" if index % 2 else "DX"}
        (folder / name).write_bytes(dicom(RAMP // (index + 1), **tags))
    return tmp_path / "scans"


def as_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder.parent / "scans.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return folder.parent / "scans.zip"


@pytest.mark.parametrize("container", ["folder", "zip"])
def test_a_patient_is_the_unit_and_images_are_grey(hospital: Path, container: str) -> None:
    place = hospital if container == "folder" else as_zip(hospital)
    source = open_images(place, dicom=True, label_key="Modality", classes=["CR", "DX"])
    assert source.spec.channels == 1 and "PatientID" in source.spec.unit_in_words
    assert any("PatientID" in note for note in source.notes)
    assert sorted(source._unit_keys()) == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert sorted(load_labelled(source).labels) == [0, 0, 0, 1, 1, 1]
    assert open_images(place, dicom=True, unit="none", classes=0).spec.unit is None
    other = open_images(place, dicom=True, unit="StudyDate", classes=0)
    assert list(other._unit_keys()) == [None] * 6


def test_without_being_stated_dicom_files_are_read_and_change_nothing_public(
    hospital: Path,
) -> None:
    spec = open_images(hospital, channels=1).spec
    assert spec.unit is None and spec.classes == ("study0", "study1")
    assert len(load_labelled(open_images(hospital, channels=1)).labels) == 6


def test_a_word_that_is_no_tag_is_refused(hospital: Path) -> None:
    with pytest.raises(UsageError, match="no DICOM tag"):
        open_images(hospital, label_key="Modalities", classes=2)
    with pytest.raises(UsageError, match="no columns"):
        open_images(hospital, unit="patient")


def test_no_tag_reaches_what_is_read(hospital: Path) -> None:
    source = open_images(hospital, dicom=True, classes=0)
    printed = f"{source!r} {source.spec} {source.notes}"
    assert "Doe" not in printed and "p0" not in printed


def test_what_was_stated_belongs_to_the_fingerprint(hospital: Path) -> None:
    marks = {
        open_images(hospital, classes=0, **options).fingerprint()
        for options in ({}, {"dicom": True}, {"frame": 0}, {"value_range": (0.0, 9.0)})
    }
    assert len(marks) == 4
