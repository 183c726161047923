"""``sfumato pretrain``: a model from public images, for private training to start from."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.data.options import DataOptions
from sfumato.options import PretrainOptions


def pretrain(
    public: Annotated[
        str, typer.Argument(metavar="PUBLIC", help="Public images: a location, or a known name.")
    ],
    chosen: PretrainOptions,
    declared: Annotated[
        DataOptions,
        "image_size",
        "channels",
        "classes",
        "split",
        "image_key",
        "label_key",
        "labels",
        "name_column",
        "value_range",
        "dicom",
        "frame",
        "follow_links",
    ],
    json: p.Json = False,
) -> None:
    """Train a model on public images alone, once.

    No private image, ledger or budget has a part in it. Private training starts from the model with
    --public-model. That its images are public is the one thing that nobody can check.

    \b
    Examples:
      sfumato pretrain photographs/ --image-size 32 --preset cpu --out photographs.model
      sfumato pretrain letters.zip --channels 1 --method mepf --out letters.model
      sfumato synthesize faces/ --epsilon 10 --declared-size 20000 --image-size 32 --method dpdm \
        --public-model photographs.model --out release/
    """
    from sfumato.methods.public_model import PublicModel
    from sfumato.pretraining import UNCHECKED, pretrain

    out = pretrain(public, declared, chosen)
    made = PublicModel.read(out)
    if json:
        facts = {"out": str(out), "samples": f"{out}.png", "sha256": made.digest}
        show.as_json({**facts, "method": made.method, "card": dict(made.card)})
        return
    spec = made.model.spec
    colour = "grey" if spec.channels == 1 else "colour"
    show.line(
        f"{out}: a public model ({made.method}) of {made.card['images']:,} images, read as "
        f"{spec.height}x{spec.width} pixels in {colour}"
    )
    show.line(f"SHA-256: {made.digest}")
    show.line(f"samples: {out}.png")
    show.line(f"{UNCHECKED[0].upper()}{UNCHECKED[1:]}.")
