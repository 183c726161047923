"""``sfumato classify``: a private classifier instead of images."""

from __future__ import annotations

from typing import Annotated

from sfumato.cli import parameters as p
from sfumato.cli.commands.release.synthesize import conclude
from sfumato.data.options import DataOptions
from sfumato.options import ClassifierOptions, ReleaseOptions, RunOptions
from sfumato.privacy.budget import Budget


def classify(
    data: p.Data,
    budget: Budget,
    method: Annotated[
        ClassifierOptions, "method", "preset", "options", "public", "seed_public", "compress"
    ],
    to: Annotated[ReleaseOptions, "out", "force"],
    declared: DataOptions,
    run: RunOptions,
    json: p.Json = False,
) -> None:
    """Train a private classifier; the release holds no images.

    For those who need labels and not images: the whole budget goes into the classifier. The
    release holds it with the same card and certificate as synthetic images have, the ledger is the
    same, and verify, report and evaluate take it too. In Python sfumato.load(RELEASE).predict
    names the class of images. After Ctrl-C or a crash the same command goes on where it was.

    \b
    Examples:
      sfumato classify xrays/ --epsilon 1 --declared-size 6000 --out classifier/
      sfumato classify xrays/ --epsilon 1 --method least-squares --out classifier/
      sfumato evaluate classifier/ --against heldout/
    """
    from sfumato.synthesis import classify

    release = classify(data, budget, declared, method, run, to)
    conclude(release, data, declared, run.folder, budget.delta, json)
