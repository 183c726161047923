from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import PublicSpec, load_labelled, open_images, write_images
from sfumato.errors import CertificateError, DataError, UsageError
from sfumato.evaluation import training
from sfumato.evaluation.judging import judge, open_real, open_release
from sfumato.release import read_certificate
from sfumato.reporting import write_report
from sfumato.synthesis import sample

pytestmark = pytest.mark.usefixtures("tile_features")

SPEC = PublicSpec(28, 28, 1, tuple("0123456789"))


def folder_of(path: Path, *splits: str) -> str:
    """Two classes of blank images, in the folders of ``splits``."""
    images = np.zeros((4, 1, 28, 28), np.uint8)
    for split in splits:
        place = path / split
        write_images([(images, np.array([0, 1, 0, 1]))], ("a", "b"), place)
        for entry in (place / "images").iterdir():
            entry.rename(place / entry.name)
        (place / "images").rmdir()
    return str(path)


def test_splits_of_the_data_become_test_and_training_images() -> None:
    real = open_real("digits", SPEC)
    assert real.train is not None
    assert (real.test.location_key, real.train.location_key) == (
        "named:digits:test",
        "named:digits:train",
    )
    assert real.without_training().train is None
    named = open_real("digits:test", SPEC)
    assert (named.test.location_key, named.train) == ("named:digits:test", None)


def test_data_without_splits_is_held_out_as_a_whole(tmp_path: Path) -> None:
    spec = PublicSpec(28, 28, 1, ("a", "b"))
    real = open_real(folder_of(tmp_path / "held-out", ""), spec, train=None)
    assert len(load_labelled(real.test).labels) == 4
    assert real.train is None
    both = open_real(str(tmp_path / "held-out"), spec, folder_of(tmp_path / "other", "train"))
    assert both.train is not None
    assert str(tmp_path / "other") in both.train.location_key


def test_training_images_alone_are_refused(tmp_path: Path) -> None:
    spec = PublicSpec(28, 28, 1, ("a", "b"))
    with pytest.raises(UsageError, match=r"no split test.*:validation"):
        open_real(folder_of(tmp_path, "train", "val"), spec)


def test_data_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="nowhere"):
        open_real("nowhere", SPEC)


def test_a_release_is_judged_in_its_own_form_and_kept_privately(
    digits_release: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    before = sorted(digits_release.rglob("*"))
    real = open_real("digits", open_release(digits_release).spec)
    judged = judge(digits_release, real, classifiers=["logistic"], state=state, quiet=True)
    accuracy = judged.evaluation.utility[0].accuracy
    assert accuracy is not None
    assert accuracy.mean > 0.6
    assert judged.evaluation.baseline
    path = judged.keep(state)
    kept = json.loads(path.read_text())
    assert next(iter(kept)) == "watermark"
    assert "NOT PRIVATE" in kept["watermark"]
    assert kept["release"]["epsilon"] == pytest.approx(10, rel=1e-3)
    assert kept["against"] == {"test": "digits", "train": "digits"}
    assert path.is_relative_to(state)
    assert path.parent.stat().st_mode & 0o077 == 0
    assert sorted(digits_release.rglob("*")) == before


def test_public_data_has_no_watermark(digits_release: Path, tmp_path: Path) -> None:
    real = open_real("digits:test", SPEC)
    judged = judge(
        digits_release, real, classifiers=[], public=True, state=tmp_path / "s", quiet=True
    )
    assert "watermark" not in json.loads(judged.keep(tmp_path / "s").read_text())


def test_nothing_is_trained_twice(
    digits_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open_real("digits:test", SPEC)
    first = judge(digits_release, real, classifiers=["logistic"], state=tmp_path, quiet=True)
    monkeypatch.setattr(training, "_train", None)
    again = judge(digits_release, real, classifiers=["logistic"], state=tmp_path, quiet=True)
    assert again.evaluation == first.evaluation


def test_a_report_added_later_does_not_orphan_what_was_measured(
    digits_release: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(digits_release, tmp_path / "copy")
    before = open_release(copy).digest
    write_report(copy)
    assert "report.html" in read_certificate(copy)["files"]
    assert open_release(copy).digest == before


def test_other_images_by_the_same_answers_have_another_digest(
    digits_release: Path, tmp_path: Path
) -> None:
    more = sample(digits_release, samples=600, out=tmp_path / "more", seed_public=1, quiet=True)
    assert open_release(more).digest != open_release(digits_release).digest


def test_digest_is_computed_not_believed(digits_release: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(digits_release, tmp_path / "copy")
    certificate = json.loads((copy / "certificate.json").read_text())
    certificate["digest"] = "../../escaped"
    (copy / "certificate.json").write_text(json.dumps(certificate))
    assert open_release(copy).digest == open_release(digits_release).digest


def test_folder_without_certificate_and_damaged_one_are_refused(
    digits_release: Path, tmp_path: Path
) -> None:
    with pytest.raises(CertificateError, match="not a release"):
        open_release(tmp_path)
    copy = shutil.copytree(digits_release, tmp_path / "copy")
    certificate = json.loads((copy / "certificate.json").read_text())
    del certificate["spec"]["height"]
    (copy / "certificate.json").write_text(json.dumps(certificate))
    with pytest.raises(CertificateError, match="damaged"):
        open_release(copy)


def test_images_are_those_of_the_release(digits_release: Path) -> None:
    images = open_release(digits_release).images()
    assert images.images.shape == (600, 1, 28, 28)
    assert images.classes == SPEC.classes
    assert np.array_equal(images.images, load_labelled(open_images(digits_release)).images)
