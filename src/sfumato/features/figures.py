"""Public images for grey data: strokes, ellipses and polygons on an even ground, drawn at random.

Digits, garments and scans are figures on a ground, which patches of photographs are not. Axes and
means that know figures too leave more of a bounded feature to what tells such images apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.data.spec import PublicSpec

MOST_FIGURES = 3
STROKE_POINTS = 12
POLYGON_SIDES = 6
LARGEST_DRAWN = 32
"""Pixels a side that figures are drawn at; larger images show them enlarged."""
AT_ONCE = 250

Points = NDArray[np.float64]


def drawn_figures(spec: PublicSpec, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """One to three figures an image, a quarter of them dark on white, all channels alike.

    Returns:
        uint8 ``[count, channels, height, width]``.
    """
    rng = np.random.default_rng(seed)
    height, width = min(spec.height, LARGEST_DRAWN), min(spec.width, LARGEST_DRAWN)
    parts = []
    for start in range(0, count, AT_ONCE):
        drawn = _drawn(rng, min(AT_ONCE, count - start), height, width)
        parts.append(np.rint(255 * drawn).astype(np.uint8))
    images = np.concatenate(parts)
    if (height, width) != (spec.height, spec.width):
        size = (spec.width, spec.height)
        large = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in images]
        images = np.stack([np.asarray(image) for image in large])
    return np.repeat(images[:, None], spec.channels, axis=1)


def _drawn(rng: np.random.Generator, count: int, height: int, width: int) -> Points:
    """Images ``[count, height, width]`` in [0, 1]."""
    down, across = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    pixels = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
    images, figures = np.zeros((count, len(pixels))), rng.integers(1, MOST_FIGURES + 1, count)
    kinds = (_strokes, _ellipses, _polygons)
    for number in range(MOST_FIGURES):
        chosen = rng.integers(len(kinds), size=count)
        for kind, outside in enumerate(kinds):
            here = np.flatnonzero((chosen == kind) & (number < figures))
            level = rng.uniform(0.35, 1.0, (len(here), 1))
            # A pixel on the edge is covered by half.
            covered = np.clip(0.5 - outside(rng, pixels, len(here)) * min(height, width), 0, 1)
            images[here] += covered * (level - images[here])
    dark = rng.random(count) < 0.25
    images[dark] = 1 - images[dark]
    return images.reshape(count, height, width)


def _strokes(rng: np.random.Generator, pixels: Points, count: int) -> Points:
    """How far pixels lie outside of random Bézier curves with a width, ``[count, pixels]``."""
    ends = rng.uniform(0.12, 0.88, (count, 4, 2))
    along = np.linspace(0, 1, STROKE_POINTS)[:, None, None, None]
    curve = ends
    while curve.shape[-2] > 1:  # de Casteljau
        curve = curve[..., :-1, :] * (1 - along) + curve[..., 1:, :] * along
    first, last = curve[:-1, :, 0], curve[1:, :, 0]
    nearest = np.full((count, len(pixels)), np.inf)
    for start, end in zip(first, last, strict=True):
        reach = end - start
        offset = pixels - start[:, None]
        share = np.einsum("npi,ni->np", offset, reach) / (np.square(reach).sum(1) + 1e-12)[:, None]
        offset -= np.clip(share, 0, 1)[..., None] * reach[:, None]
        nearest = np.minimum(nearest, np.linalg.norm(offset, axis=-1))
    return nearest - rng.uniform(0.02, 0.08, (count, 1))


def _ellipses(rng: np.random.Generator, pixels: Points, count: int) -> Points:
    """How far pixels lie outside of random ellipses, a half of which are rings."""
    centres, radii = rng.uniform(0.3, 0.7, (count, 1, 2)), rng.uniform(0.08, 0.45, (count, 1, 2))
    scaled = (pixels - centres) / radii
    outside = (np.linalg.norm(scaled, axis=-1) - 1) * radii.min(axis=-1)
    rings, half = rng.random((count, 1)) < 0.5, rng.uniform(0.02, 0.07, (count, 1))
    return np.where(rings, np.abs(outside) - half, outside)


def _polygons(rng: np.random.Generator, pixels: Points, count: int) -> Points:
    """How far pixels lie outside of random convex polygons."""
    centres = rng.uniform(0.3, 0.7, (count, 1, 2))
    turns = (np.arange(POLYGON_SIDES) + rng.random((count, POLYGON_SIDES))) / POLYGON_SIDES
    angles = 2 * np.pi * turns
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    sides = rng.uniform(0.08, 0.4, (count, 1, POLYGON_SIDES))
    return ((pixels - centres) @ normals - sides).max(axis=-1)
