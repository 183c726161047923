"""Public images at hand: patches of photographs that ship with scikit-learn, and drawn figures.

Scales and principal axes of perceptual features are fitted on them, never on private images. A
user who has better public images of the field passes those instead.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.data.spec import PublicSpec
from sfumato.features.figures import drawn_figures

PUBLIC_IMAGES = 4000
MOST_ZOOM_OCTAVES = 3.5


def public_images(spec: PublicSpec, figures: bool) -> NDArray[np.uint8]:
    """Patches of photographs; with ``figures``, half of those of grey data are drawn figures.

    Returns:
        uint8 ``[4000, channels, height, width]``.
    """
    if not figures or spec.channels != 1:
        return public_patches(spec)
    half = PUBLIC_IMAGES // 2
    return np.concatenate([public_patches(spec, half), drawn_figures(spec, half)])


def public_patches(
    spec: PublicSpec, count: int = PUBLIC_IMAGES, seed: int = 0
) -> NDArray[np.uint8]:
    """Random patches of public photographs at many scales, half mirrored and half negated.

    Returns:
        uint8 ``[count, channels, height, width]``.
    """
    from sklearn.datasets import load_sample_images  # takes a second, and a plan needs none

    rng = np.random.default_rng(seed)
    mode = "L" if spec.channels == 1 else "RGB"
    photographs = [Image.fromarray(image).convert(mode) for image in load_sample_images().images]
    patches = np.empty((count, spec.height, spec.width, spec.channels), np.uint8)
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        side = min(int(spec.height * 2 ** rng.uniform(0, MOST_ZOOM_OCTAVES)), *photograph.size)
        left = int(rng.integers(photograph.width - side + 1))
        top = int(rng.integers(photograph.height - side + 1))
        box = (left, top, left + side, top + side)
        patch = photograph.resize((spec.width, spec.height), Image.Resampling.BOX, box=box)
        pixels = np.asarray(patch).reshape(spec.height, spec.width, spec.channels)
        pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        patches[index] = 255 - pixels if rng.random() < 0.5 else pixels
    return np.ascontiguousarray(patches.transpose(0, 3, 1, 2))
