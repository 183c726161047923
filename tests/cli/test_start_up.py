"""Commands that compute nothing start at once: PyTorch alone takes two seconds to load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from sfumato.methods.registry import BUILT_IN

HEAVY = ("torch", "sklearn", "matplotlib")

PROGRAM = f"""
import sys
from typer.testing import CliRunner
from sfumato.cli.app import app
commands = [line.split("\\t") for line in sys.stdin.read().splitlines()]
for command in commands:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (command, result.output, result.exception)
    loaded = [name for name in {HEAVY} if name in sys.modules]
    assert not loaded, (command, loaded)
"""


def test_plan_of_every_method_ledger_and_help_load_no_network(tmp_path: Path) -> None:
    source = ["digits", "--state", str(tmp_path / "state")]
    commands = [["--help"], ["methods", "--help"], ["ledger", *source]]
    public = tmp_path / "public.npz"
    np.savez(public, images=np.zeros((20, 28, 28), np.uint8))
    for name in BUILT_IN:
        given = ["--public", str(public)] if name == "guided" else []
        few = ["--set", "steps=5"] if name in ("dpdm", "dpgan", "dpaf", "dp-sgd") else []
        batch = ["--set", "batch=64"] if few else []
        size = ["--declared-size", "1797"]
        commands.append(
            ["plan", *source, "--epsilon", "1", "--method", name, *size, *few, *batch, *given]
        )
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="\n".join("\t".join(command) for command in commands),
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
