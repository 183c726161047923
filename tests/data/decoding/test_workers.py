"""Decoding by worker processes: the same bytes in order, silent, and an error if one is killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data import open_images
from sfumato.data.decoding import workers
from sfumato.data.decoding.decode import quiet
from sfumato.data.options import DataOptions
from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError, UsageError

SPEC = PublicSpec(28, 28, 3, ())
TWO = DataOptions(workers=2)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HEAD_RECORDS", 5)
    monkeypatch.setattr(workers, "PIECE_RECORDS", 4)


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 31, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def records() -> list[workers.Labelled]:
    """Encoded ones, broken ones, a TIFF that libtiff complains of, arrays and none."""
    found: list[workers.Labelled] = [(encoded(seed), seed % 3) for seed in range(40)]
    found[7] = (b"no image", 1)
    found[11] = (None, None)
    found[12] = (np.full((3, 28, 28), 7, np.uint8), 2)
    tiff = encoded(1, "TIFF")
    found[20] = (tiff[: len(tiff) // 2], 0)
    found[21] = (b"", None)
    return found


def listed(records: list[workers.Labelled], options: DataOptions) -> list[tuple]:
    with quiet():
        return [
            (None if pixels is None else pixels.tobytes(), label)
            for pixels, label in workers.decoded(records, SPEC, options)
        ]


def test_the_same_bytes_come_in_the_same_order_and_nothing_is_said(records, capfd) -> None:
    assert listed(records, TWO) == listed(records, DataOptions())
    assert capfd.readouterr() == ("", "")
    assert active_children() == []


def test_few_records_start_no_process(records, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(workers, "_started", refuse)
    listed(records[:5], TWO)
    listed(records, DataOptions(workers=1))
    with pytest.raises(AssertionError):
        listed(records[:6], TWO)


def test_a_killed_worker_is_one_sentence(records) -> None:
    found = workers.decoded(records * 20, SPEC, TWO)
    with pytest.raises(DataError, match=r"^a process that decodes images has ended before"):
        for number, _ in enumerate(found):
            if number == 10:
                for child in active_children():
                    os.kill(child.pid or 0, signal.SIGKILL)
    assert active_children() == []


def test_a_pass_that_is_left_ends_its_workers(records) -> None:
    found = workers.decoded(records * 20, SPEC, TWO)
    for _ in range(10):
        next(found)
    assert active_children()
    found.close()
    assert active_children() == []


def test_what_a_worker_says_goes_nowhere(records, capfd, tmp_path, monkeypatch) -> None:
    """A decoder that prints, warns and logs, put in the worker's place by a startup file."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('spawn_main' in word for word in sys.orig_argv):\n"
        "    from PIL import JpegImagePlugin\n"
        "    kept = JpegImagePlugin.JpegImageFile._open\n"
        "    def loud(self):\n"
        "        import logging, os, warnings\n"
        "        print('SECRET'); os.write(1, b'SECRET'); os.write(2, b'SECRET')\n"
        "        warnings.warn('SECRET'); logging.getLogger('PIL').critical('SECRET')\n"
        f"        open({str(tmp_path / 'seen')!r}, 'w').close()\n"
        "        return kept(self)\n"
        "    JpegImagePlugin.JpegImageFile._open = loud\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    assert listed(records, TWO) == listed(records, DataOptions())
    assert (tmp_path / "seen").exists()
    assert "SECRET" not in "".join(capfd.readouterr())


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    """A started process that ran it again would start processes itself, which Python refuses."""
    (tmp_path / "images").mkdir()
    for number in range(12):
        (tmp_path / "images" / f"{number:02}.jpg").write_bytes(encoded(number))
    script = tmp_path / "script.py"
    script.write_text(
        "from sfumato.data import open_images\n"
        "from sfumato.data.decoding import workers\n"
        "print('begun')\n"
        "workers.HEAD_RECORDS = 5\n"
        f"source = open_images({str(tmp_path / 'images')!r}, classes=0, workers=2)\n"
        "print(sum(len(images) for images, _ in source.batches(4)))\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert (said.stdout.split(), said.stderr) == (["begun", "12"], "")


def test_a_reader_uses_them_and_ranks_decode_their_own(records, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number, (data, _) in enumerate(records):
        if isinstance(data, bytes):
            (tmp_path / "a" / f"{number:02}.jpg").write_bytes(data)

    def read(**stated: object) -> list[np.ndarray]:
        return [images for images, _ in open_images(tmp_path, **stated).batches(8)]

    np.testing.assert_array_equal(np.concatenate(read(workers=2)), np.concatenate(read()))
    source = open_images(tmp_path, workers=2)
    halves = [list(source.batches(8, lambda number, of=of: number % 2 == of)) for of in (0, 1)]
    merged = [halves[number % 2][number] for number in range(len(halves[0]))]
    np.testing.assert_array_equal(np.concatenate([i for i, _ in merged]), np.concatenate(read()))
    assert all((labels == -1).all() and not images.any() for images, labels in halves[0][1::2])


@pytest.mark.parametrize("stated", [0, -1, 10_000, True])
def test_a_number_of_workers_outside_its_rule_is_refused(stated) -> None:
    with pytest.raises(UsageError, match=r"workers=.* must be an integer from 1 to 512"):
        DataOptions(workers=stated)
