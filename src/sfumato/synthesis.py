"""The whole job: private images in, a release out, and further releases from the same answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sfumato.checks import (
    check_apart,
    check_classes,
    check_command,
    check_output,
    check_public,
    check_publishable,
)
from sfumato.choosing import make_method, public_images, read_public_model
from sfumato.data import DataOptions, ImageSource, open_images, stated_path
from sfumato.devices import computing_device
from sfumato.errors import UsageError
from sfumato.methods import load_model
from sfumato.methods.base import (
    Batch,
    Fitted,
    Model,
    Sampling,
)
from sfumato.options import (
    ClassifierOptions,
    Location,
    MethodOptions,
    ReleaseOptions,
    RunOptions,
    check_seed,
    gathered,
)
from sfumato.privacy import Budget, Curator
from sfumato.privacy.budget import check_delta
from sfumato.privacy.cluster import on_cluster
from sfumato.privacy.distributed import is_first, join
from sfumato.progress import stage
from sfumato.release import (
    convert_release,
    make_core,
    trusted_core,
    write_mock,
    write_release,
)
from sfumato.release.certificate import Certificate
from sfumato.release.files import EMBEDDING, MODEL
from sfumato.release.verification.claim import spec_of

DEFAULT_SAMPLES = 10_000


def synthesize(data: Location | ImageSource, *objects: Any, **stated: Any) -> Path:
    """Turn private images into a release of synthetic ones and return its folder.

    An interrupted job goes on where it was when it is called again with the same arguments; its
    budget is charged once. Arguments that only concern what becomes of the answers (samples,
    format, a generator's training) may differ.

    Args:
        data: what :func:`sfumato.open_images` opens, or has opened; or what
            :func:`sfumato.from_arrays` or :func:`sfumato.from_dataset` gives.
        objects: at most one each of :class:`Budget`, :class:`DataOptions`,
            :class:`MethodOptions`, :class:`RunOptions` and :class:`ReleaseOptions`.
        stated: their fields as keywords, which go before: ``synthesize("xrays/", epsilon=1.0,
            out="release/", cap=3.0)``. ``epsilon`` and ``out`` are needed; ``method`` may be a
            configured method too.

    Guarantee: the release is (ε, δ)-differentially private under the budget's relation, a unit
    being one record, or all records that ``unit`` or ``unit_pattern`` finds to be one.

    Raises:
        UsageError: an argument is outside its rule.
        DataError: the data cannot be read.
        BudgetExceededError: the data set's cap does not allow this run.
        LedgerError: the ledger is damaged, in use, or not writable.
    """
    kinds = [Budget, DataOptions, MethodOptions, RunOptions, ReleaseOptions]
    return _released(data, "synthesize", *gathered("synthesize", kinds, objects, stated))


def classify(data: Location | ImageSource, *objects: Any, **stated: Any) -> Path:
    """Train a private classifier of images into a release that holds no image; return its folder.

    Everything else is as of :func:`synthesize`: arguments, budget, ledger, resumed runs, guarantee
    and errors.

    Args:
        data: as of :func:`synthesize`, of two classes or more.
        objects: at most one each of :class:`Budget`, :class:`DataOptions`,
            :class:`ClassifierOptions`, :class:`RunOptions` and :class:`ReleaseOptions`.
        stated: their fields as keywords; ``epsilon`` and ``out`` are needed.
    """
    kinds = [Budget, DataOptions, ClassifierOptions, RunOptions, ReleaseOptions]
    return _released(data, "classify", *gathered("classify", kinds, objects, stated))


def _released(
    data: Location | ImageSource,
    command: str,
    budget: Budget,
    declared: DataOptions,
    chosen: MethodOptions,
    run: RunOptions,
    to: ReleaseOptions,
) -> Path:
    """The whole job of a command that fits a method and releases what it learns."""
    join()
    run = replace(run, quiet=run.quiet or not is_first())
    target = check_output(to)
    source = open_images(data, declared)
    check_publishable(source.spec)
    check_apart(target, source, run.state)
    check_delta(budget.delta, source.spec.declared_size, run.allow_large_delta)
    method = make_method(chosen, source.spec)
    check_public(chosen.public, source, run.folder)
    check_command(method, command, to)
    check_classes(type(method).model, source.spec, None, to.balance)
    with on_cluster(source, run.engine), open_curator(source, budget, run) as curator:
        fitted = method.fit(curator)
        core = make_core(curator.record()) if is_first() else {}
        _Making(core, command, chosen.seed_public, run.quiet).write(fitted, to)
        curator.close()
    return target


def open_curator(source: ImageSource, budget: Budget, run: RunOptions) -> Curator:
    """The curator of a run."""
    return Curator(
        source,
        budget,
        state=run.folder,
        cap=None if run.cap is None else replace(budget, epsilon=run.cap),
        fresh=run.fresh,
        same_data_as=run.same_data_as,
        independent_data=run.independent_data,
        quiet=run.quiet,
        device=computing_device(run.device, run.quiet),
        insecure_seed=run.insecure_seed,
    )


def sample(
    release: Location,
    *objects: Any,
    sampler: str | None = None,
    sampling_steps: int | None = None,
    label: str | None = None,
    seed_public: int = 0,
    quiet: bool = False,
    device: str = "auto",
    **stated: Any,
) -> Path:
    """Sample more images from a release's model into another release, at no privacy cost.

    Under ``torchrun`` all ranks sample; the release is the same on any number of them.

    Args:
        objects, stated: :class:`ReleaseOptions` or its fields; ``out`` is needed.
        sampler, sampling_steps: another sampler, for a diffusion model; see ``SAMPLERS``.
        label: the only class of the images, by its name.
        device: where the model computes, as in :class:`RunOptions`.

    Raises:
        UsageError: an argument is outside its rule, or ``label`` is none of the classes.
        CertificateError: the release's claim fails, or its model was changed.
        DataError: the model cannot be read.
    """
    join()
    quiet = quiet or not is_first()
    (to,) = gathered("sample", [ReleaseOptions], objects, stated)
    check_seed(seed_public)
    target = check_output(to)
    origin = stated_path(release, "release")
    check_apart(target, origin)
    place = computing_device(device, quiet)
    core = trusted_core(origin, MODEL)
    model = load_model(origin / MODEL)
    check_classes(type(model), model.spec, label, to.balance)
    if sampler is not None or sampling_steps is not None:
        model = model.with_sampler(sampler, sampling_steps)
    model.move(place)
    _Making(core, "sample", seed_public, quiet, label).write(model, to)
    return target


def convert(release: Location, *objects: Any, **stated: Any) -> Path:
    """Write a release in another format, at no privacy cost: same images, same certificate.

    Args:
        objects, stated: :class:`ReleaseOptions` or its fields ``out``, ``format`` and ``force``.

    Raises:
        UsageError: an argument is outside its rule, or the release holds no images.
        CertificateError: the release does not verify.
    """
    (to,) = gathered("convert", [ReleaseOptions], objects, stated)
    if to.samples is not None or to.balance:
        raise UsageError("samples, balance: convert keeps all images as they are. Leave both out.")
    target = check_output(to)
    origin = stated_path(release, "release")
    check_apart(target, origin)
    return convert_release(origin, target, to.format, to.force)


def mock(*objects: Any, seed_public: int = 0, **stated: Any) -> Path:
    """Write a folder like a release, of random images, to build a pipeline with; no data are read.

    It costs no privacy and carries no guarantee: it has no certificate and no model, and
    :func:`sfumato.verify` refuses it. Files, names and the numbers of classes are those of a
    release of this format.

    Args:
        objects: at most one each of :class:`DataOptions` and :class:`ReleaseOptions`.
        stated: of their fields ``image_size`` (32 by default), ``channels`` (3), ``classes`` (none:
            unlabelled), ``out``, which is needed, ``samples`` (10,000), ``format`` and ``force``,
            which replaces a mock and never a release.
        seed_public: public seed of the images.

    Raises:
        UsageError: an argument is outside its rule, or has no meaning here.
        DataError: a class name is outside its rule, or listed twice.
    """
    declared, to = gathered("mock", [DataOptions, ReleaseOptions], objects, stated)
    check_seed(seed_public)
    target = check_output(to)
    reading = replace(declared, image_size=None, channels=None, classes=None)
    useless = [one.name for one in fields(reading) if getattr(reading, one.name) != one.default]
    useless += ["balance"] * to.balance
    if useless:
        raise UsageError(
            f"{', '.join(useless)}: of no use for a mock, which reads no data and gives each class "
            "as many images. Leave it out."
        )
    spec = declared.spec(() if declared.classes is None else declared.numbered_classes("mock"))
    check_publishable(spec)
    samples, seed = to.samples or DEFAULT_SAMPLES, seed_public
    return write_mock(target, spec, samples, to.format, seed_public=seed, force=to.force)


def fit_embedding(
    embedding: Location,
    *objects: Any,
    steps: int | None = None,
    public: Location | None = None,
    public_model: Location | None = None,
    seed_public: int = 0,
    quiet: bool = False,
    device: str = "auto",
    **stated: Any,
) -> Path:
    """Train another generator on a released embedding, at no privacy cost.

    Args:
        embedding: a release, or the ``embedding.safetensors`` in one.
        objects, stated: :class:`ReleaseOptions` or its fields; ``out`` is needed.
        steps: generator steps; those of the release by default.
        public, public_model: what the released run learnt from, where it was not the default.
        device: where the generator is trained, as in :class:`RunOptions`.

    Raises:
        UsageError: an argument is outside its rule.
        CertificateError: the release's claim fails, or its embedding was changed.
        DataError: the file is no released embedding.
    """
    from sfumato.methods.mepf import method as mepf
    from sfumato.methods.training import Session

    (to,) = gathered("fit_embedding", [ReleaseOptions], objects, stated)
    check_seed(seed_public)
    target = check_output(to)
    path = stated_path(embedding, "embedding")
    path = path / EMBEDDING if path.is_dir() else path
    if path.name != EMBEDDING:
        raise UsageError(f"embedding={path} must be a release or the {EMBEDDING} in one.")
    check_apart(target, path.parent)
    core = trusted_core(path.parent, EMBEDDING)
    spec = spec_of(core)
    check_classes(mepf.DPMEPF.model, spec, None, to.balance)
    check_public(public)
    images = None if public is None else public_images(public, spec).images
    session = Session(quiet=quiet, device=computing_device(device, quiet))
    started = None if public_model is None else read_public_model(public_model)
    model = mepf.fit_embedding(
        path,
        seed_public=seed_public,
        steps=steps,
        public=images,
        public_model=started,
        session=session,
    )
    _Making(core, "fit-embedding", seed_public, quiet).write(model, to)
    return target


@dataclass(frozen=True)
class _Making:
    """What is said of how a release was made, and its writing."""

    core: Certificate
    made_by: str
    seed_public: int
    quiet: bool
    label: str | None = None

    def write(self, fitted: Fitted, to: ReleaseOptions) -> None:
        """Sample and write the release; ranks other than the first only sample."""
        if not isinstance(fitted, Model):
            self._write(fitted, (), to)
            return
        model, classes = fitted, fitted.spec.classes
        count = to.samples or fitted.spec.declared_size or DEFAULT_SAMPLES
        label = None if self.label is None else classes.index(self.label)
        wanted = Sampling(count, self.seed_public, label, to.balance)
        with stage("sampling synthetic images", self.quiet) as report:

            def sampled() -> Iterator[Batch]:
                done = 0
                for images, labels in model.sampled_by_all(wanted):
                    yield images, labels
                    done += len(images)
                    report(done / count)

            self._write(model, sampled(), to)

    def _write(self, fitted: Fitted, batches: Iterable[Batch], to: ReleaseOptions) -> None:
        if not is_first():
            for _ in batches:
                pass
            return
        asked: dict[str, Any] = {} if self.label is None else {"label": self.label}
        asked |= {"balance": True} if to.balance else {}
        write_release(
            Path(to.out),
            fitted,
            self.core,
            batches,
            format=to.format,
            made={"made_by": self.made_by, "seed_public": self.seed_public, **asked},
            force=to.force,
        )
