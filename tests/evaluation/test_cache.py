from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfumato.data import LabelledImages
from sfumato.evaluation.cache import array_digest, images_digest, key, write_atomically


def test_digests_see_type_shape_content_and_names() -> None:
    x = np.arange(6, dtype=np.int64)
    different = [x, x.reshape(2, 3), x.astype(np.int32), x[::-1], x + 1]
    assert len({array_digest(array) for array in different}) == len(different)
    assert array_digest(x[::-1]) == array_digest(x[::-1].copy())
    pixels, labels = np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 1])
    sets = [
        LabelledImages(pixels, labels, ("a", "b")),
        LabelledImages(pixels, labels[::-1].copy(), ("a", "b")),
        LabelledImages(pixels, labels, ("b", "a")),
        LabelledImages(pixels + np.uint8(1), labels, ("a", "b")),
    ]
    assert len({images_digest(images) for images in sets}) == len(sets)


def test_keys_keep_their_parts_apart() -> None:
    assert key("ab", "c") != key("a", "bc")
    assert key(1) != key("1")
    assert key("a", 1.0, None) == key("a", 1.0, None)


def test_interrupted_write_leaves_neither_result_nor_litter(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    target = tmp_path / "deep" / "result.npy"
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, fails)
    assert list(target.parent.iterdir()) == []
    write_atomically(target, lambda path: np.save(path, np.arange(3)))
    assert np.load(target).tolist() == [0, 1, 2]
    assert list(target.parent.iterdir()) == [target]
