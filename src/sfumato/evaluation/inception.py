"""The Inception-v3 network of the Fréchet Inception distance, loaded from a local weights file.

This is the network of TensorFlow's ``inception-2015-12-05`` (arXiv 1512.00567, 1706.08500), which
differs from later Inception-v3 models in its poolings and its 1,008 classes. torch-fidelity's
``weights-inception-2015-12-05-6726825d.pth`` and pytorch-fid's
``pt_inception-2015-12-05-6726825d.pth`` hold the same weights under the names used here.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import DataError

SIZE = 299
PUBLISHED = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)

Chain = tuple[tuple[str, int, tuple[int, int]], ...]
"""Convolutions of one branch in order: name, channels out, kernel (height, width)."""


def _chain(name: str, *steps: tuple[int, int, int]) -> Chain:
    """A branch of (channels, kernel height, kernel width); numbered from 1 if it has several."""
    names = [f"{name}_{i + 1}" for i in range(len(steps))] if len(steps) > 1 else [name]
    return tuple((n, c, (h, w)) for n, (c, h, w) in zip(names, steps, strict=True))


class Conv(nn.Module):
    """Convolution without bias, BatchNorm with ε = 0.001, ReLU."""

    def __init__(
        self, channels: int, out: int, kernel: tuple[int, int], stride: int, padded: bool
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Parallel chains of convolutions and a pooling branch, concatenated.

    A block with stride halves the image in the last convolution of each chain and in a plain max
    pooling. Without stride the pooling is followed by a convolution of ``pooled`` channels, and is
    an average that leaves the padding out, or (``max_pool``) the maximum. A chain named in
    ``forks`` ends in two parallel convolutions of 1x3 and 3x1.
    """

    def __init__(
        self,
        channels: int,
        chains: tuple[Chain, ...],
        pooled: int = 0,
        max_pool: bool = False,
        forks: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.names: list[tuple[list[str], list[str]]] = []
        self.max_pool, self.out = max_pool, pooled or channels
        for chain in chains:
            width = channels
            for name, out, kernel in chain:
                halves = not pooled and name == chain[-1][0]
                conv = Conv(width, out, kernel, 2 if halves else 1, padded=not halves)
                self.add_module(name, conv)
                width = out
            fork = []
            stem = chain[0][0].rsplit("_", 1)[0]
            if stem in forks:
                step = len(chain) + 1
                fork = [f"{stem}_{step}a", f"{stem}_{step}b"]
                for name, kernel in zip(fork, ((1, 3), (3, 1)), strict=True):
                    self.add_module(name, Conv(width, width, kernel, 1, padded=True))
            self.names.append(([name for name, _, _ in chain], fork))
            self.out += width * (2 if fork else 1)
        self.branch_pool = Conv(channels, pooled, (1, 1), 1, padded=True) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for chain, fork in self.names:
            y = x
            for name in chain:
                y = self.get_submodule(name)(y)
            parts += [self.get_submodule(name)(y) for name in fork] or [y]
        if self.branch_pool is None:
            return torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)
        if self.max_pool:
            pooled = F.max_pool2d(x, 3, 1, padding=1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
        return torch.cat([*parts, self.branch_pool(pooled)], 1)


def _block_a(channels: int, pooled: int) -> Mixed:
    return Mixed(
        channels,
        (
            _chain("branch1x1", (64, 1, 1)),
            _chain("branch5x5", (48, 1, 1), (64, 5, 5)),
            _chain("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        ),
        pooled,
    )


def _block_b(channels: int) -> Mixed:
    chains = (
        _chain("branch3x3", (384, 3, 3)),
        _chain("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3)),
    )
    return Mixed(channels, chains)


def _block_c(channels: int, c: int) -> Mixed:
    long = (c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)
    return Mixed(
        channels,
        (
            _chain("branch1x1", (192, 1, 1)),
            _chain("branch7x7", (c, 1, 1), (c, 1, 7), (192, 7, 1)),
            _chain("branch7x7dbl", *long),
        ),
        192,
    )


def _block_d(channels: int) -> Mixed:
    chains = (
        _chain("branch3x3", (192, 1, 1), (320, 3, 3)),
        _chain("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)),
    )
    return Mixed(channels, chains)


def _block_e(channels: int, max_pool: bool) -> Mixed:
    chains: tuple[Chain, ...] = (
        _chain("branch1x1", (320, 1, 1)),
        (("branch3x3_1", 384, (1, 1)),),
        _chain("branch3x3dbl", (448, 1, 1), (384, 3, 3)),
    )
    return Mixed(channels, chains, 192, max_pool, forks=("branch3x3", "branch3x3dbl"))


def _resize_matrix(length: int) -> Tensor:
    """Bilinear weights ``[SIZE, length]`` of TensorFlow 1: no half-pixel shift, no antialiasing."""
    position = torch.arange(SIZE, dtype=torch.float32) * (length / SIZE)
    low = position.long().clamp(max=length - 1)
    share = position - low
    weights = torch.zeros(SIZE, length)
    weights.scatter_add_(1, low[:, None], (1 - share)[:, None])
    weights.scatter_add_(1, (low + 1).clamp(max=length - 1)[:, None], share[:, None])
    return weights


class InceptionV3(nn.Module):
    """uint8 images ``[b, 3, h, w]`` to the 2,048 pooled features of FID."""

    def __init__(self) -> None:
        super().__init__()
        plain = (
            ("Conv2d_1a_3x3", 3, 32, 3, 2, False),
            ("Conv2d_2a_3x3", 32, 32, 3, 1, False),
            ("Conv2d_2b_3x3", 32, 64, 3, 1, True),
            ("Conv2d_3b_1x1", 64, 80, 1, 1, False),
            ("Conv2d_4a_3x3", 80, 192, 3, 1, False),
        )
        for name, channels, out, kernel, stride, padded in plain:
            self.add_module(name, Conv(channels, out, (kernel, kernel), stride, padded))
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, max_pool=False)
        self.Mixed_7c = _block_e(2048, max_pool=True)
        self.eval().requires_grad_(False)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2048"]:
        rows = _resize_matrix(images.shape[2]).to(images.device)
        columns = _resize_matrix(images.shape[3]).to(images.device)
        x = (rows @ images.float() @ columns.T - 128) / 128
        x = x.contiguous(memory_format=torch.channels_last)
        for name, layer in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = F.max_pool2d(x, 3, 2)
            x = layer(x)
        return x.mean(dim=(2, 3))


def load_inception(path: Path) -> InceptionV3:
    """Load torch-fidelity's or pytorch-fid's weights file.

    Raises:
        DataError: the file is missing, is no tensor file, or holds another network.
    """
    expected = "Use torch-fidelity's or pytorch-fid's inception-2015-12-05 file."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(
            f"Inception weights {path} cannot be read: {error.strerror}. {expected} Neither is "
            f"downloaded: fetch {PUBLISHED}, or the other, and name its path."
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DataError(f"Inception weights {path}: not a file of tensors. {expected}") from error
    if not isinstance(state, dict):
        raise DataError(f"Inception weights {path}: not a table of named tensors. {expected}")
    network = InceptionV3()
    own = network.state_dict()
    for name, tensor in own.items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, tensor)  # Absent from older files, and used by no inference.
        elif name not in state:
            raise DataError(f"Inception weights {path}: {name} is missing. {expected}")
        elif state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)}, not {tuple(tensor.shape)}"
            raise DataError(f"Inception weights {path}: {name} has shape {shapes}. {expected}")
    # What the file has beyond these layers (the classifier) takes no part in the features.
    network.load_state_dict({name: state[name] for name in own})
    return network
