"""``sfumato demo``: the main job in miniature, on digits that scikit-learn ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.cli.commands.release.synthesize import describe, show_total
from sfumato.data.options import DataOptions
from sfumato.options import ReleaseOptions, RunOptions

QUICK = {"steps": 200, "batch": 80}
TRAIN = DataOptions(split="train")  # so that a folder called digits is not in the way


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the release.", metavar="DIR")] = Path(
        "sfumato-demo"
    ),
    state: p.State = None,
    device: p.Device = "auto",
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Do the whole job in miniature, on digits.

    The digits are those that scikit-learn ships, so nothing is downloaded. An earlier demo in the
    folder is replaced. With a longer training this is the same as:

    \b
      sfumato synthesize digits --epsilon 10 --out sfumato-demo
      sfumato report sfumato-demo
      sfumato verify sfumato-demo
    """
    from sfumato.release import verify
    from sfumato.reporting import write_report
    from sfumato.synthesis import synthesize

    release = synthesize(
        "digits",
        TRAIN,
        ReleaseOptions(out, samples=1000, force=True),
        RunOptions(state=state, quiet=quiet, device=device),
        epsilon=10.0,
        options=QUICK,
    )
    write_report(release)
    verify(release)
    describe(release, json)
    if not json:
        show_total("digits", TRAIN, state, 1e-5)
        show.line(f"verified; verify it again with: sfumato verify {release}")
        show.line("Training was short, to be quick: real use takes the defaults and more images.")
