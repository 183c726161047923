"""Perceptual features: activations of several public layers as one bounded vector an image.

φ₁ is the concatenation of the chosen layers, each divided by its public root-mean-square so that
no layer drowns the others; φ₂ is its element-wise square. Both are bounded by 1 per image, from
that image alone (DP-MEPF, arXiv 2205.12900, section 3). What public images have on average may be
subtracted first: it tells no class from another, and would take up most of the bound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.devices import CPU, moved
from sfumato.features.encoder import Encoder
from sfumato.features.shipped import STRIDE, Bound

CHUNK = 250


class PerceptualFeatures(nn.Module):
    """Bounded features of a public encoder's layers; a module, so that it can be moved.

    Args:
        encoder: the frozen public encoder.
        layers: indices of its blocks, ascending.
        bound: ``norm`` rescales each image's vector to norm 1; ``clip`` divides by the public
            median norm and shortens what is longer than 1; ``per-layer`` rescales each layer to
            norm 1/√L.
        scales: public root-mean-square norm of each layer, then the public median norms of the
            joint vector and of its square; as :meth:`fit` finds them.
        means: public means of the joint vector and of its square, float32 ``[2, d]``, which are
            subtracted before the bound; None subtracts nothing.
    """

    means: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        layers: Sequence[int],
        bound: Bound,
        scales: Sequence[float],
        means: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.layers, self.bound = encoder, tuple(layers), bound
        self.scales = list(scales)
        self.register_buffer("means", means)

    @classmethod
    @torch.no_grad()
    def fit(
        cls,
        encoder: Encoder,
        layers: Sequence[int],
        bound: Bound,
        public: NDArray[np.uint8],
        centred: bool = False,
    ) -> PerceptualFeatures:
        """Find scales, and with ``centred`` means, on public images, uint8 ``[n, c, h, w]``."""
        # On the CPU wherever a run computes: scales are part of what is asked and released.
        features = cls(moved(encoder, CPU), layers, bound, [1.0] * (len(layers) + 2))
        raw = features.of(public)
        norms = [float(layer.square().sum(dim=1).mean().sqrt() + 1e-6) for layer in raw]
        joint = torch.cat([layer / norm for layer, norm in zip(raw, norms, strict=True)], dim=1)
        pair = [joint, joint.square()]
        means = torch.stack([rows.mean(dim=0) for rows in pair]) if centred else None
        if means is not None:
            pair = [rows - mean for rows, mean in zip(pair, means, strict=True)]
        typical = [float(rows.norm(dim=1).median()) for rows in pair]
        return cls(encoder, layers, bound, [*norms, *typical], means)

    @torch.no_grad()
    def of(self, images: NDArray[np.uint8]) -> list[Tensor]:
        """Activations of many public or generated images, batch by batch."""
        chunks = [images[i : i + CHUNK] for i in range(0, len(images), CHUNK)]
        parts = [self.activations(to_unit(chunk).to(self.encoder.mean.device)) for chunk in chunks]
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def activations(self, images: Tensor) -> list[Tensor]:
        """Flattened, publicly scaled activations of each layer.

        Args:
            images: float ``[b, 1 or 3, h, w]`` in [0, 1]; padded with black to a multiple of 16.

        Returns:
            One float32 ``[b, d_l]`` a layer.
        """
        down, across = -images.shape[2] % STRIDE, -images.shape[3] % STRIDE
        padding = (across // 2, across - across // 2, down // 2, down - down // 2)
        maps = self.encoder(F.pad(images, padding), self.layers[-1])
        return [
            maps[layer].flatten(1).to(torch.float32) / scale
            for layer, scale in zip(self.layers, self.scales, strict=False)
        ]

    def moments(self, activations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(φ₁, φ₂), each ``[b, dimension]`` of L2 norm at most 1 (a zero image stays zero)."""
        first = torch.cat(list(activations), dim=1)
        second = first.square()
        if self.means is not None:
            first, second = first - self.means[0], second - self.means[1]
        if self.bound == "norm":
            return _unit(first), _unit(second)
        if self.bound == "clip":
            return _shorten(first / self.scales[-2]), _shorten(second / self.scales[-1])
        lengths, share = [layer.shape[1] for layer in activations], len(activations) ** 0.5
        first, second = (
            torch.cat([_unit(layer) / share for layer in rows.split(lengths, dim=1)], dim=1)
            for rows in (first, second)
        )
        return first, second


def to_unit(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]."""
    return torch.as_tensor(images).to(torch.float32) / 255


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _shorten(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1)


class PublicAxes(nn.Module):
    """Coordinates along principal axes that were fitted on public images.

    Args:
        mean: ``[d]``, subtracted first.
        axes: ``[d, k]``.
        whitened: the axes carry a public 1/spread, and coordinates are rescaled to norm 1;
            otherwise coordinates keep their length up to 1.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, mean: Tensor, axes: Tensor, whitened: bool) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        self.whitened = whitened

    @classmethod
    def fit(cls, features: Tensor, size: int, whiten: bool) -> PublicAxes:
        """The ``size`` main axes of public features ``[n, d]``.

        Whitening is soft: the spread of the middle axis is added, so that the smallest are not
        blown up.
        """
        mean = features.mean(dim=0)
        centred = (features - mean).to(torch.float64) / len(features) ** 0.5
        if size < len(centred) < centred.shape[1]:
            # Features of large images outnumber the images, whose inner products say the same.
            values, vectors = torch.linalg.eigh(centred @ centred.T)
            spread = values.flip(0)[:size].clamp(min=1e-12).sqrt()
            axes = centred.T @ vectors.flip(1)[:, :size] / spread
        else:
            values, vectors = torch.linalg.eigh(centred.T @ centred)
            spread = values.flip(0)[:size].clamp(min=0).sqrt()
            axes = vectors.flip(1)[:, :size]
        if whiten:
            axes = axes / (spread + spread[len(spread) // 2])
        return cls(mean, axes.to(torch.float32), whiten)

    def forward(self, features: Tensor) -> Tensor:
        """``[b, d]`` → ``[b, k]`` of L2 norm at most 1."""
        coordinates = (features - self.mean) @ self.axes
        return _unit(coordinates) if self.whitened else _shorten(coordinates)
