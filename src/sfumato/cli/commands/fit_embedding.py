"""``sfumato fit-embedding``: another generator from a released embedding, at no privacy cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli.commands.synthesize import describe


def fit_embedding(
    embedding: Annotated[
        Path,
        typer.Argument(
            metavar="EMBEDDING", help="A release with an embedding.safetensors, or that file in it."
        ),
    ],
    out: p.Out,
    steps: Annotated[
        int | None, typer.Option(help="Generator steps; as the release by default.")
    ] = None,
    public: p.Public = None,
    samples: p.Samples = None,
    format: p.Format = "folder",
    seed_public: p.SeedPublic = 0,
    force: p.Force = False,
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Train another generator, at no privacy cost.

    It learns from the noisy embedding that a release of the method mepf holds.

    \b
    Example:
      sfumato fit-embedding release/ --steps 20000 --seed-public 1 --out better/
    """
    from sfumato.synthesis import refit

    made = refit(
        embedding,
        out=out,
        samples=samples,
        steps=steps,
        public=public,
        format=format,
        seed_public=seed_public,
        force=force,
        quiet=quiet,
    )
    describe(made, json)
