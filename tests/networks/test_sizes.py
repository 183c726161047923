"""Networks are counted as large as they are built, because plans count and runs build."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfumato.methods.dpaf.first_layer import Classifier
from sfumato.networks import Discriminator, TanhCNN, UNet, adapt
from sfumato.networks.aggregating import Lower
from sfumato.networks.sizes import (
    POOLED,
    LowerShape,
    convolution,
    discriminator_parameters,
    linear,
    tanh_cnn_parameters,
)
from sfumato.networks.unet_sizes import unet_layers

FORMS = st.tuples(st.integers(28, 128), st.sampled_from([1, 3]), st.integers(1, 12))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@settings(max_examples=15, deadline=None)
@given(FORMS, st.integers(4, 20))
def test_convolutional_networks(form: tuple[int, int, int], width: int) -> None:
    size, channels, classes = form
    with torch.device("meta"):
        assert count(TanhCNN(channels, classes, width)) == tanh_cnn_parameters(
            channels, classes, width
        )
        assert count(Discriminator(size, channels, classes, width)) == discriminator_parameters(
            size, channels, classes, width
        )
        first = convolution(channels, width, 4) + linear(width * POOLED**2, classes)
        assert count(Classifier(channels, width, classes)) == first


@settings(max_examples=15, deadline=None)
@given(FORMS, st.integers(1, 20), st.integers(1, 20), st.sampled_from([None, 1, 2, 3]))
def test_layers_below_a_sum(
    form: tuple[int, int, int], width: int, maps: int, position: int | None
) -> None:
    size, channels, _ = form
    lower, shape = (
        Lower(size, channels, width, maps, position),
        LowerShape(size, channels, width, maps, position),
    )
    assert count(lower) == shape.trained
    found = lower(torch.zeros(1, channels, size, size))
    assert found.shape == (1, maps, shape.side, shape.side)


@settings(max_examples=15, deadline=None)
@given(
    FORMS,
    st.booleans(),
    st.sampled_from([4, 8]),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 2),
    st.integers(4, 16),
    st.integers(1, 4),
)
def test_unets_their_last_blocks_and_their_adapters(
    form: tuple[int, int, int],
    labelled: bool,
    width: int,
    multipliers: list[int],
    blocks: int,
    attention: int,
    patch: int,
) -> None:
    size, channels, classes = form
    values = (size, channels, classes * labelled, width, tuple(multipliers), blocks, attention)
    with torch.device("meta"):
        network = UNet(*values, patch)
    layers = unet_layers(*values, patch)
    assert count(network) == sum(layer.parameters for layer in layers)
    assert sum(map(count, network.last)) == sum(layer.parameters for layer in layers if layer.last)
    with torch.device("meta"):
        adapt(network, 3, 0)
    assert count(network) == sum(layer.adapter(3) for layer in layers if layer.adapted)
