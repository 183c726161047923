from __future__ import annotations

import pytest
import torch
from torch import nn

from sfumato.errors import UsageError
from sfumato.evaluation.classifiers import RECIPES, Logistic, cnn, recipe, stages


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_cnn_is_the_protocol_s_layer_by_layer() -> None:
    # Convolution, ReLU, pooling in the paper's order; ours pools first, which must change nothing.
    torch.manual_seed(0)
    ours = cnn((1, 28, 28), 10).eval()
    layers: list[nn.Module] = []
    for before, after in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(128 * 9, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
    paper = nn.Sequential(*layers, *head).eval()
    for mine, theirs in zip(ours.parameters(), paper.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    x = torch.rand(7, 1, 28, 28) * 2 - 1
    assert torch.equal(ours(x), paper(x))
    for network in (ours, paper):
        network(x).logsumexp(1).sum().backward()
    for mine, theirs in zip(ours.parameters(), paper.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize(("side", "expected"), [(28, 3), (32, 3), (48, 4), (64, 4), (128, 5)])
def test_every_doubling_adds_a_stage(side: int, expected: int) -> None:
    assert stages(side, side) == expected
    poolings = [layer for layer in cnn((3, side, side), 2) if isinstance(layer, nn.MaxPool2d)]  # type: ignore[attr-defined]
    assert len(poolings) == expected


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 48), (3, 128, 128)])
def test_every_classifier_takes_every_size(name: str, shape: tuple[int, int, int]) -> None:
    network = RECIPES[name].build(shape, 4)
    assert network(torch.rand(3, *shape)).shape == (3, 4)


def test_residual_network_is_small_at_every_size() -> None:
    assert parameters(RECIPES["resnet"].build((1, 28, 28), 10)) < 500_000
    assert parameters(RECIPES["resnet"].build((3, 128, 128), 10)) < 1_500_000


def test_logistic_regression_sees_pixels_in_zero_to_one() -> None:
    network = Logistic((1, 2, 2), 3)
    network.linear.weight.data.normal_()
    network.linear.bias.data.normal_()
    x = torch.rand(5, 1, 2, 2)
    torch.testing.assert_close(network(2 * x - 1), network.linear(x.flatten(1)))


def test_unknown_classifier_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"svm.*cnn.*logistic"):
        recipe("svm")
