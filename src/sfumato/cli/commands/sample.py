"""``sfumato sample``: more images from a release, at no privacy cost."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli.commands.synthesize import describe


def sample(
    release: p.Release,
    samples: Annotated[int, typer.Option(help="Number of synthetic images.")],
    out: p.Out,
    format: p.Format = "folder",
    seed_public: Annotated[int, typer.Option(help="Public seed of the draw.")] = 1,
    force: p.Force = False,
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Draw more images from a release, at no privacy cost.

    Its model draws them into another release with the same certificate of what was spent.

    \b
    Example:
      sfumato sample release/ --samples 100000 --format webdataset --out more/
    """
    from sfumato.synthesis import sample

    made = sample(
        release,
        samples=samples,
        out=out,
        format=format,
        seed_public=seed_public,
        force=force,
        quiet=quiet,
    )
    describe(made, json)
