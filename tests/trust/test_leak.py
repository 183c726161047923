"""Nothing that leaves the curator depends on a private record, except through its answers.

The whole command runs twice at one place, on data sets that have nothing in common but what is
public, while answers are made constant. Whatever is printed, logged, warned of or released must
then be equal to the last byte.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sfumato.cli.app import app
from sfumato.privacy.answering import base, gradient

pytestmark = pytest.mark.usefixtures("few_probes")

Cells = dict[str, bytes]
CLASSES = ("ant", "bee")
MOMENTS = ("--method", "moments", "--set", "coefficients=4")
DPDM = (
    "--method", "dpdm", "--declared-size", "12", "--set", "steps=2", "--set", "batch=6",
    "--set", "multiplicity=1", "--set", "width=8", "--set", "blocks=1", "--set", "patch=4",
    "--set", "sampling_steps=2", "--set", "warm_up_steps=2",
)  # fmt: skip

DATALENS = (
    "--method", "datalens", "--set", "teachers=9", "--set", "kind=network", "--set", "steps=2",
    "--set", "images_per_class=2", "--set", "dimension=6", "--set", "entries=4", "--set", "width=4",
    "--set", "student_steps=2",
)  # fmt: skip


DP_SGD = (
    "--declared-size", "12", "--set", "steps=2", "--set", "batch=6", "--set", "width=1",
)  # fmt: skip
LEAST_SQUARES = (
    "--method", "least-squares", "--set", "axes=5", "--set", "encoder_size=32",
)  # fmt: skip


def encoded(seed: int, kind: str = "PNG", side: int = 30, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def damaged(seed: int, **options: Any) -> bytes:
    data = bytearray(encoded(seed, "TIFF", **options))
    data[200:260] = b"\xff" * 60
    return bytes(data)


def named(label: str, cells: list[bytes]) -> Cells:
    return {f"{label}/{index}.png": cell for index, cell in enumerate(cells)}


HONEST = named("ant", [encoded(seed) for seed in range(6)]) | named(
    "bee", [encoded(seed) for seed in range(6, 12)]
)
OTHERS: dict[str, Cells] = {
    "other pixels": {name: encoded(99 + at) for at, name in enumerate(HONEST)},
    "one record": named("bee", [encoded(3)]),
    "many records": named("ant", [encoded(seed % 7) for seed in range(700)]),
    "other names": {
        "ant/patient_0042\n.png": encoded(1),
        "bee/\u202e\udcff.png": encoded(2),
        "stray.png": encoded(3),
    },
    "what decoders speak of": {
        "ant/1.tif": damaged(1, compression="tiff_deflate"),
        "ant/2.tif": damaged(2, compression="tiff_lzw"),
        "ant/3.tif": encoded(3, "TIFF", tiffinfo={270: "PRIVATE-NAME"})[:-30],
        "ant/4.png": encoded(4, side=9500),
        "bee/5.jpg": encoded(5, "JPEG")[:300],
        "bee/6.webp": encoded(6, "WEBP")[:100],
    },
    "nothing usable": named("ant", [b"", b"text", b"\x80\x04.", encoded(1)[:60]]),
}


def as_folder(place: Path, cells: Cells) -> Path:
    for label in CLASSES:
        (place / "data" / label).mkdir(parents=True)
    for name, data in cells.items():
        (place / "data" / name).write_bytes(data)
    return place / "data"


def as_zip(place: Path, cells: Cells) -> Path:
    with zipfile.ZipFile(place / "data.zip", "w") as archive:
        for label in CLASSES:
            archive.writestr(f"{label}/", b"")
        for name, data in cells.items():
            archive.writestr(name.encode("utf-8", "replace").decode(), data)
    return place / "data.zip"


def as_tar(place: Path, cells: Cells) -> Path:
    with tarfile.open(place / "data.tar", "w") as tar:
        for index, (name, data) in enumerate(cells.items()):
            label = b"0" if name.startswith("ant") else b"1" if name.startswith("bee") else b"\xff"
            for suffix, content in (("png", data), ("cls", label)):
                member = tarfile.TarInfo(f"{len(cells)}-{index}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return place / "data.tar"


def as_parquet(place: Path, cells: Cells) -> Path:
    labels = [int(name.startswith("bee")) if "/" in name else -7 for name in cells]
    table = pa.table({"image": pa.array(list(cells.values()), pa.binary()), "label": labels})
    pq.write_table(table, place / "data.parquet")
    return place / "data.parquet"


WRITERS = {"folder": as_folder, "zip": as_zip, "webdataset": as_tar, "parquet": as_parquet}


@pytest.fixture
def outcome(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., dict[str, Any]]:
    """Run a command on cells at always the same place; return all that can be seen of it."""
    true_answer = gradient.GradientAnswering.answer

    def constant_step(self: Any, *arguments: Any) -> torch.Tensor:
        return torch.full_like(true_answer(self, *arguments), 0.01)

    def constant(total: np.ndarray, *_: Any) -> np.ndarray:
        return np.arange(len(total), dtype=np.int64) % 1000

    monkeypatch.setattr(base, "add_noise", constant)
    monkeypatch.setattr(gradient.GradientAnswering, "answer", constant_step)
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    monkeypatch.setattr("sfumato.progress.PLAIN_LINE_SECONDS", 0.0)
    caplog.set_level(logging.DEBUG)

    def run(
        cells: Cells, write: Callable[..., Path], *options: str, command: str = "synthesize"
    ) -> dict[str, Any]:
        place = tmp_path / "place"
        place.mkdir()
        # A clock that counts how often it is asked shows every step of progress.
        ticks = itertools.count()
        clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
        # In progress alone: what else asks for the time, first imports among them, does not count.
        monkeypatch.setattr("sfumato.progress.time", clock)
        data = write(place, cells)
        asked = [command, str(data), "--epsilon", "1", "--out", str(place / "out")]
        common = ["--state", str(place / "state"), "--image-size", "28", "--channels", "1"]
        chosen = ["--classes", ",".join(CLASSES), *options]
        chosen += ["--samples", "20"] if command == "synthesize" else []
        caplog.clear()
        capfd.readouterr()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            result = CliRunner().invoke(app, [*asked, *common, *chosen])
        files = {
            str(path.relative_to(place / "out")): path.read_bytes()
            for path in sorted((place / "out").rglob("*"))
            if path.is_file()
        }
        shutil.rmtree(place)
        return {
            "exit code": result.exit_code,
            # Apart: which of the two is flushed first is nobody's doing.
            "printed": f"{result.stdout}\n{result.stderr}",
            "by C": capfd.readouterr(),
            # A lock is logged by its address in memory.
            "logged": [re.sub(r"\d{12,}", "", record.getMessage()) for record in caplog.records],
            "warned": [str(warning.message) for warning in warned],
            "files": files,
        }

    return run


def test_what_is_seen_of_a_run_is_the_same_for_any_records(
    outcome: Callable[..., dict[str, Any]],
) -> None:
    honest = outcome(HONEST, as_folder, *MOMENTS)
    assert honest["exit code"] == 0 and "certificate.json" in honest["files"]
    assert "reading the private images: 37%" in honest["printed"]
    for name, cells in OTHERS.items():
        assert outcome(cells, as_folder, *MOMENTS) == honest, name


@pytest.mark.parametrize("kind", ["zip", "webdataset", "parquet"])
def test_so_it_is_in_every_format(outcome: Callable[..., dict[str, Any]], kind: str) -> None:
    honest = outcome(HONEST, WRITERS[kind], *MOMENTS)
    assert honest["exit code"] == 0 and "certificate.json" in honest["files"]
    for name in ("one record", "what decoders speak of"):
        assert outcome(OTHERS[name], WRITERS[kind], *MOMENTS) == honest, name


@pytest.mark.parametrize("method", [DPDM, DATALENS])
def test_so_it_is_where_steps_are_asked(
    outcome: Callable[..., dict[str, Any]], method: tuple[str, ...]
) -> None:
    honest = outcome(HONEST, as_folder, *method)
    assert honest["exit code"] == 0 and "certificate.json" in honest["files"]
    assert outcome(OTHERS["what decoders speak of"], as_folder, *method) == honest


@pytest.mark.parametrize("method", [LEAST_SQUARES, DP_SGD, (*DP_SGD, "--compress")])
def test_so_it_is_of_a_classifier(
    outcome: Callable[..., dict[str, Any]], method: tuple[str, ...]
) -> None:
    honest = outcome(HONEST, as_folder, *method, command="classify")
    assert honest["exit code"] == 0 and "model.safetensors" in honest["files"]
    other = OTHERS["what decoders speak of"]
    assert outcome(other, as_folder, *method, command="classify") == honest


def test_an_answer_that_changes_is_seen(
    outcome: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above would pass for nothing if the release did not depend on the answers."""
    monkeypatch.setattr(base, "add_noise", lambda total, *_: total)
    honest = outcome(HONEST, as_folder, *MOMENTS)
    other = outcome(OTHERS["other pixels"], as_folder, *MOMENTS)
    assert honest["files"] != other["files"] and honest["printed"] == other["printed"]


@pytest.mark.parametrize("kind", ["zip", "webdataset", "parquet"])
def test_the_error_of_a_damaged_file_does_not_quote_it(
    outcome: Callable[..., dict[str, Any]], kind: str
) -> None:
    def cut(place: Path, cells: Cells) -> Path:
        path = WRITERS[kind](place, cells)
        # Every one of these loses what its format needs to be read at all.
        end = -30 if kind != "webdataset" else 512 + 100
        path.write_bytes(path.read_bytes()[:end])
        return path

    seen = [
        outcome(cells, cut, *MOMENTS)
        for cells in (HONEST, OTHERS["one record"], OTHERS["other names"])
    ]
    assert seen[0]["exit code"] == 3
    assert seen[1] == seen[0] and seen[2] == seen[0]


@pytest.mark.parametrize("where", ["base.add_noise", "integer_sums.total"])
def test_an_unforeseen_error_is_not_quoted(
    outcome: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fail(*arguments: Any, **_: Any) -> None:
        raise ValueError(f"PRIVATE {arguments!r}")

    monkeypatch.setattr(f"sfumato.privacy.answering.{where}", fail)
    honest = outcome(HONEST, as_folder, *MOMENTS)
    other = outcome(OTHERS["one record"], as_folder, *MOMENTS)
    assert honest["exit code"] == 1 and "PRIVATE" not in honest["printed"]
    assert honest == other
