"""One run as a process of its own: ``python -m sfumato.app.child FOLDER``.

It outlives the page. ``FOLDER/run.json`` says what to do; how far it is, how it ended and what it
said are written beside it. Whoever finds the lock free knows that it is not alive.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from filelock import FileLock, Timeout

from sfumato import progress
from sfumato.app.worker import run_command
from sfumato.disk import write_atomically

LOCK, PID, PROGRESS, EXIT = "child.lock", "child.pid", "progress.json", "exit"
SECONDS_BETWEEN = 0.25


class Recorder:
    """Writes the stages that are done and the share of the present one to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: list[str] = []
        self._stage, self._begun, self._started, self._written = "", 0.0, 0.0, 0.0

    def __call__(self, stage: str, share: float) -> None:
        """Take the share that is done of a stage."""
        now = time.monotonic()
        if stage != self._stage:
            if self._stage:
                self._done.append(self._stage)
            self._stage, self._begun, self._started = stage, share, now
        elif share < 1 and now - self._written < SECONDS_BETWEEN:
            return
        made = share - self._begun
        left = (now - self._started) * (1 - share) / made if made > 0 else None
        shown = {"done": self._done, "stage": stage, "share": share, "left": left}
        part = self._path.with_suffix(".part")  # the page reads at any moment
        part.write_text(json.dumps(shown), encoding="utf-8")
        os.replace(part, self._path)
        self._written = now


def work(folder: Path) -> int:
    """Do what ``folder`` says, or go on with it; the exit code of the command line."""
    asked = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    release = Path(asked["out"])
    progress.listen(Recorder(folder / PROGRESS))
    code = 0
    # Killed after the release was moved into place and before its end was noted: nothing to do.
    if not (release / "certificate.json").exists():
        code = run_command(asked["arguments"])
    if code == 0 and not (release / "report.html").exists():
        code = run_command(["report", str(release)])
    return code


def main(folder: Path) -> int:
    """Hold the run's lock while working, and leave the exit code behind."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=5)  # whoever only looks holds it for a moment
    except Timeout:
        return 0
    (folder / EXIT).unlink(missing_ok=True)
    (folder / PID).write_text(str(os.getpid()))
    try:
        code = work(folder)
    except KeyboardInterrupt:
        code = 130
    write_atomically(folder / EXIT, str(code).encode())
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
