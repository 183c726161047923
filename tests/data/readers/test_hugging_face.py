"""Folders of ``save_to_disk``, written by the datasets library and read without it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sfumato.data import load_labelled, open_images
from sfumato.errors import DataError


@pytest.fixture
def saved(tmp_path, images, labels, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets  # slow to import, and it reads the environment then

    pictures = [Image.fromarray(image[0]) for image in images]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["ant", "bee", "cat"]),
            "who": datasets.Value("string"),
        }
    )
    columns = {"image": pictures, "label": labels.tolist(), "who": list("aabbccdde")}
    whole = datasets.Dataset.from_dict(columns, features=features)
    whole.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": whole, "test": whole.select(range(2))}).save_to_disk(
        tmp_path / "many"
    )
    return tmp_path


def test_a_saved_dataset_and_a_saved_dict(saved, images, labels):
    source = open_images(saved / "one", channels=1, unit="who")
    found = load_labelled(source)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.classes == ("ant", "bee", "cat") and list(source._unit_keys()) == list("aabbccdde")
    train, test = open_images(saved / "many"), open_images(saved / "many", split="test")
    assert (train._private_length(), test._private_length()) == (9, 2)
    assert train.location_key != test.location_key
    with pytest.raises(DataError, match="no split 'val'"):
        open_images(saved / "many", split="val")


def test_a_column_name_of_bad_bytes_is_refused(saved):
    for shard in (saved / "one").glob("*.arrow"):
        shard.write_bytes(shard.read_bytes().replace(b"who", b"wh\xff"))
    with pytest.raises(DataError, match="no UTF-8 text"):
        open_images(saved / "one")


def test_a_damaged_stream_is_refused_and_a_stray_name_decides_nothing(saved, images):
    shard = next((saved / "one").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:10])
    with pytest.raises(DataError, match="not a readable Arrow stream"):
        open_images(saved / "one")
    buffer = io.BytesIO()
    Image.fromarray(images[0, 0]).save(buffer, "PNG")
    for name in ("ant", "train"):
        (saved / "set" / name).mkdir(parents=True)
        (saved / "set" / name / "1.png").write_bytes(buffer.getvalue())
    before = open_images(saved / "set").spec
    (saved / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (saved / "set" / "train" / "state.json").write_text("{}")
    assert open_images(saved / "set").spec == before
