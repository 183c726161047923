"""Images that a program holds already, as sources with a named ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.data import ImageSource
from sfumato.errors import DataError, UsageError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = np.arange(12) % 3


def read(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    parts = list(source.batches(5))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


@pytest.mark.parametrize(
    "images", [IMAGES, IMAGES[..., None], IMAGES[:, None]], ids=["hw", "hwc", "chw"]
)
def test_arrays_of_every_layout_are_read_in_order(images: np.ndarray) -> None:
    source = sfumato.from_arrays(images, LABELS, name="mine", classes=3)
    found, labels = read(source)
    assert np.array_equal(found[:, 0], IMAGES) and np.array_equal(labels, LABELS)
    assert source.spec.classes == ("0", "1", "2") and source.spec.channels == 1
    assert source.location_key == "memory:mine"


def test_a_label_outside_the_classes_is_an_unusable_record_not_an_error() -> None:
    labels: list[Any] = [0, 7, -2, 1.5, "x", None, *[1] * 6]
    found, read_labels = read(
        sfumato.from_arrays(IMAGES, np.array(labels, object), name="n", classes=2)
    )
    assert read_labels[:6].tolist() == [0, -1, -1, -1, -1, 0]
    assert not found[1:5].any()


def test_nothing_private_is_shown_and_the_data_are_told_apart() -> None:
    source = sfumato.from_arrays(IMAGES, LABELS, name="mine", classes=["a", "b", "c"])
    assert repr(source) == "MemorySource('mine', 28x28x1, 3 classes)"
    other = sfumato.from_arrays(IMAGES, LABELS[::-1].copy(), name="mine", classes=3)
    assert source.fingerprint() != other.fingerprint()


def test_units_are_whose_an_image_is() -> None:
    source = sfumato.from_arrays(IMAGES, name="n", units=[1, 1, "", None, *range(8)])
    assert list(source._unit_keys())[:4] == [1, 1, None, None]
    assert source.spec.unit_in_words == "all records with one value of `units`"


class Torch:
    """A data set as of PyTorch, of which one record cannot be read."""

    def __init__(self, make: Callable[[np.ndarray], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index == 4:
            raise RuntimeError("the patient's name")
        return self.make(IMAGES[index]), torch.tensor(LABELS[index])


@pytest.mark.parametrize(
    "make",
    [
        Image.fromarray,
        lambda image: torch.from_numpy(image)[None],
        lambda image: torch.from_numpy(image)[None].float() / 255,
        lambda image: image,
    ],
    ids=["pillow", "bytes", "floats", "array"],
)
def test_a_torch_data_set_is_read_lazily(make: Callable[[np.ndarray], Any]) -> None:
    source = sfumato.from_dataset(Torch(make), name="t", classes=3, image_size=28, channels=1)
    images, labels = read(source)
    usable = np.arange(12) != 4
    assert np.array_equal(images[usable, 0], IMAGES[usable])
    assert np.array_equal(labels[usable], LABELS[usable]) and labels[4] == -1


def test_as_many_units_as_records_and_no_number_is_told() -> None:
    with pytest.raises(DataError, match="as many units as images") as caught:
        sfumato.from_dataset(Torch(lambda image: image), name="t", classes=3, units=[1, 2])
    assert not any(character.isdigit() for character in str(caught.value))


def test_a_hugging_face_data_set_names_its_classes() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog", "owl"])}
    )
    columns = {"picture": [Image.fromarray(image) for image in IMAGES], "kind": LABELS.tolist()}
    made = datasets.Dataset.from_dict(columns, features=features)
    source = sfumato.from_dataset(made, name="pets", image_size=28, channels=1)
    images, labels = read(source)
    assert source.spec.classes == ("cat", "dog", "owl")
    assert np.array_equal(images[:, 0], IMAGES) and np.array_equal(labels, LABELS)
    with pytest.raises(DataError, match="image="):
        sfumato.from_dataset(made.remove_columns("picture"), name="pets")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"images": IMAGES / 255}, DataError, "uint8"),
        ({"images": IMAGES[0]}, DataError, "axes"),
        ({"labels": LABELS[:3]}, DataError, "as many labels"),
        ({"classes": None}, DataError, "State it"),
        ({"name": ""}, UsageError, "printable"),
        ({"split": "train"}, UsageError, "split"),
        ({"unit": "patient"}, UsageError, "units="),
        ({"units": [1]}, DataError, "as many units"),
        ({"colour": 3}, UsageError, "no option colour"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], error: type, said: str) -> None:
    given = {"images": IMAGES, "labels": LABELS, "name": "n", "classes": 3, **change}
    with pytest.raises(error, match=said):
        sfumato.from_arrays(given.pop("images"), given.pop("labels"), **given)
