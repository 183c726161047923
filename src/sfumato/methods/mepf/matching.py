"""Match a generator to a released mean embedding: pure post-processing, resumable.

Two estimates of ‖μ̃ − μ(G)‖² are offered, because the plain batch estimate is biased by the
batch's variance and rewards collapse:

* ``moving-average``: the gradient is that of −2⟨μ̃ − m, μ̂⟩ with m a running average of batch
  embeddings, as in GFMN (arXiv 1904.02762) without its second optimiser;
* ``two-batch``: (μ̃ − μ̂_A)·(μ̃ − μ̂_B) over independent half-batches, unbiased.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from sfumato.methods.checkpoint import Training
from sfumato.methods.mepf.embedding import JointEmbedding, Targets
from sfumato.methods.mepf.generator import Generator
from sfumato.networks import Average

WARM_UP = 50
LARGEST_GRADIENT = 1.0
CHANGE_PENALTY = 0.01
LAST_RATE = 0.05


class Matching:
    """The state of a training run: generator, optimiser, averages and public random state.

    Args:
        joint: what turns images into moments.
        targets: what the moments of generated images shall be.
        seed: public seed of the initial weights and of the generator's inputs.
    """

    def __init__(self, joint: JointEmbedding, targets: Targets, seed: int) -> None:
        self.joint, self.targets, self.method = joint, targets, joint.method
        torch.manual_seed(seed)
        self.noise = torch.Generator().manual_seed(seed)
        self.generator = Generator(joint.spec, targets.start, self.method.width)
        self.average = Average(self.generator)
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=self.method.learning_rate, betas=(0.5, 0.999)
        )
        classes = len(targets.counts)
        per_class = max(2, self.method.batch // classes)
        self.labels = torch.arange(classes).repeat_interleave(per_class)
        self.running = [torch.zeros_like(target) for target in self._moments_wanted()]
        self.training = Training(
            {"generator": self.generator, "average": self.average.network},
            self.optimizer,
            self.noise,
            {str(index): running for index, running in enumerate(self.running)},
        )

    def _moments_wanted(self) -> list[Tensor]:
        second = [] if self.targets.second is None else [self.targets.second]
        return [self.targets.first, *second]

    def run(self, folder: Path | None, quiet: bool = False) -> Generator:
        """Train to the configured number of steps and return the averaged generator.

        ``folder`` holds the checkpoint that an interrupted run goes on from.
        """
        self.training.run("matching the generator", self.method.steps, self.advance, folder, quiet)
        return self.average.network.eval()

    def rate(self, step: int) -> float:
        """Learning rate relative to the first: linear warm-up, then a cosine down to 5 %."""
        progress = step / self.method.steps
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return min(1.0, (step + 1) / WARM_UP) * (cosine * (1 - LAST_RATE) + LAST_RATE)

    def advance(self, step: int) -> None:
        """One optimisation step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.method.learning_rate * self.rate(step)
        images, change = self.generator.draw_with_change(self.labels, self.noise)
        moments = self.joint.moments(self.joint.features.activations(images))
        # The matching loss pushes linearly; where pixels saturate, only this brings them back.
        loss = CHANGE_PENALTY * change.square().mean()
        for index, (wanted, rows) in enumerate(zip(self._moments_wanted(), moments, strict=False)):
            by_class = rows.view(len(wanted), -1, rows.shape[1])
            if self.method.loss == "two-batch":
                half = by_class.shape[1] // 2
                first, other = by_class[:, :half].mean(dim=1), by_class[:, half:].mean(dim=1)
                loss = loss + ((wanted - first) * (wanted - other)).sum()
            else:
                loss = (
                    loss
                    - 2 * (self._gap(index, wanted, by_class, step) * by_class.mean(dim=1)).sum()
                )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # One wild batch must not push the generator to where every image is the same.
        torch.nn.utils.clip_grad_norm_(self.generator.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.average.update(self.generator, step)

    @torch.no_grad()
    def _gap(self, index: int, wanted: Tensor, by_class: Tensor, step: int) -> Tensor:
        # A short memory at first, while the generator moves fast.
        decay = min(self.method.moving_average, step / (step + 9))
        self.running[index].lerp_(by_class.detach().mean(dim=1), 1 - decay)
        return wanted - self.running[index]
