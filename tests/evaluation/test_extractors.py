from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.data import LabelledImages
from sfumato.errors import DataError, UsageError
from sfumato.evaluation.extractors import Extractor, extract, load_extractor
from sfumato.evaluation.inception import InceptionV3
from sfumato.features.encoder import load_encoder


def test_shipped_encoder_gives_pooled_features_of_pixels_in_zero_to_one(
    digits: LabelledImages,
) -> None:
    extractor = load_extractor()
    assert extractor.digest == load_encoder().digest
    assert len(extractor.digest) == 64
    images = digits.images[:5]
    with torch.no_grad():
        expected = load_encoder().pooled(torch.from_numpy(images) / 255).numpy()
    got = extract(extractor, images)
    assert got.shape == (5, 1280)
    assert got == pytest.approx(expected, abs=1e-4)


def test_grey_images_are_repeated_to_three_channels(digits: LabelledImages) -> None:
    extractor = load_extractor()
    grey = digits.images[:3]
    assert (extract(extractor, grey) == extract(extractor, np.repeat(grey, 3, axis=1))).all()


def counting() -> tuple[Extractor, list[int]]:
    sizes: list[int] = []

    def features(images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        sizes.append(len(images))
        return images.float().mean(dim=(2, 3))

    return Extractor("counting", "0" * 64, features, 4, torch.device("cpu")), sizes


def test_features_are_computed_once_and_in_order(tmp_path: Path) -> None:
    extractor, sizes = counting()
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    shares: list[float] = []
    first = extract(extractor, images, tmp_path, shares.append)
    assert first[:, 0].tolist() == list(range(10))
    assert sizes == [4, 4, 2]
    assert shares == [0.4, 0.8, 1.0]
    assert (extract(extractor, images, tmp_path) == first).all()
    assert sizes == [4, 4, 2]
    extract(extractor, images[:9], tmp_path)
    assert sizes == [4, 4, 2, 4, 4, 1]
    other = Extractor("counting", "1" * 64, extractor.features, 4, extractor.device)
    extract(other, images, tmp_path)
    assert len(sizes) == 9
    assert {file.suffix for file in (tmp_path / "features").iterdir()} == {".npy"}


def test_inception_is_named_with_its_file_s_digest(tmp_path: Path) -> None:
    path = tmp_path / "inception.pth"
    torch.save(InceptionV3().state_dict(), path)
    extractor = load_extractor(f"inception:{path}")
    assert extractor.digest == sha256(path.read_bytes()).hexdigest()
    assert "inception-v3" in extractor.name
    assert extract(extractor, np.zeros((1, 1, 28, 28), np.uint8)).shape == (1, 2048)
    with pytest.raises(DataError, match="cannot be read"):
        load_extractor(f"inception:{tmp_path / 'none.pth'}")


@pytest.mark.parametrize("name", ["resnet50", "inception:", "torchvision", "clip:b32", ""])
def test_unknown_extractor_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(UsageError, match=r"efficientnet-lite0.*inception:PATH.*timm:MODEL"):
        load_extractor(name)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("torchvision", "torchvision.models", "timm"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"pip install 'sfumato\[encoders\]'"):
        load_extractor(name)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 7)
    )


def test_torchvision_model_loses_its_last_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    # torchvision does not import beside every torch, so a stand-in with its interface.
    weights = SimpleNamespace(transforms=lambda: lambda images: images / 255)
    models: Any = ModuleType("torchvision.models")
    models.get_model_weights = lambda name: SimpleNamespace(DEFAULT=weights)
    models.get_model = lambda name, weights: small_model()
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    extractor = load_extractor("torchvision:small")
    assert extractor.name == "torchvision:small"
    images = np.full((2, 3, 8, 8), 51, np.uint8)
    expected = small_model()[:4](torch.full((2, 3, 8, 8), 0.2))  # type: ignore[index]
    assert extract(extractor, images) == pytest.approx(expected.detach().numpy(), abs=1e-6)

    def unknown(name: str) -> None:
        raise ValueError(f"Unknown model {name}")

    models.get_model_weights = unknown
    with pytest.raises(UsageError, match="Unknown model"):
        load_extractor("torchvision:none")


def test_timm_model_gets_its_size_and_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        assert (pretrained, num_classes) == (True, 0)
        return nn.AdaptiveAvgPool2d(2)

    config = {"input_size": (3, 6, 6), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.25)}
    timm: Any = ModuleType("timm")
    timm.create_model = create_model
    timm.data = SimpleNamespace(resolve_model_data_config=lambda model: config)
    monkeypatch.setitem(sys.modules, "timm", timm)
    got = extract(load_extractor("timm:small"), np.full((1, 1, 4, 4), 255, np.uint8))
    assert got[0].tolist() == pytest.approx([1] * 8 + [2] * 4)
