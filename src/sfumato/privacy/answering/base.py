"""What answers a query: each answer noised once, on disk before it leaves, and never given anew.

An answer that was stored is given again, whatever it is asked with; one that was not stored was
seen by nobody and is computed anew, with fresh noise. ``docs/proofs/ledger.md``, "Resume".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from sfumato.data.decoding.decode import quiet
from sfumato.data.source import ImageSource
from sfumato.devices import CPU, TOO_LITTLE_MEMORY, free_memory
from sfumato.disk import private_folder
from sfumato.errors import DataError, LedgerError, SfumatoError, UsageError
from sfumato.privacy import distributed
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.family import DataSetLedger
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.noise.entropy import Stream, fresh_stream
from sfumato.privacy.noise.integer_gaussian import add_noise
from sfumato.privacy.noise.keys import RunKey
from sfumato.privacy.plan import Asker
from sfumato.privacy.queries.base import Query
from sfumato.privacy.records.decoded import Records
from sfumato.privacy.run import FINGERPRINT, Run, answer_digest, store
from sfumato.privacy.sealed import sealed, unsealed
from sfumato.progress import say

Asked = TypeVar("Asked", bound=Query)
Value = TypeVar("Value")

RESTORE = (
    "It was answered, and a query is never answered twice: restore the file, or pass --fresh "
    "(fresh=True) to charge a new run."
)


@dataclass(frozen=True)
class OpenRun:
    """What answering needs of a run that is open.

    Args:
        source: the private images.
        run: the run's private folder, on a file system that all ranks see.
        ledger: where complete answers are entered.
        quiet: show no progress.
        asker: who asks, for tasks on other machines.
        insecure_seed: noise and samples come from this seed; for tests.
        device: where the queries' functions compute.
    """

    source: ImageSource
    run: Run
    ledger: Ledger
    quiet: bool = True
    insecure_seed: int | None = None
    asker: Asker | None = None
    device: torch.device = CPU

    def key(self) -> RunKey:
        """The run's key, rank 0's on every rank; never for noise."""
        first = distributed.is_first()
        own = RunKey.of_run(self.run.folder, self.insecure_seed) if first else None
        return distributed.from_first(own)

    @cached_property
    def records(self) -> Records:
        """The private records, decoded once for all queries that read them again and again."""
        return Records(self.source, self.run.folder)

    def check_same_data(self) -> None:
        """Raise DataError where the data set has changed since the run's first answer.

        All ranks call this: they read the records together, and the first one tells a change.
        """
        if isinstance(self.ledger, DataSetLedger):
            self.ledger.sketch()  # before the first answer, so that copies are known from then on
        if distributed.is_first() and not self.run.is_same_data(self.source.fingerprint()):
            raise DataError(
                "the data set has changed since this run's first query was answered, so the next "
                "would describe other data. Restore it, or pass --fresh (fresh=True) to "
                "charge a new run."
            )

    def mention_change(self) -> None:
        """Say on standard error that the images are no longer those that were answered about."""
        known = (self.run.folder / FINGERPRINT).exists()
        if known and not self.run.is_same_data(self.source.fingerprint()):
            say(
                "the data set has changed since this run's answers were computed: the release "
                "describes the data as they were then. For the new data pass --fresh (fresh=True), "
                "which charges a new run."
            )


class Answering(Generic[Asked]):
    """Answers one query of an open run: its steps in order, each once.

    Args:
        query: what the plan paid for; a query that is asked once has one step.
        event: its event, with the calibrated noise.
        run: the open run.
    """

    def __init__(self, query: Asked, event: Event, run: OpenRun) -> None:
        self.query, self.event, self._run = query, event, run
        self._key = run.key()
        self.folder = run.run.folder / f"steps-{query.name}"
        private_folder(self.folder)
        self._entered = self._ledger_digest() if distributed.is_first() else None
        if distributed.is_first() and self._files():
            run.mention_change()

    def forget(self, before: int) -> None:
        """Drop the stored answers of steps before ``before``; the newest is always kept."""
        if distributed.is_first():
            for path in self._files()[:-1]:
                if int(path.stem) < before:
                    path.unlink()

    def _stored(self, step: int) -> dict[str, Tensor]:
        """The parts of a step's answer in grid steps, int64, on every rank; none if it is the next.

        Raises:
            UsageError: the step is not the next one and is not stored.
            LedgerError: the stored answer is missing or damaged.
        """
        return distributed.from_first(self._load(step) if distributed.is_first() else None)

    def _answer(
        self,
        step: int,
        part: str,
        total: Callable[[], Tensor],
        size: int,
        std: float,
        last: bool = True,
    ) -> Tensor:
        """A part of a step's answer in grid steps, int64, on every rank: the stored one, or new.

        Args:
            total: computes the sum over all ranks, int64, in the shape of the answer.
            size: how many numbers that are.
            std: standard deviation of the noise in grid steps.
            last: the step has no further part.
        """
        known = self._stored(step)
        if part not in known:
            noisy = self._noisy(total, size, std, f"{part} {step}")
            known[part] = distributed.from_first(noisy)
            if distributed.is_first():
                store(self._path(step), sealed(known))
        if last and step == self.query.answers - 1 and distributed.is_first():
            self._confirm(known)
        return known[part]

    def _noisy(
        self, total: Callable[[], Tensor], size: int, std: float, label: str
    ) -> Tensor | None:
        """The sum with its noise, on the first rank alone.

        While a GPU computes the sum, a thread samples the noise of this answer: it is fresh, in
        memory only, and forgotten with the call; ``docs/proofs/integer-gaussian.md``.
        """
        if not distributed.is_first():
            total()
            return None
        if self._run.device.type == "cpu":  # the computation needs all cores itself
            return self._noised(total(), std, label)
        with ThreadPoolExecutor(1) as beside:
            zeros, stream = np.zeros(size, np.int64), self._noise_stream(label)
            noise = beside.submit(add_noise, zeros, std, stream)
            exact = total().cpu().numpy()
        return torch.from_numpy(exact + noise.result().reshape(exact.shape))

    def _noised(self, total: Tensor, std: float, label: str) -> Tensor:
        return torch.from_numpy(add_noise(total.cpu().numpy(), std, self._noise_stream(label)))

    def _noise_stream(self, label: str) -> Stream:
        """Fresh bits from the operating system, for one answer alone."""
        if self._run.insecure_seed is None:
            return fresh_stream()
        return self._key.stream(f"noise {self.query.name} {label}", 0)

    def _halving(self, size: int, work: Callable[[int], Value]) -> Value:
        """``work(size)``, or with half the size for as long as a rank's device lacks the memory.

        What ``work`` holds on a device must have a shape that no record changes, so that lacking
        memory says nothing about one; ``docs/proofs/units.md``, "Too little memory".

        Raises:
            SfumatoError: one image at a time is too much.
        """
        while True:
            done: list[Value] = []
            try:
                done.append(work(size))
            except (DeviceFullError, torch.OutOfMemoryError):
                pass
            # All ranks do the same: their parts must be of one kind.
            if all(distributed.everyones("done" if done else "")):
                return done[0]
            if size <= 1:
                raise SfumatoError(f"query {self.query.name!r}: {TOO_LITTLE_MEMORY}")
            size //= 2
            free_memory(self._run.device)
            quiet = self._run.quiet or not distributed.is_first()
            say(f"the device's memory is full: going on with at most {size} images at once", quiet)

    def _silently(self, work: Callable[[], Value], what: str) -> Value:
        """``work`` on private data: what it prints or raises may quote a record, and is withheld.

        Raises:
            DeviceFullError: the device lacks the memory; nothing was answered.
            SfumatoError: it fails; of an unforeseen error only the type is told.
        """
        known: SfumatoError | None = None
        failure = ""
        with quiet():
            try:
                return work()
            except (DataError, LedgerError, DeviceFullError) as error:
                known = error  # ours, and they quote no record
            except torch.OutOfMemoryError:
                known = DeviceFullError()
            except ForeignError as error:
                failure = error.failure
            except Exception as error:
                failure = type(error).__name__
        # Raised outside the handler: chained errors would carry the private text along.
        if known is not None:
            raise known.with_traceback(None) from None
        raise SfumatoError(
            f"query {self.query.name!r}: {what} failed with {failure} on the private data (the "
            "message is withheld). The budget stays charged; the same command goes on once it is "
            "mended."
        )

    def _load(self, step: int) -> dict[str, Tensor]:
        path = self._path(step)
        if path.exists():
            known = unsealed(path, RESTORE)
            last = step == self.query.answers - 1
            if last and self._entered is not None and self._entered != _digest(known):
                raise LedgerError(f"{path} is damaged. {RESTORE}")
            return known
        final = self._path(self.query.answers - 1)
        if self._entered is not None and not final.exists():
            raise LedgerError(f"{final} is missing. {RESTORE}")
        newest = self._newest()
        if step != newest + 1 or step >= self.query.answers:
            raise UsageError(
                f"query {self.query.name!r}: step={step} must be the next one, {newest + 1}, of "
                f"{self.query.answers}, or one that is still stored."
            )
        return {}

    def _newest(self) -> int:
        """The last step that was answered; -1 before the first."""
        return max((int(found.stem) for found in self._files()), default=-1)

    def _confirm(self, answer: dict[str, Tensor]) -> None:
        """Enter the query's last answer in the ledger, if it is not there."""
        if self._entered is None:
            signature = _digest(answer)
            with self._run.ledger.locked():
                self._run.ledger.append(
                    "answer", run=self._run.run.id, name=self.query.name, answer=signature
                )
            self._entered = signature

    def _ledger_digest(self) -> str | None:
        """The digest of the query's last answer in the ledger; None before it is given."""
        key = ("answer", self._run.run.id, self.query.name)
        with self._run.ledger.locked():
            for entry in self._run.ledger.entries():
                if (entry["kind"], entry.get("run"), entry.get("name")) == key:
                    return str(entry["answer"])
        return None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.safetensors"))

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:08d}.safetensors"


class DeviceFullError(SfumatoError):
    """A device lacks the memory for what was asked of it at once; it says no more than that."""

    def __init__(self) -> None:
        super().__init__(
            "the device's memory is full, perhaps because other programs use it. What was answered "
            "is kept: run the same command again, or with --device cpu."
        )


class ForeignError(SfumatoError):
    """Code of a method failed on private data; only the type of its error is kept."""

    def __init__(self, failure: str) -> None:
        super().__init__(f"a method's code failed with {failure} (the message is withheld).")
        self.failure = failure


def foreign(work: Callable[[], Value]) -> Value:
    """``work`` of a method's on private data, whatever it raises made a :class:`ForeignError`."""
    try:
        return work()
    except torch.OutOfMemoryError:
        failure = ""
    except Exception as error:
        failure = type(error).__name__
    raise ForeignError(failure) if failure else DeviceFullError()


def forget_secrets(run_folder: Path) -> None:
    """Destroy a closed run's key and remove what was stored for its steps, if anything is left."""
    RunKey.destroy(run_folder)
    for folder in run_folder.glob("steps-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _digest(answer: dict[str, Tensor]) -> str:
    parts = [answer[name].reshape(-1) for name in sorted(answer)]
    return answer_digest(torch.cat(parts).numpy())
