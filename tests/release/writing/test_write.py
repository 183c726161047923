from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfumato.data import load_labelled, open_images
from sfumato.data.spec import PublicSpec
from sfumato.errors import CertificateError, UsageError
from sfumato.methods.base import Batch
from sfumato.methods.gaussian import Gaussians
from sfumato.methods.moments.model import MomentModel
from sfumato.release import attach_report, check_target, verify, write_release
from sfumato.reporting import write_report

CLASSES = tuple(str(digit) for digit in range(10))


class Model(MomentModel):
    """The model that the honest release's method makes, of random moments."""

    embedding: Any = None
    more: str | None = None
    """The name of a tensor that no such model has."""

    def __init__(self, more: str | None = None) -> None:
        rng = np.random.default_rng(0)
        means, roots = rng.normal(size=(10, 6)), rng.normal(size=(6, 10, 6)).swapaxes(0, 1)
        gaussians = Gaussians(means.astype(np.float32), roots.astype(np.float32))
        super().__init__(PublicSpec(28, 28, 1, CLASSES), np.full(10, 60.0), gaussians, 6)
        object.__setattr__(self, "more", more)

    def tensors(self) -> dict[str, Any]:
        return super().tensors() | ({self.more: np.zeros(3)} if self.more else {})


def write(out: Path, core: dict[str, Any], model: Model | None = None, **options: Any) -> Path:
    model = model or Model()
    return write_release(out, model, core, model.sample(40), **options)


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_a_release_verifies_and_is_read_back_in_label_order(
    tmp_path: Path, core: dict[str, Any], form: str
) -> None:
    out = write(tmp_path / "out", core, format=form)
    assert verify(out).samples == 40
    back = load_labelled(open_images(out))
    assert back.classes == CLASSES
    expected = np.concatenate([images for images, _ in Model().sample(40)])
    order = np.lexsort(back.images.reshape(40, -1).T)
    assert (back.images[order] == expected[np.lexsort(expected.reshape(40, -1).T)]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_hugging_face_loads_it_by_the_card(
    tmp_path: Path, core: dict[str, Any], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets  # slow to import

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    out = write(tmp_path / "out", core, format=form)
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 40


def test_the_model_is_saved_whatever_its_memory_layout(
    tmp_path: Path, core: dict[str, Any]
) -> None:
    from safetensors.numpy import load_file

    out = write(tmp_path / "out", core)
    roots = Model().tensors()["roots"]
    assert not roots.flags["C_CONTIGUOUS"]
    assert (load_file(out / "model.safetensors")["roots"] == roots).all()


def test_all_files_can_be_read_by_whom_the_card_can(tmp_path: Path, core: dict[str, Any]) -> None:
    out = write(tmp_path / "out", core)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir() if path.is_file()}
    assert len(modes) == 1


@pytest.mark.parametrize("name", ["teacher", "more"])
def test_what_would_not_verify_is_not_published(
    tmp_path: Path, core: dict[str, Any], name: str
) -> None:
    with pytest.raises(CertificateError, match="not published"):
        write(tmp_path / "out", core, Model(name))
    assert list(tmp_path.iterdir()) == []


def test_a_false_core_is_not_published(tmp_path: Path, core: dict[str, Any]) -> None:
    core["events"][0]["noise_std"] /= 2
    with pytest.raises(CertificateError, match="not published"):
        write(tmp_path / "out", core)


def test_a_crash_while_writing_leaves_the_old_release(tmp_path: Path, core: dict[str, Any]) -> None:
    out = write(tmp_path / "out", core)
    before = (out / "certificate.json").read_bytes()

    def crash() -> Iterator[Batch]:
        yield from Model().sample(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_release(out, Model(), core, crash(), force=True)
    assert (out / "certificate.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")
def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_is_not(
    tmp_path: Path, core: dict[str, Any]
) -> None:
    import fcntl

    out = tmp_path / "a[b]"
    left = tmp_path / ".a[b].01234567.part"
    others = [tmp_path / name for name in (".ab.01234567.part", ".a[b].01234567.old", "a[b].part")]
    for folder in (left, *others):
        folder.mkdir()
        (folder / "x.png").write_bytes(b"x")
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)  # as another writer does
    write(out, core)
    assert left.exists()
    os.close(handle)
    write(out, core, force=True)
    assert not left.exists() and all((folder / "x.png").exists() for folder in others)
    assert verify(out).samples == 40


def test_a_release_is_replaced_only_by_force(tmp_path: Path, core: dict[str, Any]) -> None:
    out = write(tmp_path / "out", core)
    with pytest.raises(UsageError, match="--force"):
        write(out, core)
    write(out, core, format="parquet", force=True)
    assert verify(out).samples == 40
    assert not list(out.glob("images/*/*.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_no_release_is_never_replaced(tmp_path: Path, core: dict[str, Any]) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("x")
    file = tmp_path / "file"
    file.write_text("x")
    mixed = write(tmp_path / "mixed", core)
    (mixed / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(mixed)
    for place in (out, file, mixed, tmp_path / "link"):
        with pytest.raises(UsageError):
            check_target(place, force=True)
    assert (mixed / "notes.txt").read_text() == "mine"


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    check_target(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")


def test_a_report_is_part_of_the_release_once_attached(
    tmp_path: Path, core: dict[str, Any]
) -> None:
    out = write(tmp_path / "out", core)
    (out / "report.html").write_text("<p>")
    with pytest.raises(CertificateError, match=r"report\.html"):
        verify(out)
    write_report(out)
    verify(out)
    attach_report(out, b"<p>from /home/me/xrays</p>")
    with pytest.raises(CertificateError, match="absolute path"):
        verify(out)
