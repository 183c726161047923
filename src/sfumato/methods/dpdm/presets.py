"""DPDM's named settings: for private images, and for training on public images alone."""

from __future__ import annotations

from collections.abc import Mapping

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import Settings

BATCH = 2048
"""Expected number of images in a step's sample."""


def cpu(spec: PublicSpec) -> Settings:
    """About an hour on two cores at 28 pixels, after a warm-up."""
    fold = max(1, round(max(spec.height, spec.width) / 14))
    batch = min(BATCH, spec.declared_size or BATCH)
    return {"patch": fold, "warm_up": "moments", "batch": batch}


def paper(spec: PublicSpec) -> Settings:
    """arXiv 2210.09929, table 7: 300 epochs of MNIST, 500 of CIFAR-10, 300 of CelebA."""
    size = spec.declared_size or 1
    batch, epochs, K = (4096, 300, 32) if spec.channels == 1 else (2048, 500, 8)
    return {
        "patch": max(1, spec.height // 32),
        "width": 32,
        "multipliers": (1, 2, 2),
        "attention": 8 if spec.height <= 28 else 16,
        "clip_norm": 1.0,
        "learning_rate": 3e-4,
        "average": 0.999,
        "sampler": "accuracy",
        "batch": min(batch, size),
        "steps": max(1, round(epochs * size / batch)),
        "multiplicity": K,
    }


PUBLIC: Mapping[str, Settings] = {
    "cpu": {"public_steps": 10_000, "patch": 2, "width": 32},
    "gpu": {
        "public_steps": 200_000,
        "patch": 1,
        "width": 64,
        "multipliers": (1, 2, 2),
        "attention": 16,
    },
}
