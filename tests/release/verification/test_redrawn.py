"""Images are those of the model: releases in which all else fits, and one image does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.errors import CertificateError, UsageError
from sfumato.methods import load_model
from sfumato.methods.base import Batch, Model, Sampling
from sfumato.release import read_certificate, verify, write_release
from sfumato.release.certificate import core_of
from sfumato.release.files import MODEL
from sfumato.release.verification import redrawn
from sfumato.release.verification.verify import problems
from sfumato.synthesis import sample

Change = Callable[[np.ndarray, np.ndarray], None]


def forged(honest: Path, out: Path, change: Change, form: str = "folder") -> Path:
    """A release whose images or labels are changed, and which is else what an honest one is."""
    model = load_model(honest / MODEL)
    parts = list(model.sample(40))
    images, labels = (np.concatenate(part).copy() for part in zip(*parts, strict=True))
    change(images, labels)
    write_release(out, model, core_of(read_certificate(honest)), [(images, labels)], format=form)
    assert list(problems(out, read_certificate(out))) == []  # nothing else tells
    assert verify(out, redraw=0).redrawn == 0
    return out


def two_classes(labels: np.ndarray) -> tuple[int, int]:
    return 30, int(np.flatnonzero(labels[31:] != labels[30])[0]) + 31


def swap_images(images: np.ndarray, labels: np.ndarray) -> None:
    one, other = two_classes(labels)
    images[[one, other]] = images[[other, one]]


def swap_labels(images: np.ndarray, labels: np.ndarray) -> None:
    one, other = two_classes(labels)
    labels[[one, other]] = labels[[other, one]]


def edit(images: np.ndarray, labels: np.ndarray) -> None:
    images[17, :, :14] = 255


def repeat(images: np.ndarray, labels: np.ndarray) -> None:
    images[12] = images[11]


def reverse(images: np.ndarray, labels: np.ndarray) -> None:
    images[:] = images[::-1].copy()


@pytest.mark.parametrize(
    ("change", "form", "words"),
    [
        (swap_images, "folder", "images 30, 3. are not what the model makes"),
        (swap_images, "parquet", "images 30, 3. are not what the model makes"),
        (swap_labels, "folder", "images 30, 3. are of another class"),
        (swap_labels, "webdataset", "images 30, 3. are of another class"),
        (edit, "webdataset", "image 17 is not what the model makes"),
        (repeat, "parquet", "image 12 is not what the model makes"),
        (reverse, "folder", "makes other images of the public seed"),
    ],
)
def test_an_image_that_the_model_does_not_make_is_accused(
    honest: Path, tmp_path: Path, change: Change, form: str, words: str
) -> None:
    out = forged(honest, tmp_path / "forged", change, form)
    with pytest.raises(CertificateError, match=words):
        verify(out)


def test_another_seed_or_other_classes_than_stated_are_accused(
    release: Path, rewrite: Callable[..., None]
) -> None:
    lies: list[dict[str, Any]] = [
        {"seed_public": 1},
        {"seed_public": -1},
        {"label": "3"},
        {"label": "x"},
        {"balance": True},
        {"balance": False},
    ]
    for lie in lies:
        rewrite(release, lambda certificate, lie=lie: certificate["release"].update(lie))
        with pytest.raises(CertificateError, match=r"model|label|balance"):
            verify(release)
        rewrite(release, lambda c, lie=lie: [c["release"].pop(key) for key in lie])
        rewrite(release, lambda certificate: certificate["release"].update(seed_public=0))
    assert verify(release).redrawn == 40


def test_what_was_made_again_is_said(honest: Path) -> None:
    assert "All 40 images" in verify(honest).remarks[0]
    some = verify(honest, redraw=7)
    assert some.redrawn == 7 and "7 of 40 images, chosen at random" in some.remarks[0]
    assert "--redraw all" in some.remarks[0]
    none = verify(honest, redraw=0)
    assert none.redrawn == 0 and "No image was made again" in none.remarks[0]
    assert verify(honest, redraw="all").redrawn == verify(honest, redraw=10**9).redrawn == 40
    for wrong in (-1, "some"):
        with pytest.raises(UsageError, match="redraw="):
            verify(honest, redraw=wrong)


def test_samples_of_one_class_and_of_equal_classes_verify(honest: Path, tmp_path: Path) -> None:
    one = sample(honest, out=tmp_path / "one", label="7", samples=9, seed_public=2, quiet=True)
    assert read_certificate(one)["release"]["label"] == "7"
    equal = sample(
        honest, out=tmp_path / "equal", balance=True, samples=30, format="parquet", quiet=True
    )
    assert read_certificate(equal)["release"]["balance"] is True
    for out, count in ((one, 9), (equal, 30)):
        assert verify(out).redrawn == count
    for wrong in ({"label": "x"}, {"label": "7", "balance": True}):
        with pytest.raises(UsageError, match=r"label|balance"):
            sample(honest, out=tmp_path / "wrong", quiet=True, **wrong)
    assert not (tmp_path / "wrong").exists()


def judged(
    differences: np.ndarray, named: np.ndarray, labels: np.ndarray, known: np.ndarray | None = None
) -> Iterator[str]:
    compared = redrawn._Compared(labels, np.arange(len(named)), named, differences)
    return redrawn._problems(known, compared)


def test_other_machines_round_otherwise_and_are_believed() -> None:
    rng, labels = np.random.default_rng(0), np.arange(200) % 10
    for size in (1e-3, 0.05, 0.5, 1.5):  # float32 on other CPUs, TF32, bfloat16
        honest = size * rng.uniform(0.3, 3, 200)
        assert list(judged(honest, labels, labels)) == []
        swapped = honest.copy()
        swapped[[3, 8]] = 35.0
        assert "images 3, 8 are not what" in next(judged(swapped, labels, labels))
    same = np.zeros(200)
    same[3] = 0.4  # one pixel of some hundreds, rounded otherwise in another batch
    assert list(judged(same, labels, labels)) == []
    same[3] = 2.0
    assert "image 3 is not what" in next(judged(same, labels, labels))
    assert "other images" in next(judged(np.full(200, 30.0), labels, labels))


def test_a_labeller_may_waver_only_where_pixels_differ_too() -> None:
    labels = np.arange(200) % 10
    named = labels.copy()
    named[[3, 50]] += 1
    rounded = np.full(200, 0.01)
    assert list(judged(rounded, named, labels)) == []
    assert "another class" in next(judged(np.zeros(200), named, labels))
    named[:30] += 1
    assert "another class" in next(judged(rounded, named, labels))
    # The only image of a class is called so for the sake of loaders.
    alone = labels.copy()
    alone[4] = 10
    assert list(judged(np.zeros(200), labels, alone)) == []
    # A model that names nothing itself is held to every label, made again or not.
    moved = labels.copy()
    moved[150] = 3
    compared = judged(np.zeros(5), labels[:5], moved, labels)
    assert "image 150 is of another class" in next(compared)


def test_a_model_that_samples_only_in_order_is_checked_too(honest: Path) -> None:
    class InOrder(type(load_model(honest / MODEL))):  # type: ignore[misc]
        def sampled(self, wanted: Sampling) -> Iterator[Batch]:
            images = np.arange(wanted.count, dtype=np.uint8).reshape(-1, 1, 1, 1)
            for start in range(0, wanted.count, 4):
                yield images[start : start + 4], np.arange(wanted.count)[start : start + 4]

    model = object.__new__(InOrder)
    numbers = np.array([0, 3, 4, 9])
    parts = zip(*Model.redraw(model, Sampling(11), numbers), strict=True)
    images, labels = map(np.concatenate, parts)
    assert images.flatten().tolist() == labels.tolist() == [0, 3, 4, 9]
