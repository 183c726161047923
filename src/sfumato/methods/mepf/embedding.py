"""The joint contribution of DP-MEPF and what its one noisy answer is taken apart into.

:mod:`sfumato.methods.mepf.blocks` says what an image contributes. One vector, one clip norm, one
Gaussian: no private count is needed to divide by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import moved
from sfumato.errors import DataError
from sfumato.features import (
    PerceptualFeatures,
    PooledCoordinates,
    PooledFeatures,
    PublicAxes,
    RandomConvolutions,
    dct_basis,
    load_encoder,
    public_images,
    to_unit,
)
from sfumato.methods.base import Batch
from sfumato.methods.gaussian import Gaussians, MomentBlock
from sfumato.methods.mepf.blocks import START_MEAN_WEIGHT, Blocks, labelled_layers
from sfumato.methods.mepf.labeller import (
    Coordinates,
    Labeller,
    LayerCoordinates,
)
from sfumato.methods.mepf.settings import MEPFSettings
from sfumato.methods.shrinkage import Known, shrunk_counts

FORMAT = "sfumato-embedding/1"
LEAST_IMAGES = 1.0
PUBLIC_BATCH = 250
SHRUNK_ALONG = 1000
"""Public images along whose axes what is not noise is told from what is."""
LEAST_AXIS = 1e-6
"""Squared length of the shortest axis that is one, relative to the longest."""
NO_NOISE = 1e-6
"""Noise per coordinate of a public embedding: none, but solutions divide by it."""


@dataclass(frozen=True)
class Embedding:
    """A released mean embedding: noisy sums as the curator answered them, all public.

    ``total`` float64 ``[classes, d]``, ``shared`` float64 ``[pairs]`` (empty without a labeller),
    ``noise_std`` their noise per coordinate; ``spec`` and ``config`` say what was embedded how.
    """

    total: NDArray[np.float64]
    shared: NDArray[np.float64]
    noise_std: float
    spec: PublicSpec
    config: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write ``embedding.safetensors``: arrays, and everything else as JSON metadata."""
        facts = {"noise_std": self.noise_std, "spec": self.spec.to_dict(), "config": self.config}
        metadata = {"format": FORMAT, "embedding": json.dumps(facts, sort_keys=True)}
        save_file({"total": self.total, "shared": self.shared}, path, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> Embedding:
        """Read a released embedding.

        Raises:
            DataError: the file is missing or is not a released embedding.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                facts = json.loads(metadata["embedding"])
                return cls(
                    file.get_tensor("total"),
                    file.get_tensor("shared"),
                    float(facts["noise_std"]),
                    PublicSpec.from_dict(facts["spec"]),
                    dict(facts["config"]),
                )
        except (
            OSError,
            SafetensorError,
            LookupError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            raise DataError(
                f"{path} is not a released embedding. Pass the embedding.safetensors of a release."
            ) from error


@dataclass(frozen=True)
class Targets:
    """An embedding taken apart: what a generator is matched to.

    ``first`` and ``second`` are mean embeddings ``[classes, D]``, ``random`` those of random
    networks; all but the first may be None. ``known`` says, by their names, how much of each is
    not noise; it is empty where that does not count.
    """

    counts: NDArray[np.float64]
    first: Tensor
    second: Tensor | None
    random: Tensor | None
    start: Gaussians | None
    labeller: Labeller | None
    known: Mapping[str, Known] = field(default_factory=dict)


class JointEmbedding(nn.Module):
    """Builds contributions from images, and targets from the noisy answer.

    Everything in it is public: configuration, encoder, scales and axes fitted on public images.
    With ``blank`` the axes are zeros, which take as long and need no fit.
    """

    def __init__(self, method: MEPFSettings, spec: PublicSpec, blank: bool = False) -> None:
        super().__init__()
        self.method, self.spec, self.blocks = method, spec, Blocks(method, spec)
        self.second = self.blocks.second
        self.start: MomentBlock | None = None
        if method.start_coefficients:
            basis = dct_basis(spec, method.start_coefficients)
            self.start = MomentBlock(basis, START_MEAN_WEIGHT)
        self.random: RandomConvolutions | None = None
        if method.random_networks:
            self.random = RandomConvolutions(method.random_networks, spec.channels)
        self.compressors = nn.ModuleList()
        self.coordinates: Coordinates | None = None
        encoder = load_encoder(method.encoder)
        self._public: NDArray[np.uint8] | None = None
        if blank:
            unscaled = [1.0] * (len(method.layers) + 2)
            self.features = PerceptualFeatures(encoder, method.layers, method.bound, unscaled)
            self._leave_blank()
            return
        public = method.public
        if public is None:
            public = public_images(spec, method.figures)
        chosen = np.random.default_rng(0).permutation(len(public))[:SHRUNK_ALONG]
        self._public = public[np.sort(chosen)]
        self.features = PerceptualFeatures.fit(
            encoder, method.layers, method.bound, public, method.centred
        )
        if self.random:
            self.random.centre(public)
        activations = self.features.of(public)
        moments = [] if method.compress is None else self.features.moments(activations)
        self.compressors = nn.ModuleList(
            PublicAxes.fit(moment, method.compress or 0, False) for moment in moments
        )
        if self.second and method.encoder_size:
            self.coordinates = labeller_view(method)
        elif self.second:
            self.coordinates = LayerCoordinates.fit(
                self.features, activations, method.labeller_size
            )

    def _leave_blank(self) -> None:
        """Put zeros in the place of everything that is fitted."""
        method, lengths = self.method, self.blocks.lengths
        if method.compress:
            blanks = [blank_axes(sum(lengths), method.compress, False) for _ in range(2)]
            self.compressors = nn.ModuleList(blanks)
        if self.second and method.encoder_size:
            pooled = PooledFeatures(self.features.encoder, method.encoder_size)
            axes = blank_axes(pooled.width, method.labeller_size, True)
            self.coordinates = PooledCoordinates(pooled, axes)
        elif self.second:
            seen = sum(labelled_layers(lengths))
            axes = blank_axes(seen, min(method.labeller_size, seen), True)
            self.coordinates = LayerCoordinates(self.features, axes)

    def moments(self, activations: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(φ₁, φ₂) after compression; differentiable."""
        pair = self.features.moments(activations)
        if self.compressors:
            return self.compressors[0](pair[0]), self.compressors[1](pair[1])
        return pair

    def contribution(self, images: Tensor, labels: Tensor) -> Tensor:
        """uint8 images → float ``[b, dimension]``, each row from its own image."""
        method = self.method
        pixels = to_unit(images)
        activations = moved(self, images.device).features.activations(pixels)
        first, second = self.moments(activations)
        parts = [first.new_full((len(images), 1), method.count_weight), first]
        if method.second_weight:
            parts.append(second * method.second_weight)
        if self.random:
            parts.append(self.random(pixels) * method.random_weight)
        if self.start:
            parts.append(self.start(images) * method.start_weight)
        if self.second:
            if isinstance(self.coordinates, LayerCoordinates):
                coordinates = self.coordinates.along(activations)
            else:
                assert self.coordinates is not None
                coordinates = self.coordinates(pixels)
            extended = self.second.extend(coordinates)
            parts.append(extended * method.labeller_weight)
            parts.append(self.second.products(extended * math.sqrt(method.labeller_weight)))
        return torch.cat(parts, dim=1)

    def targets(self, embedding: Embedding) -> Targets:
        """Take a noisy answer apart; sizes are noisy too and kept at one or more."""
        counts, start = self.sizes_and_start(embedding)
        method, parts = self.method, self._parts(embedding)
        weights = {"first": 1.0}
        if method.second_weight:
            weights["second"] = method.second_weight
        if self.random:
            weights["random"] = method.random_weight
        places = {"first": 1, "second": 2, "random": 3}
        means = {
            name: parts[places[name]] / counts[:, None] / weight for name, weight in weights.items()
        }
        known: dict[str, Known] = {}
        if method.noise_aware:
            axes = self._public_axes(means)
            known = {
                name: Known(mean, (embedding.noise_std / counts / weights[name]) ** 2, axes[name])
                for name, mean in means.items()
            }
        matched = {name: torch.from_numpy(mean).float() for name, mean in means.items()}
        labeller = None
        if self.second:
            weight = method.labeller_weight
            solution = self.second.solve(
                embedding.shared / weight, parts[5] / weight, embedding.noise_std / weight
            )
            assert self.coordinates is not None
            labeller = Labeller(self.coordinates, torch.from_numpy(solution))
        return Targets(
            counts,
            matched["first"],
            matched.get("second"),
            matched.get("random"),
            start,
            labeller,
            known,
        )

    def sizes_and_start(self, embedding: Embedding) -> tuple[NDArray[np.float64], Gaussians | None]:
        """Noisy class sizes, one or more each, and the Gaussians that images start from."""
        method, parts = self.method, self._parts(embedding)
        counts = parts[0][:, 0] / method.count_weight
        if method.noise_aware:
            counts = shrunk_counts(counts, embedding.noise_std / method.count_weight)
        counts = np.maximum(counts, LEAST_IMAGES)
        if self.start is None:
            return counts, None
        noise = embedding.noise_std / method.start_weight
        moments = parts[4] / method.start_weight
        return counts, self.start.fit(moments, counts, noise, method.noise_aware)

    def _parts(self, embedding: Embedding) -> list[NDArray[np.float64]]:
        """The blocks of each class: count, φ₁, φ₂, random networks, start, labeller."""
        ends = np.cumsum([0, *(length for length, _ in self.blocks.lengths_and_norms())])
        return [embedding.total[:, low:high] for low, high in pairwise(ends[:7])]

    @torch.no_grad()
    def _public_axes(self, names: Iterable[str]) -> dict[str, NDArray[np.float64]]:
        """The axes along which moments of public images are longest, by the moments' names."""
        assert self._public is not None, "a blank embedding is matched to nothing"
        first, second = self.moments(self.features.of(self._public))
        rows = {"first": first, "second": second}
        if self.random is not None:
            rows["random"] = self.random(to_unit(self._public).to(first.device))
        return {name: main_axes(rows[name]) for name in names}


def main_axes(rows: Tensor) -> NDArray[np.float64]:
    """Orthonormal axes ``[r, d]`` of what float rows ``[n, d]`` span, longest first."""
    wide = rows.double().cpu().numpy()
    squares, sides = np.linalg.eigh(wide @ wide.T)
    kept = np.flatnonzero(squares > LEAST_AXIS * squares[-1])[::-1]
    axes: NDArray[np.float64] = (sides[:, kept].T @ wide) / np.sqrt(squares[kept])[:, None]
    return axes


def blank_axes(width: int, count: int, whitened: bool) -> PublicAxes:
    """Axes ``[width, count]`` that see nothing."""
    return PublicAxes(torch.zeros(width), torch.zeros(width, count), whitened)


def labeller_view(method: MEPFSettings) -> PooledCoordinates:
    """The coordinates of a labeller that sees images enlarged."""
    return PooledCoordinates.of(
        method.encoder, method.encoder_size, method.labeller_size, method.public
    )


@torch.no_grad()
def public_embedding(joint: JointEmbedding, public: Batch, config: dict[str, Any]) -> Embedding:
    """The embedding of public images, without noise."""
    own = joint.blocks.dimension - joint.blocks.shared
    total = np.zeros((max(len(joint.spec.classes), 1), own))
    shared = np.zeros(joint.blocks.shared)
    for start in range(0, len(public[0]), PUBLIC_BATCH):
        part = slice(start, start + PUBLIC_BATCH)
        images, labels = torch.from_numpy(public[0][part]), public[1][part]
        rows = joint.contribution(images, torch.from_numpy(labels)).double().cpu().numpy()
        np.add.at(total, labels, rows[:, :own])
        shared += rows[:, own:].sum(axis=0)
    return Embedding(total, shared, NO_NOISE, joint.spec, config)


@lru_cache(maxsize=1)
def joint_embedding(method: MEPFSettings, spec: PublicSpec) -> JointEmbedding:
    """The joint embedding of a configuration, built once for plan, answer and training."""
    with torch.inference_mode(False):  # a pass over records may be the first to ask for it
        return JointEmbedding(method, spec)
