"""The command as a real process: what no call within this one can show."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import sfumato

Run = Callable[..., Result]
Program = Callable[..., "subprocess.Popen[str]"]
QUICK = ["--method", "moments", "--set", "coefficients=6"]


def test_help_does_not_wait_for_pytorch() -> None:
    source = str(Path(sfumato.__file__).parents[1])
    code = (
        "import sys; sys.argv = ['sfumato', 'synthesize', '--help']\n"
        "from sfumato.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'scipy', 'pyarrow', 'dp_accounting'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_remembered_plan_and_the_ledger_need_no_pytorch(run: Run, state: Path) -> None:
    plan = ["plan", "digits", "--epsilon", "1", *QUICK]
    assert run(*plan).exit_code == 0
    code = (
        "import sys\n"
        "from sfumato.cli import main\n"
        f"for command in ({plan}, ['ledger', 'digits']):\n"
        "    sys.argv = ['sfumato', *command]\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'sklearn', 'opendp'} & set(sys.modules)))"
    )
    source = str(Path(sfumato.__file__).parents[1])
    environment = {"PYTHONPATH": source, "SFUMATO_STATE": str(state)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_mistake_leaves_a_line_and_no_traceback(program: Program, tmp_path: Path) -> None:
    process = program("plan", tmp_path / "nothing", "--epsilon", 1)
    out, err = process.communicate()
    assert process.returncode == 3
    assert out == ""
    assert err.startswith("sfumato: ")
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error_of_ours(program: Program) -> None:
    process = program("ledger", "digits")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_leaves_a_run_that_goes_on_and_is_charged_once(
    program: Program, tmp_path: Path
) -> None:
    def job(samples: int) -> list[object]:
        return [
            "synthesize", "digits", "--epsilon", 1, "--out", tmp_path / "out" / "release",
            "--samples", samples, *QUICK,
        ]  # fmt: skip

    # A shell in the background may have told its children to ignore Ctrl-C; ours is to hear it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = program(*job(3_000_000))
    signal.signal(signal.SIGINT, before)
    while not list(tmp_path.glob("out/.release.*.part/images/*/*.png")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    process = program(*job(20), "--json")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["data_set_total"]["runs"] == 1
    assert "reading the private images" not in err  # the answer was kept
