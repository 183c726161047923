"""``pretrain``: a model from public images, once; no private data, no ledger, no budget."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sfumato.checks import check_public
from sfumato.data import DataOptions, PublicSpec, open_images, stated_path
from sfumato.data.arrays import load_labelled
from sfumato.data.source import Place
from sfumato.devices import resolve_device
from sfumato.disk import private_folder, write_atomically
from sfumato.errors import UsageError
from sfumato.features.public_classes import class_centres
from sfumato.methods.base import Method, Model, Sampling, Settings, digest_of
from sfumato.methods.public_model import PublicModel
from sfumato.methods.registry import find_method
from sfumato.methods.training import Session
from sfumato.options import Location, PretrainOptions, check_seed, gathered
from sfumato.privacy.ledger import digest
from sfumato.release.writing.grid import MOST_ROWS, PER_CLASS, SampleGrid

UNCHECKED = (
    "a public model that was trained on private data is the one thing that cannot be checked: its "
    "images must be public"
)
FEWEST = 2
"""Images without which nothing can be learnt."""


def pretrain(public: Location, *objects: Any, **stated: Any) -> Path:
    """Train a model on public images, for ``--public-model``; a killed run goes on where it was.

    Args:
        public: the public images, read like DATA.
        objects, stated: :class:`DataOptions`, :class:`PretrainOptions`, or their fields; ``out`` is
            needed.

    Returns:
        The model's file; samples of it lie beside it, ``OUT.png``.

    Raises:
        UsageError: an argument is outside its rule, the method has no model of its own kind, or
            the images lie where private ones do that have a ledger.
        DataError: the images cannot be read.
    """
    declared, chosen = gathered("pretrain", [DataOptions, PretrainOptions], objects, stated)
    check_seed(chosen.seed_public)
    out = stated_path(chosen.out, "out")
    if out.exists():
        raise UsageError(f"out={out} is there already. Name another file.")
    kind = find_method(chosen.method)
    settings = {**_preset(kind, chosen.preset), **dict(chosen.options or {})}
    source = open_images(public, declared)
    check_public(source)
    if any(Place(str(out.resolve())).overlaps(place) for place in source.places):
        raise UsageError(f"out={out} lies in public={public}. Name a file elsewhere.")
    images = load_labelled(source)
    if len(images.images) < FEWEST:
        raise UsageError(f"public={public} holds no {FEWEST} images to learn from.")
    # What is stated of the number of records is for private data.
    spec = replace(source.spec, declared_size=None, unit=None)
    about = {
        "source": chosen.source or Path(source.name).name,  # no path of this machine
        "licence": chosen.licence,
        "images": len(images.images),
        "sha256": digest_of(images.images),
        "labels": bool(spec.classes),
        "settings": settings,
        "seed_public": chosen.seed_public,
        "statement": UNCHECKED,
    }
    named = digest([chosen.method, spec.to_dict(), about])[:12]
    work = private_folder(out.parent / f".{out.name}-{named}")
    session = Session(work, chosen.quiet, resolve_device(chosen.device))
    seeded = {"seed_public": chosen.seed_public, **settings}
    try:
        model = kind.pretrained(spec, (images.images, images.labels), seeded, session)
    except UsageError:
        shutil.rmtree(work, ignore_errors=True)  # nothing was trained
        raise
    shown, classes = (images.images, images.labels), len(spec.classes)
    centres = class_centres(*shown, classes, session.device) if classes else None
    trained = PublicModel(chosen.method, model, about, centres)
    write_atomically(out.with_name(f"{out.name}.png"), _samples(model, spec))
    write_atomically(out, trained.to_bytes())
    shutil.rmtree(work, ignore_errors=True)
    return out


def _preset(kind: type[Method], name: str | None) -> Settings:
    if name is None:
        return {}
    if name not in kind.public_presets:
        known = " or ".join(kind.public_presets) or "left out"
        raise UsageError(f"preset={name!r} must be {known}.")
    return kind.public_presets[name]


def _samples(model: Model, spec: PublicSpec) -> bytes:
    """A picture of the model's samples; of many classes only those that it shows are sampled."""
    grid, classes = SampleGrid(spec), len(spec.classes)
    wanted = Sampling(PER_CLASS * (classes or PER_CLASS), balance=bool(classes))
    labels = model.labels_of(wanted)
    assert labels is not None  # of a balanced sampling, and of one without classes
    for images, named in model.redraw(wanted, np.flatnonzero(labels < MOST_ROWS)):
        grid.add(images, named)
    return grid.to_png()
