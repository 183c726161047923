"""``sfumato convert``: the same release in another format."""

from __future__ import annotations

from typing import Annotated

from sfumato.cli import parameters as p
from sfumato.cli.commands.release.synthesize import describe
from sfumato.options import ReleaseOptions


def convert(
    release: p.Release,
    to: Annotated[ReleaseOptions, "out", "format", "force"],
    json: p.Json = False,
) -> None:
    """Write the images of a release in another format.

    The new release holds the same images, labels, model and certificate of what was spent, and
    verifies like the old one. A report and a signature are left out: make them anew.

    \b
    Example:
      sfumato convert release/ --format parquet --out shards/
    """
    from sfumato.synthesis import convert

    describe(convert(release, to), json, charged=False)
