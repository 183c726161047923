"""Where guided images come from: images that are pulled, or a public denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.devices import moved
from sfumato.features import to_unit
from sfumato.methods.dpdm.diffusion import Denoiser, DiffusionModel
from sfumato.methods.dpdm.samplers import DDIM
from sfumato.methods.dpdm.settings import SIGMA_MAX
from sfumato.methods.guided.guidance import Guidance
from sfumato.methods.pe.public_images import cut
from sfumato.networks import ImageStreams

LEAST_PART, MOST_SHIFT = 0.6, 0.2
"""A view shows at least this share of an image's side, moved by up to this share of it."""
TRIED = 4
"""Images of each public class that the labeller looks at."""
MOST_CLASSES = 10
"""Public classes at most that a private class is sampled from."""
AT_ONCE = 64


@runtime_checkable
class Source(Protocol):
    """A source of images of a class that is wanted; it never sees a private one."""

    def made(self, label: int, numbers: NDArray[np.int64], random: torch.Generator) -> Tensor:
        """The images of these numbers of one class, float ``[b, c, h, w]`` in [0, 1]."""


@dataclass(frozen=True)
class StartingImages:
    """Images that are there to begin with: public ones that were chosen, and the generator's.

    Args:
        images: uint8 ``[n, c, h, w]``.
        chosen: the numbers of those of each class, int64 ``[classes, m]``.
    """

    images: NDArray[np.uint8]
    chosen: NDArray[np.int64]

    def of(self, label: int, numbers: NDArray[np.int64], device: torch.device) -> Tensor:
        """The images of these numbers of one class, in [0, 1]."""
        return to_unit(self.images[self.chosen[label, numbers]]).to(device)


@dataclass(frozen=True)
class Pulled:
    """Images that are pulled along the slope of the guidance.

    Args:
        starting: the images.
        guidance: what pulls.
        steps: T, slopes that are followed.
        length: of each step; see :meth:`Guidance.moved`.
    """

    starting: StartingImages
    guidance: Guidance
    steps: int
    length: float

    def made(self, label: int, numbers: NDArray[np.int64], random: torch.Generator) -> Tensor:
        """See :class:`Source`."""
        images = self.starting.of(label, numbers, random.device)
        for _ in range(self.steps):
            images = self.guidance.moved(images, label, self.length, random)
        return images


@dataclass(frozen=True)
class PublicDenoiser:
    """A public denoiser whose estimate of the clean image is moved at each noise level.

    Universal guidance (arXiv 2302.07121, forward guidance) with the gradient taken with respect to
    the estimate, so that none goes through the denoiser. With ``starting`` it does not start from
    noise but from public images with noise of level ``start_noise``.

    Args:
        denoiser: of the public model, on the device of the guidance.
        classes: public classes that each private class is sampled from in turn; none where the
            model has no classes.
        guidance: what moves the estimates.
        steps: T, noise levels.
        length: of each move; see :meth:`Guidance.moved`.
        starting: images to start at.
        start_noise: deviation of their noise, where black and white are −1 and 1.
    """

    denoiser: Denoiser
    classes: Sequence[NDArray[np.int64]]
    guidance: Guidance
    steps: int
    length: float
    starting: StartingImages | None = None
    start_noise: float = SIGMA_MAX

    def made(self, label: int, numbers: NDArray[np.int64], random: torch.Generator) -> Tensor:
        """See :class:`Source`."""
        network, device, known = self.denoiser.network, random.device, None
        if self.classes:
            turns = self.classes[label][numbers % len(self.classes[label])]
            known = torch.from_numpy(turns).to(device)
        shape = (len(numbers), network.channels, network.size, network.size)
        start, sampler = torch.randn(shape, generator=random, device=device), DDIM(self.steps)
        if self.starting is not None:
            sampler = DDIM(self.steps, highest=self.start_noise)
            start = start + (2 * self.starting.of(label, numbers, device) - 1) / self.start_noise

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            estimate = ((self.denoiser(x, sigma, known) + 1) / 2).clamp(0, 1)
            return 2 * self.guidance.moved(estimate, label, self.length, random) - 1

        return (sampler.sample(denoise, start, random) + 1) / 2


def with_views(
    images: NDArray[np.uint8], views: int, mirrored: bool, seed: int
) -> NDArray[np.uint8]:
    """Public images, and as often as ``views`` says a random part of each, perhaps mirrored."""
    rng, found = np.random.default_rng(seed), [images]
    for _ in range(views):
        zooms = rng.uniform(LEAST_PART, 1, len(images))
        moves = rng.uniform(-MOST_SHIFT, MOST_SHIFT, (len(images), 2))
        parts = zip(images, zooms, *moves.T, strict=True)
        seen = np.stack([cut(*part) for part in parts])
        turned = (rng.random(len(images)) < 0.5) & mirrored
        found.append(np.where(turned[:, None, None, None], seen[..., ::-1], seen))
    return np.concatenate(found)


def chosen_by(margins: NDArray[np.float32], kept: int) -> NDArray[np.int64]:
    """Numbers of the ``kept`` images of each class with the largest margins, ``[classes, kept]``.

    An image serves one class only, that for which it is taken first. Where there are fewer than
    ``kept`` for each class, a class has its images again, in the same order.
    """
    count, classes = margins.shape
    each = min(kept, count // classes)
    free = np.ones(count, np.bool_)
    found: list[list[int]] = [[] for _ in range(classes)]
    for place in np.argsort(-margins, axis=None, kind="stable"):
        image, label = divmod(int(place), classes)
        if free[image] and len(found[label]) < each:
            found[label].append(image)
            free[image] = False
    return np.array(found, np.int64)[:, np.arange(kept) % each]


def public_classes(model: DiffusionModel, guidance: Guidance, seed: int) -> list[NDArray[np.int64]]:
    """For each private class the public ones that the labeller calls by it; none without classes.

    A few samples of each public class are shown to the released labeller, which is post-processing:
    a private histogram of public classes would say the same and take from the budget. Where the
    labeller calls no public class by a private one, it is sampled from the nearest.
    """
    count = len(model.spec.classes)
    if not count:
        return []
    device = guidance.device
    moved(model.denoiser.network, device)
    labels = np.repeat(np.arange(count), TRIED)
    parts = []
    with torch.no_grad():
        for start in range(0, len(labels), AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, len(labels)))
            wanted = torch.from_numpy(labels[start : start + AT_ONCE]).to(device)
            images, _ = model.draw(wanted, ImageStreams(seed, numbers, device))
            parts.append(guidance.margins(images.cpu().numpy()))
    sure = np.concatenate(parts).reshape(count, TRIED, -1).mean(axis=1)
    named = sure.argmax(axis=1)
    found = []
    for label in range(sure.shape[1]):
        order = np.argsort(-sure[:, label], kind="stable")
        own = order[named[order] == label][:MOST_CLASSES]
        found.append(own if len(own) else order[:1])
    return found
