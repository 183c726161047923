"""The curator holds the private images; methods hand it queries and get noisy answers back."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.decode import quiet
from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.errors import BudgetExceededError, DataError, SfumatoError, UsageError
from sfumato.privacy import exact
from sfumato.privacy.accounting import accountant_name
from sfumato.privacy.budget import Budget
from sfumato.privacy.clipping import UNIT
from sfumato.privacy.ledger import Entry, Ledger, events_of, total_epsilon
from sfumato.privacy.noise import INSECURE_PATH, NOISE_PATH, add_noise
from sfumato.privacy.plan import Plan
from sfumato.privacy.queries import HistogramQuery, Query, SumQuery
from sfumato.privacy.runs import Run, answer_digest, data_set_folder, default_state
from sfumato.progress import stage


@dataclass(frozen=True)
class Answer:
    """A noisy answer; all of it is public.

    ``total`` float64 ``[rows, d - shared]``, ``shared`` float64 ``[shared]``; ``noise_std`` is the
    noise's standard deviation per coordinate, in the units of both.
    """

    total: NDArray[np.float64]
    shared: NDArray[np.float64]
    noise_std: float


class Curator:
    """The trusted party: the only object that reads private images, and only to answer queries.

    Args:
        source: the private images behind their public specification.
        budget: the most this run may cost.
        state: folder of ledgers and private runs; the user's state folder by default.
        cap: the most the data set may ever cost over all runs; kept in its ledger.
        fresh: charge a new run even where an unfinished one with the same plan could go on.
        quiet: show no progress.
        insecure_seed: draw noise from this seed, stamp everything NOT PRIVATE and keep a ledger
            apart; for tests.

    The order is fixed: :meth:`open` writes the calibrated plan to the ledger, :meth:`sum` and
    :meth:`histogram` answer the plan's queries once each, :meth:`close` ends the run. The answers
    together are (ε, δ)-differentially private under the budget's relation; ``docs/proofs.md``.
    """

    def __init__(
        self,
        source: ImageSource,
        budget: Budget,
        *,
        state: Path | None = None,
        cap: Budget | None = None,
        fresh: bool = False,
        quiet: bool = False,
        insecure_seed: int | None = None,
    ) -> None:
        self._source = source
        self.budget = budget
        self.quiet = quiet
        self._fresh = fresh
        self._insecure_seed = insecure_seed
        # A known seed costs more than any ε, so such a run keeps out of the ledger that counts.
        kind = "" if insecure_seed is None else " (insecure seed)"
        self._folder = data_set_folder(state or default_state(), source.location_key + kind)
        self._ledger = Ledger(self._folder)
        if cap is not None:
            self._ledger.set_cap(cap)
        self._plan: Plan | None = None
        self._run: Run | None = None

    @property
    def spec(self) -> PublicSpec:
        """The data set's public specification."""
        return self._source.spec

    @property
    def run_folder(self) -> Path:
        """The open run's private folder, where a method keeps its checkpoints."""
        return self._opened()[1].folder

    def open(self, plan: Plan) -> None:
        """Charge ``plan`` to the ledger, or go on with an unfinished run of the same plan.

        Raises:
            UsageError: the plan was made for another budget or data set.
            BudgetExceededError: it would pass the data set's cap; nothing is read or charged.
            LedgerError: the ledger is damaged or not writable.
        """
        if plan.budget != self.budget or plan.spec != self.spec:
            raise UsageError("the plan was made for another budget or public specification.")
        if self._run is not None:
            raise UsageError("this curator has a run open already; make a curator for each run.")
        with self._ledger.locked():
            run_id = None if self._fresh else self._unfinished(plan)
            if run_id is None:
                run_id = secrets.token_hex(8)
                self._ledger.charge(
                    plan.events,
                    run=run_id,
                    plan=plan.digest(),
                    method=dict(plan.method),
                    budget=plan.budget.to_dict(),
                    noise=INSECURE_PATH if self._insecure_seed is not None else NOISE_PATH,
                    accountant=accountant_name(),
                )
        self._plan, self._run = plan, Run(self._folder, run_id)

    def _unfinished(self, plan: Plan) -> str | None:
        entries = self._ledger.entries()
        closed = {entry["run"] for entry in entries if entry["kind"] == "closed"}
        noise = INSECURE_PATH if self._insecure_seed is not None else NOISE_PATH
        for entry in reversed(entries):
            same = entry["kind"] == "plan" and entry["plan"] == plan.digest()
            if same and entry["run"] not in closed and entry["noise"] == noise:
                return str(entry["run"])
        return None

    def close(self) -> None:
        """End the run: the same command afterwards charges a new one."""
        _, run = self._opened()
        with self._ledger.locked():
            self._ledger.append("closed", run=run.id)
        run.release()
        self._run = None

    def sum(self, query: SumQuery) -> Answer:
        """Answer Σ clip(f(x, y)) + Gaussian noise, exactly; ``docs/proofs.md``, "sum".

        A query that was answered before the run was interrupted gets the same answer again.

        Raises:
            BudgetExceededError: the query is not in the plan.
            LedgerError: the stored answer or the ledger is damaged.
        """
        return self._answer(query)

    def histogram(self, query: HistogramQuery) -> Answer:
        """Answer the noisy number of votes in each bin; ``docs/proofs.md``, "histogram".

        Raises:
            BudgetExceededError: the query is not in the plan.
            LedgerError: the stored answer or the ledger is damaged.
        """
        return self._answer(query)

    def record(self) -> dict[str, Any]:
        """What the certificate needs: the plan, its ledger entries and the data set's total.

        Raises:
            UsageError: no run is open.
        """
        plan, run = self._opened()
        with self._ledger.locked():
            entries = self._ledger.entries()
        mine: list[Entry] = [entry for entry in entries if entry.get("run") == run.id]
        relation, delta = self.budget.relation, self.budget.delta
        by_relation = plan.epsilons()
        return {
            **plan.to_dict(),
            "epsilon": by_relation[relation],
            "delta": delta,
            "relation": relation,
            "epsilon_by_relation": by_relation,
            "accountant": accountant_name(),
            "noise": mine[0]["noise"],
            "ledger": mine,
            "data_set_total": {
                "epsilon": total_epsilon(events_of(entries), delta, relation),
                "runs": sum(entry["kind"] == "plan" for entry in entries),
            },
        }

    def _opened(self) -> tuple[Plan, Run]:
        if self._plan is None or self._run is None:
            raise UsageError("no plan is open: call curator.open(plan) before asking.")
        return self._plan, self._run

    def _answer(self, query: Query) -> Answer:
        plan, run = self._opened()
        if query not in plan.queries:
            raise BudgetExceededError(
                f"query {query.name!r} is not in the plan that was paid for "
                f"({', '.join(q.name for q in plan.queries)}). Put it into the method's queries()."
            )
        event = plan.event(query)
        step = event.clip_norm / UNIT
        grid = self._answered_before(query.name, run)
        if grid is None:
            if not run.is_same_data(self._source.fingerprint()):
                raise DataError(
                    "the data set has changed since this run's first query was answered, so the "
                    "next would describe other data. Restore it, or pass --fresh to charge a "
                    "new run."
                )
            total = self._total(query).numpy()
            grid = add_noise(total, event.noise_std / step, self._insecure_seed)
            signature = run.write_answer(query.name, grid)
            with self._ledger.locked():
                self._ledger.append("answer", run=run.id, name=query.name, answer=signature)
        values = grid.astype(np.float64) * step
        rows, columns = query.shape(len(self.spec.classes))
        return Answer(
            values[: rows * columns].reshape(rows, columns),
            values[rows * columns :],
            event.noise_std,
        )

    def _answered_before(self, name: str, run: Run) -> NDArray[np.int64] | None:
        with self._ledger.locked():
            for entry in self._ledger.entries():
                if (entry["kind"], entry.get("run"), entry.get("name")) == ("answer", run.id, name):
                    return run.read_answer(name, entry["answer"])
            grid = run.unconfirmed_answer(name)
            if grid is not None:
                # Killed between storing the answer and saying so: that draw is the answer.
                self._ledger.append("answer", run=run.id, name=name, answer=answer_digest(grid))
            return grid

    def _total(self, query: Query) -> Tensor:
        batch = exact.independent_batch_size(query, self.spec)
        # Silent, because the text of a warning may quote what a record holds.
        with stage("reading the private images", self.quiet) as report, quiet():
            try:
                return exact.total(query, self._source, batch, report)
            except SfumatoError:
                raise
            except Exception as error:
                failure = type(error).__name__
        # So may the text of an unforeseen error; outside the handler, it is not chained either.
        raise SfumatoError(
            f"query {query.name!r}: reading the private data failed with {failure} (the message "
            "is withheld). The budget stays charged; the same command goes on once it is mended."
        )
