"""The write-ahead ledger: what a data set has been charged, over all runs, for ever.

One JSON line an entry. Each line names the hash of the one before it; a separate head file names
the newest, so that cutting lines off the end is noticed too. An entry is on disk (fsync) before
anything it pays for is computed, and nothing is ever refunded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from sfumato.disk import OWNER_ONLY, append_durably, private_folder, write_atomically
from sfumato.errors import BudgetExceededError, LedgerError, UsageError
from sfumato.privacy.accounting.dominating_pairs import epsilon_by_filter
from sfumato.privacy.accounting.epsilon import epsilon, epsilon_recomputed
from sfumato.privacy.accounting.events import Event, is_sampled
from sfumato.privacy.budget import Budget, Relation

Entry = dict[str, Any]
GENESIS = "0" * 64
LOCK_SECONDS = 30.0


def canonical(value: Any) -> bytes:
    """The one byte string that hashes are taken over: sorted, compact JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def seal(entry: Entry) -> Entry:
    """The entry with its own hash, taken over everything else in it."""
    body = {key: value for key, value in entry.items() if key != "hash"}
    return {**body, "hash": digest(body)}


class Ledger:
    """The charges of one data set, in ``folder``.

    Args:
        folder: private directory of the data set; created with owner-only access.

    Raises:
        LedgerError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ledger.jsonl"
        self._head = folder / "ledger.head"
        self._lock = FileLock(folder / "ledger.lock", timeout=LOCK_SECONDS, mode=OWNER_ONLY)
        try:
            private_folder(folder)
        except OSError as error:
            raise LedgerError(
                f"the ledger folder {folder} cannot be made ({error.strerror}). "
                "Give a writable folder with --state (state=)."
            ) from error

    def entries(self) -> list[Entry]:
        """All entries, oldest first, after checking the chain; call while :meth:`locked`.

        Raises:
            LedgerError: a line is changed, missing or cut off.
        """
        if not self.path.exists():
            if self._head.exists():
                raise self._damaged("it is missing, but its head file is there")
            return []
        entries: list[Entry] = []
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        previous = GENESIS
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                valid = entry["prev"] == previous and seal(entry)["hash"] == entry["hash"]
                _read(entry)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError, UsageError):
                valid = False
            if not valid:
                raise self._damaged(f"line {number} does not continue the chain")
            previous = entry["hash"]
            entries.append(entry)
        head = GENESIS
        if self._head.exists():
            head = self._head.read_bytes().decode("ascii", "replace").strip()
        # A crash between the two writes leaves the head one entry behind, never more, never ahead.
        if head not in [GENESIS, *(entry["hash"] for entry in entries)][-2:]:
            raise self._damaged("entries are missing at its end")
        if whole != raw:
            if head != previous:
                raise self._damaged("its last line is torn")
            # The head says that this line's writer never heard it was done, so nothing was
            # answered on it: a crash while writing, and the only damage that mends itself.
            os.truncate(self.path, len(whole))
        return entries

    def _damaged(self, how: str) -> LedgerError:
        return LedgerError(
            f"the ledger {self.path} is damaged: {how}. Nothing is answered from this data set "
            "until it is whole: restore the file from a backup. If there is none, the spent budget "
            "is unknown and must be taken as exhausted."
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the ledger against other processes while the block runs.

        Raises:
            LedgerError: another process holds it for longer than 30 s.
        """
        with holding(self._lock, self.path):
            yield

    def append(self, kind: str, **content: Any) -> Entry:
        """Write one entry to disk and return it; call while :meth:`locked`.

        Raises:
            LedgerError: the chain is broken or the disk refuses; then nothing may be answered.
        """
        entries = self.entries()
        entry = seal(
            {
                "seq": len(entries),
                "prev": entries[-1]["hash"] if entries else GENESIS,
                "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "kind": kind,
                **content,
            }
        )
        try:
            if entries:
                # A head that a failure left behind catches up, so that it is never two behind.
                write_atomically(self._head, entries[-1]["hash"].encode())
            append_durably(self.path, canonical(entry) + b"\n")
            write_atomically(self._head, entry["hash"].encode())
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return entry

    def family(self) -> list[Ledger]:
        """All ledgers that this one's charges add up with: here itself alone."""
        return [self]

    def family_entries(self) -> list[Entry]:
        """The entries of the family's ledgers."""
        return self.entries()

    def charges(self) -> list[list[Event]]:
        """The events charged so far, run by run."""
        return charges_of(self.family_entries())

    def cap(self) -> Budget | None:
        """This ledger's cap: the newest one set, or None."""
        caps = [entry["cap"] for entry in self.entries() if entry["kind"] == "cap"]
        return Budget(**caps[-1]) if caps else None

    def caps(self) -> list[Budget]:
        """All caps in force."""
        cap = self.cap()
        return [] if cap is None else [cap]

    def set_cap(self, cap: Budget) -> None:
        """Set the most this data set may ever be charged; later runs need not repeat it."""
        with self.locked():
            if self.cap() != cap:
                self.append("cap", cap=cap.to_dict())

    def charge(self, events: Sequence[Event], **content: Any) -> Entry:
        """Charge a plan's events, or refuse because of a cap; call while :meth:`locked`.

        Raises:
            BudgetExceededError: all charges together would pass a cap.
            LedgerError: the entry could not be made durable.
        """
        self.check(events)
        self._note_data()
        return self.append("plan", events=[event.to_dict() for event in events], **content)

    def _note_data(self) -> None:
        """Note what a ledger that knows its data notes before it charges them; here nothing."""

    def check(self, events: Sequence[Event]) -> None:
        """Refuse a plan's events if they would pass a cap; call while :meth:`locked`.

        Raises:
            BudgetExceededError: all charges together would pass a cap.
        """
        caps = self.caps()
        before = self.charges() if caps else []
        for cap in caps:
            total = total_epsilon([*before, events], cap.delta, cap.relation)
            if total > cap.epsilon:
                left = total_epsilon(before, cap.delta, cap.relation)
                raise BudgetExceededError(
                    f"the run would raise this data set's total to epsilon={total:.4g}, over its "
                    f"cap of {cap.epsilon} (delta={cap.delta}, {cap.relation}); {left:.4g} is "
                    "spent. Nothing was read or charged. Lower --epsilon (epsilon=), or raise "
                    "--cap (cap=) if whoever answers for the data agrees."
                )


@contextmanager
def holding(lock: BaseFileLock, what: Path) -> Iterator[None]:
    """Hold ``lock`` of the ledger, or the folder of ledgers, ``what`` while the block runs.

    Raises:
        LedgerError: another process holds it for too long, or it cannot be written.
    """
    try:
        lock.acquire()
    except Timeout as error:
        raise LedgerError(
            f"the ledger {what} is held by another process for over {LOCK_SECONDS:.0f} s."
            " Wait for it to end, or end it."
        ) from error
    except OSError as error:
        raise _unwritable(what, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(what: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"the ledger {what} cannot be written ({error.strerror}), so nothing is "
        "answered. Free the disk, or give a writable folder with --state (state=)."
    )


def _read(entry: Entry) -> None:
    """Read what is charged from a sealed entry, so that one that says nonsense is found at once."""
    if entry["kind"] == "plan":
        charges_of([entry])
    elif entry["kind"] == "cap":
        Budget(**entry["cap"])
    elif entry["kind"] == "data":
        _ = str(entry["location"]), [f"{path}{part}" for path, part in entry["places"]]
        _ = [str(name) for name in entry["same_as"]]


def charges_of(entries: Sequence[Entry]) -> list[list[Event]]:
    """The events charged by a list of ledger entries, run by run."""
    return [
        [Event.from_dict(event) for event in entry["events"]]
        for entry in entries
        if entry["kind"] == "plan"
    ]


def units_of_runs(entries: Sequence[Entry]) -> list[str]:
    """The privacy units, in words, that a ledger's runs were charged for.

    Where there are several, a total holds for whoever is one unit in each of the runs;
    ``docs/proofs/units.md``.
    """
    return sorted({entry.get("unit", "record") for entry in entries if entry["kind"] == "plan"})


def total_epsilon(charges: Sequence[Sequence[Event]], delta: float, relation: Relation) -> float:
    """ε of all charges together, ``charges`` being the events of each run.

    Runs choose their budgets after seeing earlier releases. The composition of Gaussians bounds
    that adaptive choice too, as long as Σμ² stays under a bound fixed in advance (fully adaptive
    composition for Gaussian differential privacy, arXiv 2210.17520), which the cap is. Where an
    event samples its units there is no such theorem for the composed loss, but one for its Rényi
    divergences (arXiv 2103.01379): several runs then cost more than they would by PLD.
    """
    events = [event for charge in charges for event in charge]
    if not is_sampled(events):
        return epsilon_recomputed(events, delta, relation)
    if len(charges) == 1:
        return epsilon(events, delta, relation)
    return epsilon_by_filter([event.pair(relation) for event in events], delta)
