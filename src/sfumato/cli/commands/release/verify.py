"""``sfumato verify``: does a release prove its ε, and does it hold nothing private?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show


def verify(
    release: p.Release,
    public_key: Annotated[
        Path | None,
        typer.Option(help="Public key that must have signed the release.", metavar="KEY.pub"),
    ] = None,
    redraw: Annotated[
        str | None,
        typer.Option(
            help="Images to make again from the model, chosen at random; some seconds' worth by "
            "default.",
            metavar="N|all",
        ),
    ] = None,
    public_model: Annotated[
        Path | None,
        typer.Option(help="Public model that training must have started from.", metavar="MODEL"),
    ] = None,
    allow_large_delta: p.AllowLargeDelta = False,
    json: p.Json = False,
) -> None:
    """Check that a release proves its ε and leaks nothing.

    Recomputes ε with a second accountant, derives again what the certificate determines, makes some
    images again from the model, and looks for private leftovers. Fails with exit code 6 and names
    every problem. Nothing in the release is trusted. Who made it is known only from a signature
    (sfumato sign).

    \b
    Examples:
      sfumato verify release/
      sfumato verify release/ --redraw all
      sfumato verify release/ --public-key hospital.key.pub
    """
    from sfumato.release import verify

    verdict = verify(
        release,
        allow_large_delta=allow_large_delta,
        public_key=public_key,
        redraw=int(redraw) if redraw is not None and redraw.isdecimal() else redraw,
        public_model=public_model,
    )
    if json:
        show.as_json({"release": str(release), "verified": True, **verdict.to_dict()})
        return
    if verdict.signed_by is None:
        how = "consistent, not signed"
    elif verdict.signer_expected:
        how = f"signed by {public_key}"
    else:
        how = f"signed by the key {verdict.signed_by}; name the key that you expect: --public-key"
    held = f"{verdict.samples} images" if verdict.samples else "a classifier"
    show.line(f"{release}: verified ({how}). {held}, method {verdict.method}.")
    show.line(f"claimed:    {show.epsilons(verdict.epsilon_by_relation, verdict.delta)}")
    show.line(f"recomputed: {show.epsilons(verdict.recomputed, verdict.delta)}")
    if verdict.metrics_recomputed is not None and verdict.metrics_delta is not None:
        price = show.epsilons(verdict.metrics_recomputed, verdict.metrics_delta)
        unit = show.unit(verdict.metrics_unit)
        show.line(f"published metrics, for the images measured (unit: {unit}): {price}")
    show.line(f"unit: {show.unit(verdict.unit)}; budgeted under {verdict.relation}")
    for remark in verdict.remarks:
        show.line(remark)
