"""Who pays for a plan: a new run, or an unfinished one that has paid already."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sfumato.errors import UsageError
from sfumato.privacy.accounting.epsilon import accountant_name
from sfumato.privacy.family import DataSetLedger
from sfumato.privacy.ledger import Entry, Ledger
from sfumato.privacy.noise.integer_gaussian import INSECURE_PATH, NOISE_PATH
from sfumato.privacy.plan import Plan
from sfumato.privacy.run import is_running

SAME_DATA = "the custodian declares: the same data as another ledger's, whose runs count here too"
INDEPENDENT_DATA = "the custodian declares: data independent of all other ledgers'"


@dataclass(frozen=True)
class Declared:
    """What the custodian says of the data set and of the run that is to be charged.

    Args:
        same_data_as: the location of a ledger that was kept for the same images.
        independent: no other ledger's images are these; then none is compared.
        fresh: charge a new run even where an unfinished one could go on.

    Raises:
        UsageError: two statements contradict each other.
    """

    same_data_as: str | None = None
    independent: bool = False
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.same_data_as is not None and self.independent:
            raise UsageError(
                "same_data_as and independent_data exclude each other: say which of them is true."
            )


def charged_run(ledger: Ledger, plan: Plan, insecure: bool, declared: Declared) -> str:
    """The name of the run that pays for ``plan``; a new one is on disk before this returns.

    Call while the ledger is locked.

    Args:
        insecure: the run's noise comes from a known seed.

    Raises:
        BudgetExceededError: it would pass a cap of the data set's family.
        UsageError: an unfinished run asked other questions, or another ledger seems to be about
            the same images.
        LedgerError: a ledger is damaged or not writable.
    """
    noise = noise_path(insecure)
    run_id = None if declared.fresh else _unfinished(ledger, plan, noise)
    if run_id is None:
        words = _checked_words(ledger, declared)
        run_id = secrets.token_hex(8)
        ledger.charge(
            plan.events,
            run=run_id,
            plan=plan.digest(),
            method=dict(plan.method),
            budget=plan.budget.to_dict(),
            **({} if plan.spec.unit is None else {"unit": plan.spec.unit_in_words}),
            **({} if words is None else {"declared": words}),
            noise=noise,
            accountant=accountant_name(),
        )
    return run_id


def look(ledger: Ledger, plan: Plan, insecure: bool, declared: Declared) -> None:
    """Do beforehand, without holding the ledger, what :func:`charged_run` may take long for.

    All ranks of a run call this; the first one looks, and they read the records together.
    """
    if not isinstance(ledger, DataSetLedger):
        return
    from sfumato.privacy import distributed  # with PyTorch: verify imports this module too

    first = distributed.is_first()
    if distributed.from_first(_compares(ledger, plan, insecure, declared) if first else None):
        ledger.sketch()


def _compares(ledger: DataSetLedger, plan: Plan, insecure: bool, declared: Declared) -> bool:
    """Whether the records are to be compared with those of other ledgers before the charge."""
    with ledger.locked():
        if declared.same_data_as is not None:
            ledger.join(declared.same_data_as)
        if not declared.fresh and _unfinished(ledger, plan, noise_path(insecure)):
            return False
        ledger.check(plan.events)  # a refused run reads nothing
        return not declared.independent and bool(ledger.strangers())


def charge_of(entries: Sequence[Entry], run_id: str) -> Entry:
    """The entry that charged a run."""
    return next(entry for entry in entries if entry["kind"] == "plan" and entry["run"] == run_id)


def noise_path(insecure: bool) -> str:
    """How a plan's noise is sampled, as the certificate says it."""
    return INSECURE_PATH if insecure else NOISE_PATH


def _checked_words(ledger: Ledger, declared: Declared) -> str | None:
    """What the custodian has declared, in words; refuses a copy of which nothing is declared."""
    if not isinstance(ledger, DataSetLedger):
        return None
    if declared.independent:
        return INDEPENDENT_DATA
    if other := ledger.repeated():
        raise UsageError(
            f"these images seem to be those of another ledger, kept for {other!r}: at least half "
            "of the smaller data set is in both. Nothing was charged. If they are, add up what "
            f"both cost: --same-data-as {other!r} (same_data_as=). If they are images of other "
            "people, say so with --independent-data (independent_data=True). Either statement "
            "stands in the certificate."
        )
    return SAME_DATA if ledger.is_declared_same() else None


def _unfinished(ledger: Ledger, plan: Plan, noise: str) -> str | None:
    """The ledger's newest run that has paid for the same questions and was not closed.

    Raises:
        UsageError: the family has an unfinished run that nobody works on, but none of the same
            questions.
    """
    entries = ledger.family_entries()
    closed = {entry["run"] for entry in entries if entry["kind"] == "closed"}
    waiting = [e for e in entries if e["kind"] == "plan" and e["run"] not in closed]
    own = {entry.get("run") for entry in ledger.entries()}
    for entry in reversed(waiting):
        if entry["run"] in own and entry["plan"] == plan.digest() and entry["noise"] == noise:
            return str(entry["run"])
    folders = [member.folder / "runs" for member in ledger.family()]
    idle = [e for e in waiting if not any(is_running(runs / e["run"]) for runs in folders)]
    if idle:
        last = idle[-1]
        budget, method = last["budget"], last["method"]["name"]
        raise UsageError(
            f"these images have paid for a run that is not finished: {last['run']} ({method}, "
            f"epsilon={budget['epsilon']}, delta={budget['delta']}). This command asks other "
            "questions, and would be charged on top of it. To go on with that run, repeat its "
            "command; settings of training and sampling may differ. To charge a new run, pass "
            "--fresh (fresh=True)."
        )
    return None
