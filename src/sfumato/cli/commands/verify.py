"""``sfumato verify``: does a release prove its ε, and does it hold nothing private?"""

from __future__ import annotations

from sfumato.cli import parameters as p
from sfumato.cli import show


def verify(
    release: p.Release,
    allow_large_delta: p.AllowLargeDelta = False,
    json: p.Json = False,
) -> None:
    """Check that a release proves its ε and leaks nothing.

    Recomputes ε with a second accountant and looks for private leftovers. Fails with exit code 6
    and names every problem. Nothing in the release is trusted.

    \b
    Example:
      sfumato verify release/
    """
    from sfumato.release import verify

    verdict = verify(release, allow_large_delta=allow_large_delta)
    if json:
        show.as_json({"release": str(release), "verified": True, **verdict.to_dict()})
        return
    show.line(f"{release}: verified. {verdict.samples} images, method {verdict.method}.")
    show.line(f"claimed:    {show.epsilons(verdict.epsilon_by_relation, verdict.delta)}")
    show.line(f"recomputed: {show.epsilons(verdict.recomputed, verdict.delta)}")
    if verdict.metrics_recomputed is not None and verdict.metrics_delta is not None:
        price = show.epsilons(verdict.metrics_recomputed, verdict.metrics_delta)
        unit = show.unit(verdict.metrics_unit)
        show.line(f"published metrics, for the images measured (unit: {unit}): {price}")
    show.line(f"unit: {show.unit(verdict.unit)}; budgeted under {verdict.relation}")
    for remark in verdict.remarks:
        show.line(remark)
