"""Public images are refused where private ones lie, by their paths and by nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.checks import check_public
from sfumato.data import DataOptions, open_images
from sfumato.errors import UsageError
from sfumato.options import MethodOptions
from sfumato.planning import plan
from sfumato.pretraining import pretrain
from sfumato.privacy import Budget
from sfumato.privacy.spending import ledger_of
from sfumato.synthesis import synthesize


def pictures(folder: Path, seed: int = 0) -> Path:
    """Four images in two classes."""
    random = np.random.default_rng(seed)
    for place in ("a/0", "a/1", "b/0", "b/1"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    return folder


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return pictures(tmp_path / "private")


def check(public: Path, private: Path | None, state: Path) -> None:
    open_private = None if private is None else open_images(private)
    check_public(open_images(public, classes=0), open_private, state)


@pytest.mark.parametrize("lies", ["there", "in it", "around it", "behind a link"])
def test_public_images_in_the_private_ones_are_refused(
    private: Path, tmp_path: Path, lies: str
) -> None:
    (tmp_path / "link").symlink_to(private)
    public = {"there": private, "in it": private / "a", "around it": tmp_path}
    with pytest.raises(UsageError, match=r"overlaps .*private"):
        check(public.get(lies, tmp_path / "link"), private, tmp_path.parent / "state")


def test_another_name_of_one_file_is_refused(tmp_path: Path) -> None:
    one, other, copy = (tmp_path / f"{name}.npz" for name in ("one", "other", "copy"))
    np.savez(one, images=np.zeros((4, 28, 28), np.uint8), labels=np.arange(4) % 2)
    os.link(one, other)
    shutil.copy(one, copy)
    source = open_images(one, classes=2)
    with pytest.raises(UsageError, match="overlaps"):
        check_public(open_images(other, classes=0), source, tmp_path / "state")
    check_public(open_images(copy, classes=0), source, tmp_path / "state")


def test_nothing_that_the_records_hold_decides(private: Path, tmp_path: Path) -> None:
    """The very images, the same but for one, and others: the same outcome for all of them."""
    same, fewer = (shutil.copytree(private, tmp_path / name) for name in ("same", "fewer"))
    (fewer / "b" / "1.png").unlink()
    for public in (same, fewer, pictures(tmp_path / "other", 1)):
        check(public, private, tmp_path / "state")


def test_what_has_a_ledger_is_private(private: Path, tmp_path: Path) -> None:
    other, state = pictures(tmp_path / "other", 1), tmp_path / "state"
    check(private, other, state)
    check(private, None, state)
    ledger_of(open_images(private), state).set_cap(Budget(epsilon=1.0, delta=1e-5))
    for data in (other, None):
        with pytest.raises(UsageError, match=f"overlaps {private}"):
            check(private / "a", data, state)
    check(private, other, tmp_path / "another state")


def test_commands_refuse_before_anything_is_charged_or_written(
    private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("SFUMATO_STATE", str(state))
    chosen = {"method": "pe", "public": private / "a"}
    with pytest.raises(UsageError, match="overlaps"):
        synthesize(private, epsilon=1.0, out=tmp_path / "out", quiet=True, **chosen)
    with pytest.raises(UsageError, match="overlaps"):
        budget = Budget(epsilon=1.0, delta=1e-5)
        plan(open_images(private, DataOptions()), budget, MethodOptions(**chosen), None)
    assert not list(state.glob("*/ledger.jsonl"))
    ledger_of(open_images(private), None).set_cap(budget)
    with pytest.raises(UsageError, match="overlaps"):
        pretrain(private, out=tmp_path / "model", quiet=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["private", "state"]
