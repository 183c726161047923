"""`sfumato doctor` names what is there and what is missing, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import sfumato
from sfumato.cli.commands import doctor


def test_it_names_version_state_folder_and_extras(run: Callable, tmp_path: Path) -> None:
    found = json.loads(run("doctor", "--json", "--state", tmp_path / "none").stdout)
    assert found["sfumato"] == sfumato.__version__
    assert found["state"] == str(tmp_path / "none") and found["state_writable"]
    assert "encoders" in found["extras"] and "test" not in found["extras"]
    assert not (tmp_path / "none").exists()


def test_a_missing_extra_comes_with_the_command_that_adds_it(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["no-such-package>=1; extra == 'far'", "torch>=1; extra == 'near'"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    printed = run("doctor").stdout
    assert "pip install 'sfumato[far]'" in printed and "no-such-package" in printed
    assert "[near]" not in printed


def test_a_state_folder_that_cannot_be_written_is_said(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = json.loads(run("doctor", "--json", "--state", tmp_path / "file" / "state").stdout)
    assert not found["state_writable"]
