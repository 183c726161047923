"""A release that is a classifier: whole, verified to the last sum, loaded, measured, compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

import sfumato
from sfumato.cli.app import app
from sfumato.data import load_labelled, open_images
from sfumato.errors import CertificateError, UsageError
from sfumato.evaluation.judging import judge, open_real, open_release
from sfumato.methods.classifiers.ridge import LeastSquaresClassifier
from sfumato.options import EvaluationOptions
from sfumato.release import certificate as certificates
from sfumato.release.files import digests, list_files

pytestmark = pytest.mark.usefixtures("few_probes")

MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("classifier")
    command = [
        "classify", "digits", "--epsilon", "8", "--out", str(place / "release"),
        "--state", str(place / "state"), "--method", "least-squares",
        "--set", "axes=20", "--set", "encoder_size=32",
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "classifier of 10 classes" in result.output and ").predict" in result.output
    return place / "release"


@pytest.fixture
def release(classifier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(classifier, tmp_path / "release"))


def resealed(release: Path, change: Callable[[dict[str, Any]], None] = lambda c: None) -> None:
    """Name the files as they are now, and make the certificate's digest fit."""
    certificate = certificates.read_certificate(release)
    certificate["files"] = digests(release, list_files(release)[0])
    change(certificate)
    certificate["digest"] = certificates.own_digest(certificate)
    (release / certificates.NAME).write_bytes(certificates.to_bytes(certificate))


def test_a_release_of_a_classifier_holds_no_image_and_verifies(release: Path) -> None:
    assert sorted(path.name for path in release.iterdir()) == [
        "README.md", "certificate.json", MODEL,
    ]  # fmt: skip
    shown = CliRunner().invoke(app, ["verify", str(release)])
    assert "a classifier, method least-squares" in shown.output
    verdict = sfumato.verify(release)
    assert verdict.samples == 0 and verdict.method == "least-squares"
    card = (release / "README.md").read_text(encoding="utf-8")
    assert "A classifier of images of 28x28 pixels" in card and "synthetic" not in card
    sfumato.report(release)
    page = (release / "report.html").read_text(encoding="utf-8")
    assert "A classifier of 10 classes" in page and "synthetic images</h1>" not in page
    assert sfumato.verify(release) == verdict


def changed_tensors(release: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    with safe_open(release / MODEL, framework="np") as file:
        arrays, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    change(arrays)
    save_file(arrays, release / MODEL, metadata=metadata)


@pytest.mark.parametrize(
    ("part", "said"), [("total", "noisy answers"), ("shared", "noisy answers"), ("axes", "axes")]
)
def test_other_sums_or_axes_than_the_ledger_names_are_found(
    release: Path, part: str, said: str
) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[part] = arrays[part].copy()
        arrays[part].flat[0] += 2.0

    changed_tensors(release, change)
    resealed(release)
    with pytest.raises(CertificateError, match=said):
        sfumato.verify(release)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["release"].update(made_by="synthesize"), "different commands"),
        (lambda c: c["release"].update(samples=7), "cannot hold 7 images"),
        (lambda c: c["release"].update(format="folder"), "different commands"),
        (lambda c: c["method"]["config"].update(target_weight=0.5), "classifier|another form"),
    ],
)
def test_a_certificate_that_says_something_else_is_found(
    release: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    resealed(release, change)
    with pytest.raises(CertificateError, match=said):
        sfumato.verify(release)


@pytest.mark.parametrize("name", ["images/0/000000.png", "samples.png"])
def test_images_do_not_belong_into_it(release: Path, digits_release: Path, name: str) -> None:
    (release / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(digits_release / "samples.png", release / name)
    resealed(release)
    with pytest.raises(CertificateError, match=r"no part of a classifier's release"):
        sfumato.verify(release)


def test_images_are_no_release_of_a_method_that_makes_none(
    release: Path, digits_release: Path
) -> None:
    for name in ("images", "samples.png"):
        copy = shutil.copytree if name == "images" else shutil.copy
        copy(digits_release / name, release / name)
    made = {"made_by": "sample", "format": "folder", "samples": 600}
    resealed(release, lambda certificate: certificate["release"].update(made))
    with pytest.raises(CertificateError, match="makes releases of another kind"):
        sfumato.verify(release)


def test_it_is_loaded_by_its_kind(classifier: Path, digits_release: Path) -> None:
    loaded, made = sfumato.load(classifier), sfumato.load(digits_release)
    assert "classifier by least-squares" in repr(loaded) and "28x28x1" in repr(loaded)
    images = made.images().images[:50]
    labels = loaded.predict(images)
    assert labels.dtype == np.int64 and set(labels) <= set(range(10))
    for fails in (lambda: loaded.sample(3), loaded.images):
        with pytest.raises(UsageError, match=r"has predict"):
            fails()
    with pytest.raises(UsageError, match="has sample"):
        made.predict(images)


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        (sfumato.synthesize, {"method": "least-squares"}, "Use sfumato classify"),
        (sfumato.classify, {"method": "moments"}, "Use sfumato synthesize"),
        (sfumato.classify, {"method": "least-squares", "samples": 5}, "holds no images"),
        (sfumato.classify, {"method": "least-squares", "classes": 0}, "two classes or more"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_charged(
    command: Callable[..., Path], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        command("digits", epsilon=1.0, out=tmp_path / "out", state=tmp_path / "state", **options)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("state/*/ledger.jsonl"))


def test_it_is_measured_and_compared_beside_synthetic_images(
    classifier: Path, digits_release: Path, tmp_path: Path, tile_features: None
) -> None:
    how = EvaluationOptions(("logistic",), public=True)
    real = open_real("digits", open_release(classifier).spec)
    judged = judge(classifier, real, how, state=tmp_path / "state", quiet=True)
    (score,) = judged.evaluation.utility
    assert score.classifier == "least-squares" and score.training_count is None
    assert judged.evaluation.fidelity == () and judged.evaluation.memorisation is None
    assert [row.classifier for row in judged.evaluation.baseline] == ["logistic"]
    images, labels = score.test_count, json.loads(judged.keep(tmp_path / "state").read_text())
    assert images > 100 and labels["utility"][0]["accuracy"]["mean"] > 0.3
    command = [
        "compare", str(classifier), str(digits_release), "--against", "digits", "--public",
        "--classifiers", "logistic", "--out", str(tmp_path / "both"),
        "--state", str(tmp_path / "state"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "both" / "comparison.md").read_text(encoding="utf-8")
    assert "accuracy, the released classifier (%)" in table
    assert "accuracy, logistic (%)" in table
    command = ["evaluate", str(classifier), "--against", "digits:test", "--public"]
    result = CliRunner().invoke(app, [*command, "--state", str(tmp_path / "state")])
    assert result.exit_code == 0 and "The released classifier" in result.output, result.output


@pytest.mark.parametrize("machine", [False, True])
def test_its_accuracy_can_be_paid_for_and_released(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: bool
) -> None:
    def cheap(self: object, images: np.ndarray) -> np.ndarray:
        return np.eye(10, dtype=np.float32)[images.sum(axis=(1, 2, 3)) % 10]

    monkeypatch.setattr(LeastSquaresClassifier, "scores", cheap)
    test = load_labelled(open_images("digits:test"))
    held_out = tmp_path / "heldout.npz"
    np.savez(held_out, images=test.images[:60, 0], labels=test.labels[:60])
    command = [
        "evaluate", str(release), "--against", str(held_out), "--publish-metrics",
        "--epsilon", "30", "--state", str(tmp_path / "state"), *["--json"] * machine,
    ]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    if machine:
        schema = json.loads(files("sfumato.cli").joinpath("output.schema.json").read_text("utf-8"))
        jsonschema.validate(json.loads(result.stdout), {**schema, "$ref": "#/$defs/evaluate"})
    else:
        assert "accuracy, least-squares" in result.output
    metrics = json.loads((release / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics) == {"utility", "answers", "same_data_set_as_release"}
    assert "training_count" not in metrics["utility"][0]
    sfumato.report(release)
    assert sfumato.verify(release).metrics_recomputed is not None


def test_more_images_cannot_be_asked_of_it(classifier: Path, tmp_path: Path) -> None:
    for command in ("sample", "fit-embedding"):
        result = CliRunner().invoke(app, [command, str(classifier), "--out", str(tmp_path / "x")])
        assert result.exit_code in (2, 6) and "Traceback" not in result.output, result.output
