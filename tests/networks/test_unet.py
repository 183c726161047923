"""The U-Net has the paper's size, keeps examples apart, and suits per-example gradients."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from sfumato.networks import UNet

PARAMETERISED = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.Embedding)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def awake(size=12, channels=1, classes=3, **options):
    """A small network none of whose weights are zero."""
    torch.manual_seed(0)
    network = UNet(size, channels, classes, **{"width": 8, **options})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def inputs(count=4, size=12, channels=1, classes=3):
    random = torch.Generator().manual_seed(1)
    images = torch.randn(count, channels, size, size, generator=random)
    levels = torch.linspace(-1.5, 1.0, count)
    return images, levels, torch.arange(count) % classes


@pytest.mark.parametrize(
    ("size", "channels", "attention", "published"), [(28, 1, 8, 1.75e6), (32, 3, 16, 1.80e6)]
)
def test_the_paper_s_networks_have_the_paper_s_size(size, channels, attention, published):
    network = UNet(size, channels, classes=0, attention=attention)
    assert parameters(network) == pytest.approx(published, abs=0.005e6)


def test_labels_add_one_embedding_a_class_and_one_for_no_label():
    assert parameters(UNet(28, 1, 10)) - parameters(UNet(28, 1, 0)) == 11 * 128
    assert UNet(28, 1, 10, width=8).no_label == 10


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "patch"), [(28, 1), (28, 2), (28, 4), (30, 4), (32, 1), (64, 2), (128, 8), (45, 1)]
)
def test_images_keep_their_size_and_every_pixel_counts(size, patch, channels):
    network = awake(size, channels, patch=patch)
    images, levels, labels = inputs(1, size, channels)
    images.requires_grad_(True)
    output = network(images, levels, labels)
    assert output.shape == images.shape
    output[0, -1, -1, -1].backward()
    assert images.grad[0, :, -1, -1].abs().min() > 0
    assert torch.isfinite(images.grad).all()


def test_attention_is_where_it_was_asked_for():
    network = UNet(32, 1, 0, width=8, attention=8)
    seen = []
    for block in network.modules():
        if hasattr(block, "project"):
            block.register_forward_hook(lambda _, args, out: seen.append(out.shape[-1]))
    network(torch.zeros(1, 1, 32, 32), torch.zeros(1))
    assert seen == [8, 8, 8, 8]  # two on the way down, the middle, one on the way up
    seen.clear()
    network = UNet(32, 1, 0, width=8, attention=16)
    assert sum(hasattr(block, "project") for block in network.modules()) == 7


def test_an_untrained_network_answers_zero():
    images, levels, labels = inputs()
    assert not UNet(12, 1, 3, width=8)(images, levels, labels).any()
    assert awake()(images, levels, labels).abs().min() > 0


def test_noise_level_and_label_reach_the_output():
    network = awake()
    images, levels, labels = inputs()
    output = network(images, levels, labels)
    assert (output - network(images, levels + 0.1, labels)).abs().amax((1, 2, 3)).min() > 1e-4
    assert (output - network(images, levels, (labels + 1) % 3)).abs().amax((1, 2, 3)).min() > 1e-4


def test_none_is_the_index_of_no_label():
    network = awake()
    images, levels, labels = inputs()
    unlabelled = torch.full_like(labels, network.no_label)
    torch.testing.assert_close(network(images, levels), network(images, levels, unlabelled))
    assert (network(images, levels) - network(images, levels, labels)).abs().max() > 1e-4


def test_a_network_without_classes_ignores_labels():
    network = awake(classes=0)
    images, levels, labels = inputs()
    torch.testing.assert_close(network(images, levels), network(images, levels, labels))


@pytest.mark.parametrize("patch", [1, 2])
def test_an_example_s_output_does_not_depend_on_its_mates(patch):
    network = awake(patch=patch)
    images, levels, labels = inputs()
    together = network(images, levels, labels)
    for i in range(len(images)):
        alone = network(images[i : i + 1], levels[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("patch", [1, 2])
def test_vmapped_gradients_are_the_plain_ones(patch):
    network = awake(patch=patch)
    images, levels, labels = inputs()
    weights = dict(network.named_parameters())

    def loss(weights, image, level, label):
        arguments = (image[None], level[None], label[None])
        return functional_call(network, weights, arguments).square().mean()

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*")
        mapped = vmap(grad(loss), in_dims=(None, 0, 0, 0))(weights, images, levels, labels)
    for i in range(len(images)):
        network.zero_grad()
        network(images[i : i + 1], levels[i : i + 1], labels[i : i + 1]).square().mean().backward()
        for name, weight in network.named_parameters():
            assert weight.grad.abs().max() > 0 or name.startswith("label")
            torch.testing.assert_close(mapped[name][i], weight.grad, atol=1e-4, rtol=1e-3)


def test_parameters_live_in_four_kinds_of_modules_each_called_once():
    network = awake()
    owners = {n: m for n, m in network.named_modules() if list(m.parameters(recurse=False))}
    assert all(isinstance(module, PARAMETERISED) for module in owners.values())
    forward, backward = dict.fromkeys(owners, 0), dict.fromkeys(owners, 0)

    def watch(name):
        def came_back(_):
            backward[name] += 1

        def went_out(_module, _inputs, output):
            forward[name] += 1
            output.register_hook(came_back)

        return went_out

    for name, module in owners.items():
        module.register_forward_hook(watch(name))
    images, levels, labels = inputs()
    network(images, levels, labels).square().sum().backward()
    assert set(forward.values()) == {1}
    assert set(backward.values()) == {1}


def test_channels_last_gives_the_same_images():
    network = awake(channels=3)
    images, levels, labels = inputs(channels=3)
    expected = network(images, levels, labels)
    network = network.to(memory_format=torch.channels_last)
    output = network(images.to(memory_format=torch.channels_last), levels, labels)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


def test_bfloat16_changes_little():
    network = awake()
    images, levels, labels = inputs()
    expected = network(images, levels, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(images, levels, labels)
    assert (output - expected).std() < 0.05 * expected.std()


def test_an_impossible_width_is_refused():
    with pytest.raises(ValueError, match="width=30 must be a multiple of 4"):
        UNet(28, 1, 0, width=30)
