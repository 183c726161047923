"""Low-rank adapters: a change of a layer's weights that has few parameters of its own.

LoRA, arXiv 2106.09685, equation 3: W + B A, with B and A of rank r, W fixed and B zero at first.
Both factors are ordinary layers that run once a pass, so every engine of per-unit gradients knows
them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Adapted(nn.Module):
    """A convolution or linear layer that stays as it is, plus a trained change of low rank.

    Args:
        layer: the layer, whose parameters are fixed.
        rank: r, or the largest rank that the layer's weights can have where that is lower.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        rank = min(rank, *layer.weight.flatten(1).shape)
        if isinstance(layer, nn.Linear):
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            self.down = nn.Conv2d(
                layer.in_channels,
                rank,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                bias=False,
            )
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)
        for factor in (self.down, self.up):
            factor.to(layer.weight.device)
            if isinstance(layer, nn.Conv2d):
                factor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output plus that of its change."""
        output: Tensor = self.layer(x) + self.up(self.down(x))
        return output

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The layer with its change added to its weights."""
        weight, up, down = self.layer.weight, self.up.weight, self.down.weight
        change = up.flatten(1).double() @ down.flatten(1).double()  # type: ignore[operator]
        weight += change.view_as(weight).to(weight.dtype)
        return self.layer


def adapt(network: nn.Module, rank: int, seed: int) -> None:
    """Fix all weights of ``network`` and give each convolution and linear layer an adapter.

    Args:
        network: changed in place; its outputs stay as they are.
        rank: r of each adapter.
        seed: public seed of the factors A.
    """
    network.requires_grad_(False)
    torch.manual_seed(seed)
    for owner in [*network.modules()]:
        for name, layer in [*owner.named_children()]:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                setattr(owner, name, Adapted(layer, rank))


def merge(network: nn.Module) -> None:
    """Put each layer with an adapter back into ``network``, its change added to its weights."""
    for owner in [*network.modules()]:
        for name, layer in [*owner.named_children()]:
            if isinstance(layer, Adapted):
                setattr(owner, name, layer.merged())
