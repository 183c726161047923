"""What a released embedding says of an image: whether it is of a class, and how a class looks.

The noisy sums of DP-MEPF's joint release give a labeller and the mean embedding of each class. Both
are differentiable in an image, so an image can be moved along their slope: classifier guidance
(arXiv 2105.05233) and moment guidance, on a clean image or on a denoiser's estimate of one
(universal guidance, arXiv 2302.07121).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sfumato.devices import moved
from sfumato.features import to_unit
from sfumato.methods.mepf.embedding import JointEmbedding, Targets
from sfumato.methods.mepf.labeller import Labeller
from sfumato.progress import Report

SHARPNESS = 2.0
"""Logits are scores over the deviation of the labeller's weights, times this."""

SHIFT, JITTER = 2, 0.05
"""Before each slope an image is moved by up to so many pixels, and gets noise of this deviation."""

CHUNK = 250


@dataclass(frozen=True)
class Guidance:
    """A released labeller and mean embeddings, and what they are computed from.

    Args:
        joint: the perceptual features.
        labeller: names images; None where there is one class.
        means: released mean of the first perceptual moment by class, float32 ``[classes, D]``.
        moment_weight: weight of the distance to a class's mean beside the labeller's loss.
        mirrored: whether slopes are also taken of the mirrored image.
    """

    joint: JointEmbedding
    labeller: Labeller | None
    means: Tensor
    moment_weight: float
    mirrored: bool

    @classmethod
    def of(
        cls,
        joint: JointEmbedding,
        targets: Targets,
        moment_weight: float,
        mirrored: bool,
        device: torch.device,
    ) -> Guidance:
        """Guidance by an embedding that was taken apart, computed on ``device``."""
        labeller = None if targets.labeller is None else moved(targets.labeller, device)
        means = targets.first.to(device)
        return cls(moved(joint, device), labeller, means, moment_weight, mirrored)

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.means.device

    @torch.no_grad()
    def margins(
        self, images: NDArray[np.uint8], report: Report = lambda share: None
    ) -> NDArray[np.float32]:
        """How sure it is that images uint8 ``[n, c, h, w]`` are of each class, ``[n, classes]``.

        A class's score less the best of the others; with one class, minus the distance to its mean.
        ``report`` takes the share that is done.
        """
        parts = [np.zeros((0, len(self.means)), np.float32)]
        for start in range(0, len(images), CHUNK):
            pixels = to_unit(images[start : start + CHUNK]).to(self.device)
            parts.append(self._margins(pixels).cpu().numpy())
            report(min(1.0, (start + CHUNK) / len(images)))
        return np.concatenate(parts)

    def moved(self, images: Tensor, label: int, length: float, random: torch.Generator) -> Tensor:
        """Images of one class after a step along the slope, which is as long for each of them.

        Args:
            images: float ``[b, c, h, w]`` in [0, 1].
            label: the class that all of them are wanted for.
            length: root mean square of the step over an image's values.
            random: public random numbers of the view, on the images' device.
        """
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            loss = self._loss(self._view(images, random), label)
            (slope,) = torch.autograd.grad(loss, images)
        size = slope.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1e-12)
        return (images.detach() - length * slope / size).clamp(0, 1)

    def _first(self, images: Tensor) -> Tensor:
        return self.joint.moments(self.joint.features.activations(images))[0]

    def _margins(self, images: Tensor) -> Tensor:
        if self.labeller is None:
            return -(self._first(images) - self.means).norm(dim=1, keepdim=True)
        scores = self.labeller.scores(images)
        (best, second), first = scores.topk(2, dim=1).values.T, scores.argmax(dim=1)
        others = torch.where(F.one_hot(first, scores.shape[1]) > 0, second[:, None], best[:, None])
        return scores - others

    def _loss(self, images: Tensor, label: int) -> Tensor:
        """Sum over the images, in which each one's slope does not depend on their number."""
        loss = images.new_zeros(())
        if self.labeller is not None:
            sharpness = SHARPNESS / self.labeller.weights.std().clamp(min=1e-12)
            wanted = torch.full((len(images),), label, device=images.device)
            scores = self.labeller.scores(images)
            loss = loss + F.cross_entropy(sharpness * scores, wanted, reduction="sum")
        if self.moment_weight or self.labeller is None:
            distance = (self._first(images).mean(dim=0) - self.means[label]).norm()
            loss = loss + (self.moment_weight or 1.0) * len(images) * distance
        return loss

    def _view(self, images: Tensor, random: torch.Generator) -> Tensor:
        """The images as a classifier's training may see them: mirrored, shifted, with noise."""
        device = images.device
        if self.mirrored and float(torch.rand(1, generator=random, device=device)) < 0.5:
            images = images.flip(3)
        moves = torch.randint(2 * SHIFT + 1, (2,), generator=random, device=device)
        across, down = moves.cpu().tolist()
        height, width = images.shape[2:]
        padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
        images = padded[:, :, down : down + height, across : across + width]
        return images + JITTER * torch.randn(images.shape, generator=random, device=device)
