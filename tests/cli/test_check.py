from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from sfumato.data import open_images
from sfumato.data.duplicates import Repetition, find_repetition

Run = Callable[..., Result]


def picture(seed: int, side: int = 40) -> np.ndarray:
    """A smooth grey image with something in it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5), np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two classes of ten pictures, no two alike."""
    for seed in range(20):
        folder = tmp_path / "scans" / ("ill" if seed % 2 else "well")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed)).save(folder / f"{seed:02}.png")
    return tmp_path / "scans"


def found_in(scans: Path) -> Repetition:
    return find_repetition(open_images(scans, image_size=32, channels=1))


def test_different_images_give_no_warning(run: Run, scans: Path) -> None:
    result = run("check", scans, "--channels", 1)
    assert result.exit_code == 0
    assert "20 records, 0 of them unusable" in result.output
    assert "WARNING" not in result.output and "No repeated images found" in result.output


def test_the_first_line_says_that_the_output_is_private(run: Run, scans: Path) -> None:
    assert run("check", scans).output.startswith("PRIVATE OUTPUT")
    assert json.loads(run("check", scans, "--json").output)["note"].startswith("PRIVATE OUTPUT")


def test_one_record_under_many_names_is_named(run: Run, scans: Path) -> None:
    for name in ("ill/copy.png", "well/again.png"):
        (scans / name).write_bytes((scans / "well" / "04.png").read_bytes())
    assert found_in(scans).exact == [["ill/copy.png", "well/04.png", "well/again.png"]]
    result = run("check", scans)
    assert result.exit_code == 0
    assert "3 records in 1 groups of images equal" in result.output
    assert "ill/copy.png, well/04.png, well/again.png" in result.output
    assert "--unit" in result.output


@pytest.mark.parametrize("change", ["jpeg", "brighter", "noise", "smaller"])
def test_an_image_that_was_changed_a_little_looks_alike(scans: Path, change: str) -> None:
    pixels = picture(4).astype(float)
    if change == "brighter":
        pixels = pixels * 0.7 + 40
    elif change == "noise":
        pixels = pixels + np.random.default_rng(0).normal(0, 3, pixels.shape)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if change == "smaller":
        image = image.resize((30, 30), Image.Resampling.LANCZOS)
    path = scans / "well" / ("x.jpg" if change == "jpeg" else "x.png")
    image.save(path, **({"quality": 60} if change == "jpeg" else {}))
    found = found_in(scans)
    assert found.exact == []
    assert found.near == [["well/04.png", f"well/{path.name}"]]


def test_equal_images_count_once_among_those_that_look_alike(scans: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray((picture(4) * 0.8).astype(np.uint8)).save(scans / "ill" / f"{name}.png")
    found = found_in(scans)
    assert found.exact == [["ill/a.png", "ill/b.png"]]
    assert found.near == [["ill/a.png", "well/04.png"]]


def test_empty_images_are_compared_exactly_only(scans: Path) -> None:
    for grey in (0, 10, 10):
        Image.new("L", (40, 40), grey).save(
            scans / "ill" / f"flat{len(list(scans.rglob('*')))}.png"
        )
    found = found_in(scans)
    assert len(found.exact) == 1 and found.near == []


def test_unusable_records_are_counted_and_are_no_copies(run: Run, scans: Path) -> None:
    for name in ("a", "b"):
        (scans / "ill" / f"{name}.png").write_bytes(b"no image")
    found = found_in(scans)
    assert (found.records, found.unusable, found.exact) == (22, 2, [])
    assert "22 records, 2 of them unusable" in run("check", scans).output


def test_names_that_a_terminal_cannot_show_are_escaped(run: Run, scans: Path) -> None:
    data = (scans / "well" / "04.png").read_bytes()
    (scans / "ill" / "\x1b[31m\udcff.png").write_bytes(data)
    result = run("check", scans)
    assert result.exit_code == 0 and "\x1b" not in result.output
    assert "ill/\\x1b[31m\\udcff.png" in result.output


def test_other_formats_are_named_by_number(run: Run, tmp_path: Path) -> None:
    images = np.stack([picture(1), picture(2), picture(1)])
    np.savez(tmp_path / "set.npz", images=images, labels=np.array([0, 1, 7]))
    found = find_repetition(open_images(tmp_path / "set.npz", classes=2))
    assert (found.unusable, found.exact) == (1, [])
    result = run("check", tmp_path / "set.npz", "--classes", 0)
    assert "record 0, record 2" in result.output


def test_it_charges_nothing_and_writes_nothing(run: Run, scans: Path, state: Path) -> None:
    before = sorted(scans.rglob("*"))
    run("check", scans)
    assert not state.exists() and sorted(scans.rglob("*")) == before
