"""``sfumato fit-embedding``: another generator from a released embedding, at no privacy cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli.commands.release.synthesize import describe
from sfumato.options import ReleaseOptions


def fit_embedding(
    embedding: Annotated[
        Path,
        typer.Argument(
            metavar="EMBEDDING", help="A release with an embedding.safetensors, or that file in it."
        ),
    ],
    to: ReleaseOptions,
    steps: Annotated[
        int | None, typer.Option(help="Generator steps; as the release by default.")
    ] = None,
    public: p.Public = None,
    public_model: p.PublicModel = None,
    seed_public: p.SeedPublic = 0,
    device: p.Device = "auto",
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Train another generator, at no privacy cost.

    It learns from the noisy embedding that a release of the method mepf holds.

    \b
    Example:
      sfumato fit-embedding release/ --steps 20000 --seed-public 1 --out better/
    """
    from sfumato.synthesis import fit_embedding

    made = fit_embedding(
        embedding,
        to,
        steps=steps,
        public=public,
        public_model=public_model,
        seed_public=seed_public,
        quiet=quiet,
        device=device,
    )
    describe(made, json, charged=False)
