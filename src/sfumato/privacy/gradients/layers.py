"""Per-unit weight gradients layer by layer, from one backward pass that stops at layer outputs.

The usual backward pass multiplies each layer's input with the gradient at its output and adds up
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
    """Records each trained layer's input and output during one forward pass.

    Raises:
        RuntimeError: a layer runs twice in a pass, so that its gradient would be incomplete.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = _trained_layers(network)
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
        places, size = _places(parameters)
        rows = torch.empty(units, size, device=losses.device)
        with torch.no_grad():
            for layer, gradient in zip(layers, outer, strict=True):
                if gradient is not None:
                    mine = [p for p in _own(layer) if p in places]
                    targets = [_unflatten(rows[:, places.pop(p)], p) for p in mine]
                    RULES[type(layer)](layer, self._inputs[layer], gradient, targets)
            for place in places.values():  # layers that took no part in the loss
                rows[:, place] = 0
        return rows


def flatten(gradient: Tensor, lead: int = 0) -> Tensor:
    """A parameter's gradient as a vector, after ``lead`` dimensions that are kept.

    Convolution weights have their input channels last, as they lie in memory in ``channels_last``:
    any other order would cost a transposed copy for every unit.
    """
    last = gradient.movedim(lead + 1, -1) if gradient.dim() - lead == 4 else gradient
    return last.flatten(lead)


def _unflatten(rows: Tensor, parameter: Tensor) -> Tensor:
    """A view of ``rows`` ``[…, numel]`` in the parameter's shape: the inverse of ``flatten``."""
    if parameter.dim() != 4:
        return rows.unflatten(-1, parameter.shape)
    outputs, inputs, height, width = parameter.shape
    return rows.unflatten(-1, (outputs, height, width, inputs)).movedim(-1, -3)


def _places(parameters: Sequence[Tensor]) -> tuple[dict[Tensor, slice], int]:
    places, start = {}, 0
    for parameter in parameters:
        places[parameter] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return places, start


def unflatten(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """A flat gradient as tensors of the parameters' shapes and dtypes: what undoes ``flatten``."""
    places, _ = _places(parameters)
    return [_unflatten(flat[places[p]].to(p.device, p.dtype), p) for p in parameters]


def _own(module: nn.Module) -> list[nn.Parameter]:
    """A layer's weight and, if it has one, its bias, in this order."""
    return list(module.parameters(recurse=False))


def _trained_layers(network: nn.Module) -> list[nn.Module]:
    """The layers of which a parameter is trained."""
    return [m for m in network.modules() if any(p.requires_grad for p in _own(m))]


def _by_unit(values: Tensor, units: int) -> Tensor:
    """``[u·k, …]`` → ``[u, k, …]``."""
    return values.unflatten(0, (units, -1))


def _linear(layer: nn.Linear, x: Tensor, gradient: Tensor, targets: list[Tensor]) -> None:
    units = len(targets[0])
    inner = _by_unit(x.to(gradient.dtype), units).flatten(1, -2)
    outer = _by_unit(gradient, units).flatten(1, -2)
    targets[0].copy_(outer.mT @ inner)
    for bias in targets[1:]:
        torch.sum(outer, dim=1, dtype=torch.float32, out=bias)


def _convolution(layer: nn.Conv2d, x: Tensor, gradient: Tensor, targets: list[Tensor]) -> None:
    x, units = x.to(gradient.dtype), len(targets[0])
    for bias in targets[1:]:
        bias.copy_(_by_unit(gradient.sum(dim=(2, 3), dtype=torch.float32), units).sum(dim=1))
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1:
        inner, outer = (_by_unit(t.flatten(2).transpose(1, 2), units) for t in (x, gradient))
        targets[0].copy_((outer.flatten(1, 2).mT @ inner.flatten(1, 2))[..., None, None])
        return
    each = len(x) // units
    for weight, inner, outer in zip(targets[0], x.split(each), gradient.split(each), strict=True):
        weight.copy_(
            torch.ops.aten.convolution_backward(
                outer,
                inner,
                layer.weight.to(gradient.dtype),
                None,
                layer.stride,
                layer.padding,
                layer.dilation,
                False,
                [0, 0],
                layer.groups,
                [False, True, False],
            )[1]
        )


def _group_norm(layer: nn.GroupNorm, x: Tensor, gradient: Tensor, targets: list[Tensor]) -> None:
    units = len(targets[0])
    spatial = tuple(range(2, x.dim()))
    normal = F.group_norm(x.to(gradient.dtype), layer.num_groups, eps=layer.eps)
    for target, product in zip(targets, (normal * gradient, gradient), strict=True):
        target.copy_(_by_unit(product.sum(dim=spatial), units).sum(dim=1))


def _embedding(layer: nn.Embedding, x: Tensor, gradient: Tensor, targets: list[Tensor]) -> None:
    (weight,), units = targets, len(targets[0])
    index = _by_unit(x, units).flatten(1)
    outer = _by_unit(gradient, units).flatten(1, -2).to(weight.dtype)
    weight.zero_().scatter_add_(1, index[:, :, None].expand_as(outer), outer)


Rule = Callable[[Any, Tensor, Tensor, list[Tensor]], None]
"""Writes each unit's gradients of weight and bias from the layer's input and outer gradient."""

RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
}


def is_supported(network: nn.Module) -> bool:
    """Whether every trained parameter belongs to a kind of layer that has a rule.

    A layer is trained as a whole, or not at all.
    """
    return all(
        type(layer) in RULES and all(p.requires_grad for p in _own(layer))
        for layer in _trained_layers(network)
    )
