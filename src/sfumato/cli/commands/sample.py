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
    sampler: Annotated[
        str | None,
        typer.Option(help="dpdm: quick, accuracy, fid, ddim or ddim-stochastic; else as released."),
    ] = None,
    sampling_steps: Annotated[int | None, typer.Option(help="Steps of the sampler.")] = None,
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
      sfumato sample release/ --samples 1000 --sampler fid --sampling-steps 100 --out fine/
    """
    from sfumato.synthesis import sample

    made = sample(
        release,
        samples=samples,
        out=out,
        sampler=sampler,
        sampling_steps=sampling_steps,
        format=format,
        seed_public=seed_public,
        force=force,
        quiet=quiet,
    )
    describe(made, json)
