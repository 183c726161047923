"""The process that runs short commands of the command line for the page, one after the other.

It imports PyTorch once, so that a plan takes a moment and not seconds. ``python -m
sfumato.app.worker`` reads one JSON request a line from standard input and writes one JSON answer a
line; :class:`Worker` is the page's end of that pipe.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Lock
from typing import Any

from sfumato.errors import SfumatoError


class CommandError(SfumatoError):
    """A command ended with an error; the message is the one that it printed."""


def run_command(arguments: list[str]) -> int:
    """Run ``sfumato ARGUMENTS`` in this process, as ``python -m sfumato.cli``; its exit code."""
    before, sys.argv = sys.argv, ["sfumato", *arguments]
    try:
        runpy.run_module("sfumato.cli", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0


def last_message(errors: str) -> str:
    """What a command said when it failed, without the program's name and the progress before it."""
    lines = [line for line in errors.splitlines() if line.strip()]
    start = next((at for at, line in enumerate(lines) if line.startswith("sfumato: ")), 0)
    message = "\n".join(lines[start:]).removeprefix("sfumato: ")
    return message or "the command ended without a word: it was killed, or memory ran out."


class Worker:
    """The page's end: starts the process when first asked, and again if it has died."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None

    def command(self, *arguments: str) -> dict[str, Any]:
        """The JSON object that ``sfumato ARGUMENTS --json`` prints.

        Raises:
            CommandError: it failed.
        """
        answer = self._ask({"arguments": [*arguments, "--json"]})
        if answer["code"] != 0:
            raise CommandError(last_message(answer["errors"]))
        printed: dict[str, Any] = json.loads(answer["output"])
        return printed

    def facts(self) -> dict[str, Any]:
        """The methods, the known names of data, and three commands' options with their help."""
        return self._ask({"facts": True})

    def odds(self, plan: dict[str, Any]) -> dict[str, Any]:
        """What a plan, as the command prints it, leaves to somebody who guesses."""
        return self._ask({"odds": plan})

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "sfumato.app.worker"],
                    cwd=self._folder,
                    env=environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C in the terminal is for the page alone
                )
            assert self._process.stdin is not None and self._process.stdout is not None
            try:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline()
            except OSError:
                line = ""
        if not line:
            raise CommandError("the process that was to do this ended. Try it again.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment() -> dict[str, str]:
    """This process's environment, with text in UTF-8 whatever the system's locale is."""
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    if "arguments" in request:
        # Real text files over memory: the command line may look at their encoding.
        output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        with redirect_stdout(output), redirect_stderr(errors):
            code = run_command(request["arguments"])
        return {"code": code, "output": _text(output), "errors": _text(errors)}
    if "odds" in request:
        return _odds(request["odds"])
    return _facts()


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    content: bytes = stream.buffer.getvalue()  # type: ignore[attr-defined]
    return content.decode()


def _odds(plan: dict[str, Any]) -> dict[str, Any]:
    from sfumato.privacy import Event
    from sfumato.release.verification.numbers import factor, percent, scientific
    from sfumato.reporting.odds import make_odds

    relation = plan["budget"]["relation"]
    epsilon = plan["epsilon_by_relation"][relation]
    odds = make_odds(relation, epsilon, [Event.from_dict(event) for event in plan["events"]])
    return {
        "strength": odds.strength,
        "factor": factor(epsilon),
        "missed": scientific(odds.missed),
        "best_guess": percent(odds.best_guess),
        "guesses": [(percent(prior), percent(odds.most(prior))) for prior in (0.01, 0.1, 0.5)],
    }


def _facts() -> dict[str, Any]:
    from importlib import import_module

    import typer

    from sfumato.data.readers.named import NAMED
    from sfumato.methods.registry import IMAGES, method_names

    # By name: the page is below the command line, and runs it as a program does.
    program: Any = typer.main.get_command(import_module("sfumato.cli.app").app)
    helps = {
        command: {
            option.opts[0].removeprefix("--"): getattr(option, "help", None) or ""
            for option in program.commands[command].params
        }
        for command in ("ledger", "plan", "synthesize")
    }
    return {"methods": method_names(IMAGES), "named": list(NAMED), "options": helps}


def main() -> None:
    """Answer requests until standard input ends."""
    # Nothing else may write where the answers go.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
