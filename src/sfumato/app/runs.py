"""Runs that the page has started: each a folder below the private state folder, and a process."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from sfumato.app.child import EXIT, LOCK, PID, PROGRESS
from sfumato.app.worker import environment, last_message
from sfumato.disk import is_locked, private_folder, write_atomically
from sfumato.errors import UsageError

State = Literal["running", "finished", "stopped", "failed"]

ERRORS = "errors.txt"
INTERRUPTED = 130
START_SECONDS = 30.0
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Run:
    """What was asked for: a data set, its ledger, the release's folder, the command's arguments.

    ``data_set`` holds the location as ``data``, and what was said of the images.
    """

    id: str
    started: str
    data_set: dict[str, str]
    ledger: str
    out: str
    arguments: list[str]

    @property
    def data(self) -> str:
        """Where the images are."""
        return self.data_set["data"]

    @property
    def release(self) -> Path:
        """The folder of the release."""
        return Path(self.out)


class Runs:
    """All runs below ``folder``, which only its owner may read; it is created."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        private_folder(folder)
        self._starting = Lock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def all(self) -> list[Run]:
        """Every run, the newest first."""
        found = [
            self.find(path.name) for path in self._folder.iterdir() if _ID.fullmatch(path.name)
        ]
        return sorted((run for run in found if run), key=lambda run: run.id, reverse=True)

    def find(self, id: str) -> Run | None:
        """The run of that name, if there is one."""
        if not _ID.fullmatch(id):
            return None
        try:
            return Run(**json.loads((self._folder / id / "run.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def start(
        self, data_set: dict[str, str], ledger: str, out: Path, arguments: Sequence[str]
    ) -> Run:
        """Begin a run in a process of its own.

        Raises:
            UsageError: another run on the same data is not over, or its release is in the way.
        """
        now = datetime.now(timezone.utc)
        id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        started = now.isoformat(timespec="seconds")
        run = Run(id, started, data_set, ledger, str(out), list(arguments))
        with self._starting:
            self._check_alone(run)
            folder = self._folder / id
            private_folder(folder)
            write_atomically(folder / "run.json", json.dumps(asdict(run)).encode())
            self._launch(run)
        return run

    def resume(self, run: Run) -> None:
        """Go on with a run that was stopped or has failed; it is charged once.

        Raises:
            UsageError: it is running or finished, or another run on the same data is not over.
        """
        with self._starting:
            if self.state(run) in ("running", "finished"):
                raise UsageError("This run is not waiting to go on.")
            self._check_alone(run)
            self._launch(run)

    def cancel(self, run: Run) -> None:
        """Interrupt a run as Ctrl-C does; it keeps what it has."""
        if self.state(run) == "running":
            try:
                os.kill(int((self._folder / run.id / PID).read_text()), signal.SIGINT)
            except (OSError, ValueError):  # it has just ended
                pass

    def state(self, run: Run) -> State:
        """How a run stands; the word of the disk, whichever server began it."""
        child = self._children.get(run.id)
        # Another server may have gone on with what this one began: the lock has the last word.
        if (child is not None and child.poll() is None) or is_locked(self._folder / run.id / LOCK):
            return "running"
        try:
            code = int((self._folder / run.id / EXIT).read_text())
        except (OSError, ValueError):  # killed, or the machine went down
            return "stopped"
        return {0: "finished", INTERRUPTED: "stopped"}.get(code, "failed")  # type: ignore[return-value]

    def progress(self, run: Run) -> dict[str, Any]:
        """The stages that are done and the share of the present one; empty before the first."""
        try:
            shown: dict[str, Any] = json.loads((self._folder / run.id / PROGRESS).read_bytes())
        except (OSError, ValueError):
            return {}
        return shown

    def message(self, run: Run) -> str:
        """Why a run has failed."""
        try:
            text = (self._folder / run.id / ERRORS).read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        return last_message(text)

    def _check_alone(self, run: Run) -> None:
        for other in self.all():
            if other.id == run.id or self.state(other) != "running":
                continue
            if other.ledger == run.ledger:
                raise UsageError(
                    f"A run on {run.data} is going on already, since {other.started}. Wait for it, "
                    "or cancel it: two runs on the same data would both be charged."
                )
            if other.out == run.out:
                raise UsageError(f"Another run is making {run.out}. Choose another name.")

    def _launch(self, run: Run) -> None:
        folder = self._folder / run.id
        for old in (EXIT, PID, PROGRESS):
            (folder / old).unlink(missing_ok=True)
        with open(folder / ERRORS, "wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", "sfumato.app.child", str(folder)],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # it outlives the page and its terminal
            )
        self._children[run.id] = child
        limit = time.monotonic() + START_SECONDS
        while not (folder / PID).exists() and child.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
