"""``sfumato sample``: more images from a release, at no privacy cost."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli.commands.release.synthesize import describe
from sfumato.options import ReleaseOptions


def sample(
    release: p.Release,
    to: ReleaseOptions,
    label: Annotated[
        str | None, typer.Option(help="The only class of the images, by its name.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="dpdm: quick, accuracy, fid, ddim or ddim-stochastic; else as released."),
    ] = None,
    sampling_steps: Annotated[int | None, typer.Option(help="Steps of the sampler.")] = None,
    seed_public: Annotated[int, typer.Option(help="Public seed of the sample.")] = 1,
    device: p.Device = "auto",
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Sample more images from a release, at no privacy cost.

    Its model puts them into another release with the same certificate of what was spent. Nothing
    is charged, however many there are: the private images are not read again.

    \b
    Example:
      sfumato sample release/ --samples 100000 --format webdataset --out more/
      sfumato sample release/ --label cat --count 500 --out cats/
      sfumato sample release/ --samples 1000 --sampler fid --sampling-steps 100 --out fine/
    """
    from sfumato.privacy.distributed import is_first
    from sfumato.synthesis import sample

    made = sample(
        release,
        to,
        sampler=sampler,
        sampling_steps=sampling_steps,
        label=label,
        seed_public=seed_public,
        quiet=quiet,
        device=device,
    )
    if is_first():  # under torchrun one process speaks for all
        describe(made, json, charged=False)
