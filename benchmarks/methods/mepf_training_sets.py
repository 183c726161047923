"""What makes DP-MEPF's images a worse training set than real ones: the names, or the images?

Question: a network trained on the images of a release is less often right about real images than
the release's own labeller. Real images in the place of generated ones, with the labeller's names
and their own, tell which part of the gap each makes; and images between classes (``mixed``), half
of the set, whether showing the labeller's boundary closes some of it, at no privacy cost. Each set
is 20,000 images. The student is the protocol's CNN with half its channels after 100,000 passes,
judged on 10,000 *training* records of Fashion-MNIST, never on the test set. A release that was
made from all training records has seen those too; at ε = 1 it says next to nothing about one.

    sfumato synthesize fashion-mnist --epsilon 1 --samples 20000 --out RELEASE
    python benchmarks/methods/mepf_training_sets.py RELEASE [--only mixed ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from sfumato.data import load_labelled, open_images
from sfumato.devices import CPU, bfloat16_where, trains_in_bfloat16
from sfumato.evaluation.training import scaled
from sfumato.methods.mepf.model import MEPFModel
from sfumato.networks import ImageStreams
from sfumato.released import load

COUNT, JUDGED, AT_ONCE, BATCH = 20_000, 10_000, 500, 128
HALF = COUNT // 2
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Set = tuple[Images, Labels]


@torch.no_grad()
def sampled(model: MEPFModel, first: int, count: int) -> tuple[Images, Labels, Labels]:
    """Images, their names, and the classes they were made for: classes alike, public seed 1."""
    parts = []
    for start in range(first, first + count, AT_ONCE):
        numbers = np.arange(start, start + AT_ONCE)
        made_for = torch.from_numpy(numbers % len(model.counts))
        images, named = model.draw(made_for, ImageStreams(1, numbers.tolist()))
        parts.append((images.numpy(), named.numpy(), made_for.numpy()))
    images, named, made_for = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, named, made_for


@torch.no_grad()
def between(model: MEPFModel, first: int, count: int) -> Set:
    """Images between classes and their names: starts and class codes up to halfway to another."""
    start, refiner, parts = model.generator.start, model.generator.refiner, []
    assert start is not None and model.labeller is not None
    for number in range(first, first + count, AT_ONCE):
        numbers = np.arange(number, number + AT_ONCE)
        made_for = torch.from_numpy(numbers % len(model.counts))
        random = ImageStreams(1, numbers.tolist())
        others, share = random.below(len(model.counts), 1)[:, 0], random.uniform(2)[:, 1:] / 2
        first_start = start.draw(made_for, model.generator.basis, random)
        other_start = start.draw(others, model.generator.basis, random)
        mixed = torch.lerp(first_start, other_start, share).view(-1, *shape_of(model))
        noise = random.normal(refiner.noise_channels, refiner.grid, refiner.grid)
        code = torch.lerp(refiner.label(made_for), refiner.label(others), share)
        hook = refiner.label.register_forward_hook(lambda *_, code=code: code)
        with bfloat16_where(trains_in_bfloat16(CPU), CPU):
            images = refiner(mixed, noise, made_for)[0].mul(255).round().to(torch.uint8)
        hook.remove()
        parts.append((images.numpy(), model.labeller(images).numpy()))
    images, named = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, named


def shape_of(model: MEPFModel) -> tuple[int, int, int]:
    """Channels, height and width of a model's images."""
    return model.spec.channels, model.spec.height, model.spec.width


def called(model: MEPFModel, images: Images) -> Labels:
    """What the labeller calls images."""
    assert model.labeller is not None
    parts = [model.labeller(part) for part in torch.from_numpy(images).split(AT_ONCE)]
    names: Labels = torch.cat(parts).numpy()
    return names


def student(images: Images, labels: Labels, passes: int, seed: int) -> nn.Module:
    """The protocol's CNN with half its channels after so many image passes, rate falling to 0."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, out in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, out, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    head = [nn.Flatten(), nn.Linear(576, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
    network = nn.Sequential(*layers, *head).to(memory_format=torch.channels_last)  # type: ignore
    optimiser = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    pixels, wanted, steps, done = (
        torch.from_numpy(images),
        torch.from_numpy(labels),
        passes // BATCH,
        0,
    )
    while done < steps:
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimiser.param_groups[0]["lr"] = 1e-3 * max(0.0, min(1.0, 3 * (1 - done / steps)))
            loss = F.cross_entropy(network(scaled(pixels[batch])), wanted[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
    return network.eval()


@torch.no_grad()
def right(network: nn.Module, images: torch.Tensor, labels: Labels) -> float:
    """The share of images that a network is right about."""
    answers = torch.cat([network(scaled(part)).argmax(1) for part in images.split(AT_ONCE)])
    return float((answers.numpy() == labels).mean())


def variants(model: MEPFModel, real: Images, labels: Labels) -> dict[str, Callable[[], Set]]:
    """Every training set by name; each is made when it is asked for."""
    images, named, made_for = sampled(model, 0, COUNT)

    def mixed() -> Set:
        others, names = between(model, HALF, HALF)
        return np.concatenate([images[:HALF], others]), np.concatenate([named[:HALF], names])

    return {
        "as released": lambda: (images, named),
        "named as made": lambda: (images, made_for),
        "mixed": mixed,
        "real, named by the labeller": lambda: (real[:COUNT], called(model, real[:COUNT])),
        "real": lambda: (real[:COUNT], labels[:COUNT]),
    }


def main() -> None:
    """Print a line for each variant."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("release", type=Path)
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    asked.add_argument("--only", nargs="+", default=[])
    asked.add_argument("--passes", type=int, default=100_000)
    asked.add_argument("--json", type=Path)
    said = asked.parse_args()
    model, found = load(said.release).model, {}
    assert isinstance(model, MEPFModel)
    data = load_labelled(open_images("fashion-mnist"))
    order = np.random.default_rng(7).permutation(len(data.labels))
    real, labels = data.images[order], data.labels[order]
    judged, truth = torch.from_numpy(real[-JUDGED:]), labels[-JUDGED:]
    found["the labeller itself"] = [float((called(model, real[-JUDGED:]) == truth).mean())]
    print(f"the labeller itself: {100 * found['the labeller itself'][0]:.1f}", flush=True)
    for name, make in variants(model, real, labels).items():
        if said.only and name not in said.only:
            continue
        training = make()
        found[name] = [right(student(*training, said.passes, s), judged, truth) for s in said.seeds]
        print(f"{name}: " + ", ".join(f"{100 * share:.1f}" for share in found[name]), flush=True)
        if said.json:
            said.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
