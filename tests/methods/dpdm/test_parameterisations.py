"""The four parameterisations follow their table, and their noise levels their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sfumato.methods.dpdm.parameterisations import PARAMETERISATIONS
from sfumato.methods.dpdm.settings import SIGMA_MAX, SIGMA_MIN

NAMES = sorted(PARAMETERISATIONS)
SIGMA_D = math.sqrt(1 / 3)


def vp_time(sigma):
    """The t with ½·19.9·t² + 0.1·t = ln(1 + σ²), by bisection."""
    low, high = np.zeros_like(sigma), np.full_like(sigma, 10.0)
    for _ in range(200):
        t = (low + high) / 2
        above = np.expm1(0.5 * 19.9 * t**2 + 0.1 * t) > sigma**2
        low, high = np.where(above, low, t), np.where(above, t, high)
    return t


TABLE = {  # c_skip, c_out, c_in, c_noise, weight
    "vp": lambda s: (1 + 0 * s, -s, 1 / np.sqrt(s**2 + 1), 1000 * vp_time(s), 1 / s**2),
    "ve": lambda s: (1 + 0 * s, s, 1 + 0 * s, np.log(s / 2), 1 / s**2),
    "v": lambda s: (
        1 / (s**2 + 1),
        s / np.sqrt(1 + s**2),
        1 / np.sqrt(1 + s**2),
        2 / np.pi * np.arccos(1 / np.sqrt(1 + s**2)),
        (s**2 + 1) / s**2,
    ),
    "edm": lambda s: (
        SIGMA_D**2 / (s**2 + SIGMA_D**2),
        s * SIGMA_D / np.sqrt(s**2 + SIGMA_D**2),
        1 / np.sqrt(s**2 + SIGMA_D**2),
        np.log(s) / 4,
        (s**2 + SIGMA_D**2) / (s * SIGMA_D) ** 2,
    ),
}

LAWS = {  # distribution function of each draw
    "vp": lambda s: stats.uniform(1e-5, 1 - 1e-5).cdf(vp_time(s)),
    "ve": lambda s: stats.loguniform(0.02, 100).cdf(s),
    "v": lambda s: stats.uniform(
        np.arctan(np.exp(-6.5)), np.arctan(np.exp(4.5)) - np.arctan(np.exp(-6.5))
    ).cdf(np.arctan(s)),
    "edm": lambda s: stats.norm(-1.2, 1.2).cdf(np.log(s)),
}


def coefficients(name, sigma):
    p = PARAMETERISATIONS[name]
    return [f(sigma) for f in (p.c_skip, p.c_out, p.c_in, p.c_noise, p.weight)]


def network(x, noise_level, labels):
    """Something that depends on all it is given."""
    return torch.tanh(x) * 0.5 + 1e-3 * (noise_level + labels)[:, None, None, None]


def batch(name, count=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, 3, 3, generator=random) * 2 - 1
    sigma, noise = PARAMETERISATIONS[name].draws(count, (2, 3, 3), random)
    return images, torch.arange(count), sigma, noise


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_coefficients_are_the_table_s(name, dtype, tolerance):
    sigma = np.geomspace(0.002, 80, 50)
    for ours, expected in zip(
        coefficients(name, torch.from_numpy(sigma).to(dtype)), TABLE[name](sigma), strict=True
    ):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_plain_squared_error_of_the_network(name):
    _, c_out, _, _, weight = coefficients(name, torch.logspace(-3, 2, 50))
    torch.testing.assert_close(weight * c_out**2, torch.ones(50))


@pytest.mark.parametrize(("name", "deviation"), [("edm", SIGMA_D), ("v", 1.0)])
def test_inputs_and_targets_have_unit_variance(name, deviation):
    sigma = torch.logspace(-3, 2, 50, dtype=torch.float64)
    c_skip, c_out, c_in, _, _ = coefficients(name, sigma)
    inputs = c_in**2 * (deviation**2 + sigma**2)
    targets = ((1 - c_skip) ** 2 * deviation**2 + c_skip**2 * sigma**2) / c_out**2
    torch.testing.assert_close(inputs, torch.ones_like(sigma))
    torch.testing.assert_close(targets, torch.ones_like(sigma))


@pytest.mark.parametrize("name", NAMES)
def test_little_noise_leaves_the_image(name):
    images, labels, _, _ = batch(name)
    sigma = torch.full((5,), 1e-4)
    denoised = PARAMETERISATIONS[name].denoise(network, images, sigma, labels)
    torch.testing.assert_close(denoised, images, atol=2e-4, rtol=0)
    sigma = torch.full((5,), 1.0)
    assert (PARAMETERISATIONS[name].denoise(network, images, sigma, labels) - images).std() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_equals_the_formula_computed_by_hand(name):
    images, labels, sigma, noise = batch(name)
    losses = PARAMETERISATIONS[name].loss(network, images, labels, sigma, noise)
    for i in range(5):
        x, n, s = images[i].double().numpy(), noise[i].double().numpy(), sigma[i].double().numpy()
        c_skip, c_out, c_in, c_noise, weight = TABLE[name](s)
        noisy = x + s * n
        output = np.tanh(c_in * noisy) * 0.5 + 1e-3 * (c_noise + i)
        squares = (c_skip * noisy + c_out * output - x) ** 2
        assert float(losses[i]) == pytest.approx(weight * squares.mean(), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_knows_the_answer_has_no_loss(name):
    images, labels, sigma, noise = batch(name)
    c_skip, c_out, *_ = (c[:, None, None, None] for c in coefficients(name, sigma))
    answer = (images - c_skip * (images + sigma[:, None, None, None] * noise)) / c_out
    losses = PARAMETERISATIONS[name].loss(lambda *_: answer, images, labels, sigma, noise)
    assert losses.shape == (5,)
    assert losses.max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_finite_at_extreme_noise_levels(name):
    sigma = torch.tensor([1e-6, 1e-4, 2e-3, 80.0, 1e4])
    images, labels, _, noise = batch(name)
    scale = torch.tensor(1.0, requires_grad=True)
    p = PARAMETERISATIONS[name]
    losses = p.loss(lambda *a: scale * network(*a), images, labels, sigma, noise)
    assert losses.max() < 100
    losses.sum().backward()
    assert torch.isfinite(scale.grad)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_network_s_answer_is_in_low_precision(name):
    images, labels, sigma, noise = batch(name)
    seen = []

    def low(x, noise_level, labels):
        seen.extend([x.dtype, noise_level.dtype])
        return network(x, noise_level, labels).bfloat16()

    exact = PARAMETERISATIONS[name].loss(network, images, labels, sigma, noise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = PARAMETERISATIONS[name].loss(low, images, labels, sigma, noise)
    assert {losses.dtype, *seen} == {torch.float32}
    torch.testing.assert_close(losses, exact, rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_noise_levels_follow_their_law_and_no_neighbouring_one(name):
    random = torch.Generator().manual_seed(3)
    sigma = PARAMETERISATIONS[name].draw(20_000, random).double().numpy()
    assert stats.kstest(sigma, LAWS[name]).pvalue > 1e-3
    assert stats.kstest(sigma * 1.1, LAWS[name]).pvalue < 1e-3
    assert stats.kstest(sigma / 1.1, LAWS[name]).pvalue < 1e-3
    low, high = PARAMETERISATIONS[name].bounds
    assert low * (1 - 1e-4) <= sigma.min() and sigma.max() <= high * (1 + 1e-4)


def test_bounds_are_those_of_the_laws():
    for name in ("vp", "ve", "v"):
        shares = LAWS[name](np.array(PARAMETERISATIONS[name].bounds))
        np.testing.assert_allclose(shares, [0, 1], atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "v", "edm"])
def test_samplers_ask_for_no_noise_level_that_training_never_meets(name):
    low, high = PARAMETERISATIONS[name].bounds
    assert low <= SIGMA_MIN < SIGMA_MAX <= high


def test_ve_is_trained_down_to_its_smallest_noise_level_only():
    assert (
        PARAMETERISATIONS["ve"].bounds[0] > SIGMA_MIN
    )  # harmless: there D moves x by at most σ|F|


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_normal_and_decided_by_the_generator(name):
    p = PARAMETERISATIONS[name]
    sigma, noise = p.draws(2_000, (3, 2, 2), torch.Generator().manual_seed(5))
    assert (sigma.shape, noise.shape) == ((2_000,), (2_000, 3, 2, 2))
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(sigma.log(), noise.square().mean((1, 2, 3)))[0, 1]) < 0.1
    again = p.draws(2_000, (3, 2, 2), torch.Generator().manual_seed(5))
    assert torch.equal(again.sigma, sigma) and torch.equal(again.noise, noise)
