"""What every method and every model is: the members that all have, with their defaults."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods.registry import PRETRAINED
from sfumato.options import check_types, described
from sfumato.privacy.queries.base import Query

if TYPE_CHECKING:
    import torch

    from sfumato.methods.training import Session
    from sfumato.privacy import Answer, Curator

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images uint8 ``[b, channels, height, width]`` and labels int64 ``[b]``."""

Settings = Mapping[str, Any]
Chosen = TypeVar("Chosen", bound="Method")
HIDDEN = ("public", "public_labels", "public_model")
"""Options that are arrays or models: their digest stands in the configuration, not they."""


@dataclass(frozen=True)
class Sampling:
    """What is sampled from a model, all of it public; the same sampling repeats the images.

    Args:
        count: number of images.
        seed: public seed of their random numbers.
        label: the only class, by its number.
        balance: equal classes, which else follow the noisy class sizes.
    """

    count: int
    seed: int = 0
    label: int | None = None
    balance: bool = False


class Fitted(ABC):
    """What a fit leaves behind: public, because it is computed from noisy answers alone."""

    releases: ClassVar[str]
    """What a release of it holds: ``images`` or a ``classifier``."""

    spec: PublicSpec
    """Shape and classes of the images."""

    answer: Answer | None = None
    """The noisy answer that it was computed from, where it holds that instead of weights."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's weights, by name."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Everything else that :meth:`load` needs, as plain JSON values."""

    @classmethod
    @abstractmethod
    def load(cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, Any]) -> Fitted:
        """Rebuild a model from what was saved; malformed values raise ValueError or the like."""

    def move(self, device: torch.device) -> None:
        """Compute on ``device`` from now on, where anything but NumPy computes."""
        return

    def losses(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> NDArray[np.float64] | None:
        """The model's own loss on each image, which an audit attacks; None where it has none."""
        return None


class Model(Fitted):
    """A model that images are sampled from."""

    releases: ClassVar[str] = "images"

    redrawn: ClassVar[int] = 1000
    """Images that ``verify`` makes again unless told otherwise: some seconds of one core."""

    by_class: ClassVar[bool] = False
    """Whether images of one class, or as many of each, can be asked for."""

    embedding: Any = None
    """A released embedding that other generators may be trained on, where there is one."""

    @abstractmethod
    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        """Sample ``count`` images in batches; the seed is public and repeats the sample."""

    def sampled(self, wanted: Sampling) -> Iterator[Batch]:
        """Sample what is ``wanted``, in batches.

        Raises:
            UsageError: classes are asked for, and the model samples them only as they come.
        """
        if wanted.label is not None or wanted.balance:
            raise UsageError("label, balance: this model's images come in classes as they come.")
        yield from self.sample(wanted.count, wanted.seed)

    def sampled_by_all(self, wanted: Sampling) -> Iterator[Batch]:
        """What :meth:`sampled` gives, on rank 0; the other ranks help and yield nothing."""
        from sfumato.privacy import distributed

        if distributed.is_first():
            yield from self.sampled(wanted)

    def labels_of(self, wanted: Sampling) -> NDArray[np.int64] | None:
        """The label of each image of a sampling, where it is known before the images are made."""
        return None

    def redraw(self, wanted: Sampling, numbers: NDArray[np.int64]) -> Iterator[Batch]:
        """The images of a sampling with these ascending numbers, and their labels, in batches."""
        start = 0
        for images, labels in self.sampled(wanted):
            end = start + len(labels)
            here = numbers[(start <= numbers) & (numbers < end)] - start
            if len(here):
                yield images[here], labels[here]
            start = end
            if (numbers < end).all():
                return

    def with_sampler(self, sampler: str | None, steps: int | None) -> Model:
        """The same model with another sampler, where it has several.

        Raises:
            UsageError: it has none, or not this one.
        """
        raise UsageError(f"sampler={sampler!r}: only a diffusion model has samplers.")


class Classifier(Fitted):
    """A classifier of images, which was trained privately and makes none."""

    releases: ClassVar[str] = "classifier"

    @abstractmethod
    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class scores ``[b, classes]`` of images uint8 ``[b, c, h, w]``, each from its own image.

        The largest names the class; how far apart they are says no probability.
        """

    def predict(self, images: NDArray[Any]) -> NDArray[np.int64]:
        """Labels int64 ``[b]`` of images uint8 ``[b, c, h, w]``, numbers of ``spec.classes``.

        Raises:
            UsageError: the images have another form than those that it was trained on.
        """
        expected = (self.spec.channels, self.spec.height, self.spec.width)
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise UsageError(
                f"images of shape {images.shape} and type {images.dtype}: this classifier takes "
                f"uint8 [n, {', '.join(map(str, expected))}], channels, height and width. Bring "
                "them into this form first."
            )
        labels: NDArray[np.int64] = self.scores(images).argmax(axis=1)
        return labels

    def losses(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> NDArray[np.float64] | None:
        """Cross-entropy of each image's label."""
        scores = self.scores(images).astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        own: NDArray[np.float64] = np.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
        return np.log(np.exp(scores).sum(axis=1)) - own


@dataclass(frozen=True)
class Option:
    """A setting of a method: its name, its default and what it does."""

    name: str
    default: Any
    help: str


class Method(ABC):
    """A method turns noisy answers into a model or a classifier; it never holds a private image.

    A method is a frozen dataclass whose fields are its options; the ``Args`` section of its
    docstring says what each does. :mod:`sfumato.methods.registry` finds methods by name.
    ``docs/adding-a-method.md`` goes through the whole of it.
    """

    name: ClassVar[str]
    """What it is called on the command line."""

    title: ClassVar[str]
    """What it does, in a line of ``sfumato methods``."""

    model: ClassVar[type[Fitted]]
    """What :meth:`fit` returns, and what reads a released model: a :class:`Model` of images, which
    ``sfumato synthesize`` releases, or a :class:`Classifier`, which ``sfumato classify`` does."""

    presets: ClassVar[Mapping[str, Callable[[PublicSpec], Settings]]] = {}
    """Named settings, each for the images of a public specification."""

    started: ClassVar[Settings] = {}
    """Settings that go with a start from a public model, over those of a preset."""

    public_presets: ClassVar[Mapping[str, Settings]] = {}
    """Named settings of :meth:`pretrained`."""

    short: ClassVar[Settings] = {}
    """Settings that keep training short but ask as much: ``sfumato audit`` runs the method so."""

    card: ClassVar[str] = ""
    """A sentence for the card of a release on what its images are; plain text."""

    citation: ClassVar[str] = ""
    """The BibTeX entry of its paper."""

    @abstractmethod
    def queries(self, spec: PublicSpec) -> list[Query]:
        """What the method will ask about a data set of this public specification."""

    @abstractmethod
    def fit(self, curator: Curator) -> Fitted:
        """Ask the curator the queries and learn a model from the answers."""

    @classmethod
    def pretrained(
        cls, spec: PublicSpec, public: Batch, settings: Settings, session: Session
    ) -> Model:
        """A model of this method from public images alone, for other runs to start from.

        Raises:
            UsageError: the method has none, or a setting is not known or outside its rule.
        """
        raise UsageError(
            f"method={cls.name!r} cannot be trained on public images alone; "
            f"{' and '.join(PRETRAINED)} can."
        )

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, by what they are of; empty where unknown."""
        return {}

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's :meth:`Model.config`; ``verify`` compares."""
        return {}

    @classmethod
    def of(cls: type[Chosen], values: Settings) -> Chosen:
        """The method with these settings; lists become tuples.

        Raises:
            UsageError: a setting is not known, of another type, or outside its rule.
        """
        known = [entry.name for entry in fields(cls)]  # type: ignore[arg-type]
        shown = [name for name in known if name not in HIDDEN]
        for option in values:
            plain = isinstance(values[option], (bool, int, float, str, list, dict))
            if option not in known or (option in HIDDEN and plain):
                raise UsageError(f"{cls.name} has no option {option!r}; it has {', '.join(shown)}.")
        check_types(cls, cls.name, {k: v for k, v in values.items() if k not in HIDDEN})
        try:
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        except (TypeError, ValueError):
            stated = [f"{key}={value!r}" for key, value in values.items() if key not in HIDDEN]
            raise UsageError(
                f"{cls.name}: an option is of the wrong type: {', '.join(stated)}."
            ) from None

    def config(self) -> dict[str, Any]:
        """The method's public configuration, as plain JSON values."""
        values = {entry.name: getattr(self, entry.name) for entry in options_of(type(self))}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def options(cls) -> list[Option]:
        """The method's settings with their defaults and help."""
        helped: dict[str, str] = {}
        for above in reversed(cls.__mro__):  # a class's own words go before those of its bases
            helped |= described(above)
        return [
            Option(entry.name, entry.default, helped.get(entry.name, ""))
            for entry in options_of(cls)
        ]

    @classmethod
    def preset(cls, name: str, spec: PublicSpec) -> dict[str, Any]:
        """The settings of one of the method's presets for images of ``spec``.

        Raises:
            UsageError: there is no such preset.
        """
        if not cls.presets:
            raise UsageError(f"preset={name!r}: {cls.name} has no presets.")
        if name not in cls.presets:
            raise UsageError(f"preset={name!r} must be {' or '.join(cls.presets)}.")
        return dict(cls.presets[name](spec))


def options_of(method: type[Method]) -> list[Field[Any]]:
    """The fields of a method that can be written down, without arrays of public images."""
    return [entry for entry in fields(method) if entry.name not in HIDDEN]  # type: ignore[arg-type]


def check_rules(method: Method, rules: Mapping[str, bool]) -> None:
    """Raise UsageError for the first setting of ``method`` whose rule does not hold."""
    for name, holds in rules.items():
        if not holds:
            value = getattr(method, name)
            raise UsageError(
                f"{method.name}: {name}={value!r} is outside its rule; "
                f"see help({type(method).__name__})."
            )


def check_two_classes(method: str, spec: PublicSpec) -> None:
    """Raise UsageError unless images of ``spec`` are of two classes or more."""
    if len(spec.classes) < 2:
        raise UsageError(
            f"{method}: a classifier needs two classes or more, and the images have "
            f"{len(spec.classes) or 'none'}. Put them into a folder for each class, or name the "
            "labels."
        )


def poisson_rate(method: str, batch: int, spec: PublicSpec) -> float:
    """The public probability with which a record is in a step's sample of expected size ``batch``.

    Raises:
        UsageError: the number of records is not declared, or is smaller than the batch.
    """
    if spec.declared_size is None:
        raise UsageError(
            f"{method}: the number of records must be declared, --declared-size "
            "(declared_size=): a step draws each record with probability batch / N, and the true N "
            "is private."
        )
    if batch > spec.declared_size:
        raise UsageError(
            f"{method}: batch={batch} must not exceed declared_size={spec.declared_size}."
        )
    return batch / spec.declared_size


def digest_of(images: NDArray[Any]) -> str:
    """SHA-256 of public images, by which a configuration names them."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def in_proportion(counts: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers that add up to ``total`` and follow ``counts``, by largest remainder.

    Negative counts are taken as zero; where none is positive, all shares are alike.
    """
    share = np.clip(counts, 0.0, None)
    share = share / share.sum() if share.sum() > 0 else np.full(len(counts), 1 / len(counts))
    whole = np.floor(share * total).astype(np.int64)
    remainder = share * total - whole
    whole[np.argsort(-remainder, kind="stable")[: total - whole.sum()]] += 1
    return whole


def labels_for(counts: NDArray[np.float64], wanted: Sampling) -> NDArray[np.int64]:
    """The labels int64 ``[count]`` of a sampling from a model of these noisy class sizes."""
    if wanted.label is not None:
        return np.full(wanted.count, wanted.label, np.int64)
    sizes = np.ones_like(counts) if wanted.balance else counts
    return labels_in_proportion(sizes, wanted.count, np.random.default_rng(wanted.seed))


def labels_in_proportion(
    counts: NDArray[np.float64], samples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Labels int64 ``[samples]`` whose class shares follow noisy ``counts``, in random order.

    Shares are rounded as :func:`in_proportion` does.
    Every class has an image where there are as many images as classes, because loaders that read
    folders pass over a class without any.
    """
    whole = in_proportion(counts, samples)
    if samples >= len(counts):
        for label in np.flatnonzero(whole == 0):
            whole[np.argmax(whole)] -= 1
            whole[label] = 1
    labels: NDArray[np.int64] = np.repeat(np.arange(len(counts)), whole)
    return rng.permutation(labels)
