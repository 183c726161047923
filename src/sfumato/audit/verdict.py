"""From evidence to bounds, and from bounds to a verdict on the claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.optimize import brentq
from scipy.special import ndtr

from sfumato.audit.f_dp import epsilon_f_dp
from sfumato.audit.guesses import Guesses, guess
from sfumato.audit.independent import epsilon_independent
from sfumato.audit.one_run import epsilon_one_run
from sfumato.audit.play import Attacked
from sfumato.audit.trade_off import Family
from sfumato.privacy import RELATIONS, Budget, Event, Plan
from sfumato.privacy.accounting.calibration import calibrate

SHARES = (0.5, 0.25, 0.1, 0.05, 0.02)
"""Shares of the canaries that an attacker may guess; one is chosen before the answer is seen."""

COARSE = 0.05


@dataclass(frozen=True)
class Finding:
    """One attack's result: lower bounds on ε, each 0 where nothing is proven.

    ``epsilon_independent`` is None where the canaries are not independent experiments.
    """

    attack: str
    sees: str
    guesses: Guesses
    epsilon_one_run: float
    epsilon_f_dp: float
    epsilon_independent: float | None = None

    @property
    def bound(self) -> float:
        """The largest of the lower bounds on ε."""
        return max(self.epsilon_one_run, self.epsilon_f_dp, self.epsilon_independent or 0.0)


@dataclass(frozen=True)
class Verdict:
    """All findings beside the claim; PRIVATE where an attack was on private data.

    Args:
        claimed: the ε that the plan claims under ``relation`` at ``delta``.
        confidence: probability that no finding's bound exceeds the truth.
        findings: one for each attack.
        off_grid: queries with an answer that is no whole number of grid steps, which the theorem
            of the noise rests on.
    """

    claimed: float
    delta: float
    relation: str
    confidence: float
    findings: tuple[Finding, ...]
    off_grid: tuple[str, ...] = ()

    @property
    def refuted(self) -> bool:
        """Whether some lower bound exceeds the claim, or an answer lies off its grid."""
        return bool(self.off_grid) or any(f.bound > self.claimed for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {
            "claimed_epsilon": self.claimed,
            "delta": self.delta,
            "relation": self.relation,
            "confidence": self.confidence,
            "refuted": self.refuted,
            "off_grid": list(self.off_grid),
            "findings": [asdict(finding) for finding in self.findings],
        }


def judge(plan: Plan, attacks: Sequence[Attacked], confidence: float) -> Verdict:
    """Bound ε from below by each attack; all bounds hold together with ``confidence``."""
    budget = plan.budget
    family = Family(plan.events, budget.delta, budget.relation)
    bounds = sum(2 + attack.independent for attack in attacks)
    significance = (1 - confidence) / bounds
    findings = []
    for attack in attacks:
        made = best_number(len(attack.scores), budget, significance)
        guesses = guess(attack.scores, attack.present, made)
        alone = None
        if attack.independent:
            alone = epsilon_independent(attack.scores, attack.present, family, significance)
        findings.append(
            Finding(
                attack.name,
                attack.sees,
                guesses,
                epsilon_one_run(guesses, budget.delta, significance),
                epsilon_f_dp(guesses, family, significance),
                alone,
            )
        )
    claimed = plan.epsilons()[budget.relation]
    return Verdict(claimed, budget.delta, budget.relation, confidence, tuple(findings))


def best_number(canaries: int, claim: Budget, significance: float) -> int:
    """The number of guesses with the largest f-DP bound, were the claim a Gaussian's exact ε.

    Computed from the claim alone: choosing after the answer was seen would void the bound.
    """
    steps = {relation: 1.0 for relation in RELATIONS}
    (event,) = calibrate([Event("sum", "one", 1.0, steps, 1.0)], claim)
    family, mu = Family([event], claim.delta, claim.relation), 1 / event.noise_std

    def bound(made: int) -> float:
        guesses = expected(canaries, made, mu)
        return epsilon_f_dp(guesses, family, significance, COARSE)

    return max((max(1, round(share * canaries)) for share in SHARES), key=bound)


def expected(canaries: int, made: int, mu: float) -> Guesses:
    """How many of the ``made`` surest guesses are right where the evidence is Gaussian.

    A present canary's log likelihood ratio is N(μ²/2, μ²), an absent one's the mirror image.
    """

    def right_and_wrong(level: float) -> tuple[float, float]:
        return float(ndtr(mu / 2 - level / mu)), float(ndtr(-mu / 2 - level / mu))

    def too_many(level: float) -> float:
        return sum(right_and_wrong(level)) - made / canaries

    level = 0.0 if made == canaries else brentq(too_many, 0.0, mu * (mu / 2 + 40))
    right, wrong = right_and_wrong(level)
    return Guesses(min(made, round(made * right / (right + wrong))), made, canaries)
