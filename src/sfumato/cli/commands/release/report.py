"""``sfumato report``: a release's page for people who are not experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show


def report(
    release: p.Release,
    metrics: Annotated[
        Path | None,
        typer.Option(help="Evaluation to show too; needs --out.", metavar="FILE.json"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the page here, outside the release, instead.", metavar="FILE.html"
        ),
    ] = None,
    json: p.Json = False,
) -> None:
    """Write a release's report.html: samples, guarantee and price in plain words.

    The page is one file that needs no network, and becomes part of the release. Measurements on
    private images never do: a page that shows them is watermarked and written elsewhere.

    \b
    Examples:
      sfumato report release/
      sfumato report release/ --metrics private/evaluation.json --out private/report.html
    """
    from sfumato.reporting import write_report

    page = write_report(release, metrics=metrics, out=out)
    if json:
        show.as_json({"report": str(page)})
    else:
        show.line(f"report: {page}")
