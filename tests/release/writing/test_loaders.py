"""Class numbers and names in the loaders that the card names are the certificate's."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.data.layout import class_folders
from sfumato.data.writers import write_images
from sfumato.methods.base import labels_in_proportion
from sfumato.release import read_certificate, verify
from sfumato.synthesis import synthesize

CLASSES = ["wolf", "a/b", "ant", "Bee", "10", "2"]
"""In no order of names; one needs another name as a folder."""


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """A release of so many images in a format; with 4, at least two classes have none."""
    place = tmp_path_factory.mktemp("loaders")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8)
    np.savez(place / "images.npz", images=pixels, labels=np.arange(60) % 6)

    def make(form: str, samples: int) -> Path:
        out = place / f"{form}-{samples}"
        if not out.exists():
            synthesize(
                place / "images.npz",
                epsilon=5.0,
                classes=CLASSES,
                method="moments",
                options={"coefficients": 4},
                samples=samples,
                format=form,
                out=out,
                state=place / f"state-{form}-{samples}",
                quiet=True,
            )
            verify(out)
        return out

    return make


def truth(release: Path) -> list[tuple[bytes, int]]:
    """Pixels and label of each image, as the release's own reader finds them by number."""
    from sfumato.release.images import numbered_images

    found = numbered_images(release, read_certificate(release))
    return [(pixels(Image.open(io.BytesIO(png))), label) for label, png in found]


def pixels(image: Any) -> bytes:
    return np.asarray(image).tobytes()


def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *name: str, **more: str) -> Any:
    import datasets  # slow to import

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    return datasets.load_dataset(*name, split="train", cache_dir=str(tmp_path / "cache"), **more)


@pytest.mark.parametrize("samples", [4, 30])
@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_hugging_face_reads_the_certificates_classes(
    releases: Callable[[str, int], Path],
    form: str,
    samples: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = releases(form, samples)
    found = hugging_face(tmp_path, monkeypatch, str(release))
    image, label = ("png", "cls") if form == "webdataset" else ("image", "label")
    assert found.features[label].names == CLASSES
    assert sorted((pixels(row[image]), row[label]) for row in found) == sorted(truth(release))


@pytest.mark.parametrize("samples", [4, 30])
def test_imagefolder_on_the_release_reads_no_other_picture_and_keeps_the_labels(
    releases: Callable[[str, int], Path],
    samples: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = releases("folder", samples)
    found = hugging_face(tmp_path, monkeypatch, "imagefolder", data_dir=str(release))
    assert found.features["label"].names == CLASSES
    assert [(pixels(row["image"]), row["label"]) for row in found] == truth(release)


@pytest.mark.parametrize("samples", [4, 30])
def test_torchvision_numbers_the_folders_in_label_order(
    releases: Callable[[str, int], Path], samples: int
) -> None:
    release = releases("folder", samples)
    # torchvision.datasets.folder.find_classes, with allow_empty=True
    root = release / "images"
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    assert names == (release / "classes.txt").read_text().splitlines()
    assert [re.sub(r"^\d_", "", name) for name in names] == [
        name.replace("/", "_") for name in CLASSES
    ]
    found = [
        (pixels(Image.open(path)), label)
        for label, name in enumerate(names)
        for path in (root / name).iterdir()
    ]
    assert sorted(found) == sorted(truth(release))
    if samples >= len(CLASSES):  # then even without allow_empty
        assert all(any((root / name).iterdir()) for name in names)


def test_timm_maps_the_folders_by_the_list(releases: Callable[[str, int], Path]) -> None:
    release = releases("folder", 4)
    # timm.data.readers: load_class_map of a .txt, then find_images_and_targets with it
    lines = (release / "classes.txt").read_text().splitlines()
    class_map = {line.strip(): label for label, line in enumerate(lines)}
    found = [
        (pixels(Image.open(path)), class_map[path.parent.name])
        for path in (release / "images").rglob("*.png")
    ]
    assert sorted(found) == sorted(truth(release))


@pytest.mark.parametrize("samples", [4, 30])
def test_webdataset_reads_the_certificates_numbers(
    releases: Callable[[str, int], Path], samples: int
) -> None:
    import webdataset

    release = releases("webdataset", samples)
    card = (release / "README.md").read_text("utf-8")
    (shards,) = re.findall(r'webdataset\.WebDataset\("DIR/(.*?)"', card)
    loader = webdataset.WebDataset(str(release / shards), shardshuffle=False).decode("pil")
    found = [(pixels(image.convert("L")), label) for image, label in loader.to_tuple("png", "cls")]
    assert found == truth(release)
    assert (release / "classes.txt").read_text().splitlines() == CLASSES


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_sfumato_reads_its_own_release(releases: Callable[[str, int], Path], form: str) -> None:
    from sfumato.data import load_labelled, open_images

    release = releases(form, 4)
    back = load_labelled(open_images(release))
    assert list(back.classes) == CLASSES
    read = [
        (image.tobytes(), int(label)) for image, label in zip(back.images, back.labels, strict=True)
    ]
    assert sorted(read) == sorted(truth(release))


def test_every_class_has_an_image_where_there_are_as_many() -> None:
    counts = np.array([1e6, 0.0, -5.0, 3.0, 1e-9, 0.0])
    for samples in (6, 7, 50):
        labels = labels_in_proportion(counts, samples, np.random.default_rng(0))
        assert len(labels) == samples
        assert set(labels) == set(range(6))
    assert len(set(labels_in_proportion(counts, 5, np.random.default_rng(0)))) < 5


def test_a_labeller_leaves_no_class_empty() -> None:
    from sfumato.methods.model import name_each_class

    named, made = np.array([0, 0, 0, 1, 1]), np.array([0, 3, 0, 1, 2])
    sizes = np.bincount(named, minlength=4)
    name_each_class(named, made, sizes)
    assert named.tolist() == [0, 3, 0, 1, 2]
    assert sizes.tolist() == [2, 1, 1, 1]
    named, sizes = np.array([1]), np.array([0, 1, 0])  # nothing to spare
    name_each_class(named, np.array([0]), sizes)
    assert named.tolist() == [1]


def test_no_folder_is_called_like_another_class() -> None:
    classes = ("b", "0_b", "a")
    folders = class_folders(classes)
    assert folders == sorted(folders)
    assert not set(folders) & set(classes)
    assert class_folders(("a", "b")) == ["a", "b"]


def test_unlabelled_images_have_a_list_of_files_and_no_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    write_images([(images, np.zeros(3, np.int64))], (), tmp_path)
    (tmp_path / "samples.png").write_bytes((tmp_path / "images" / "000000.png").read_bytes())
    found = hugging_face(tmp_path, monkeypatch, "imagefolder", data_dir=str(tmp_path))
    assert [pixels(row["image"]) for row in found] == [image.tobytes() for image in images]
    assert not (tmp_path / "classes.txt").exists()
