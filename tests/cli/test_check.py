from __future__ import annotations

import io
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


def found_by(run: Run, *arguments: object) -> tuple[dict, str]:
    """What check counts, and its warnings in one text."""
    found = json.loads(run("check", *arguments, "--json").stdout)["state"]
    return found, " ".join(found["warnings"])


def test_it_names_the_unusable_records_with_the_reason(run: Run, scans: Path) -> None:
    png = (scans / "well" / "04.png").read_bytes()
    gif = io.BytesIO()
    Image.fromarray(picture(1)).save(gif, "GIF")
    for name, content in {
        "text": b"no image",
        "empty": b"",
        "cut": png[: len(png) // 2],
        "gif": gif.getvalue(),
    }.items():
        (scans / "ill" / f"{name}.png").write_bytes(content)
    (scans / "stray.png").write_bytes(png)
    found, warnings = found_by(run, scans, "--classes", "ill,well,odd")
    assert (found["unreadable"], found["unlabelled"]) == (4, 1)
    assert found["by_class"] == {"ill": 10, "well": 10, "odd": 0}
    assert (
        "4 records cannot be read" in warnings
        and "no usable record is of the class odd" in warnings
    )
    by_name = {name: why for why, names in found["unusable_records"].items() for name in names}
    expected = {
        "text": "no image of a kind",
        "empty": "an empty file",
        "cut": "damaged",
        "gif": "GIF",
    }
    assert by_name.pop("stray.png") == "no label among the classes"
    assert by_name.keys() == {f"ill/{name}.png" for name in expected}
    for name, why in expected.items():
        assert why in by_name[f"ill/{name}.png"]
        assert f"  ill/{name}.png: {by_name[f'ill/{name}.png']}" in run("check", scans).stdout


def test_it_names_what_was_passed_over_with_the_reason(run: Run, scans: Path) -> None:
    for name in ("a.jp2", "b.avif", "c.jfif", "d.pgm", "e.jp2", "notes.txt", "f.npy"):
        (scans / "ill" / name).write_bytes(b"x")
    (scans / "ill" / "g.png").symlink_to(scans / "well" / "04.png")
    found, warnings = found_by(run, scans)
    assert found["passed_over"][".jp2"] == 2 and "2 files called *.jp2 are passed over" in warnings
    for part in ("AVIF", "rename to .jpg", "PGM", "np.savez", "--follow-links"):
        assert part in warnings
    assert "notes" not in warnings and ".txt" not in warnings


def test_it_says_that_images_are_black_and_what_mends_it(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    for seed in range(4):
        values = picture(seed).astype(np.uint16) * 16  # 12 bits in a 16-bit PNG
        Image.fromarray(values).save(folder / f"{seed}.png")
    found, warnings = found_by(run, tmp_path / "set")
    assert found["dark"] == 4 and "nearly black" in warnings and "--value-range 0 4095" in warnings
    mended, warnings = found_by(run, tmp_path / "set", "--value-range", 0, 4095)
    assert mended["dark"] == 0 and "black" not in warnings


def test_it_says_that_grey_images_are_read_in_colour(run: Run, scans: Path) -> None:
    assert "--channels 1" in found_by(run, scans)[1]
    assert "--channels 1" not in found_by(run, scans, "--channels", 1)[1]
    Image.fromarray(np.stack([picture(1), picture(2), picture(3)], -1)).save(
        scans / "ill" / "c.png"
    )
    assert "--channels 1" not in found_by(run, scans)[1]


def test_it_counts_units_and_says_where_the_rule_finds_none(run: Run, scans: Path) -> None:
    found, warnings = found_by(run, scans, "--unit-pattern", r"^(\d)")
    assert (found["units"], found["largest_unit"], found["without_key"]) == (2, 10, 0)
    found, warnings = found_by(run, scans, "--unit-pattern", "nobody")
    assert "no record has a key" in warnings


def test_it_says_what_a_table_leaves_open(run: Run, scans: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\n00.png,a|b\n01.png,a\n99.png,b\n")
    found, warnings = found_by(run, scans, "--labels", tmp_path / "t.csv")
    assert (found["several"], found["unmatched_files"], found["unmatched_lines"]) == (1, 18, 1)
    assert found["lines_without_file"] == ["99.png"]
    assert found["unusable_records"]["no label among the classes"][:2] == [
        "ill/03.png",
        "ill/05.png",
    ]
    assert "joined by |" in warnings and "18 files are named by no line" in warnings


def test_an_empty_data_set_is_said_to_be_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    assert "charged" in found_by(run, tmp_path / "set")[1]
