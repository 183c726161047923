"""Audits: attacks on canaries that bound the true ε from below.

A bound above the claim refutes the claim; a low one proves nothing. Methods are attacked through
the curator as it runs, with a ledger that is thrown away.
"""

from sfumato.audit.f_dp import epsilon_f_dp
from sfumato.audit.guesses import Guesses, guess
from sfumato.audit.independent import epsilon_independent
from sfumato.audit.one_run import epsilon_one_run
from sfumato.audit.play import Attacked, play
from sfumato.audit.trade_off import Family
from sfumato.audit.verdict import Finding, Verdict, judge

__all__ = [
    "Attacked",
    "Family",
    "Finding",
    "Guesses",
    "Verdict",
    "epsilon_f_dp",
    "epsilon_independent",
    "epsilon_one_run",
    "guess",
    "judge",
    "play",
]
