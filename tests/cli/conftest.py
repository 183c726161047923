"""The command line in process and as a real program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import sfumato

Run = Callable[..., Result]
Program = Callable[..., "subprocess.Popen[str]"]

QUICK = ["--method", "moments", "--set", "coefficients=6"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "ledgers"


@pytest.fixture
def run(state: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line in this process; its ledgers are in ``state``."""
    monkeypatch.setenv("SFUMATO_STATE", str(state))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Result:
        from sfumato.cli.app import app

        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def program(state: Path) -> Program:
    """Start the command line as a program of its own."""

    def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
        source = str(Path(sfumato.__file__).parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": source,
            "SFUMATO_STATE": str(state),
            "OMP_NUM_THREADS": "1",
        }
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, "-m", "sfumato", *map(str, arguments)]
        return subprocess.Popen(command, env=environment, text=True, **streams)  # type: ignore[call-overload,no-any-return]

    return start
