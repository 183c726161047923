"""What does a private step of DPAF cost? At 128 pixels, beside a step without noise or clipping.

Question: a step with both parts (noisy class means, the pulled-back gradient of the layers below
them, and a step each of upper layers, lower layers and generator) relative to a step of a plain GAN
that has the same generator, the same layers in its discriminator, applied image by image, and the
same numbers of real and generated images. Both run in one process, turn by turn, and the fastest
turn of each counts. Reading and decoding are in neither. Bound on 2 cores: ratio 1.5.

    python benchmarks/methods/dpaf_step.py [--size 128] [--batch 64] [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfumato.methods.dpaf.asymmetric_training import (
    BETAS,
    AsymmetricSettings,
    AsymmetricTraining,
    discriminator_loss,
    generator_loss,
)
from sfumato.methods.dpaf.class_means import ClassMaps
from sfumato.methods.training import Session
from sfumato.networks import Average, Generator, to_pixels
from sfumato.networks.aggregating import Lower, Upper
from sfumato.privacy import AggregateQuery
from sfumato.privacy.answering.aggregate import PulledBack, class_sums
from sfumato.privacy.gradients.layers import unflatten
from sfumato.privacy.gradients.per_example import (
    ENGINES,
    IMAGES_AT_ONCE,
    UnitBatch,
    fastest_engine,
    gradient_sum,
)
from sfumato.privacy.grid import UNIT
from sfumato.privacy.noise.entropy import fresh_stream
from sfumato.privacy.noise.integer_gaussian import add_noise

CLASSES, CHANNELS, STEPS = 2, 3, 2


def noised(steps: Tensor) -> Tensor:
    """Integers with noise, as the curator adds it."""
    return torch.from_numpy(add_noise(steps.numpy(), float(UNIT), fresh_stream()))


class Arithmetic:
    """What a curator computes for a step, on images in memory."""

    def __init__(self, lower: Lower, maps: ClassMaps, batch: UnitBatch) -> None:
        self.lower, self.maps, self.batch = lower, maps, batch
        self.parameters = list(lower.parameters())
        size, below = lower.maps * lower.side**2 + 1, sum(p.numel() for p in self.parameters)
        self.query = AggregateQuery(
            "a", CLASSES, size, maps.clip_norm, 0.1, 1, gradient_dimension=below
        )
        self.engine = fastest_engine(lower, self._loss(torch.ones(CLASSES, size)), batch)

    def _loss(self, cotangent: Tensor) -> PulledBack:
        return PulledBack(self.maps, self.maps.clip_norm, cotangent)

    def means(self, step: int) -> tuple[Tensor, Tensor]:
        """Noisy class means."""
        steps = class_sums(self.lower, self.maps, self.batch, self.query, IMAGES_AT_ONCE)
        noisy = noised(steps).float() * (self.maps.clip_norm / UNIT)
        return noisy[:, :-1] / len(self.batch) * CLASSES, torch.ones(CLASSES)

    def pull_back(self, step: int, cotangent: Tensor) -> Sequence[Tensor]:
        """The noisy gradient below them."""
        whole = torch.cat([cotangent, torch.zeros_like(cotangent[:, :1])], dim=1)
        steps = gradient_sum(self.lower, self._loss(whole), self.batch, 1.0, self.engine)
        return unflatten(noised(steps).float() / UNIT, self.parameters)


def plain(
    lower: Lower, upper: Upper, generator: Generator, maps: ClassMaps, batch: UnitBatch
) -> Callable[[], None]:
    """Steps of a plain conditional GAN of these networks."""
    judges = [*lower.parameters(), *upper.parameters()]
    theirs = torch.optim.Adam(judges, betas=BETAS)
    ours = torch.optim.Adam(generator.parameters(), betas=BETAS)
    average = Average(generator)

    def made() -> Tensor:
        images: Tensor = generator(torch.randn(len(batch), generator.latent), batch.labels)
        return images

    def logits(images: Tensor) -> Tensor:
        result: Tensor = upper(maps.maps(lower, images), batch.labels)
        return result

    def run() -> None:
        for step in range(STEPS):
            with torch.no_grad():
                images = made()
            theirs.zero_grad()
            discriminator_loss("hinge", logits(to_pixels(batch.images)), logits(images)).backward()
            theirs.step()
            ours.zero_grad()
            for parameter in judges:
                parameter.requires_grad_(False)
            generator_loss("hinge", logits(made())).backward()
            for parameter in judges:
                parameter.requires_grad_(True)
            ours.step()
            average.update(generator, step)

    return run


def main() -> None:
    """Print the seconds of a step of either side and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    torch.manual_seed(0)
    size, count = options.size, options.batch
    lower = Lower(size, CHANNELS, 16, 16)
    upper = Upper(lower.map_shapes, CLASSES, 32)
    generator = Generator(size, CHANNELS, CLASSES, 16)
    maps = ClassMaps(lower.shape.norm)
    images = torch.randint(256, (count, CHANNELS, size, size), dtype=torch.uint8)
    batch = UnitBatch(images, torch.arange(count) % CLASSES, ())
    releases = Arithmetic(lower, maps, batch)
    assert releases.engine in ENGINES
    # One generator step a release and a gradient at each: the dearest settings.
    settings = AsymmetricSettings(
        "hinge", 0.0, 1, count // CLASSES, 0.0, 1, 1, 1e-3, 1e-3, 1e-3, 0.99
    )

    def private() -> None:
        with tempfile.TemporaryDirectory() as folder:
            session = Session(Path(folder), True)
            training = AsymmetricTraining(session, lower, upper, generator, maps, settings, 0)
            training.run(STEPS, releases, {})

    sides = {
        "private_s": private,
        "plain_s": plain(lower, upper, generator, maps, batch),
    }
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(options.turns):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            best[name] = min(best[name], (time.perf_counter() - started) / STEPS)
    result = {
        "size": size,
        "batch": count,
        "engine": releases.engine,
        "threads": torch.get_num_threads(),
        **best,
        "private_over_plain": best["private_s"] / best["plain_s"],
    }
    print(json.dumps(result) if options.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
