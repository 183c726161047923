"""The generator and its mirror: shapes, rows that do not mix, classes that count."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sfumato.networks import Discriminator, Generator
from sfumato.networks.gan import levels
from sfumato.privacy.gradients.layers import is_supported
from sfumato.privacy.gradients.per_example import UnitBatch, gradient_sum


@pytest.mark.parametrize("size", [28, 30, 32, 45, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_and_colour_has_both(size, channels):
    labels = torch.tensor([0, 1])
    images = Generator(size, channels, 2, width=4, latent=8)(torch.randn(2, 8), labels)
    assert images.shape == (2, channels, size, size)
    assert float(images.detach().abs().max()) < 1
    assert Discriminator(size, channels, 2, width=4)(images, labels).shape == (2,)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(28, [8, 16, 32]), (32, [8, 16, 32]), (33, [8, 16, 32, 32]), (128, [8, 16, 32, 32, 32])],
)
def test_levels_go_down_to_four_pixels_and_widen_to_fourfold(size, expected):
    assert levels(size, 8) == expected


def test_no_row_depends_on_another():
    torch.manual_seed(0)
    generator, discriminator = Generator(28, 1, 3, 4), Discriminator(28, 1, 3, 4)
    z, labels = torch.randn(5, generator.latent), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        images = generator(z, labels)
        logits = discriminator(images, labels)
        for row in range(5):
            one = slice(row, row + 1)
            alone = generator(z[one], labels[one])
            torch.testing.assert_close(alone, images[one])
            torch.testing.assert_close(discriminator(alone, labels[one]), logits[one])


def test_the_class_changes_image_and_logit():
    torch.manual_seed(0)
    generator, discriminator = Generator(28, 1, 3, 4), Discriminator(28, 1, 3, 4)
    z, image = torch.randn(1, generator.latent).expand(3, -1), torch.randn(1, 1, 28, 28)
    with torch.no_grad():
        images = generator(z, torch.arange(3))
        logits = discriminator(image.expand(3, -1, -1, -1), torch.arange(3))
    assert float((images[0] - images[1]).abs().max()) > 1e-3
    assert len(logits.unique()) == 3


@pytest.mark.parametrize("size", [28, 64])
def test_the_discriminator_has_the_fast_way_and_all_ways_agree(size):
    torch.manual_seed(0)
    network = Discriminator(size, 3, 4, width=4)
    assert is_supported(network)

    class Loss:
        multiplicity = 1

        def draws(self, units, generator):
            return ()

        def __call__(self, network, images, labels, *draws):
            return F.softplus(-network(images / 127.5 - 1, labels))

    images = torch.randint(256, (5, 3, size, size), dtype=torch.uint8)
    batch = UnitBatch(images, torch.tensor([0, 1, 2, 3, 0]), ())
    expected = gradient_sum(network, Loss(), batch, 0.5, "loop")
    assert float(expected.double().norm()) > 0.5 * 2**20
    for way in ("layers", "vmap"):
        found = gradient_sum(network, Loss(), batch, 0.5, way)
        assert (found - expected).abs().max() <= 2**6  # of 2²⁰ steps


def test_every_parameter_of_both_receives_a_gradient():
    torch.manual_seed(0)
    generator, discriminator = Generator(64, 3, 2, 4), Discriminator(64, 3, 2, 4)
    labels = torch.tensor([0, 1])
    images = generator(torch.randn(2, generator.latent), labels)
    discriminator(images, labels).square().sum().backward()
    for network in (generator, discriminator):
        assert all(float(p.grad.abs().max()) > 0 for p in network.parameters())
