"""The curator holds the private images; methods hand it queries and get noisy answers back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.disk import private_folder
from sfumato.errors import UsageError
from sfumato.privacy import distributed
from sfumato.privacy.accounting.epsilon import accountant_name
from sfumato.privacy.answering.aggregate import AggregateAnswering, UnitFeatures
from sfumato.privacy.answering.base import Answering, OpenRun, forget_secrets
from sfumato.privacy.answering.gradient import GradientAnswering
from sfumato.privacy.answering.nearest import NearestAnswering
from sfumato.privacy.answering.total import Answer, SumAnswering
from sfumato.privacy.answering.vote import GeneratedBatch, Teachers, VoteAnswering
from sfumato.privacy.budget import Budget
from sfumato.privacy.charging import Declared, charge_of, charged_run, look
from sfumato.privacy.cluster import check_one_pass
from sfumato.privacy.family import DataSetLedger
from sfumato.privacy.gradients.per_example import UnitLoss
from sfumato.privacy.ledger import (
    Entry,
    Ledger,
    charges_of,
    digest,
    total_epsilon,
    units_of_runs,
)
from sfumato.privacy.plan import Asker, Plan, plan_for
from sfumato.privacy.queries.aggregate import AggregateQuery
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.gradient import GradientQuery
from sfumato.privacy.queries.histogram import HistogramQuery
from sfumato.privacy.queries.nearest import NearestQuery
from sfumato.privacy.queries.sum import SumQuery
from sfumato.privacy.queries.vote import VoteQuery
from sfumato.privacy.run import Run, insecure_folder

Answers = TypeVar("Answers", bound=Answering[Any])

CPU = torch.device("cpu")


class Curator:
    """The trusted party: the only object that reads private images, and only to answer queries.

    Args:
        source: the private images behind their public specification.
        budget: the most this run may cost.
        state: folder of ledgers and private runs; the user's state folder by default.
        cap: the most the data set may ever cost over all runs; kept in its ledger.
        fresh: charge a new run even where an unfinished one waits.
        same_data_as: the location of a ledger that was kept for the same images, by another name.
        independent_data: declare that no other ledger is about these images, and compare none.
        quiet: show no progress.
        device: where queries and networks compute; it changes no answer's distribution.
        insecure_seed: draw noise from this seed, stamp everything NOT PRIVATE and keep a ledger
            apart; for tests.

    The order is fixed: :meth:`open` writes the calibrated plan to the ledger; :meth:`sum`,
    :meth:`histogram`, :meth:`nearest`, :meth:`gradient`, :meth:`aggregate` and :meth:`vote` answer
    the plan's queries, once or once a step; :meth:`close` ends the run. The answers together are
    (ε, δ)-differentially private under the budget's relation; ``docs/proofs``. As a context
    manager it lets go of the run at the end, closed or not.
    """

    def __init__(
        self,
        source: ImageSource,
        budget: Budget,
        *,
        state: str | os.PathLike[str] | None = None,
        cap: Budget | None = None,
        fresh: bool = False,
        same_data_as: str | None = None,
        independent_data: bool = False,
        quiet: bool = False,
        device: torch.device = CPU,
        insecure_seed: int | None = None,
    ) -> None:
        self._source = source
        self.budget = budget
        self.quiet = quiet
        self.device = device
        self._declared = Declared(same_data_as, independent_data, fresh)
        self._insecure_seed = insecure_seed
        folder = None if state is None else Path(state)
        self._ledger: Ledger = DataSetLedger(source, folder)
        if insecure_seed is not None:
            # A known seed costs more than any ε, so such a run keeps out of the ledgers that count.
            self._ledger = Ledger(insecure_folder(source, folder))
        self._folder = self._ledger.folder
        if cap is not None and distributed.is_first():
            self._ledger.set_cap(cap)
        self._plan: Plan | None = None
        self._run: Run | None = None
        self._open_run: OpenRun | None = None
        self._asker: Asker | None = None
        self._answering: dict[str, Answering[Any]] = {}

    def __enter__(self) -> Curator:
        return self

    def __exit__(self, *_: object) -> None:
        if self._run is not None:
            self._run.release()
            self._run = None

    @property
    def spec(self) -> PublicSpec:
        """The data set's public specification."""
        return self._source.spec

    @property
    def run_folder(self) -> Path:
        """The private folder where a method keeps the open run's checkpoints."""
        self._opened()
        return self._run_folder

    @property
    def plan(self) -> Plan:
        """The open plan: what may be asked, and the noise that it gets."""
        return self._opened()[0]

    def calibrate(self, method: Asker) -> Plan:
        """What ``method`` would ask, and the noise that fits the budget; charges nothing."""
        return plan_for(method, self.budget, self.spec)

    def open(self, method: Asker) -> Plan:
        """Calibrate the method's queries to the budget and charge them; see :meth:`open_plan`.

        Returns:
            The open plan, whose queries can be asked by name.
        """
        self._asker = method
        return self.open_plan(self.calibrate(method))

    def open_plan(self, plan: Plan) -> Plan:
        """Charge ``plan`` to the ledger, or go on with an unfinished run of the same plan.

        Raises:
            UsageError: the plan was made for another budget or data set.
            UsageError: the images have an unfinished run that asked other questions, or seem to be
                those of another ledger; nothing is charged.
            BudgetExceededError: it would pass the data set's cap; nothing is read or charged.
            LedgerError: the ledger is damaged or not writable.
        """
        if plan.budget != self.budget or plan.spec != self.spec:
            raise UsageError("the plan was made for another budget or public specification.")
        if self._run is not None:
            raise UsageError("this curator has a run open already; make a curator for each run.")
        if self._source.cluster is not None:
            check_one_pass(plan.queries)
        if distributed.size() > 1:
            distributed.check_agreement(plan.digest(), "was started with other options")
            distributed.check_agreement(self._source.fingerprint(), "sees other data")
        insecure = self._insecure_seed is not None
        look(self._ledger, plan, insecure, self._declared)
        run, charged = self._taken(plan, insecure) if distributed.is_first() else (None, None)
        run_id, charged = distributed.from_first(None if run is None else (run.id, charged))
        self._plan, self._run = plan, run or Run(self._folder, run_id, hold=False)
        # Checkpoints of training with other settings than those that were charged stay apart.
        settings = digest(dict(plan.method))
        apart = "" if digest(charged) == settings else f"settings-{settings[:12]}"
        self._run_folder = private_folder(self._run.folder / apart)
        return plan

    def _taken(self, plan: Plan, insecure: bool) -> tuple[Run, dict[str, Any]]:
        """The run that pays, and the method that it was charged for."""
        # In one turn: a run that another process closed in between would answer once more.
        with self._ledger.locked():
            run_id = charged_run(self._ledger, plan, insecure, self._declared)
            run = Run(self._folder, run_id)
            self._forget_closed()
            return run, charge_of(self._ledger.entries(), run_id)["method"]

    def _forget_closed(self) -> None:
        """Remove the secrets of closed runs, also of those that were killed while closing."""
        for entry in self._ledger.entries():
            if entry["kind"] == "closed":
                forget_secrets(self._folder / "runs" / entry["run"])

    def close(self) -> None:
        """End the run and destroy its key: the same command afterwards charges a new one."""
        _, run = self._opened()
        if distributed.is_first():
            with self._ledger.locked():
                self._ledger.append("closed", run=run.id)
                self._forget_closed()
        run.release()
        self._run = None

    def sum(self, name: str) -> Answer:
        """Answer Σ clip(f(x, y)) + Gaussian noise, exactly; ``docs/proofs/sum.md``.

        ``name`` is that of a sum query in the open plan. A query that was answered before the run
        was interrupted gets the same answer again.

        Raises:
            BudgetExceededError: the open plan has no such query.
            LedgerError: the stored answer or the ledger is damaged.
        """
        return self._for(name, SumQuery, SumAnswering).answer()

    def histogram(self, name: str) -> Answer:
        """Answer the noisy number of votes in each bin; ``docs/proofs/histogram.md``.

        Raises:
            BudgetExceededError: the open plan has no such query.
            LedgerError: the stored answer or the ledger is damaged.
        """
        return self._for(name, HistogramQuery, SumAnswering).answer()

    def nearest(
        self,
        name: str,
        step: int,
        candidates: NDArray[np.float32],
        labels: NDArray[np.int64] | None = None,
    ) -> Answer:
        """Answer how many units have which candidate nearest to them; ``docs/proofs/nearest.md``.

        Args:
            name, step: as for :meth:`gradient`.
            candidates: float ``[bins, width]``, the features of public candidates.
            labels: int64 ``[bins]``: only units of a candidate's label vote for it; None: all.

        Returns:
            ``total`` ``[1, bins]``; errors as :meth:`gradient`.
        """
        return self._for(name, NearestQuery, NearestAnswering).answer(step, candidates, labels)

    def gradient(self, name: str, step: int, network: nn.Module, loss: UnitLoss) -> Tensor:
        """Answer Σ clip(∇ loss) + Gaussian noise over a Poisson sample; ``docs/proofs``.

        Args:
            name: of a gradient query in the open plan.
            step: 0, 1, …, the query's ``steps`` - 1; one that is stored is answered as before.
            network: the gradient is taken at its parameters that require one.
            loss: each unit's loss.

        Returns:
            float64 ``[dimension]`` on the network's device (on the CPU for an Apple GPU), a sum
            and not a mean: divide by public constants only.

        Raises:
            BudgetExceededError: the open plan has no such query.
            UsageError: the step is out of turn.
            LedgerError: a stored answer or the ledger is damaged, or the disk refuses.
        """
        return self._for(name, GradientQuery, GradientAnswering).answer(step, network, loss)

    def aggregate(self, name: str, step: int, network: nn.Module, features: UnitFeatures) -> Tensor:
        """Answer Σ clip(features) + Gaussian noise by class over a Poisson sample.

        Arguments and errors are those of :meth:`gradient`; ``docs/proofs/aggregate.md``.

        Returns:
            float64 ``[rows, dimension]`` on the network's device; sums, not means.
        """
        answering = self._for(name, AggregateQuery, AggregateAnswering)
        return answering.forward(step, network, features)

    def pull_back(
        self,
        name: str,
        step: int,
        network: nn.Module,
        features: UnitFeatures,
        cotangent: Tensor,
    ) -> Tensor:
        """Answer Σ clip(Jᵀ · cotangent) + Gaussian noise over the sample of the newest aggregate.

        Args:
            name, step, network, features: as for :meth:`aggregate`, which comes first.
            cotangent: float ``[rows, dimension]``, what the sums' gradient is.

        Returns:
            float64 ``[gradient_dimension]``, laid out as :meth:`gradient` does.
        """
        answering = self._for(name, AggregateQuery, AggregateAnswering)
        return answering.pull_back(step, network, features, cotangent)

    def vote(self, name: str, step: int, teachers: Teachers, generated: GeneratedBatch) -> Tensor:
        """Answer Σ of the teachers' votes + Gaussian noise; ``docs/proofs/vote.md``.

        Args:
            name, step: as for :meth:`gradient`.
            teachers: the public recipe of what a teacher does.
            generated: the public images that are voted on.

        Returns:
            float64 ``[dimension]``; errors as :meth:`gradient`.
        """
        return self._for(name, VoteQuery, VoteAnswering).answer(step, teachers, generated)

    def forget(self, name: str, before: int) -> None:
        """Drop stored answers of the steps before ``before``: a checkpoint covers them."""
        if name in self._answering:
            self._answering[name].forget(before)

    def _for(self, name: str, kind: type[Query], answering: Callable[..., Answers]) -> Answers:
        """What answers the plan's query of that name and kind: made when it is first asked."""
        plan, run = self._opened()
        query = plan.query(name, kind)
        if name not in self._answering:
            if self._open_run is None:
                self._open_run = OpenRun(
                    self._source,
                    run,
                    self._ledger,
                    self.quiet,
                    self._insecure_seed,
                    self._asker,
                    self.device,
                )
            self._answering[name] = answering(query, plan.event(name), self._open_run)
        found: Any = self._answering[name]
        return found

    def record(self) -> dict[str, Any]:
        """What the certificate needs: the plan, its ledger entries and the data set's total.

        Raises:
            UsageError: no run is open.
        """
        plan, run = self._opened()
        with self._ledger.locked():
            own, entries = self._ledger.entries(), self._ledger.family_entries()
        mine: list[Entry] = [entry for entry in own if entry.get("run") == run.id]
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
                "epsilon": total_epsilon(charges_of(entries), delta, relation),
                "runs": sum(entry["kind"] == "plan" for entry in entries),
                **({"units": units} if len(units := units_of_runs(entries)) > 1 else {}),
            },
        }

    def _opened(self) -> tuple[Plan, Run]:
        if self._plan is None or self._run is None:
            raise UsageError("no plan is open: call curator.open(method) before asking.")
        return self._plan, self._run
