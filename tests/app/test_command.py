"""``sfumato app`` as a command, and the process that runs commands for it."""

from __future__ import annotations

import math
import re
import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfumato.app.worker import CommandError, Worker
from sfumato.cli.app import app

OPTIONS = ["app", "--no-browser"]


def test_the_command_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sfumato.app.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ended = CliRunner().invoke(app, OPTIONS)
    assert ended.exit_code == 2
    assert "pip install 'sfumato[app]'" in ended.stderr


def test_a_port_that_is_taken_and_a_root_that_is_none_are_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = CliRunner().invoke(app, [*OPTIONS, "--state", str(tmp_path), "--port", port])
    assert ended.exit_code == 2 and "Leave it out" in ended.stderr
    gone = ["--root", str(tmp_path / "gone"), "--state", str(tmp_path)]
    ended = CliRunner().invoke(app, [*OPTIONS, *gone])
    assert ended.exit_code == 2 and "must be a folder" in ended.stderr


def test_the_process_for_commands_answers_like_the_command_line_and_comes_back(
    tmp_path: Path,
) -> None:
    worker = Worker(tmp_path)
    state = f"--state={tmp_path / 'state'}"
    try:
        for wrong in ("--epsilon=-1", "--epsilon=many"):
            with pytest.raises(CommandError) as refused:
                worker.command("plan", "digits", wrong, state)
            assert "epsilon" in str(refused.value) and "Traceback" not in str(refused.value)
        settings = ["--epsilon=1", "--method=moments", "--relation=replace-one"]
        plan = worker.command("plan", "digits", *settings, state)
        assert plan["epsilon_by_relation"]["replace-one"] == pytest.approx(1, rel=1e-3)
        odds = worker.odds(plan)
        assert odds["factor"] == f"{math.e:.3g}" and odds["strength"] == "strong"
        most = [float(re.sub(r"[^\d.]", "", after)) for _, after in odds["guesses"]]
        odds_after = [math.e * prior / (1 - prior) for prior in (0.01, 0.1, 0.5)]
        assert most == pytest.approx([100 * o / (1 + o) for o in odds_after], abs=0.05)
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        assert "moments" in worker.facts()["methods"]
    finally:
        worker.close()
