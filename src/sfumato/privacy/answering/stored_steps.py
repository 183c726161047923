"""The answers of a query that is asked step by step: each on disk before it leaves, none twice.

A killed run is given the same answers again, whatever it asks with; ``docs/proofs.md``, "Resume".
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from sfumato.disk import private_folder
from sfumato.errors import UsageError
from sfumato.privacy.noise.keys import Key
from sfumato.privacy.queries.kinds import StepQuery
from sfumato.privacy.run import store
from sfumato.privacy.sealed import sealed, unsealed


@runtime_checkable
class Stepwise(Protocol):
    """Answers a query step by step."""

    def forget(self, before: int) -> None:
        """Drop what was stored for the steps before ``before``."""


class StepAnswers:
    """The stored answers of ``query`` in a run's private folder."""

    def __init__(self, query: StepQuery, run_folder: Path) -> None:
        self.query, self.folder = query, steps_folder(run_folder, query)
        private_folder(self.folder)

    def stored(self, step: int) -> dict[str, Tensor]:
        """The answer of ``step`` (from 0), by name; empty for the next step, which has none yet.

        Raises:
            UsageError: the step is not the next one and is not stored.
            LedgerError: the stored answer is damaged.
        """
        path = self._path(step)
        if path.exists():
            return unsealed(
                path,
                "It was answered, and a step is never answered twice: restore the file, or pass "
                "--fresh to charge a new run.",
            )
        newest = self.newest()
        if step != newest + 1 or step >= self.query.steps:
            raise UsageError(
                f"query {self.query.name!r}: step={step} must be the next one, {newest + 1}, of "
                f"{self.query.steps}, or one that is still stored."
            )
        return {}

    def newest(self) -> int:
        """The last step that was answered; -1 before the first."""
        return max((int(found.stem) for found in self._files()), default=-1)

    def keep(self, step: int, answer: dict[str, Tensor]) -> None:
        """Store an answer durably; only then may it leave.

        Raises:
            LedgerError: the disk refuses.
        """
        store(self._path(step), sealed(answer))

    def forget(self, before: int) -> None:
        """Drop the answers of steps before ``before``; the newest is always kept."""
        for path in self._files()[:-1]:
            if int(path.stem) < before:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.safetensors"))

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:08d}.safetensors"


def forget_secrets(run_folder: Path) -> None:
    """Destroy a closed run's key and remove what was stored for its steps, if anything is left."""
    Key.destroy(run_folder)
    for folder in run_folder.glob("steps-*"):
        shutil.rmtree(folder, ignore_errors=True)


def steps_folder(run_folder: Path, query: StepQuery) -> Path:
    """Where a query's stored answers lie in its run's folder."""
    return run_folder / f"steps-{query.name}"
