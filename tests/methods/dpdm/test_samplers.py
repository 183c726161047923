"""Samplers against Gaussian data, whose ideal denoiser and ODE are known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sfumato.methods.dpdm.parameterisations import PARAMETERISATIONS
from sfumato.methods.dpdm.samplers import DDIM, PRESETS, Churn, guided, time_grid

MEAN, DEVIATION = 0.3, 0.5
SIGMA_D = math.sqrt(1 / 3)


def ideal(x, sigma):
    """E[clean | x] for pixels from N(MEAN, DEVIATION²)."""
    share = DEVIATION**2 / (DEVIATION**2 + sigma**2)
    return MEAN + share[:, None, None, None] * (x - MEAN)


def normal(count=20_000, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 1, 1, generator=random, dtype=dtype)


def solution(start):
    """The probability-flow ODE's exact end: x − MEAN shrinks like √(DEVIATION² + σ²)."""
    return MEAN + (80 * start - MEAN) * DEVIATION / math.sqrt(DEVIATION**2 + 80**2)


def deviates(images):
    """How many standard errors the mean and the variance are off, whichever is worse."""
    n, x = images.numel(), images.double()
    of_mean = abs(x.mean() - MEAN) / (DEVIATION / math.sqrt(n))
    of_variance = abs(x.var() - DEVIATION**2) / (DEVIATION**2 * math.sqrt(2 / n))
    return float(max(of_mean, of_variance))


def test_the_grid_is_equation_5():
    grid = time_grid(18)
    assert len(grid) == 19
    assert grid[0] == pytest.approx(80) and grid[17] == pytest.approx(0.002) and grid[18] == 0
    seventh = 80 ** (1 / 7) + 5 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    assert grid[5] == pytest.approx(seventh**7)
    assert sorted(grid, reverse=True) == grid


def test_a_grid_of_one_step_is_refused():
    with pytest.raises(ValueError, match="steps=1 must be at least 2"):
        time_grid(1)


@pytest.mark.parametrize(("sampler", "order"), [(DDIM, 1), (Churn, 2)])
def test_deterministic_samplers_converge_to_the_ode_with_their_order(sampler, order):
    start = normal(8, torch.float64)
    exact = solution(start)
    errors = []
    for steps in (32, 64, 128):
        images = sampler(steps=steps).sample(ideal, start, torch.Generator())
        errors.append(float((images - exact).abs().max()))
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)
    assert errors[-1] < {1: 0.05, 2: 0.002}[order]


STOCHASTIC = {
    "ancestral": DDIM(steps=400, stochastic=True),
    "little churn": Churn(steps=64, S_churn=10.0, S_min=0.05, S_max=50.0),
    "strong churn": Churn(steps=256, S_churn=80.0, S_max=50.0),
    "fid": replace(PRESETS["fid"].sampler, steps=256),
    "accuracy": replace(PRESETS["accuracy"].sampler, steps=256),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_reproduce_mean_and_variance(name):
    start = normal()
    images = STOCHASTIC[name].sample(ideal, start, torch.Generator().manual_seed(1))
    assert deviates(images) < 4
    correlation = torch.corrcoef(torch.stack([images.flatten(), start.flatten()]))[0, 1]
    assert correlation < 0.999  # fresh noise has come in


def test_wrong_noise_would_be_noticed():
    loud = Churn(steps=64, S_churn=30.0, S_min=0.05, S_max=50.0, S_noise=1.1)
    assert deviates(loud.sample(ideal, normal(), torch.Generator())) > 4
    images = DDIM(steps=400, stochastic=True).sample(ideal, normal(), torch.Generator())
    assert deviates(images * 1.05) > 4


def test_one_ancestral_step_keeps_the_noise_level():
    levels = []

    def zero(x, sigma):
        levels.append((float(sigma[0]), float(x.std())))
        return torch.zeros_like(x)

    DDIM(steps=5, stochastic=True).sample(zero, normal(), torch.Generator().manual_seed(2))
    for sigma, deviation in levels:
        assert deviation == pytest.approx(sigma, rel=0.03)


def test_churn_acts_between_its_bounds_only():
    start = normal(8)

    def images(**options):
        return Churn(steps=16, **options).sample(ideal, start, torch.Generator().manual_seed(0))

    plain = images()
    assert torch.equal(images(S_churn=10.0, S_min=81.0), plain)
    assert torch.equal(images(S_churn=10.0, S_max=0.001), plain)
    assert not torch.equal(images(S_churn=10.0), plain)
    # Beyond √2 − 1 a step more churn changes nothing.
    assert torch.equal(images(S_churn=7.0), images(S_churn=100.0))
    assert not torch.equal(images(S_churn=6.0), images(S_churn=100.0))


def test_samplers_evaluate_the_denoiser_as_often_as_they_say():
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return ideal(x, sigma)

    DDIM(steps=7).sample(counted, normal(2), torch.Generator())
    assert len(calls) == 7
    Churn(steps=7).sample(counted, normal(2), torch.Generator())
    assert len(calls) == 7 + 13
    assert min(float(sigma.min()) for sigma in calls) == pytest.approx(0.002)


@pytest.mark.parametrize("sampler", [DDIM(5, stochastic=True), Churn(5, S_churn=2.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_generator_decides_and_the_precision_stays(sampler, dtype):
    start = normal(4, dtype)
    first, again, other = (
        sampler.sample(ideal, start, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.dtype == dtype
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_guidance_is_its_formula_and_costs_nothing_at_zero():
    asked = []

    def denoise(x, sigma, labels):
        asked.append(labels)
        return x * 0 + (5.0 if labels is None else labels[:, None, None, None].float())

    x, sigma, labels = normal(3), torch.ones(3), torch.tensor([0, 1, 2])
    assert guided(denoise, labels, 0.5)(x, sigma).flatten().tolist() == [-2.5, -1.0, 0.5]
    asked.clear()
    assert guided(denoise, labels)(x, sigma).flatten().tolist() == [0, 1, 2]
    assert guided(denoise, None, 1.0)(x, sigma).flatten().tolist() == [5, 5, 5]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("name", "sigma_of"),
    [
        ("edm", lambda c: (4 * c).exp()),
        ("v", lambda c: torch.tan(math.pi / 2 * c)),
        ("ve", lambda c: 2 * c.exp()),
    ],
)
def test_an_ideal_network_samples_the_data_through_its_parameterisation(name, sigma_of):
    p = PARAMETERISATIONS[name]

    def network(scaled, noise_level, labels):
        sigma = sigma_of(noise_level)
        c_skip, c_out, c_in = (c[:, None, None, None] for c in (f(sigma) for f in coefficients))
        noisy = scaled / c_in
        return (ideal(noisy, sigma) - c_skip * noisy) / c_out

    coefficients = (p.c_skip, p.c_out, p.c_in)
    denoise = guided(lambda *arguments: p.denoise(network, *arguments), None)
    start = normal(1_000)
    images = Churn(steps=128).sample(denoise, start, torch.Generator())
    torch.testing.assert_close(images, solution(start), atol=5e-3, rtol=0)


def test_presets_are_those_of_the_paper():
    fid, accuracy = PRESETS["fid"], PRESETS["accuracy"]
    assert fid.guidance == 1 and fid.sampler.S_churn == 100
    assert accuracy.guidance == 0 and accuracy.sampler.S_churn == 10
    assert 0.025 <= accuracy.sampler.S_min <= 0.1
