"""``sfumato compare``: several releases beside each other, on the same real images."""

from __future__ import annotations

import json as text
from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.cli.commands.research import evaluate as e
from sfumato.disk import private_folder, write_private
from sfumato.errors import UsageError
from sfumato.options import EvaluationOptions, RunOptions

FILES = ("comparison.json", "comparison.md", "comparison.png")


def compare(
    releases: Annotated[
        list[Path], typer.Argument(metavar="RELEASE...", help="The folders of the releases.")
    ],
    against: e.Against,
    out: Annotated[
        Path,
        typer.Option(help="Folder for table and plot, outside every release.", metavar="DIR"),
    ],
    how: EvaluationOptions = EvaluationOptions(),
    state: p.State = None,
    device: p.Device = "auto",
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Put releases beside each other: utility and fidelity against ε.

    Evaluates each as sfumato evaluate does, where that is not done yet, and writes one table and
    one plot. Unless the real images are public, neither is private: share them with nobody.

    \b
    Example:
      sfumato compare eps1/ eps10/ --against fashion-mnist --public --out comparison/
    """
    from sfumato.evaluation import compare as comparing
    from sfumato.evaluation.judging import judge, open_real, open_release

    for release in releases:
        if out.resolve().is_relative_to(release.resolve()):
            raise UsageError(f"--out {out} lies in the release {release}. Name another folder.")
    compared = [
        comparing.Compared.of(
            judge(
                release,
                # Without its training split: what real images would give is not compared here.
                open_real(against, open_release(release).spec).without_training(),
                how,
                RunOptions(state=state, quiet=quiet, device=device),
            )
        )
        for release in releases
    ]
    result = comparing.to_dict(compared, not how.public)
    private_folder(out)
    as_json, as_markdown, as_png = (out / name for name in FILES)
    write_private(as_json, text.dumps(result, indent=1))
    write_private(as_markdown, comparing.to_markdown(compared, not how.public))
    write_private(as_png, b"")
    comparing.plot(compared, not how.public, as_png)  # into the file that is there
    if json:
        show.as_json({"out": str(out), **result})
        return
    if not how.public:
        show.line(result["watermark"])
    names = comparing.classifiers(compared)
    rows = [comparing.cells(release, names) for release in compared]
    show.table(comparing.columns(compared), rows)
    show.line(comparing.LEGEND)
    show.line(f"table: {as_markdown} and {as_json}   plot: {as_png}")
