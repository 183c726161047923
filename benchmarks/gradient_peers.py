"""The clipped sum of ``clipped_gradient.py`` by Opacus, in each of its modes.

Opacus is no dependency of Sfumato: ``pip install opacus``. Its modes are ``hooks``, ``functorch``
and ``ghost``, which finds norms without forming gradients and goes backward a second time with the
losses weighted. Ghost norms are those of single images: with K draws a unit it clips each draw by
itself, so its sum is ours for K 1 alone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from sfumato.methods.dpdm.diffusion import DenoisingLoss
from sfumato.privacy.gradients.layers import flatten
from sfumato.privacy.gradients.per_example import UnitBatch, trained, units_at_once

MODES = ("hooks", "ghost", "functorch")

MISSING = "Opacus is not installed here: pip install opacus, or leave --peers out."


class Contiguous(nn.Module):
    """The same network on plain tensors: Opacus 1.6 gives wrong gradients for ``channels_last``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        output: Tensor = self.network(x.contiguous(), *rest)
        return output


def opacus_sum(
    mode: str, network: nn.Module, loss: DenoisingLoss, batch: UnitBatch, clip_norm: float
) -> Callable[[], Tensor]:
    """The sum of clipped gradients by a mode of Opacus, float32 ``[parameters]``.

    Raises:
        SystemExit: Opacus is not installed.
    """
    try:
        import opacus.grad_sample as kinds
    except ImportError:
        raise SystemExit(MISSING) from None
    for said in ("Full backward hook is firing", "In CPU autocast"):
        warnings.filterwarnings("ignore", message=said)
    options = {"batch_first": True, "loss_reduction": "sum"}
    if mode == "ghost":
        wrapped = kinds.GradSampleModuleFastGradientClipping(
            Contiguous(network), max_grad_norm=clip_norm, **options
        )
        return by_ghost_norms(
            wrapped, *by_draw(loss, batch), units_at_once(loss) * loss.multiplicity
        )
    functorch = mode == "functorch"
    wrapped = kinds.GradSampleModule(Contiguous(network), force_functorch=functorch, **options)
    return by_samples(wrapped, loss, batch, clip_norm)


def by_samples(
    wrapped: nn.Module, loss: DenoisingLoss, batch: UnitBatch, clip_norm: float
) -> Callable[[], Tensor]:
    """Rows of gradients of images, added up by unit, clipped and summed."""
    size = sum(p.numel() for p in trained(wrapped))

    def run() -> Tensor:
        total = torch.zeros(size, device=batch.images.device)
        for part in batch.split(units_at_once(loss)):
            wrapped.zero_grad(set_to_none=True)
            loss(wrapped, part.images, part.labels, *part.draws).sum().backward()
            parts = [
                flatten(p.grad_sample.view(len(part), -1, *p.shape).sum(dim=1), 1)
                for p in wrapped.parameters()
            ]
            rows = torch.cat(parts, dim=1)
            norms = rows.norm(dim=1)
            total += (clip_norm / norms.clamp(min=clip_norm)) @ rows
            for p in wrapped.parameters():
                p.grad_sample = None
        return total

    return run


def by_draw(loss: DenoisingLoss, batch: UnitBatch) -> tuple[DenoisingLoss, UnitBatch]:
    """The same images with each of a unit's draws a unit of its own."""
    K = loss.multiplicity
    sigma, noise, dropped = batch.draws
    draws = (sigma.reshape(-1, 1), noise.flatten(0, 1)[:, None], dropped.repeat_interleave(K))
    images, labels = batch.images.repeat_interleave(K, 0), batch.labels.repeat_interleave(K)
    return replace(loss, multiplicity=1), UnitBatch(images, labels, draws)


def by_ghost_norms(
    wrapped: nn.Module, loss: DenoisingLoss, batch: UnitBatch, at_once: int
) -> Callable[[], Tensor]:
    """Two backward passes, as Opacus' own loss takes them."""

    def run() -> Tensor:
        total = torch.zeros(sum(p.numel() for p in trained(wrapped)), device=batch.images.device)
        for part in batch.split(at_once):
            losses = loss(wrapped, part.images, part.labels, *part.draws)
            losses.sum().backward(retain_graph=True)
            wrapped.zero_grad(set_to_none=True)
            weights = wrapped.get_clipping_coef()
            wrapped.disable_hooks()
            (losses * weights).sum().backward()
            wrapped.enable_hooks()
            total += torch.cat([flatten(p.grad) for p in trained(wrapped)])
            wrapped.zero_grad(set_to_none=True)
        return total

    return run
