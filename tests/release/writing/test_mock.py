"""A mock looks like a release to every loader, and like none to whoever checks a guarantee."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import sfumato
from sfumato.cli.app import app
from sfumato.data import load_labelled
from sfumato.errors import CertificateError, UsageError
from sfumato.release.images import numbered_images

CLASSES = ["wolf", "a/b", "ant"]
"""In no order of names; one needs another name as a folder."""
ONLY_OF_RELEASES = {"certificate.json", "model.safetensors"}


def mock(out: Path, form: str = "folder", **more: Any) -> Path:
    stated = {"classes": CLASSES, "image_size": 28, "channels": 1, "samples": 7, **more}
    return sfumato.mock(out=out, format=form, **stated)


def released(out: Path, form: str = "folder", force: bool = False) -> Path:
    """A release of what :func:`mock` is a mock of."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    data, state = out.with_name("images.npz"), out.with_name("state")
    np.savez(data, images=pixels, labels=np.arange(12) % 3)
    return sfumato.synthesize(
        data,
        epsilon=5.0,
        classes=CLASSES,
        method="moments",
        options={"coefficients": 4},
        samples=7,
        format=form,
        out=out,
        force=force,
        state=state,
        quiet=True,
    )


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def front(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    return read


def loading(folder: Path) -> str:
    """How the card says that the images are loaded."""
    return (folder / "README.md").read_text().partition("## How to load it")[2].split("```")[1]


@pytest.mark.parametrize("samples", [2, 7])
@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_hugging_face_reads_the_declared_classes(
    form: str, samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets  # slow to import

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    made = mock(tmp_path / "mock", form, samples=samples)
    found = datasets.load_dataset(str(made), split="train", cache_dir=str(tmp_path / "cache"))
    image, label = ("png", "cls") if form == "webdataset" else ("image", "label")
    assert found.features[label].names == CLASSES
    stated = json.loads((made / "mock.json").read_text())
    truth = [
        (np.asarray(Image.open(io.BytesIO(png))).tobytes(), number)
        for number, png in numbered_images(made, {**stated, "format": ""})
    ]
    assert sorted((np.asarray(row[image]).tobytes(), row[label]) for row in found) == sorted(truth)
    assert len({label for _, label in truth}) == min(samples, 3)
    back = load_labelled(sfumato.open_images(made))
    assert list(back.classes) == CLASSES
    assert back.images.shape == (samples, 1, 28, 28)


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_files_and_card_are_those_of_a_release_of_the_format(form: str, tmp_path: Path) -> None:
    release = released(tmp_path / "release", form)
    made = mock(tmp_path / "mock", form)
    names = [
        # Which class folder an image is in is random.
        {Path(name).name if name.startswith("images/") else name for name in files(folder)}
        for folder in (release, made)
    ]
    assert names[0] - names[1] == ONLY_OF_RELEASES
    assert names[1] - names[0] == {"mock.json"}
    if form == "folder":
        folders = [sorted(path.name for path in (f / "images").iterdir()) for f in (release, made)]
        assert folders[0] == folders[1]
    assert (made / "classes.txt").read_bytes() == (release / "classes.txt").read_bytes()
    assert loading(made) == loading(release)
    of_release, of_mock = front(release), front(made)
    assert of_mock.pop("tags") == ["mock", "sfumato"]
    assert "differential-privacy" in of_release.pop("tags")
    assert of_mock.pop("pretty_name") != of_release.pop("pretty_name")
    assert of_mock == of_release


def test_the_card_says_what_it_is_and_claims_nothing(tmp_path: Path) -> None:
    card = (mock(tmp_path / "mock") / "README.md").read_text("utf-8")
    assert "**A MOCK.** No data were read, and this folder carries no guarantee." in card
    assert "0 = `wolf`, 1 = `a/b`, 2 = `ant`" in card
    for claim in ("δ", "private", "differential", "sfumato sample", "samples from a model"):
        assert claim not in card
    assert card == card.strip() + "\n" and "\n\n\n" not in card


def test_the_seed_repeats_a_mock(tmp_path: Path) -> None:
    one, same, other = (mock(tmp_path / str(n), seed_public=n // 2) for n in range(3))
    for name in sorted(files(one)):
        assert (one / name).read_bytes() == (same / name).read_bytes()
    assert (one / "samples.png").read_bytes() != (other / "samples.png").read_bytes()


def test_nothing_takes_a_mock_for_a_release(tmp_path: Path) -> None:
    made = mock(tmp_path / "mock")
    for use in (sfumato.verify, sfumato.load, sfumato.report):
        with pytest.raises(CertificateError, match="is a mock: random images"):
            use(made)
    for use in (sfumato.sample, sfumato.convert):
        with pytest.raises(CertificateError, match="is a mock: random images"):
            use(made, out=tmp_path / "more")
    result = CliRunner().invoke(app, ["verify", str(made)])
    assert result.exit_code == 6
    assert result.stderr.count("\n") == result.stderr.count(". ") + 1 == 1
    assert result.stdout == ""


def test_a_mock_in_a_release_is_a_leftover(tmp_path: Path) -> None:
    release = released(tmp_path / "release")
    shutil.copy(mock(tmp_path / "mock") / "mock.json", release)
    with pytest.raises(CertificateError, match=r"'mock\.json' is no part of a release"):
        sfumato.verify(release)


def test_a_mock_replaces_a_mock_and_never_a_release(tmp_path: Path) -> None:
    release = released(tmp_path / "release")
    made = mock(tmp_path / "mock")
    with pytest.raises(UsageError, match="--force"):
        mock(made)
    mock(made, samples=3, force=True)
    assert json.loads((made / "mock.json").read_text())["release"]["samples"] == 3
    before = files(release)
    with pytest.raises(UsageError, match="a mock never replaces"):
        mock(release, force=True)
    assert files(release) == before
    own = tmp_path / "own"
    (own / "images").mkdir(parents=True)
    (own / "mock.json").write_text('{"format": "mine"}')
    with pytest.raises(UsageError, match="never replaced"):
        mock(own, force=True)


def test_a_release_may_replace_a_mock(tmp_path: Path) -> None:
    made = mock(tmp_path / "mock")
    with pytest.raises(UsageError, match="--force"):
        released(made)
    released(made, force=True)
    assert not (made / "mock.json").exists()
    assert sfumato.verify(made, redraw=0, allow_large_delta=True).samples == 7


def test_unlabelled_colour_is_the_default(tmp_path: Path) -> None:
    made = sfumato.mock(out=tmp_path / "mock", samples=2)
    assert not (made / "classes.txt").exists()
    assert load_labelled(sfumato.open_images(made)).images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit": "patient"},
        {"declared_size": 9},
        {"balance": True},
        {"samples": 0},
        {"format": "x"},
        {"image_size": 5},
        {"channels": 2},
        {"seed_public": -1},
        {"class": ["/home/me/a"]},
    ],
)
def test_what_has_no_meaning_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UsageError, match=name):
        sfumato.mock(out=tmp_path / "mock", **{"classes" if name == "class" else name: value})
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_what_the_function_writes(tmp_path: Path) -> None:
    out = tmp_path / "command"
    options = "--classes wolf,a/b,ant --image-size 28 --channels 1 --samples 7".split()
    result = CliRunner().invoke(app, ["mock", *options, "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert "no data read, nothing charged, no guarantee" in result.stdout
    for name in files(mock(tmp_path / "function")):
        assert (out / name).read_bytes() == (tmp_path / "function" / name).read_bytes()
