"""Targets that read what hospitals and labs have: DICOM, label tables, HDF5, saved Arrow files."""

from __future__ import annotations

import random
from pathlib import Path

import fuzz_mutations as mutate
import pair_hospital
import pair_sets
from fuzz_data import some_record

from sfumato.data import PublicSpec, open_images
from sfumato.data.decoding.decode import decode, quiet
from sfumato.data.decoding.dicom import tag_value
from sfumato.data.options import DataOptions


def dicom(folder: Path, rng: random.Random) -> bool:
    """The decoder of one DICOM file, and the reader of its tags."""
    honest = rng.choice(pair_sets.honest())
    data = mutate.bytes_of(pair_hospital.dicom_of(honest.data, "p", "ant"), rng, most=6)
    stated = DataOptions(
        dicom=rng.random() < 0.5,
        frame=rng.choice((None, 0, 1)),
        value_range=rng.choice((None, (0.0, 4095.0))),
    )
    with quiet():
        pixels = decode(data, PublicSpec(28, 28, rng.choice((1, 3)), ()), stated)
        found = tag_value(data, "PatientID")
    assert pixels is None or pixels.shape[1:] == (28, 28)
    assert found is None or len(found) <= 1024
    return pixels is not None


def walk(place: Path, **stated: object) -> bool:
    """Open, and ask everything that a source answers."""
    source = open_images(place, image_size=28, **stated)
    assert source.fingerprint() and source._private_length() >= 0
    if source.spec.unit is not None:
        list(source._unit_keys())
    for images, labels in source.batches(4):
        assert not images[labels < 0].any() and labels.max() < max(1, len(source.spec.classes))
    return True


def label_table(folder: Path, rng: random.Random) -> bool:
    """A table of labels with anything on its lines and in its header."""
    place = pair_hospital.table_beside(folder, pair_sets.honest()[:2])
    table = folder / "labels.csv"
    table.write_bytes(mutate.bytes_of(table.read_bytes(), rng, most=6))
    classes = rng.choice((None, 3, ["ant", "bee"]))
    return walk(place, labels=table, classes=classes, unit=rng.choice((None, "patient")))


def hdf5(folder: Path, rng: random.Random) -> bool:
    """An HDF5 file."""
    path = pair_hospital.hdf5(folder, pair_sets.honest()[:2])
    path.write_bytes(mutate.bytes_of(path.read_bytes(), rng))
    return walk(path, classes=["ant", "bee"], unit=rng.choice((None, "patient")))


def saved_arrow(folder: Path, rng: random.Random) -> bool:
    """A folder of ``save_to_disk``, some of whose images are damaged."""
    cells = pair_sets.honest()[:2]
    cells += [pair_sets.Cell("", "x", some_record(rng), rng.choice(pair_sets.LABELS))]
    place = pair_hospital.saved_to_disk(folder, cells)
    if rng.random() < 0.8:
        (shard,) = place.glob("*.arrow")
        shard.write_bytes(mutate.bytes_of(shard.read_bytes(), rng))
    return walk(place, unit=rng.choice((None, "patient")))
