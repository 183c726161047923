"""Who pays for a plan: a new run, or an unfinished one that has paid already."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import get_args

from sfumato.privacy.accounting.epsilon import accountant_name
from sfumato.privacy.ledger import Entry, Ledger
from sfumato.privacy.noise.discrete_gaussian import INSECURE_PATH, NOISE_PATH
from sfumato.privacy.noise.keys import STREAM_NOISE_PATH
from sfumato.privacy.plan import Plan
from sfumato.privacy.queries.kinds import SampledQuery


def charged_run(ledger: Ledger, plan: Plan, insecure: bool, fresh: bool) -> str:
    """The name of the run that pays for ``plan``; a new one is on disk before this returns.

    Args:
        insecure: the run's noise comes from a known seed.
        fresh: charge a new run even where an unfinished one could go on.

    Raises:
        BudgetExceededError: it would pass the data set's cap.
        LedgerError: the ledger is damaged or not writable.
    """
    noise = noise_path(plan, insecure)
    with ledger.locked():
        run_id = None if fresh else _unfinished(ledger.entries(), plan, noise)
        if run_id is None:
            run_id = secrets.token_hex(8)
            ledger.charge(
                plan.events,
                run=run_id,
                plan=plan.digest(),
                method=dict(plan.method),
                budget=plan.budget.to_dict(),
                **({} if plan.spec.unit is None else {"unit": plan.spec.unit_in_words}),
                noise=noise,
                accountant=accountant_name(),
            )
    return run_id


def noise_path(plan: Plan, insecure: bool) -> str:
    """How the plan's noise is drawn, as the certificate says it."""
    if insecure:
        return INSECURE_PATH
    streams = [isinstance(query, get_args(SampledQuery)) for query in plan.queries]
    return "; ".join(sorted({STREAM_NOISE_PATH if stream else NOISE_PATH for stream in streams}))


def _unfinished(entries: Sequence[Entry], plan: Plan, noise: str) -> str | None:
    closed = {entry["run"] for entry in entries if entry["kind"] == "closed"}
    for entry in reversed(entries):
        same = entry["kind"] == "plan" and entry["plan"] == plan.digest()
        if same and entry["run"] not in closed and entry["noise"] == noise:
            return str(entry["run"])
    return None
