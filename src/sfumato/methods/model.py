"""What the released models share, and the released generator of the adversarial methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import device_of, moved
from sfumato.methods.base import Batch, Model, Sampling, digest_of, labels_for
from sfumato.methods.saved_arrays import arrays_of, checked_counts, loaded, tensors_below
from sfumato.networks import Generator, ImageStreams, to_bytes
from sfumato.privacy import distributed

TRIES = 20
"""Most times that an image is made again because it was not called by the class asked for."""


class ImageModel(Model):
    """A model whose labels follow noisy class sizes, and whose images are made label by label.

    ``counts`` float64 ``[classes]`` are the sizes, ones where none were asked for.
    """

    by_class = True

    at_once: ClassVar[int] = 250
    """Images of a batch."""

    spec: PublicSpec
    counts: NDArray[np.float64]

    @property
    @abstractmethod
    def modules(self) -> Sequence[nn.Module]:
        """What computes the images."""

    @property
    def names_itself(self) -> bool:
        """Whether an image may get another label than the one that it was made for."""
        return False

    @abstractmethod
    def draw(self, labels: Tensor, random: ImageStreams) -> tuple[Tensor, Tensor]:
        """Images uint8 ``[b, c, h, w]`` for labels int64 ``[b]``, and the labels they get."""

    def move(self, device: torch.device) -> None:
        """Compute on ``device`` from now on."""
        for module in self.modules:
            moved(module, device)

    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        """Sample ``count`` images in batches, classes in proportion to their noisy sizes."""
        return self.sampled(Sampling(count, seed))

    def sampled(self, wanted: Sampling) -> Iterator[Batch]:
        """Sample what is ``wanted``, in batches.

        Where classes come as they are and there are as many images as classes, a class that no
        image is called by gets one in the last batch, made for it if there is such: loaders of
        folders pass over an empty class.
        """
        make, count = self._by_number(wanted)
        return self._finished(wanted, map(make, range(count)))

    def sampled_by_all(self, wanted: Sampling) -> Iterator[Batch]:
        """What :meth:`sampled` gives, on rank 0; the other ranks help and yield nothing.

        They take the first one's model. A batch depends on its number alone, so the images are the
        same on any number of ranks; where ranks make others of the first batch (other processors,
        other libraries), rank 0 makes all.
        """
        if distributed.size() == 1:
            yield from self.sampled(wanted)
            return
        saved = distributed.from_first((self.config(), self.tensors()))
        model = self if distributed.is_first() else type(self).load(self.spec, *saved)
        assert isinstance(model, ImageModel)
        model.move(device_of(self.modules[0]))
        make, count = model._by_number(wanted)
        first = make(0)
        found = digest_of(first[0]) + digest_of(first[1])
        if len(set(distributed.everyones(found))) == 1:
            batches = distributed.in_turns(count, lambda number: make(number) if number else first)
            yield from model._finished(wanted, batches)
        elif distributed.is_first():
            yield from self.sampled(wanted)

    def _by_number(self, wanted: Sampling) -> tuple[Callable[[int], Batch], int]:
        """What makes the batch of a number, and how many there are."""
        labels = labels_for(self.counts, wanted)

        def make(number: int) -> Batch:
            start = number * self.at_once
            numbers = np.arange(start, min(start + self.at_once, wanted.count))
            return self._batch(wanted, numbers, labels[numbers])

        return make, -(-wanted.count // self.at_once)

    def _finished(self, wanted: Sampling, batches: Iterable[Batch]) -> Iterator[Batch]:
        """All batches in order, the last one with an image of each class."""
        labels, sizes = labels_for(self.counts, wanted), np.zeros(len(self.counts), np.int64)
        done = 0
        for images, named in batches:
            sizes += np.bincount(named, minlength=len(sizes))
            made = labels[done : done + len(named)]
            done += len(named)
            last = done == wanted.count
            if last and wanted.label is None and wanted.count >= len(sizes):
                name_each_class(named, made, sizes)
            yield images, named

    def labels_of(self, wanted: Sampling) -> NDArray[np.int64] | None:
        """The label of each image, unless the model names images itself."""
        free = self.names_itself and wanted.label is None and not wanted.balance
        return None if free else labels_for(self.counts, wanted)

    @torch.no_grad()
    def redraw(self, wanted: Sampling, numbers: NDArray[np.int64]) -> Iterator[Batch]:
        """The images of a sampling with these numbers, and their labels; no others are made."""
        labels = labels_for(self.counts, wanted)[numbers]
        for start in range(0, len(numbers), self.at_once):
            part = slice(start, start + self.at_once)
            yield self._batch(wanted, numbers[part], labels[part])

    @torch.no_grad()
    def _batch(
        self, wanted: Sampling, numbers: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> Batch:
        device = device_of(self.modules[0])
        self.move(device)  # a labeller may have been made elsewhere
        random = ImageStreams(wanted.seed, numbers.tolist(), device)
        made_for = torch.from_numpy(labels).to(device)
        images, named = self.draw(made_for, random)
        if wanted.label is not None or wanted.balance:
            for _ in range(TRIES):
                others = np.flatnonzero((named != made_for).cpu().numpy())
                if not len(others):
                    break
                at = torch.from_numpy(others).to(device)
                images[at], named[at] = self.draw(made_for[at], random.of(others))
            named = made_for
        return images.cpu().numpy(), named.cpu().numpy().copy()


def name_each_class(
    named: NDArray[np.int64], made: NDArray[np.int64], sizes: NDArray[np.int64]
) -> None:
    """Call one image of a batch by each class that has none, in place.

    named, made: the classes of the batch's images as they are called and as they were made.
    sizes: how many images are called by each class, over all batches.
    """
    for label in np.flatnonzero(sizes == 0):
        spare = sizes[named] > 1
        fitting = np.flatnonzero(spare & (made == label))
        chosen = fitting if len(fitting) else np.flatnonzero(spare)
        if len(chosen):
            sizes[named[chosen[0]]] -= 1
            named[chosen[0]], sizes[label] = label, 1


@dataclass(frozen=True)
class GeneratorModel(ImageModel):
    """A trained generator G(z, y), its width, and noisy class sizes.

    z is standard normal, or lies between two of the ``codes`` of its class that the generator was
    taught on: float32 ``[m, latent]``, classes in turns (0, 1, …, 0, 1, …). A code moves by up to
    the share ``blend`` of the way to the other.
    """

    spec: PublicSpec
    generator: Generator
    width: int
    counts: NDArray[np.float64]
    codes: Tensor | None = None
    blend: float = 0.0

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The generator."""
        return (self.generator,)

    def draw(self, labels: Tensor, random: ImageStreams) -> tuple[Tensor, Tensor]:
        """Images of the generator, and the labels as they are."""
        if self.codes is None:
            z = random.normal(self.generator.latent)
        else:
            z = self._blended(self.codes.to(labels.device), labels, random)
        return to_bytes(self.generator(z, labels)), labels

    def _blended(self, codes: Tensor, labels: Tensor, random: ImageStreams) -> Tensor:
        by_class = codes.view(-1, self.generator.classes, codes.shape[1])
        first, second = by_class[random.below(len(by_class), 2).T, labels]
        share = random.uniform(1)
        return torch.lerp(first, second, self.blend * share)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's arrays by name."""
        codes = {} if self.codes is None else {"codes": self.codes.cpu().numpy()}
        return {**arrays_of(self.generator, "generator"), **codes, "counts": self.counts}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        blend = {} if self.codes is None else {"blend": self.blend}
        return {"width": self.width, "latent": self.generator.latent, **blend}

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> GeneratorModel:
        """Rebuild a model from what was saved."""
        if "code_labels" in tensors:
            config, tensors = _of_version_0(spec, config, tensors)
        width, latent = config["width"], config["latent"]
        generator = loaded(
            lambda: make_generator(spec, width, latent), tensors_below(tensors, "generator")
        )
        counts = checked_counts(tensors["counts"], spec)
        others = {"counts", "codes"} if "blend" in config else {"counts"}
        if {name for name in tensors if not name.startswith("generator.")} != others:
            raise ValueError("the tensors are not those of a generator")
        if "blend" not in config:
            return cls(spec, generator, width, counts)
        codes, blend = torch.from_numpy(tensors["codes"]), config["blend"]
        fits = codes.ndim == 2 and codes.shape[1] == latent and 0 <= blend <= 1
        if not fits or len(codes) == 0 or len(codes) % generator.classes:
            raise ValueError("the codes are not those of a generator")
        if codes.dtype != torch.float32 or not bool(codes.isfinite().all()):
            raise ValueError("the codes must be finite float32 numbers")
        return cls(spec, generator, width, counts, codes, blend)


def _of_version_0(
    spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What version 0.1 released of DataLens, in the form of today."""
    classes = max(len(spec.classes), 1)
    weights = {k: v for k, v in tensors.items() if k not in ("codes", "code_labels")}
    codes, labels = tensors["codes"], tensors["code_labels"]
    if codes.ndim != 2 or not np.array_equal(labels, np.arange(len(codes)) % classes):
        raise ValueError("the classes of the codes must take turns")
    return {**config, "latent": codes.shape[1]}, {
        **{f"generator.{name}": value for name, value in weights.items()},
        "codes": codes,
        "counts": np.ones(classes),
    }


def make_generator(spec: PublicSpec, width: int, latent: int) -> Generator:
    """An untrained generator for images of ``spec``."""
    classes = max(len(spec.classes), 1)
    generator = Generator(spec.height, spec.channels, classes, width, latent)
    return generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
