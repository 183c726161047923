from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sfumato.data import load_labelled, open_images
from sfumato.data.spec import PublicSpec
from sfumato.errors import CertificateError, UsageError
from sfumato.methods import base
from sfumato.methods.base import Batch
from sfumato.release import attach_report, check_target, read_certificate, verify, write_release

CLASSES = tuple(str(digit) for digit in range(10))


class Embedding:
    def __init__(self, name: str) -> None:
        self.name = name

    def save(self, path: Path) -> None:
        save_file({self.name: np.zeros(3)}, path, metadata={"format": "x", "embedding": "{}"})


class Model(base.Model):
    """A model of the honest release's form that draws noise."""

    def __init__(self, tensor: str = "weights", embedding: str | None = None) -> None:
        self.tensor = tensor
        self.embedding = None if embedding is None else Embedding(embedding)

    @property
    def spec(self) -> PublicSpec:
        return PublicSpec(28, 28, 1, CLASSES)

    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        for start in range(0, count, 16):
            labels = np.arange(start, min(start + 16, count)) % 10
            yield rng.integers(0, 256, (len(labels), 1, 28, 28), dtype=np.uint8), labels

    def tensors(self) -> dict[str, Any]:
        return {self.tensor: np.arange(12, dtype=np.float32).reshape(3, 4).T}

    def config(self) -> dict[str, Any]:
        return {"width": 3}

    @classmethod
    def load(cls, spec: Any, config: Any, tensors: Any) -> base.Model:
        raise NotImplementedError


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
    assert (load_file(out / "model.safetensors")["weights"] == Model().tensors()["weights"]).all()


def test_an_embedding_is_released_where_the_model_has_one(
    tmp_path: Path, core: dict[str, Any]
) -> None:
    out = write(tmp_path / "out", core, Model(embedding="total"))
    verify(out)
    assert "embedding.safetensors" in read_certificate(out)["files"]
    assert not (write(tmp_path / "other", core) / "embedding.safetensors").exists()


def test_all_files_can_be_read_by_whom_the_card_can(tmp_path: Path, core: dict[str, Any]) -> None:
    out = write(tmp_path / "out", core, Model(embedding="total"))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir() if path.is_file()}
    assert len(modes) == 1


@pytest.mark.parametrize("model", [Model(tensor="teacher"), Model(embedding="raw_sum")])
def test_what_would_not_verify_is_not_published(
    tmp_path: Path, core: dict[str, Any], model: Model
) -> None:
    with pytest.raises(CertificateError, match="not published"):
        write(tmp_path / "out", core, model)
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
    attach_report(out, b"<p>honest</p>")
    verify(out)
    attach_report(out, b"<p>from /home/me/xrays</p>")
    with pytest.raises(CertificateError, match="absolute path"):
        verify(out)
