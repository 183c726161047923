"""Audit a whole method: the game of its queries, and a run over DATA with canaries in it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.audit.attacks import answer_scores, image_scores, model_scores
from sfumato.audit.canaries import CanaryImages, WithCanaries, toss
from sfumato.audit.grid import grid_step, is_on_grid
from sfumato.audit.play import Attacked, play
from sfumato.audit.verdict import Verdict, judge
from sfumato.data import ImageSource, LabelledImages
from sfumato.devices import CPU
from sfumato.errors import UsageError
from sfumato.methods.base import Method, Model
from sfumato.privacy import Answer, Budget, Curator, HistogramQuery, SumQuery, TotalQuery

LEAST_CANARIES = 10
GAME_FACTOR = 10
"""Canaries of the game cost no images, so there are more of them than in DATA."""

RELEASED = 1000
"""Synthetic images that are drawn to be attacked."""


class OverheardCurator(Curator):
    """A curator whose answers are noted and looked at as they leave; they are public.

    ``off_grid`` names the queries with an answer that is no whole number of grid steps.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.answers: list[tuple[TotalQuery, Answer]] = []
        self.off_grid: set[str] = set()

    def sum(self, name: str) -> Answer:
        """Answer, and note it."""
        answer = super().sum(name)
        self.answers.append((self.plan.query(name, SumQuery), answer))
        return self._totals(name, answer)

    def histogram(self, name: str) -> Answer:
        """Answer, and note it."""
        answer = super().histogram(name)
        self.answers.append((self.plan.query(name, HistogramQuery), answer))
        return self._totals(name, answer)

    def nearest(self, name: str, *arguments: Any) -> Answer:
        """Answer, and look at its bits."""
        return self._totals(name, super().nearest(name, *arguments))

    def gradient(self, name: str, *arguments: Any) -> Tensor:
        """Answer, and look at its bits."""
        return self._looked_at(name, super().gradient(name, *arguments))

    def aggregate(self, name: str, *arguments: Any) -> Tensor:
        """Answer, and look at its bits."""
        return self._looked_at(name, super().aggregate(name, *arguments))

    def pull_back(self, name: str, *arguments: Any) -> Tensor:
        """Answer, and look at its bits."""
        return self._looked_at(name, super().pull_back(name, *arguments), pulled_back=True)

    def vote(self, name: str, *arguments: Any) -> Tensor:
        """Answer, and look at its bits."""
        return self._looked_at(name, super().vote(name, *arguments))

    def _totals(self, name: str, answer: Answer) -> Answer:
        for values in (answer.total, answer.shared):
            self._looked_at(name, torch.from_numpy(values))
        return answer

    def _looked_at(self, name: str, values: Tensor, pulled_back: bool = False) -> Tensor:
        (query,) = (query for query in self.plan.queries if query.name == name)
        if not is_on_grid(values, grid_step(query, pulled_back)):
            self.off_grid.add(name)
        return values


def audit(
    method: Method,
    source: ImageSource,
    budget: Budget,
    *,
    canaries: int = 1000,
    confidence: float = 0.95,
    quiet: bool = False,
    device: torch.device = CPU,
) -> Verdict:
    """Attack a method's queries, and its answers, model and images after a run over ``source``.

    Args:
        canaries: units (records, where DATA state no unit) that are put into DATA or left out by
            fair coins; the game of the queries has ten times as many.
        confidence: probability that no lower bound of the verdict exceeds the true ε.
        device: where queries and networks compute.

    The user's ledger is not charged, and nothing is released: the verdict is PRIVATE unless DATA
    are public, for it is a function of them without noise.

    Raises:
        UsageError: a value is outside its rule, or a query has no audit.
        DataError: the data cannot be read.
    """
    if canaries < LEAST_CANARIES:
        raise UsageError(f"canaries={canaries} must be at least {LEAST_CANARIES}; 1000 is usual.")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence={confidence} must lie in [0.5, 1); 0.95 is usual.")
    spec = source.spec
    game, plan = play(
        method.queries(spec), budget, GAME_FACTOR * canaries, spec.classes, unit=spec.unit
    )
    attacks, off_grid = run(method, source, budget, canaries, quiet, device)
    verdict = judge(plan, [game, *attacks], confidence)
    return replace(verdict, off_grid=tuple(sorted(off_grid)))


def run(
    method: Method,
    source: ImageSource,
    budget: Budget,
    canaries: int,
    quiet: bool = False,
    device: torch.device = CPU,
) -> tuple[list[Attacked], set[str]]:
    """Run the method once over DATA with canaries, in a folder that is thrown away, and attack.

    Returns:
        The attacks, and the names of queries with an answer off its grid.
    """
    relation = budget.relation
    images, present = CanaryImages.draw(source.spec, canaries), toss(canaries)
    mixed = WithCanaries(source, images, present, relation)
    with tempfile.TemporaryDirectory() as state:
        curator = OverheardCurator(mixed, budget, state=Path(state), quiet=quiet, device=device)
        with curator:
            model = method.fit(curator)
            curator.close()
    attacks = []
    if curator.answers:
        scores = answer_scores(curator.answers, source, images, relation)
        names = ", ".join(query.name for query, _ in curator.answers)
        attacks.append(Attacked("answers", f"noisy answers to {names} on DATA", scores, present))
    losses = model_scores(model, images, relation)
    if losses is not None:
        attacks.append(Attacked("model", "losses of the model", losses, present))
    if isinstance(model, Model):
        nearness = image_scores(_drawn(model), images, relation)
        attacks.append(Attacked("images", f"{RELEASED:,} synthetic images", nearness, present))
    return attacks, curator.off_grid


def _drawn(model: Model) -> LabelledImages:
    batches = list(model.sample(RELEASED))
    images = np.concatenate([part for part, _ in batches])
    return LabelledImages(images, np.concatenate([part for _, part in batches]), model.spec.classes)
