"""The refiner starts as the identity; the average follows its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sfumato.networks import Average, Refiner


@pytest.mark.parametrize("size", [28, 30, 32, 45, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_untrained_refiner_returns_its_start(size, channels):
    network = Refiner(size, channels, classes=2, width=16)
    start = torch.rand(2, channels, size, size) * 0.9 + 0.05
    noise = torch.randn(2, network.noise_channels, network.grid, network.grid)
    with torch.no_grad():
        images, _ = network(start, noise, torch.tensor([0, 1]))
    torch.testing.assert_close(images, start, atol=1e-5, rtol=1e-5)


def test_every_parameter_receives_a_gradient_after_one_step():
    torch.manual_seed(0)
    network = Refiner(28, 1, classes=2, width=16)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        start = torch.rand(4, 1, 28, 28)
        noise = torch.randn(4, network.noise_channels, network.grid, network.grid)
        loss = network(start, noise, torch.tensor([0, 1, 0, 1]))[0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(float(p.grad.abs().max()) > 0 for p in network.parameters())


def test_average_is_a_warmed_up_exponential_mean():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = Average(network, decay=0.5)
    expected = 0.0
    for step in range(20):
        nn.init.constant_(network.weight, float(step))
        average.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.network.weight) == pytest.approx(expected, rel=1e-5)


def test_a_small_offset_weighs_steps_in_proportion_to_their_number():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = Average(network, decay=1.0, offset=3.0)
    for step in range(300):
        nn.init.constant_(network.weight, float(step))
        average.update(network, step)
    steps = np.arange(300)
    expected = np.average(steps, weights=steps + 2)  # the last half holds three quarters of it
    assert float(average.network.weight) == pytest.approx(expected, rel=1e-3)
