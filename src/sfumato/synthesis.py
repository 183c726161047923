"""The whole job: private images in, a release out, and further releases from the same answers."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfumato.data import (
    ImageSource,
    LabelledImages,
    PublicSpec,
    load_labelled,
    open_images,
    stated_path,
)
from sfumato.data.source import Place
from sfumato.data.writers import FORMATS
from sfumato.errors import UsageError
from sfumato.methods import find_method, load_model
from sfumato.methods.base import Batch, Method, Model
from sfumato.methods.mepf.method import fit_embedding
from sfumato.privacy import Budget, Curator, Relation
from sfumato.privacy.budget import delta_problem
from sfumato.privacy.distributed import is_first, join
from sfumato.privacy.run import state_of
from sfumato.progress import stage
from sfumato.release import check_target, make_core, trusted_core, write_release
from sfumato.release.certificate import Certificate
from sfumato.release.files import EMBEDDING, MODEL
from sfumato.release.verification.claim import spec_of
from sfumato.release.verification.leaks import json_leaks

Location = str | os.PathLike[str]

DEFAULT_DELTA = 1e-5
DEFAULT_SAMPLES = 10_000


def synthesize(
    data: Location,
    *,
    epsilon: float,
    out: Location,
    delta: float = DEFAULT_DELTA,
    allow_large_delta: bool = False,
    relation: Relation = "add-or-remove-one",
    method: str | Method = "mepf",
    options: Mapping[str, Any] | None = None,
    preset: str | None = None,
    public: Location | None = None,
    samples: int | None = None,
    format: str = "folder",
    image_size: int | None = None,
    channels: int | None = None,
    classes: Sequence[str] | int | None = None,
    declared_size: int | None = None,
    split: str | None = None,
    unit: str | None = None,
    unit_pattern: str | None = None,
    records_per_unit: int | None = None,
    cap: float | None = None,
    state: Location | None = None,
    seed_public: int = 0,
    fresh: bool = False,
    force: bool = False,
    quiet: bool = False,
    insecure_seed: int | None = None,
) -> Path:
    """Turn private images into a release of synthetic ones and return its folder.

    An interrupted job goes on where it was when it is called again with the same arguments; its
    budget is charged once.

    Args:
        data: what :func:`sfumato.open_images` opens, with ``image_size``, ``channels``,
            ``classes``, ``declared_size``, ``split``, ``unit``, ``unit_pattern`` and
            ``records_per_unit`` as there.
        epsilon, delta, relation: the :class:`sfumato.Budget` of this run.
        allow_large_delta: accept a δ above 1/1,000, or not below 1/``declared_size``.
        out: a new folder, or a release to replace with ``force``.
        method: one of :func:`sfumato.methods.method_names`, or a configured method.
        options: settings of the named method, over those of its ``preset`` where one is named;
            ``public``: public images it may learn from.
        samples: number of synthetic images; the declared size by default, else 10,000.
        format: ``folder``, ``parquet`` or ``webdataset``.
        cap: the most ε that the data set may ever be charged, at the same ``delta``, ``relation``.
        state: folder of ledgers and private runs; the user's state folder by default.
        seed_public: public seed of training and drawing; never of the noise.
        fresh: charge a new run even where an interrupted one could go on.
        quiet: show no progress.
        insecure_seed: for tests; the release is stamped NOT PRIVATE.

    Guarantee: the release is (ε, δ)-differentially private under ``relation``, a unit being one
    record, or all records that ``unit`` or ``unit_pattern`` finds to be one.

    Raises:
        UsageError: an argument is outside its rule.
        DataError: the data cannot be read.
        BudgetExceededError: the data set's cap does not allow this run.
        LedgerError: the ledger is damaged, in use, or not writable.
    """
    join()
    quiet = quiet or not is_first()
    target = check_output(out, format, samples, force)
    source = open_images(
        data,
        image_size=image_size,
        channels=channels,
        classes=classes,
        declared_size=declared_size,
        split=split,
        unit=unit,
        unit_pattern=unit_pattern,
        records_per_unit=records_per_unit,
    )
    check_publishable(source.spec)
    check_apart(target, source, state)
    budget = Budget(epsilon, delta, relation)
    problem = delta_problem(delta, source.spec.declared_size)
    if problem and not allow_large_delta:
        raise UsageError(f"{problem}. Choose a smaller --delta, or pass --allow-large-delta.")
    if isinstance(method, str):
        method = make_method(method, source.spec, options, public, seed_public, preset)
    with Curator(
        source,
        budget,
        state=None if state is None else Path(state),
        cap=None if cap is None else replace(budget, epsilon=cap),
        fresh=fresh,
        quiet=quiet,
        insecure_seed=insecure_seed,
    ) as curator:
        model = method.fit(curator)
        if is_first():  # under torchrun the other ranks have done their part
            core = make_core(curator.record())
            count = samples or source.spec.declared_size or DEFAULT_SAMPLES
            _release(model, core, count, target, format, "synthesize", seed_public, force, quiet)
        curator.close()
    return target


def sample(
    release: Location,
    *,
    samples: int,
    out: Location,
    sampler: str | None = None,
    sampling_steps: int | None = None,
    format: str = "folder",
    seed_public: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Draw more images from a release's model into another release, at no privacy cost.

    Args:
        sampler, sampling_steps: another way to draw, for a diffusion model; see ``SAMPLERS``.

    Raises:
        UsageError: an argument is outside its rule.
        CertificateError: the release's claim fails, or its model was changed.
        DataError: the model cannot be read.
    """
    target = check_output(out, format, samples, force)
    origin = stated_path(release, "release")
    check_apart(target, origin)
    core = trusted_core(origin, MODEL)
    model = load_model(origin / MODEL)
    if sampler is not None or sampling_steps is not None:
        model = model.with_sampler(sampler, sampling_steps)
    _release(model, core, samples, target, format, "sample", seed_public, force, quiet)
    return target


def refit(
    embedding: Location,
    *,
    out: Location,
    samples: int | None = None,
    steps: int | None = None,
    public: Location | None = None,
    format: str = "folder",
    seed_public: int = 0,
    force: bool = False,
    quiet: bool = False,
) -> Path:
    """Train another generator on a released embedding, at no privacy cost.

    Args:
        embedding: a release, or the ``embedding.safetensors`` in one.
        steps: generator steps; those of the release by default.

    Raises:
        UsageError: an argument is outside its rule.
        CertificateError: the release's claim fails, or its embedding was changed.
        DataError: the file is no released embedding.
    """
    target = check_output(out, format, samples, force)
    path = stated_path(embedding, "embedding")
    path = path / EMBEDDING if path.is_dir() else path
    if path.name != EMBEDDING:
        raise UsageError(f"embedding={path} must be a release or the {EMBEDDING} in one.")
    check_apart(target, path.parent)
    core = trusted_core(path.parent, EMBEDDING)
    spec = spec_of(core)
    images = None if public is None else public_images(public, spec).images
    model = fit_embedding(path, seed_public=seed_public, steps=steps, public=images, quiet=quiet)
    count = samples or spec.declared_size or DEFAULT_SAMPLES
    _release(model, core, count, target, format, "fit-embedding", seed_public, force, quiet)
    return target


def make_method(
    name: str,
    spec: PublicSpec,
    options: Mapping[str, Any] | None = None,
    public: Location | None = None,
    seed_public: int = 0,
    preset: str | None = None,
) -> Method:
    """Configure a method by name: its defaults, then a preset's settings, then ``options``.

    Raises:
        UsageError: the method or one of its options is not known, or a value is outside its rule.
    """
    kind = find_method(name)
    known = inspect.signature(kind).parameters
    chosen = dict(options or {})
    if preset is not None:
        chosen = {**kind.preset(preset, spec), **chosen}
    if public is not None and "public_labels" in known:
        labelled = chosen.get("public_conditional", False)
        images = public_images(public, spec, labelled)
        chosen["public"], chosen["public_labels"] = images.images, images.labels
    elif public is not None:
        chosen["public"] = public_images(public, spec).images
    if "seed_public" in known:
        chosen.setdefault("seed_public", seed_public)
    for option in chosen:
        if option not in known:
            raise UsageError(f"{name} has no option {option!r}; it has {', '.join(known)}.")
    lists_as_tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in chosen.items()}
    try:
        method = kind(**lists_as_tuples)
    except (TypeError, ValueError):
        shown = ", ".join(f"{key}={value!r}" for key, value in (options or {}).items())
        raise UsageError(f"{name}: an option is of the wrong type: {shown}.") from None
    return method


def public_images(location: Location, spec: PublicSpec, labelled: bool = False) -> LabelledImages:
    """Read images that the user declares public, in the form of the private ones.

    Raises:
        UsageError: labels are wanted, and there are more classes than the private images have.
    """
    classes = None if labelled else 0
    source = open_images(location, image_size=spec.height, channels=spec.channels, classes=classes)
    if len(source.spec.classes) > len(spec.classes):
        raise UsageError(
            f"public={location} has {len(source.spec.classes)} classes, but the private images "
            f"have {len(spec.classes)}; conditional pre-training needs as many or fewer."
        )
    return load_labelled(source)


def check_output(out: Location, format: str, samples: int | None, force: bool) -> Path:
    """Check where and how a release is to be written, before anything is spent on it."""
    if format not in FORMATS:
        raise UsageError(f"format={format!r} must be one of {', '.join(FORMATS)}.")
    if samples is not None and samples < 1:
        raise UsageError(f"samples={samples} must be at least 1.")
    target = stated_path(out, "out")
    check_target(target, force)
    return target


def check_publishable(spec: PublicSpec) -> None:
    """Refuse public names that no release may hold, before anything is spent on one."""
    found = list(json_leaks([*spec.classes, spec.unit_in_words], "the classes and the unit"))
    if found or "<!--" in spec.unit_in_words:
        raise UsageError(
            "a class name or the unit looks like an absolute path or a comment, which no release "
            "may hold. Rename the class, or write the unit another way: names of records have no "
            "leading slash."
        )


def check_apart(target: Path, made_from: ImageSource | Path, state: Location | None = None) -> None:
    """Refuse a release that would lie in or around what it is made from, or the ledgers."""
    place = Place(str(target.resolve()))
    places: tuple[Place, ...] = ()
    if isinstance(made_from, ImageSource):
        places = made_from.places
        private = state_of(made_from, None if state is None else stated_path(state, "state"))
        if place.overlaps(Place(str(private))):
            raise UsageError(
                f"out={target} lies in the state folder {private}, or around it; a ledger is never "
                "released. Name another folder."
            )
    else:
        places = (Place(str(made_from.resolve())),)
    if any(place.overlaps(other) for other in places):
        shown = made_from.name if isinstance(made_from, ImageSource) else made_from
        raise UsageError(
            f"out={target} lies in {shown}, which it is made from, or around it. Name another "
            "folder."
        )


def _release(
    model: Model,
    core: Certificate,
    samples: int,
    target: Path,
    format: str,
    made_by: str,
    seed_public: int,
    force: bool,
    quiet: bool,
) -> None:
    with stage("drawing synthetic images", quiet) as report:

        def drawn() -> Iterator[Batch]:
            done = 0
            for images, labels in model.sample(samples, seed_public):
                yield images, labels
                done += len(images)
                report(done / samples)

        write_release(
            target,
            model,
            core,
            drawn(),
            format=format,
            made_by=made_by,
            seed_public=seed_public,
            force=force,
        )
