"""What does noise multiplicity buy? The noisy gradient beside the true one, for several K.

Question: at equal ε and steps, how near does the released mean gradient of a step point to the
gradient of the loss? A DPDM network is trained on some records of Fashion-MNIST without privacy,
for ``--trained`` steps; then gradients of other records are sampled, clipped and noised as a
private step would, with the noise that a plan asks for. Privacy is only imitated here: the data is
public, and so are the seeds.

    python benchmarks/methods/multiplicity.py [--epsilon 1] [--steps 40] [--batch 512] [--json]
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.data import load_labelled, open_images
from sfumato.methods import DPDM
from sfumato.methods.dpdm.diffusion import DenoisingLoss
from sfumato.methods.dpdm.private_training import untrained
from sfumato.networks import UNet
from sfumato.privacy import Budget, GradientQuery
from sfumato.privacy.gradients.layers import flatten
from sfumato.privacy.gradients.per_example import UnitBatch, gradient_sum
from sfumato.privacy.grid import UNIT
from sfumato.privacy.plan import make_plan

SEEN = 10_000
"""Records that the network is trained on; gradients are of the others."""
PLAIN_BATCH, REFERENCE = 64, 4_000
REFERENCE_DRAWS = 8


class Gradients:
    """Gradients of a loss over records."""

    def __init__(self, network: UNet, images: Tensor, labels: Tensor) -> None:
        self.network, self.images, self.labels = network, images, labels

    def batch(self, loss: DenoisingLoss, index: Tensor, random: torch.Generator) -> UnitBatch:
        """The records at ``index`` with fresh draws."""
        return UnitBatch(self.images[index], self.labels[index], loss.draws(len(index), random))

    def plain(self, loss: DenoisingLoss, index: Tensor, random: torch.Generator) -> Tensor:
        """Their mean gradient, flat."""
        total: Tensor | float = 0.0
        for part in index.split(PLAIN_BATCH):
            units = self.batch(loss, part, random)
            value = loss(self.network, units.images, units.labels, *units.draws).sum() / len(index)
            gradients = torch.autograd.grad(value, list(self.network.parameters()))
            total = total + torch.cat([flatten(gradient) for gradient in gradients])
        assert isinstance(total, Tensor)
        return total


def main() -> None:
    """Print, for each K, the norm of the clipped mean and how both means point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--trained", type=int, default=500, help="plain steps before")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--multiplicities", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    source = open_images("fashion-mnist", declared_size=60_000)
    records = load_labelled(source)
    settings = {"patch": 4, "width": 16, "steps": options.steps, "batch": options.batch}
    method = DPDM(**settings)
    (query,) = method.queries(source.spec)
    assert isinstance(query, GradientQuery)
    plan = make_plan(
        {"name": "dpdm", "config": method.config()},
        [query],
        Budget(options.epsilon, 1e-5),
        source.spec,
    )
    noise_std = plan.event(query.name).noise_std / options.batch

    rows = []
    for seed in range(options.seeds):
        random = torch.Generator().manual_seed(seed)
        network, loss = untrained(
            DPDM(**settings, multiplicity=1, seed_public=seed), source.spec, torch.device("cpu")
        )
        gradients = Gradients(
            network, torch.from_numpy(records.images), torch.from_numpy(records.labels)
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(options.trained):
            index = torch.randint(SEEN, (PLAIN_BATCH,), generator=random)
            units = gradients.batch(loss, index, random)
            optimizer.zero_grad(set_to_none=True)
            loss(network, units.images, units.labels, *units.draws).mean().backward()
            optimizer.step()
        others = torch.randperm(len(records.images) - SEEN, generator=random) + SEEN
        many = DenoisingLoss(loss.denoiser, REFERENCE_DRAWS, loss.label_dropout)
        truth = gradients.plain(many, others[:REFERENCE], random)
        sample = others[REFERENCE : REFERENCE + options.batch]
        for K in options.multiplicities:
            drawn = DenoisingLoss(loss.denoiser, K, loss.label_dropout)
            units = gradients.batch(drawn, sample, random)
            steps = gradient_sum(network, drawn, units, method.clip_norm, "layers")
            mean = steps.double() * (method.clip_norm / UNIT) / len(sample)
            noise = torch.randn(mean.shape, generator=random) * noise_std
            rows.append(
                {
                    "seed": seed,
                    "K": K,
                    "norm": float(mean.norm()),
                    "noise": float(noise.norm()),
                    "cosine": float(F.cosine_similarity(mean, truth.double(), dim=0)),
                    "noisy_cosine": float(F.cosine_similarity(mean + noise, truth, dim=0)),
                }
            )
    if options.json:
        print("\n".join(json.dumps(row) for row in rows))
        return
    print("K    norm of the clipped mean   of the noise   cosine   with noise (mean ± deviation)")
    for K in options.multiplicities:
        mine = [row for row in rows if row["K"] == K]
        norm, noise_norm, cosine, noisy = (
            np.array([row[name] for row in mine])
            for name in ("norm", "noise", "cosine", "noisy_cosine")
        )
        spread = f"{noisy.mean():.4f} ± {noisy.std(ddof=1) if len(mine) > 1 else 0:.4f}"
        print(
            f"{K:<4} {norm.mean():<26.4f} {noise_norm.mean():<14.4f} {cosine.mean():<8.3f} {spread}"
        )


if __name__ == "__main__":
    main()
