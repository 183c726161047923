"""The library as its users import it."""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest

import sfumato
from sfumato.errors import CertificateError, UsageError
from sfumato.methods.registry import BUILT_IN


def test_every_method_is_public_by_its_papers_name() -> None:
    assert {target.rpartition(":")[2] for target in BUILT_IN.values()} <= set(sfumato.__all__)
    for name in sfumato.__all__:
        assert getattr(sfumato, name) is not None


def test_a_curator_over_arrays_is_closed_by_with(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    source = sfumato.from_arrays(images, np.arange(40) % 2, name="mine", classes=2)
    with sfumato.Curator(source, sfumato.Budget(1.0), state=str(tmp_path), quiet=True) as curator:
        model = sfumato.Moments(coefficients=4).fit(curator)
        assert next(model.sample(3))[0].shape == (3, 1, 28, 28)
    assert "40" not in repr(source)


def test_images_that_are_open_already_are_taken_as_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    source = sfumato.from_arrays(images, np.arange(40) % 2, name="mine", classes=2)
    assert sfumato.open_images(source) is source
    stated = {"epsilon": 1.0, "method": "moments", "state": tmp_path / "state", "quiet": True}
    with pytest.raises(UsageError, match="open already"):
        sfumato.synthesize(source, out=tmp_path / "no", channels=3, **stated)
    release = sfumato.synthesize(
        source, out=tmp_path / "out", samples=10, options={"coefficients": 4}, **stated
    )
    assert sfumato.load(release).images().images.shape == (10, 1, 28, 28)
    others = sfumato.from_arrays(images, np.arange(40) % 3, name="others", classes=3)
    with pytest.raises(
        UsageError, match="others: these images are 28x28x1 with the classes 0, 1, 2"
    ):
        sfumato.evaluate(release, others, state=tmp_path / "state")


def test_a_release_is_loaded_with_its_certificate(digits_release: Path) -> None:
    released = sfumato.load(digits_release)
    assert released.certificate["method"]["name"] == "moments"
    assert released.images().images.shape == (600, 1, 28, 28)
    assert sum(len(labels) for _, labels in released.sample(7)) == 7
    assert repr(released).startswith("Released('digits', moments, 28x28x1, 10 classes, ε = 10")
    with pytest.raises(CertificateError):
        sfumato.load(digits_release / "images")


def test_a_notebook_shows_a_release_in_pictures_and_words(digits_release: Path) -> None:
    html = sfumato.load(digits_release)._repr_html_()
    assert "600 synthetic images of 10 classes, made by moments" in html
    assert "ε = 10 (add-or-remove-one), ε = 24.39 (replace-one) at δ = 10⁻⁵" in html
    assert "at most <strong>99.9955\u202f%</strong> likely" in html  # e^10 / (1 + e^10)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert [b64decode(one) for one in pictures] == [(digits_release / "samples.png").read_bytes()]
    assert "http" not in html and "<script" not in html


def test_a_notebook_marks_what_is_not_private(digits_release: Path, tmp_path: Path) -> None:
    from sfumato.reporting.summary import summary

    certificate = sfumato.load(digits_release).certificate
    hostile = {"unit": "<script>", "method": {"name": "<b>"}, "private": "NOT PRIVATE"}
    html = summary(tmp_path, {**certificate, **hostile})
    assert "NOT PRIVATE" in html and "likely" not in html
    assert "<b>" not in html and "<script>" not in html and "<img" not in html
    assert "&lt;script&gt;" in summary(tmp_path, {**certificate, "unit": "<script>"})


def test_a_release_is_evaluated_and_reported(
    digits_release: Path, tmp_path: Path, tile_features: None
) -> None:
    found = sfumato.evaluate(
        digits_release, "digits", classifiers=("logistic",), public=True, state=tmp_path, quiet=True
    )
    assert found.utility[0].accuracy is not None and not found.private
    page = sfumato.report(digits_release, out=tmp_path / "page.html")
    assert "<html" in page.read_text(encoding="utf-8")


def test_what_synthesize_lacks_is_named() -> None:
    with pytest.raises(UsageError, match="needs epsilon="):
        sfumato.synthesize("digits", out="x")
    with pytest.raises(UsageError, match="no option image_sise"):
        sfumato.synthesize("digits", epsilon=1.0, out="x", image_sise=28)


def test_the_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but on digits, and with the yardstick, which trains no network."""
    text = (Path(sfumato.__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        here = block.replace('"xrays/"', '"digits"').replace("DPMEPF", "Moments")
        here = here.replace("10_000", "20").replace("1.0, out", "1.0, samples=9, out")
        exec(compile(here, "README.md", "exec"), {})
