"""What a teacher of DataLens is: a recipe that the curator follows inside, for many at once.

Two kinds. ``NetworkTeachers`` are the paper's: small discriminators (arXiv 2103.11109, Section 4),
their weights stacked, so that thousands train as one batched product. ``NearestTeachers`` have
nothing to train: an image ought to move towards the records that are nearest to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.networks import to_pixels
from sfumato.privacy import GeneratedBatch, TeacherBatches, TeacherGradients

LEAK = 0.2
KERNEL, STRIDE, PADDING = 4, 2, 1
COARSEST = 8
BETA1, BETA2, TINY = 0.5, 0.999, 1e-7
FLOATS_AT_ONCE = 2**25
"""Numbers that a group of teachers works on at once; 128 MiB."""


@dataclass(frozen=True)
class NearestTeachers:
    """Teachers that point from generated images to their records, each record from a near image.

    A record picks an image x of its class with probability in proportion to exp(-‖x - r‖² / 2h²).
    The bandwidth h falls from step to step: at first all images move towards the middle of their
    class, later each towards the records around it (deterministic annealing, as for k-means).

    Args:
        basis: orthonormal float32 ``[d, pixels]``: distances and votes are in its coordinates.
        batch: the most records a teacher looks at.
        reach: images that a teacher has a gradient for: those that most of its records picked.
        first_spread, last_spread: h² over the number of pixels, at the first and last step.
    """

    basis: Tensor
    batch: int = 4
    reach: int = 4
    first_spread: float = 0.05
    last_spread: float = 0.0005

    memory = 0

    @property
    def at_once(self) -> int:
        """How many teachers are worked on together."""
        floats = self.batch * (self.basis.shape[1] + 4 * len(self.basis)) + 2**12
        return max(1, FLOATS_AT_ONCE // (4 * floats))

    def begin(self, count: int, generator: torch.Generator) -> Tensor:
        """Nothing to remember."""
        return torch.zeros(count, 0, device=generator.device)

    def draws(
        self, count: int, generated: GeneratedBatch, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Uniform numbers that decide which image of its class a record picks."""
        shape = (count, self.batch, _by_class(generated.labels).shape[1])
        return (torch.rand(shape, generator=generator, device=generator.device),)

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        """Σ over the records r that picked image x of r - x, in the basis."""
        n, b = shard.labels.shape
        device = shard.images.device
        basis = self.basis.to(device)
        d, m = len(basis), len(generated.labels)
        asked = generated.images.flatten(1) @ basis.T
        known = (shard.images.view(n * b, -1).to(torch.float32) / 255) @ basis.T
        # Each record is compared with the images of its class alone; -1 stands for none.
        numbers = _by_class(generated.labels)
        own = numbers[shard.labels.clamp(max=len(numbers) - 1)]
        own = own.masked_fill((shard.labels >= len(numbers))[:, :, None], -1)
        other, own = own < 0, own.clamp(min=0)
        # ‖x - r‖² less ‖r‖², which is the same for all images.
        products = (known.view(n, b, 1, d) * asked[own]).sum(dim=3)
        far = asked.square().sum(dim=1)[own] - 2 * products
        spread = self.first_spread * (self.last_spread / self.first_spread) ** generated.progress
        # The largest of logits with Gumbel noise is a draw from their softmax.
        gumbel = draws[0].clamp(TINY, 1 - TINY).log_().neg_().log_()
        cost = far / (2 * spread * self.basis.shape[1]) + gumbel
        least = cost.masked_fill(other, math.inf).argmin(dim=2, keepdim=True)
        picked = own.gather(2, least).squeeze(2)
        there = shard.there & ~other.all(dim=2)
        chosen_by = far.new_zeros(n, m).scatter_add_(1, picked, there.to(torch.float32))
        images = chosen_by.topk(min(self.reach, m), dim=1).indices
        mine = ((picked[:, None] == images[:, :, None]) & there[:, None]).to(torch.float32)
        moves = mine @ known.view(n, b, d) - mine.sum(dim=2, keepdim=True) * asked[images]
        index = images[:, :, None] * d + torch.arange(d, device=device)
        return memory, TeacherGradients(moves.flatten(1), index.flatten(1))


def _by_class(labels: Tensor) -> Tensor:
    """The numbers of each class's images, int64 ``[classes, most]``, filled up with -1."""
    counts = labels.bincount()
    order = labels.argsort(stable=True)
    place = torch.arange(len(labels), device=labels.device)
    place = place - (counts.cumsum(0) - counts)[labels[order]]
    numbers = labels.new_full((len(counts), int(counts.max())), -1)
    numbers[labels[order], place] = order
    return numbers


@dataclass(frozen=True)
class NetworkTeachers:
    """Small convolutional discriminators, each trained on its own shard by Adam.

    Strided convolutions with a label's offset after the first and in the logit; trained with the
    logistic loss on its records against the generated images of the step. The gradient is the
    negative gradient of -log D at each generated image.

    Args:
        size, channels, classes: shape of the images and number of classes, at least 1.
        basis: orthonormal float32 ``[d, pixels]`` that gradients are given in, or None for pixels.
        width: channels of the first layer; each further layer has twice as many.
        batch: records of a training step.
        learning_rate: of Adam.
        training_steps: training steps before each vote.
    """

    size: int
    channels: int
    classes: int
    basis: Tensor | None = None
    width: int = 8
    batch: int = 16
    learning_rate: float = 1e-3
    training_steps: int = 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each weight of one teacher."""
        layers = max(1, math.ceil(math.log2(self.size / COARSEST)))
        wide = [self.channels, *(self.width * 2**layer for layer in range(layers))]
        shapes: dict[str, tuple[int, ...]] = {"label": (self.classes, wide[1])}
        side = self.size
        for layer in range(layers):
            shapes[f"conv{layer}"] = (wide[layer + 1], wide[layer], KERNEL, KERNEL)
            shapes[f"bias{layer}"] = (wide[layer + 1],)
            side = (side + 2 * PADDING - KERNEL) // STRIDE + 1
        shapes["score"] = (self.classes, wide[-1] * side**2)
        shapes["offset"] = (self.classes, 1)
        return shapes

    @property
    def weights(self) -> int:
        """Number of weights of one teacher."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def memory(self) -> int:
        """Weights, Adam's two moments, and the number of steps."""
        return 3 * self.weights + 1

    @property
    def at_once(self) -> int:
        """How many teachers are worked on together."""
        activations = 2 * self.batch * self.size**2 * (self.width + 4 * self.channels)
        return max(1, FLOATS_AT_ONCE // (self.memory + activations))

    def begin(self, count: int, generator: torch.Generator) -> Tensor:
        """Weights drawn with He's scale; moments zero."""
        first, device = [], generator.device
        for name, shape in self.shapes.items():
            fan = math.prod(shape[1:]) if name.startswith(("conv", "score")) else 0
            values = torch.randn(count, math.prod(shape), generator=generator, device=device)
            first.append(values * (math.sqrt(2 / fan) if fan else 0.0))
        zeros = torch.zeros(count, 2 * self.weights + 1, device=device)
        return torch.cat([*first, zeros], dim=1)

    def draws(
        self, count: int, generated: GeneratedBatch, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """None: training visits a teacher's records in their order."""
        return ()

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        """Train on the records against the generated images, then differentiate at the latter."""
        images, asked = to_pixels(shard.images), generated.images * 2 - 1
        for _ in range(self.training_steps):
            memory = self._trained(memory, images, shard, asked, generated.labels)
        weights = self._unpacked(memory[:, : self.weights])
        seen = asked.expand(len(memory), *asked.shape).detach().requires_grad_()
        labels = generated.labels.expand(len(memory), -1)
        loss = F.softplus(-self.logits(weights, seen, labels)).sum()
        (gradient,) = torch.autograd.grad(loss, seen)
        # A teacher that has nothing to compare with has learned nothing to say.
        moves = -gradient.flatten(2) * shard.there.any(dim=1)[:, None, None]
        if self.basis is not None:
            moves = moves @ self.basis.to(moves.device).T
        return memory, TeacherGradients(moves.flatten(1))

    def logits(self, weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """How real each teacher finds each of its images ``[n, b, c, h, w]``: ``[n, b]``."""
        n, b = labels.shape
        # One grouped convolution: a teacher is a group of channels, its images are the batch.
        x = images.transpose(0, 1).flatten(1, 2)
        for layer in range(sum(name.startswith("conv") for name in weights)):
            kernel, bias = weights[f"conv{layer}"].flatten(0, 1), weights[f"bias{layer}"].flatten()
            x = F.conv2d(x, kernel, bias, STRIDE, PADDING, groups=n)
            if layer == 0:
                index = labels[:, :, None].expand(-1, -1, weights["label"].shape[2])
                offset = weights["label"].gather(1, index).transpose(0, 1).flatten(1)
                x = x + offset[:, :, None, None]
            x = F.leaky_relu(x, LEAK)
        features = x.view(b, n, -1).transpose(0, 1)
        index = labels[:, :, None]
        scores = (features @ weights["score"].transpose(1, 2)).gather(2, index)
        return (scores / math.sqrt(2) + weights["offset"].gather(1, index)).squeeze(2)

    def _trained(
        self,
        memory: Tensor,
        images: Tensor,
        shard: TeacherBatches,
        asked: Tensor,
        asked_labels: Tensor,
    ) -> Tensor:
        count = self.weights
        flat, first, second = (memory[:, i * count : (i + 1) * count] for i in range(3))
        step = memory[:, -1:] + 1
        flat = flat.detach().requires_grad_()
        weights = self._unpacked(flat)
        real = F.softplus(-self.logits(weights, images, shard.labels)) * shard.there
        fakes = min(self.batch, len(asked))
        n = len(memory)
        fake = F.softplus(
            self.logits(
                weights,
                asked[:fakes].expand(n, -1, -1, -1, -1),
                asked_labels[:fakes].expand(n, -1),
            )
        )
        # Rows are summed apart, so that a teacher's mean is over its own records only.
        size = shard.there.sum(dim=1, keepdim=True).clamp(min=1)
        loss = (real / size).sum() + fake.sum() / fakes
        (gradient,) = torch.autograd.grad(loss, flat)
        gradient = gradient * shard.there.any(dim=1, keepdim=True)
        first = BETA1 * first + (1 - BETA1) * gradient
        second = BETA2 * second + (1 - BETA2) * gradient.square()
        rate = self.learning_rate / (1 - BETA1**step)
        move = rate * first / ((second / (1 - BETA2**step)).sqrt() + TINY)
        return torch.cat([flat.detach() - move, first, second, step], dim=1)

    def _unpacked(self, flat: Tensor) -> dict[str, Tensor]:
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = flat.split(sizes, dim=1)
        names = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(len(flat), *shape) for (name, shape), part in names}
