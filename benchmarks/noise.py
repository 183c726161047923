"""Microseconds an integer: this sampler beside OpenDP's and beside floating-point normals.

Run with OMP_NUM_THREADS=1; the best of several tries counts. Poisson masks follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import opendp.prelude as dp

from sfumato.privacy.noise.discrete_gaussian import sample
from sfumato.privacy.noise.entropy import fresh_stream
from sfumato.privacy.noise.poisson_sampling import bernoulli_mask


def best(action: Callable[[], object], count: int, tries: int = 5) -> float:
    """Microseconds for each of ``count`` numbers, in the fastest of ``tries`` tries."""
    taken = []
    for _ in range(tries):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return min(taken) / count * 1e6


def opendp(scale: int, count: int) -> list[int]:
    """OpenDP's vector of discrete Gaussians, as ``sfumato.privacy.noise`` asks for it."""
    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    noise = dp.m.make_gaussian(domain, dp.l2_distance(T="f64"), scale=float(scale))
    answer: list[int] = noise([0] * count)
    return answer


def main() -> None:
    """Print one line a scale, then one a Poisson sample."""
    floats = np.random.default_rng()
    count = 10**7
    for scale in (10**3, 10**6, 10**8):
        ours = best(lambda s=scale: sample(s, count, fresh_stream()), count)
        theirs = best(lambda s=scale: opendp(s, 10**5), 10**5, 2)
        normal = best(lambda s=scale: floats.normal(scale=s, size=10**6), 10**6)
        print(f"s = {scale:.0e}: {ours:.4f} us, OpenDP {theirs:.2f} us, normals {normal:.4f} us")
    step = best(lambda: sample(10**6, 1_750_000, fresh_stream()), 1)
    print(f"1,750,000 integers at s = 1e6: {step / 1e3:.1f} ms")
    for units in (60_000, 10**6):
        taken = best(lambda n=units: bernoulli_mask(n, 0.01, fresh_stream()), 1, 20)
        print(f"Poisson mask of {units} units: {taken:.0f} us")


if __name__ == "__main__":
    main()
