"""Train a classifier on labelled images, and predict with it. No test set comes near this module.

The last epoch counts, and nothing here takes a second data set, so real test images cannot take
part in any choice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.data.arrays import LabelledImages
from sfumato.devices import bfloat16_where, device_of, fast_bfloat16, resolve_device
from sfumato.errors import DataError
from sfumato.evaluation.cache import images_digest, key, write_atomically
from sfumato.evaluation.classifiers import Recipe, recipe
from sfumato.progress import Report

CHECKED_IMAGES = 10_000
"""At most so many training images decide whether a classifier learned anything."""
BLOCK = 2_000
"""Images a forward pass takes when nothing is learned from it."""
LBFGS_ITERATIONS = 300
PENALTY = 1.0
"""Weight of ½‖W‖² beside the summed cross-entropy of logistic regression: scikit-learn's C=1."""
VERSION = 2
"""Part of every cache key: raise it when training changes in a way that no recipe shows."""


@dataclass(frozen=True)
class FittedClassifier:
    """A trained classifier and how its training ended."""

    name: str
    network: nn.Module
    classes: tuple[str, ...]
    seed: int
    epoch: int | None
    """The last epoch, counted from 1; None where training runs to the optimum."""
    precision: str
    training_count: int
    diverged: str | None
    """Why the classifier counts as diverged, or None."""


def scaled(images: Tensor) -> Float[Tensor, "n c h w"]:
    """uint8 images as float32 in [-1, 1], channels last."""
    return images.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def probabilities(
    classifier: FittedClassifier, images: UInt8[np.ndarray, "n c h w"]
) -> Float32[np.ndarray, "n classes"]:
    """Class probabilities of each image by itself, in float32; NaN where the network overflowed."""
    network = classifier.network.eval()
    device = device_of(network)
    with torch.no_grad():
        blocks = torch.from_numpy(images).split(BLOCK)
        parts = [network(scaled(block.to(device))).softmax(1).cpu() for block in blocks]
    result: np.ndarray = torch.cat(parts).numpy()
    return result


def predict(
    classifier: FittedClassifier, images: UInt8[np.ndarray, "n c h w"]
) -> Int64[np.ndarray, " n"]:
    """The most probable class of each image."""
    result: np.ndarray = probabilities(classifier, images).argmax(1)
    return result


def fit(
    images: LabelledImages,
    classifier: str,
    seed: int = 0,
    cache: Path | None = None,
    report: Report = lambda share: None,
    device: torch.device | None = None,
) -> FittedClassifier:
    """Train ``classifier`` (a name in ``RECIPES``) on ``images``, or load it if ``cache`` has it.

    Logistic regression runs to its optimum, the others for the epochs of their recipe, on
    ``device`` (a GPU where there is one by default). A classifier whose loss became infinite or
    NaN, or that is no better than chance on its own training images, says so in ``diverged``.

    Raises:
        DataError: there are no labelled images.
        UsageError: the classifier is not known.
    """
    how = recipe(classifier)
    if not images.classes or len(images.labels) == 0:
        raise DataError("A classifier needs labelled images: at least one, with class names.")
    device = device or resolve_device()
    dtype = torch.bfloat16 if how.epochs and fast_bfloat16(device) else torch.float32
    _, channels, height, width = images.images.shape
    with _seeded(seed):
        network = how.build((channels, height, width), len(images.classes))
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    name = key(
        VERSION, images_digest(images), classifier, how.epochs, how.batch_size, how.learning_rate,
        seed, "last", dtype,
    )  # fmt: skip
    path = None if cache is None else cache / "classifiers" / f"{name}.safetensors"
    if path is not None and path.exists():
        with safe_open(path, "pt") as file:
            epoch, diverged = json.loads(file.metadata()["ending"])
        network.load_state_dict(safetensors.torch.load_file(path, device=str(device)))
    else:
        with _seeded(seed):
            epoch, diverged = _train(network, images, how, dtype, report)
        if path is not None:
            state = {k: v.contiguous() for k, v in network.state_dict().items()}
            about = {"ending": json.dumps([epoch, diverged])}
            write_atomically(path, lambda file: safetensors.torch.save_file(state, file, about))
    return FittedClassifier(
        name=classifier,
        network=network.eval().requires_grad_(False),
        classes=images.classes,
        seed=seed,
        epoch=epoch,
        precision=str(dtype).removeprefix("torch."),
        training_count=len(images.labels),
        diverged=diverged,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed initial weights, order and dropout without touching the caller's random state."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _train(
    network: nn.Module,
    images: LabelledImages,
    how: Recipe,
    dtype: torch.dtype,
    report: Report,
) -> tuple[int | None, str | None]:
    """Train ``network`` in place; its last epoch, and why it diverged if it did."""
    pixels, labels = torch.from_numpy(images.images), torch.from_numpy(images.labels)
    epoch: int | None = None
    if how.epochs is None:
        finite = _to_optimum(network, pixels, labels, how, report)
    else:
        finite, epoch = _by_adam(network, pixels, labels, how, dtype, report)
    # Evenly spread, because released images often come class by class.
    every = -(-len(labels) // CHECKED_IMAGES)
    diverged = None
    if not finite:
        diverged = "the training loss became infinite or NaN"
    elif _at_chance(network, pixels[::every], labels[::every]):
        diverged = "no better than chance on its own training images"
    return epoch, diverged


def _to_optimum(
    network: nn.Module, pixels: Tensor, labels: Tensor, how: Recipe, report: Report
) -> bool:
    """Minimise the penalised cross-entropy by L-BFGS over all images; whether it stayed finite."""
    device = device_of(network)
    evaluations = LBFGS_ITERATIONS * 5 // 4
    optimiser = torch.optim.LBFGS(
        network.parameters(),
        lr=how.learning_rate,
        max_iter=LBFGS_ITERATIONS,
        max_eval=evaluations,
        tolerance_grad=1e-5,
        line_search_fn="strong_wolfe",
    )
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    done = 0

    def objective() -> float:
        nonlocal done
        optimiser.zero_grad()
        penalty = PENALTY / 2 / len(labels) * sum(weight.square().sum() for weight in weights)
        assert isinstance(penalty, Tensor)
        penalty.backward()
        total = penalty.item()
        # In blocks, so that memory does not grow with the number of images.
        for block, wanted in zip(
            pixels.split(how.batch_size), labels.split(how.batch_size), strict=True
        ):
            logits = network(scaled(block.to(device)))
            loss = F.cross_entropy(logits, wanted.to(device), reduction="sum") / len(labels)
            loss.backward()
            total += loss.item()
        done += 1
        report(min(1.0, done / evaluations))
        return total

    optimiser.step(objective)
    return bool(np.isfinite(objective()))


def _by_adam(
    network: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    how: Recipe,
    dtype: torch.dtype,
    report: Report,
) -> tuple[bool, int]:
    """Train by Adam; whether the loss stayed finite, and the last epoch."""
    assert how.epochs is not None
    device = device_of(network)
    optimiser = torch.optim.Adam(network.parameters(), how.learning_rate, fused=True)
    # uint8 in memory, scaled a batch at a time: that costs nothing beside the convolutions.
    pixels, labels = pixels.to(device), labels.to(device)
    for epoch in range(1, how.epochs + 1):
        network.train()
        total = torch.zeros((), device=device)
        for batch in torch.randperm(len(labels)).to(device).split(how.batch_size):
            with bfloat16_where(dtype == torch.bfloat16, device):
                logits = network(scaled(pixels[batch]))
            loss = F.cross_entropy(logits.float(), labels[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach()
        report(epoch / how.epochs)
        if not torch.isfinite(total):
            return False, epoch
    return True, how.epochs


@torch.no_grad()
def _correct(network: nn.Module, pixels: Tensor, labels: Tensor) -> int:
    """How many of the images the network labels correctly."""
    network.eval()
    device = device_of(network)
    blocks = zip(pixels.split(BLOCK), labels.split(BLOCK), strict=True)
    return sum(
        int((network(scaled(block.to(device))).argmax(1) == wanted.to(device)).sum())
        for block, wanted in blocks
    )


def _at_chance(network: nn.Module, pixels: Tensor, labels: Tensor) -> bool:
    """Whether no class is recognised better than by a guess that looks at no image.

    Averages the recall over the classes present: 1/classes for any guess, a constant one included.
    Two standard errors are allowed for luck.
    """
    recalls, variance = [], 0.0
    present = labels.unique()
    if len(present) == 1:
        return False  # One class: nothing to learn, and a constant is right.
    guess = 1 / len(present)
    for label in present:
        mine = labels == label
        recalls.append(_correct(network, pixels[mine], labels[mine]) / int(mine.sum()))
        variance += guess * (1 - guess) / int(mine.sum()) / len(present) ** 2
    return bool(np.mean(recalls) <= guess + 2 * variance**0.5)
