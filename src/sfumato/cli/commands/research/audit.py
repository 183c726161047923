"""``sfumato audit``: attack a method on purpose, and hold what that proves against the claim."""

from __future__ import annotations

import json as text
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.data.options import DataOptions
from sfumato.disk import write_private
from sfumato.options import AuditOptions, MethodOptions
from sfumato.privacy.budget import Budget

if TYPE_CHECKING:
    from sfumato.audit import Finding

REFUTED = 6
PRIVATE = (
    "PRIVATE unless DATA are public: these figures come from the images without noise. "
    "Share them with nobody."
)
MEANING = (
    "A lower bound above the claim refutes it. A low one proves nothing: a better attack may exist."
)
BOUNDS = (
    "one run: arXiv 2305.08846. f-DP: arXiv 2410.22235. independent: Clopper and Pearson, for the "
    "worst case of the queries, where a right curator treats every canary apart."
)


def audit(
    data: p.Data,
    budget: Budget,
    method: MethodOptions,
    strength: AuditOptions,
    declared: DataOptions,
    out: Annotated[
        Path | None, typer.Option(help="Write the figures as JSON too.", metavar="FILE")
    ] = None,
    device: p.Device = "auto",
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Attack a method with canaries and print what ε it betrays, beside what it claims.

    Plays the worst case of the method's queries through the real curator, then runs the method
    once over DATA with canaries and attacks its answers, its model and its images. No ledger is
    charged and nothing is released. The method's training is kept short unless --set says
    otherwise; what costs privacy is asked all the same. The bits of every answer must lie on
    the grid that the proof is about. Exit code 6 where a bound is above the claim or they do not.

    \b
    Examples:
      sfumato audit digits --method moments --epsilon 1
      sfumato audit digits --method dpdm --declared-size 2000 --epsilon 4 --set steps=50
      sfumato audit xrays/ --method moments --epsilon 1 --unit-pattern "patient_(\\d+)"
    """
    from sfumato.audit.method import audit as audited
    from sfumato.choosing import make_method
    from sfumato.data import open_images
    from sfumato.devices import computing_device
    from sfumato.methods import find_method

    place = computing_device(device, quiet)
    source = open_images(data, declared)
    if method.preset is None:
        short = find_method(method.method).short
        method = replace(method, options={**short, **(method.options or {})})
    chosen = make_method(method, source.spec)
    verdict = audited(
        chosen,
        source,
        budget,
        canaries=strength.canaries,
        confidence=strength.confidence,
        quiet=quiet,
        device=place,
    )
    protected = source.spec.unit_in_words
    result = {"note": f"{PRIVATE} {MEANING}", "method": chosen.name, "unit": protected}
    result.update(verdict.to_dict())
    if out is not None:
        write_private(out, text.dumps(result, indent=1) + "\n")
    if json:
        show.as_json(result)
    else:
        show.line(PRIVATE)
        show.table(
            ["attack", "sees", "right guesses", "ε ≥ one run", "ε ≥ f-DP", "ε ≥ independent"],
            [_row(finding) for finding in verdict.findings],
        )
        show.line(
            f"claimed: ε = {verdict.claimed:.4g} ({verdict.relation}) at δ = {verdict.delta:g}   "
            f"unit: {show.unit(protected)}"
        )
        show.line(f"all bounds hold together with confidence {verdict.confidence:g}")
        show.line(BOUNDS)
        show.line(MEANING)
        if verdict.off_grid:
            show.line(
                f"REFUTED: answers of {', '.join(verdict.off_grid)} do not lie on their grid."
            )
        else:
            show.line("every answer lies on its integer grid")
            show.line("REFUTED: a bound is above the claim." if verdict.refuted else "not refuted")
    if verdict.refuted:
        raise typer.Exit(REFUTED)


def _row(finding: Finding) -> list[str]:
    guesses = finding.guesses
    return [
        finding.attack,
        finding.sees,
        f"{guesses.correct:,} of {guesses.made:,} ({guesses.canaries:,} canaries)",
        f"{finding.epsilon_one_run:.3g}",
        f"{finding.epsilon_f_dp:.3g}",
        "" if finding.epsilon_independent is None else f"{finding.epsilon_independent:.3g}",
    ]
