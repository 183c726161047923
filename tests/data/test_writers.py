from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sfumato.data import load_labelled, open_images, write_images, writers
from sfumato.errors import UsageError

FORMATS = ["folder", "parquet", "webdataset"]
CLASSES = ("bee", "T-shirt/top", "ant")


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def batch(request):
    rng = np.random.default_rng(3)
    labels = np.sort(rng.integers(0, 3, 25))
    return rng.integers(0, 256, (25, request.param, 28, 28), np.uint8), labels


@pytest.mark.parametrize("format", FORMATS)
def test_pixels_and_labels_come_back(tmp_path, batch, format):
    images, labels = batch
    parts = [(images[:10], labels[:10]), (images[10:], labels[10:])]
    assert write_images(parts, CLASSES, tmp_path, format) == 25
    found = load_labelled(
        open_images(tmp_path / "images", classes=CLASSES, image_size=28, channels=images.shape[1])
    )
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.classes == CLASSES


@pytest.mark.parametrize("format", FORMATS)
def test_unlabelled_images_come_back(tmp_path, batch, format):
    images, labels = batch
    write_images([(images, labels * 0)], (), tmp_path, format)
    source = open_images(tmp_path / "images", image_size=28, channels=images.shape[1], classes=0)
    assert source.spec.classes == ()
    np.testing.assert_array_equal(load_labelled(source).images, images)


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_images_give_the_same_bytes(tmp_path, batch, format):
    for name in ("a", "b"):
        write_images([batch], CLASSES, tmp_path / name, format)
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != {}


@pytest.mark.parametrize("format", ["parquet", "webdataset"])
def test_many_shards(tmp_path, batch, format, monkeypatch):
    monkeypatch.setattr(writers, "SHARD_BYTES", 10_000)
    images, _ = batch
    write_images([batch], CLASSES, tmp_path, format)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert len(names) > 1
    expected = {
        "parquet": f"train-00001-of-{len(names):05d}.parquet",
        "webdataset": "train-000001.tar",
    }[format]
    assert names[1] == expected
    source = open_images(
        tmp_path / "images", classes=CLASSES, image_size=28, channels=images.shape[1]
    )
    np.testing.assert_array_equal(load_labelled(source).images, images)


def test_folder_names(tmp_path, batch):
    write_images([batch], (*CLASSES, "unseen"), tmp_path)
    folders = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert folders == ["0_bee", "1_T-shirt_top", "2_ant", "3_unseen", "metadata.parquet"]
    assert sum(1 for _ in (tmp_path / "images").rglob("*.png")) == 25
    assert (tmp_path / "images" / "0_bee" / "000000.png").is_file()


def test_parquet_declares_grey_images(tmp_path):
    write_images(
        [(np.zeros((1, 1, 28, 28), np.uint8), np.zeros(1, np.int64))], (), tmp_path, "parquet"
    )
    assert open_images(tmp_path / "images").spec.channels == 1


def test_bad_requests_are_refused(tmp_path, batch):
    with pytest.raises(UsageError, match="folder, parquet, webdataset"):
        write_images([batch], CLASSES, tmp_path, "zip")
    with pytest.raises(UsageError, match="label 2 is outside 0 to 1"):
        write_images([batch], CLASSES[:2], tmp_path / "a")
    write_images([batch], CLASSES, tmp_path / "b")
    with pytest.raises(UsageError, match="already holds files"):
        write_images([batch], CLASSES, tmp_path / "b")


@pytest.mark.parametrize("format", FORMATS)
def test_hugging_face_datasets_reads_a_release(tmp_path, batch, format, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets  # slow to import, and it reads the environment then

    images, labels = batch
    write_images([batch], CLASSES, tmp_path / "release", format)
    found = datasets.load_dataset(
        str(tmp_path / "release" / "images"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(found) == 25
    if format == "webdataset":
        assert found[3]["cls"] == labels[3]
        pixels = np.asarray(found[3]["png"])
    elif format == "parquet":
        assert found.features["label"].names == list(CLASSES)
        assert found[3]["label"] == labels[3]
        pixels = np.asarray(found[3]["image"])
    else:
        assert found.features["label"].names == list(CLASSES)
        assert found[3]["label"] == labels[3]
        pixels = np.asarray(found[3]["image"])
    expected = images[3][0] if len(images[3]) == 1 else images[3].transpose(1, 2, 0)
    np.testing.assert_array_equal(pixels, expected)
