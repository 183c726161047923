"""The private run folder: where a run keeps its answers and checkpoints so that it can go on.

Everything here lies outside the release. Answers are public once released, but they are stored
beside things that are not, so the folder is private as a whole and readable by its owner only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from numpy.typing import NDArray
from platformdirs import user_state_path

from sfumato.data.source import ImageSource, Place
from sfumato.disk import OWNER_ONLY, is_locked, private_folder, write_atomically
from sfumato.errors import LedgerError, UsageError
from sfumato.privacy.ledger import digest

LOCK = "run.lock"
FINGERPRINT = "fingerprint"
"""File in a run's folder: the form of the data set that its first query was computed on."""


def default_state() -> Path:
    """Where ledgers and private runs live unless ``--state`` says otherwise."""
    return Path(os.environ.get("SFUMATO_STATE") or user_state_path("sfumato"))


def state_of(source: ImageSource, state: Path | None = None) -> Path:
    """The resolved state folder, which neither holds the data set nor lies in it.

    Raises:
        UsageError: one lies in the other: private runs would be read as records, or records with
            the ledger be thrown away.
    """
    folder = (state or default_state()).resolve()
    if any(Place(str(folder)).overlaps(place) for place in source.places):
        raise UsageError(
            f"state={folder} lies in the data {source.name}, or around it. Give a --state folder "
            "beside the data."
        )
    return folder


def data_set_folder(state: Path, location_key: str) -> Path:
    """The private folder of one data set below ``state``: ledger and runs."""
    readable = "".join(c if c.isalnum() else "-" for c in location_key)[-40:].strip("-")
    return state / f"{readable}-{digest(location_key)[:12]}"


def insecure_folder(source: ImageSource, state: Path | None = None) -> Path:
    """The private folder of a data set's runs with a known seed, whose ledger counts nowhere."""
    return data_set_folder(state_of(source, state), f"{source.location_key} (insecure seed)")


class Run:
    """One run's private folder, held against other processes while it is open.

    Args:
        data_folder: the data set's private folder.
        run_id: name of the run.
        hold: lock it; other ranks of the same run do not.

    Raises:
        LedgerError: another process is working on the same run.
    """

    def __init__(self, data_folder: Path, run_id: str, hold: bool = True) -> None:
        self.id = run_id
        self.folder = data_folder / "runs" / run_id
        private_folder(self.folder)
        self._lock = FileLock(self.folder / LOCK, timeout=0, mode=OWNER_ONLY)
        try:
            if hold:
                self._lock.acquire()
        except Timeout as error:
            raise LedgerError(
                f"run {run_id} is being worked on by another process. Wait for it, or pass "
                "--fresh (fresh=True) to charge a second run."
            ) from error

    def release(self) -> None:
        """Let other processes have the run."""
        self._lock.release()

    def is_same_data(self, fingerprint: str) -> bool:
        """Whether the data set has not changed since the run's first query was computed.

        Raises:
            LedgerError: the disk refuses to store the first fingerprint, or it was lost.
        """
        path = self.folder / FINGERPRINT
        if not path.exists():
            if any(self.folder.glob("steps-*/[0-9]*")):
                raise self._damaged(path)
            store(path, fingerprint.encode())
        return path.read_bytes() == fingerprint.encode()

    def _damaged(self, path: Path) -> LedgerError:
        return LedgerError(
            f"{path} is missing or damaged, but this run has answered; a query is never answered "
            "twice. Restore the file, or pass --fresh (fresh=True) to charge a new run."
        )


def is_running(run_folder: Path) -> bool:
    """Whether a process holds the run of this folder just now."""
    return is_locked(run_folder / LOCK)


def answer_digest(answer: NDArray[Any]) -> str:
    """SHA-256 that ties an answer to its ledger entry."""
    ordered = answer.astype(answer.dtype.newbyteorder("<"))
    return digest([list(answer.shape), ordered.tobytes().hex()])


def store(path: Path, content: bytes) -> None:
    """Replace ``path`` durably by what an answer rests on.

    Raises:
        LedgerError: the disk refuses; then nothing may leave the curator.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be written ({error.strerror}), so nothing is answered. Free the "
            "disk and run the same command again: it goes on where it was."
        ) from error
