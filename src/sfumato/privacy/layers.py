"""Per-unit weight gradients layer by layer, from one backward pass that stops at layer outputs.

The plain backward pass multiplies each layer's input with the gradient at its output and adds up
over the batch. Here the same products are formed unit by unit: the arithmetic is the same, only
the sum over units is left out (book-keeping, arXiv 2210.00038).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Recording:
    """Records each layer's input and output during one forward pass.

    Raises:
        RuntimeError: a layer runs twice in a pass, so that its gradient would be incomplete.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = [m for m in network.modules() if any(True for _ in _own(m))]
        self._inputs: dict[nn.Module, Tensor] = {}
        self._outputs: dict[nn.Module, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Recording:
        self._hooks = [layer.register_forward_hook(self._record) for layer in self._layers]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if layer in self._outputs:
            raise RuntimeError(f"{type(layer).__name__} runs twice in a forward pass")
        self._inputs[layer], self._outputs[layer] = inputs[0].detach(), output

    def gradients(self, losses: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Gradient of each of the ``losses`` ``[u]``, float32 ``[u, total size of parameters]``."""
        units = len(losses)
        layers = list(self._outputs)
        outer = torch.autograd.grad(
            losses.sum(), [self._outputs[layer] for layer in layers], allow_unused=True
        )
        parts: dict[Tensor, Tensor] = {}
        with torch.no_grad():
            for layer, gradient in zip(layers, outer, strict=True):
                if gradient is not None:
                    rule = RULES[type(layer)]
                    weight, bias = rule(layer, self._inputs[layer], gradient, units)
                    parts[layer.get_parameter("weight")] = weight
                    if bias is not None:
                        parts[layer.get_parameter("bias")] = bias
        rows = torch.zeros(units, sum(p.numel() for p in parameters), device=losses.device)
        start = 0
        for parameter in parameters:
            if parameter in parts:
                rows[:, start : start + parameter.numel()] = parts[parameter].flatten(1)
            start += parameter.numel()
        return rows


def _own(module: nn.Module) -> Any:
    return module.parameters(recurse=False)


def _by_unit(values: Tensor, units: int) -> Tensor:
    """``[u·k, …]`` → ``[u, k, …]``."""
    return values.unflatten(0, (units, -1))


def _linear(
    layer: nn.Linear, x: Tensor, gradient: Tensor, units: int
) -> tuple[Tensor, Tensor | None]:
    inner = _by_unit(x, units).flatten(1, -2).to(gradient.dtype)
    outer = _by_unit(gradient, units).flatten(1, -2)
    return outer.mT @ inner, None if layer.bias is None else outer.sum(dim=1)


def _convolution(
    layer: nn.Conv2d, x: Tensor, gradient: Tensor, units: int
) -> tuple[Tensor, Tensor | None]:
    x = x.to(gradient.dtype)
    bias = None
    if layer.bias is not None:
        bias = _by_unit(gradient.sum(dim=(2, 3), dtype=torch.float32), units).sum(dim=1)
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1:
        inner, outer = (_by_unit(t.flatten(2).transpose(1, 2), units) for t in (x, gradient))
        return outer.flatten(1, 2).mT @ inner.flatten(1, 2), bias
    weight = torch.empty((units, *layer.weight.shape), dtype=gradient.dtype, device=x.device)
    each = len(x) // units
    for unit, (inner, outer) in enumerate(zip(x.split(each), gradient.split(each), strict=True)):
        weight[unit] = torch.ops.aten.convolution_backward(
            outer,
            inner,
            layer.weight,
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            False,
            [0, 0],
            layer.groups,
            [False, True, False],
        )[1]
    return weight, bias


def _group_norm(
    layer: nn.GroupNorm, x: Tensor, gradient: Tensor, units: int
) -> tuple[Tensor, Tensor | None]:
    normal = F.group_norm(x, layer.num_groups, eps=layer.eps)
    spatial = tuple(range(2, x.dim()))
    weight = _by_unit((normal * gradient).sum(dim=spatial), units).sum(dim=1)
    return weight, _by_unit(gradient.sum(dim=spatial), units).sum(dim=1)


def _embedding(
    layer: nn.Embedding, x: Tensor, gradient: Tensor, units: int
) -> tuple[Tensor, Tensor | None]:
    weight = gradient.new_zeros(units, layer.num_embeddings, layer.embedding_dim)
    index = _by_unit(x, units).flatten(1)
    outer = _by_unit(gradient, units).flatten(1, -2)
    weight.scatter_add_(1, index[:, :, None].expand_as(outer), outer)
    return weight, None


Rule = Callable[[Any, Tensor, Tensor, int], tuple[Tensor, Tensor | None]]
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
}


def is_supported(network: nn.Module) -> bool:
    """Whether every parameter belongs to a kind of layer that has a rule."""
    return all(type(m) in RULES for m in network.modules() if any(True for _ in _own(m)))
