"""``sfumato mock``: a folder like a release, before any data are touched."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.data.options import DataOptions
from sfumato.options import ReleaseOptions


def mock(
    declared: Annotated[DataOptions, "image_size", "channels", "classes"],
    to: Annotated[ReleaseOptions, "out", "samples", "format", "force"],
    seed_public: Annotated[int, typer.Option(help="Public seed of the images.")] = 0,
    json: p.Json = False,
) -> None:
    """Write a folder like a release, of random images, to build a pipeline with.

    No data are read, so nothing is charged, and nothing is guaranteed. Files, names and the numbers
    of classes are those of a release of this format, with a card that says that it is a mock. It
    has no certificate and no model; sfumato verify refuses it with exit code 6. --force replaces a
    mock, never a release.

    \b
    Examples:
      sfumato mock --classes healthy,ill --image-size 64 --channels 1 --samples 1000 --out mock/
      sfumato mock --classes 10 --format webdataset --out mock/
    """
    from sfumato.synthesis import mock

    release = mock(declared, to, seed_public=seed_public)
    if json:
        from sfumato.release import strict_json
        from sfumato.release.files import MOCK

        stated = strict_json.parse((release / MOCK).read_bytes(), MOCK)
        show.as_json({"out": str(release), **stated})
        return
    show.line(f"a mock in {release}: random images, no data read, nothing charged, no guarantee")
    show.line(f"card: {release / 'README.md'}   what was declared: {release / 'mock.json'}")
