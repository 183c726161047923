"""Adapters leave a network as it is, are trained by the chain rule, and merge into its weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sfumato.networks import UNet, adapt, merge
from sfumato.networks.adapters import Adapted

IMAGES, LEVELS, LABELS = torch.randn(3, 1, 10, 10), torch.linspace(-1, 1, 3), torch.arange(3)


def awake(**options):
    """A small network none of whose weights are zero."""
    torch.manual_seed(0)
    network = UNet(10, 1, 3, **{"width": 8, "blocks": 1, "attention": 4, **options})
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("patch", [1, 4])
def test_adapters_start_as_nothing_and_merge_to_what_they_compute(patch):
    network = awake(patch=patch)
    names = network.state_dict().keys()
    with torch.no_grad():
        before = network(IMAGES, LEVELS, LABELS)
        adapt(network, 2, seed=0)
        assert torch.equal(network(IMAGES, LEVELS, LABELS), before)
        for module in network.modules():
            if isinstance(module, Adapted):
                module.up.weight.normal_(std=0.3)
        changed = network(IMAGES, LEVELS, LABELS)
        assert (changed - before).norm() > 0.1 * before.norm()
        merge(network)
        torch.testing.assert_close(network(IMAGES, LEVELS, LABELS), changed, rtol=1e-4, atol=1e-4)
    assert network.state_dict().keys() == names


def test_only_adapters_are_trained_and_their_first_factors_follow_the_seed():
    networks = [awake() for _ in range(3)]
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        adapt(network, 2, seed)
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        every = {
            f"{name}.{part}.weight"
            for name, m in network.named_modules()
            if isinstance(m, Adapted)
            for part in ("down", "up")
        }
        assert trained == every
    first, same, other = (n.state_dict()["enter.down.weight"] for n in networks)
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(3, 5, 3, padding=1),
        nn.Conv2d(3, 5, 1),
        nn.Conv2d(3, 5, 3, stride=2),
    ],
)
def test_gradients_of_the_factors_follow_from_that_of_the_whole_weight(layer):
    """∂L/∂B = ∂L/∂W Aᵀ and ∂L/∂A = Bᵀ ∂L/∂W: the chain rule for W + B A."""
    adapted = Adapted(layer, 2)
    adapted.up.weight.data.normal_()
    x = torch.randn(4, 6) if isinstance(layer, nn.Linear) else torch.randn(4, 3, 7, 7)
    adapted(x).square().sum().backward()
    down, up = (f.weight.detach().flatten(1) for f in (adapted.down, adapted.up))
    whole = adapted.merged().requires_grad_(True)
    whole(x).square().sum().backward()
    outer = whole.weight.grad.flatten(1)
    ours = adapted.up.weight.grad.flatten(1), adapted.down.weight.grad.flatten(1)
    torch.testing.assert_close(ours, (outer @ down.T, up.T @ outer), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("layer", "full"), [(nn.Linear(6, 5), 5), (nn.Conv2d(1, 40, 3), 9)])
def test_a_rank_is_at_most_that_of_the_weights(layer, full):
    assert Adapted(layer, 99).down.weight.shape[0] == full
