"""Pairs for what hospitals and labs have: DICOM, label tables, HDF5, saved Hugging Face sets."""

from __future__ import annotations

import csv
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pair_sets as sets
import pyarrow as pa
import pydicom
from pair_sets import CLASSES, SIDE, STATED, Case, Cell
from pydicom.dataset import FileDataset, FileMetaDataset


@lru_cache(maxsize=64)
def dicom_of(data: bytes, unit: str, label: str) -> bytes:
    """A DICOM file of one record's pixels, patient and class."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    record = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    record.PatientID, record.StudyDescription = unit, label
    record.Rows = record.Columns = SIDE
    record.SamplesPerPixel, record.PhotometricInterpretation = 1, "MONOCHROME2"
    record.BitsAllocated, record.BitsStored, record.HighBit = 8, 8, 7
    record.PixelRepresentation = 0
    record.PixelData = sets.arrays([Cell("", "", data, 0)]).tobytes()
    buffer = io.BytesIO()
    record.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _dicom(cell: Cell) -> Cell:
    """The record as DICOM; one whose bytes are odd keeps them."""
    if cell.data in {one.data for one in sets.honest()}:
        label = CLASSES[cell.label] if cell.label in (0, 1, 2) else str(cell.label)[:16]
        data = dicom_of(cell.data, str(cell.unit)[:60], label)
        return Cell(cell.folder, cell.name, data, cell.label, cell.unit)
    if len(cell.data) % 3 == 0:  # a DICOM file that is cut or changed somewhere
        data = bytearray(dicom_of(sets.honest()[0].data, "p", "ant"))
        place = len(cell.data) * 7919 % len(data)
        data[place : place + 4] = (cell.data + b"\xff\xff\xff\xff")[:4]
        return Cell(cell.folder, cell.name, bytes(data), cell.label, cell.unit)
    return cell


def dicom_folder(place: Path, cells: list[Cell]) -> Path:
    """Class folders of DICOM files."""
    odd = [_dicom(cell) for cell in sorted(cells, key=sets.is_odd)]
    return sets.folder(place, odd)


def dicom_zip(place: Path, cells: list[Cell]) -> Path:
    """The same in a zip that lists its folders."""
    return sets.zip_listed(place, [_dicom(cell) for cell in cells])


def _lines(cells: list[Cell]) -> bytes:
    """A line a record, its path first; bytes stand there as they are.

    All lines that name a file belong to its record, so no other record has a line of that name.
    """
    out = b"file;label;patient\n"
    known = {f"{cell.folder}{cell.name}" for cell in sets.honest()}
    for cell in cells:
        if sets.is_odd(cell) and f"{cell.folder}{cell.name}" in known:
            continue
        label = CLASSES[cell.label] if cell.label in (0, 1, 2) else cell.label
        text = io.StringIO()
        values = [v if isinstance(v, str) else str(v) for v in (label, cell.unit)]
        csv.writer(text, delimiter=";", lineterminator="\n").writerow(
            [f"{cell.folder}{cell.name}".replace("\0", ""), *values]
        )
        line = text.getvalue().encode("utf-8", "replace")
        if isinstance(cell.label, bytes):
            line = b'"' + cell.label + line
        out += line
    return out


def table_beside(place: Path, cells: list[Cell]) -> Path:
    """Images in folders, and a table beside them."""
    (place / "labels.csv").write_bytes(_lines(cells))
    return sets.folder(place, cells)


def table_beside_zip(place: Path, cells: list[Cell]) -> Path:
    """Images in a zip without folders, and a table beside it."""
    (place / "labels.csv").write_bytes(_lines(cells))
    return sets.zip_unlisted(place, cells)


def hdf5(place: Path, cells: list[Cell]) -> Path:
    """Arrays of pixels, of texts for labels, and of texts for units."""
    with h5py.File(place / "set.h5", "w") as file:
        file.create_dataset("x", data=sets.arrays(cells).reshape(-1, SIDE, SIDE))
        for name, values in (("y", [c.label for c in cells]), ("patient", [c.unit for c in cells])):
            shown = [CLASSES[v] if name == "y" and v in (0, 1, 2) else v for v in values]
            file[name] = np.array([sets.raw(value) or b"" for value in shown], "S")
    return place / "set.h5"


def saved_to_disk(place: Path, cells: list[Cell]) -> Path:
    """A folder of ``save_to_disk``."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": c.data or None, "path": None} for c in cells], kind),
        "label": pa.array(
            [c.label if isinstance(c.label, int) else None for c in cells], pa.int64()
        ),
        "patient": sets.as_texts([sets.raw(cell.unit) for cell in cells]),
    }
    features = {"label": {"names": CLASSES, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    about = json.dumps({"info": {"features": features}})
    table = pa.table(columns).replace_schema_metadata({"huggingface": about})
    (place / "set").mkdir()
    (place / "set" / "state.json").write_text("{}")
    with (
        pa.OSFile(str(place / "set" / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as stream,
    ):
        stream.write_table(table, max_chunksize=2)
    return place / "set"


TABLE = STATED | {"labels": "labels.csv"}
"""The table lies beside the data set; the harness puts its folder before it."""
HOSPITAL: dict[str, tuple[Case, ...]] = {
    "DICOM": (
        Case(dicom_folder, STATED | {"dicom": True}),
        Case(dicom_folder, {"channels": 1}, sets.FOLDERS, sets.FILES),
        Case(dicom_folder, STATED | {"dicom": True, "label_key": "StudyDescription"}),
        Case(dicom_zip, {"dicom": True, "classes": 0, "unit": "none"}),
    ),
    "label table": (
        Case(table_beside, TABLE),
        Case(table_beside, TABLE | {"unit": "patient"}),
        Case(table_beside_zip, TABLE),
    ),
    "HDF5": (Case(hdf5, STATED), Case(hdf5, STATED | {"unit": "patient"}), Case(hdf5, {})),
    "save_to_disk": (Case(saved_to_disk, {}), Case(saved_to_disk, STATED | {"unit": "patient"})),
}
