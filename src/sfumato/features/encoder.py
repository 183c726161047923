"""The frozen public encoder: EfficientNet-Lite0 with ImageNet weights, as a stack of plain layers.

The package that ships the weights is written for classification at 224 pixels. Here BatchNorm is
folded into the convolutions once (an example's features then cannot depend on its batch, the fault
of the published DP-MEPF code on Fashion-MNIST), padding follows the actual image size, and every
block's activation is returned, because perceptual features are those of many layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.features.shipped import ENCODER, check_encoder, encoder_digest, encoder_file

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SameConv(nn.Module):
    """A convolution with TensorFlow's "same" padding and BatchNorm folded in."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, activate: bool) -> None:
        super().__init__()
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weight = conv.weight.detach() * scale.detach()[:, None, None, None]
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", (norm.bias - norm.running_mean * scale).detach().clone())
        self.stride, self.groups, self.activate = conv.stride[0], conv.groups, activate

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.shape[-1]
        low, high = [], []
        for length in x.shape[-2:]:
            missing = max((-(-length // self.stride) - 1) * self.stride + size - length, 0)
            low.append(missing // 2)
            high.append(missing - missing // 2)
        if low != high:
            x = F.pad(x, (low[1], high[1], low[0], high[0]))
            low = [0, 0]
        x = F.conv2d(x, self.weight, self.bias, self.stride, tuple(low), groups=self.groups)
        return F.relu6(x, inplace=True) if self.activate else x


class Block(nn.Module):
    """An inverted-residual block: expand, depthwise, project, and a skip where shapes allow."""

    def __init__(self, layers: Sequence[SameConv], skip: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        return x + out if self.skip else out


class Encoder(nn.Module):
    """A frozen stack of public blocks whose activations are perceptual features.

    ``name`` and ``digest`` (SHA-256 of the weights file) say which public weights these are.
    Every example's activations depend on that example alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, digest: str, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.name, self.digest = name, digest
        self.blocks = nn.ModuleList(blocks)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, last: int | None = None) -> list[Tensor]:
        """Activations of each block up to block ``last`` (all of them when None).

        Args:
            images: float ``[b, 1 or 3, h, w]`` in [0, 1]; grey is replicated to three channels.
            last: index of the last block that is needed; later ones are not computed.

        Returns:
            A list of ``[b, c_i, h_i, w_i]`` tensors, stem first.
        """
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        activations = []
        for block in self.blocks[: None if last is None else last + 1]:
            x = block(x)
            activations.append(x)
        return activations

    def pooled(self, images: Tensor) -> Tensor:
        """Global average of the last activation, ``[b, 1280]``: the space of the Fréchet score."""
        return self(images)[-1].mean(dim=(2, 3))


def load_encoder(name: str = ENCODER) -> Encoder:
    """A public encoder by name, on the CPU; ``efficientnet-lite0`` ships with the package.

    Each is a copy of its own, so that it can be moved.

    Raises:
        UsageError: the name is not known.
    """
    check_encoder(name)
    return copy.deepcopy(_shipped(name))


@cache
def _shipped(name: str) -> Encoder:
    network = import_module("efficientnet_lite_pytorch").EfficientNet
    # The package's own loader unpickles; weights_only refuses anything but tensors.
    source = network.from_name(name)
    source.load_state_dict(torch.load(encoder_file(), weights_only=True))
    blocks: list[nn.Module] = [SameConv(source._conv_stem, source._bn0, activate=True)]
    for part in source._blocks:
        layers = []
        if hasattr(part, "_expand_conv"):
            layers.append(SameConv(part._expand_conv, part._bn0, activate=True))
        layers.append(SameConv(part._depthwise_conv, part._bn1, activate=True))
        layers.append(SameConv(part._project_conv, part._bn2, activate=False))
        same = layers[0].weight.shape[1 if hasattr(part, "_expand_conv") else 0]
        same_shape = part._depthwise_conv.stride[0] == 1 and same == layers[-1].weight.shape[0]
        blocks.append(Block(layers, skip=same_shape))
    blocks.append(SameConv(source._conv_head, source._bn1, activate=True))
    return Encoder(name, encoder_digest(), blocks)
