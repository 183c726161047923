"""Private files are their owner's alone, whatever the umask and whatever was there before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from sfumato.disk import append_durably, is_locked, private_folder, write_atomically, write_private


@pytest.fixture(params=[0, 0o022, 0o777], ids=["open", "usual", "closed"], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", [write_atomically, append_durably, write_private])
def test_files_are_the_owners_only(tmp_path: Path, write: object) -> None:
    path = tmp_path / "file"
    write(path, b"private")
    assert mode(path) == 0o600 and path.read_bytes() == b"private"
    path.chmod(0o644)
    write(path, b"again")
    assert mode(path) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_folders_are_the_owners_only_from_the_first_that_was_missing(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    made = private_folder(tmp_path / "state" / "set" / "run")
    for folder in (made, made.parent, made.parent.parent):
        assert mode(folder) == 0o700
    assert mode(tmp_path) == 0o755
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        private_folder(tmp_path / "file")


def test_a_pipe_is_written_and_keeps_its_mode(tmp_path: Path) -> None:
    write_private(Path(os.devnull), "text")
    assert mode(Path(os.devnull)) & 0o666 == 0o666


def test_a_lock_is_seen_while_it_is_held_and_no_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    assert not is_locked(path)
    with FileLock(path):
        assert is_locked(path)
    assert not is_locked(path)
    assert not is_locked(tmp_path / "missing" / "run.lock")
    assert not (tmp_path / "missing").exists()
