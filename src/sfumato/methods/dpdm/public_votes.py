"""Private records vote for the public class nearest to them; the chosen ones are learnt from.

PrivImage's idea (arXiv 2311.12850) with a price: one histogram, which the plan pays for. What it
chooses is post-processing; ``docs/methods/dpdm.md``, "Public classes by private votes".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.features.public_classes import nearest_classes
from sfumato.methods.dpdm.first_queries import VOTES
from sfumato.methods.public_model import LABELS, UNLABELLED, PublicModel
from sfumato.networks import UNet
from sfumato.privacy import Answer, Curator


@dataclass(frozen=True)
class ChosenClasses:
    """What each private class chose.

    Args:
        shares: float64 ``[C, P]``, of each public class in each private one; a row adds up to 1, or
            is zero where noise hides all votes.
        centres: float32 ``[P, width]``, of the public classes.
    """

    shares: NDArray[np.float64]
    centres: NDArray[np.float32]

    @classmethod
    def asked(cls, curator: Curator, centres: NDArray[np.float32], kept: int) -> ChosenClasses:
        """Ask for the votes; each private class keeps the ``kept`` public ones with the most."""
        classes = max(1, len(curator.spec.classes))
        labels = np.repeat(np.arange(classes), len(centres))
        known = labels if curator.spec.classes else None
        answer = curator.nearest(VOTES, 0, np.tile(centres, (classes, 1)), known)
        return cls(shares_of(answer, classes, kept), centres)

    def start(self, network: UNet, model: PublicModel | None) -> None:
        """Let each private class start as the public classes that it chose, in their shares.

        A private class whose votes noise hides stays as what the model knows as no class.
        """
        table = None if model is None else model.label_rows()
        if table is None or len(table) != len(self.centres) + 1:
            return
        weights = network.state_dict()  # these are the network's own tensors
        shares = torch.from_numpy(self.shares).to(table.dtype)
        change = (shares @ (table[:-1] - table[-1])).to(weights[UNLABELLED].device)
        if LABELS in weights:
            weights[LABELS][: len(change)] += change
        else:
            weights[UNLABELLED] += change[0]

    def images(self, public: NDArray[np.uint8], device: torch.device) -> ChosenImages:
        """The public images of the chosen classes."""
        return ChosenImages(public, nearest_classes(public, self.centres, device), self.shares)


class ChosenImages:
    """Public images in their chosen shares, each under the private class that chose it.

    Private classes come equally often. All images come, without a class, where nothing was chosen.

    Args:
        public: uint8 ``[n, c, h, w]``.
        nearest: int64 ``[n]``, the public class of each.
        shares: float64 ``[C, P]`` as in :class:`ChosenClasses`.
    """

    def __init__(
        self, public: NDArray[np.uint8], nearest: NDArray[np.int64], shares: NDArray[np.float64]
    ) -> None:
        self.public, self.public_classes = public, shares.shape[1]
        self.sizes = np.bincount(nearest, minlength=shares.shape[1])
        self.order = np.argsort(nearest, kind="stable")
        self.starts = np.cumsum(self.sizes) - self.sizes
        there = np.where(self.sizes > 0, shares, 0.0)
        self.weights = (there / np.maximum(there.sum(axis=1, keepdims=True), 1e-9)).reshape(-1)

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images uint8 ``[count, c, h, w]`` and labels int64 ``[count]``, on the same device."""
        device = random.device
        uniform = torch.rand(count, generator=random, device=device).double().cpu().numpy()
        if not self.weights.any():
            index, labels = (uniform * len(self.public)).astype(np.int64), np.full(count, -1)
        else:
            weights = torch.from_numpy(self.weights).to(device)
            pairs = torch.multinomial(weights.float(), count, replacement=True, generator=random)
            labels, chosen = np.divmod(pairs.cpu().numpy(), self.public_classes)
            place = (uniform * self.sizes[chosen]).astype(np.int64)
            index = self.order[self.starts[chosen] + place]
        images = torch.from_numpy(self.public[index]).to(device)
        return images, torch.from_numpy(labels).to(device)


def shares_of(answer: Answer, classes: int, kept: int) -> NDArray[np.float64]:
    """Shares of the ``kept`` largest of each class's votes that stand out of the noise.

    What P noises of standard deviation s reach at most, about s·√(2 ln P), is taken off every vote.
    """
    votes = answer.total.reshape(classes, -1)
    votes = votes - answer.noise_std * math.sqrt(2 * math.log(votes.shape[1]))
    least = np.sort(votes, axis=1)[:, -kept:][:, :1]
    votes = np.where(votes >= least, votes, 0.0).clip(min=0.0)
    shares: NDArray[np.float64] = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-9)
    return shares
