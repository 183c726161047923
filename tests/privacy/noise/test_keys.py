"""docs/proofs/gradient.md: who is in a sample, and where its randomness comes from."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from sfumato.errors import LedgerError
from sfumato.privacy.noise.keys import KEY_BYTES, RunKey
from sfumato.privacy.noise.poisson_sampling import poisson_sample

SURE = 1e-6  # probability that a right sampler fails one of the tests that accept
CPU = torch.device("cpu")


@pytest.fixture
def key() -> RunKey:
    return RunKey(os.urandom(KEY_BYTES))


def samples(key: RunKey, size: int, rate: float, count: int) -> np.ndarray:
    """Who was in each of ``count`` samples, bool ``[count, size]``."""
    taken = np.zeros((count, size), bool)
    for step in range(count):
        index = poisson_sample(size, rate, key.stream("sample", step))
        assert index.dtype == np.int64 and (np.diff(index) > 0).all()
        taken[step, index] = True
    return taken


def fits(counts: np.ndarray, trials: int, rate: float) -> float:
    """p-value of a χ² test that each of ``counts`` is binomial with ``rate``."""
    chi2 = ((counts - trials * rate) ** 2 / (trials * rate * (1 - rate))).sum()
    tails = stats.chi2(counts.size)
    return float(2 * min(tails.sf(chi2), tails.cdf(chi2)))


def test_every_unit_has_its_chance_and_no_pair_is_tied(key: RunKey) -> None:
    size, rate, count = 25, 0.2, 6000
    taken = samples(key, size, rate, count)
    alone = taken.sum(axis=0)
    assert fits(alone, count, rate) > SURE
    assert fits(alone, count, 1.2 * rate) < SURE and fits(alone, count, rate / 1.2) < SURE
    # Pairs: independent units meet with rate². The counts of pairs hang together a little, so
    # each is judged alone, with a share of the doubt.
    together = (taken.astype(np.int64).T @ taken)[np.triu_indices(size, 1)]
    doubts = np.minimum(
        stats.binom.cdf(together, count, rate**2), stats.binom.sf(together - 1, count, rate**2)
    )
    assert doubts.min() > SURE / len(together)
    # A sample of fixed size has the right chances and the wrong pairs: fewer of them on the whole.
    mean = stats.binom(count * len(together), rate**2)
    fixed = count * len(together) * (4 / 24) * rate
    assert mean.cdf(fixed) < SURE
    # Consecutive samples are independent as well.
    again = int((taken[1:] & taken[:-1]).sum())
    assert SURE < stats.binom.cdf(again, (count - 1) * size, rate**2) < 1 - SURE


def test_sample_sizes_are_binomial(key: RunKey) -> None:
    size, rate, count = 1000, 0.01, 4000
    found = np.array(
        [len(poisson_sample(size, rate, key.stream("s", step))) for step in range(count)]
    )

    def pvalue(rate: float) -> float:
        edges = np.r_[-1, 4:17, size]
        expected = count * np.diff(stats.binom.cdf(edges, size, rate))
        counted = np.histogram(found, bins=edges + 0.5)[0]
        return float(stats.chisquare(counted, expected).pvalue)

    assert pvalue(rate) > SURE
    assert pvalue(1.2 * rate) < SURE
    assert np.var(found) > 0  # a constant batch is another mechanism


def test_extreme_rates_and_sizes(key: RunKey) -> None:
    stream = key.stream("s", 0)
    assert np.array_equal(poisson_sample(7, 1.0, stream), np.arange(7))
    for size, rate in ((0, 0.5), (0, 1.0), (1000, 1e-12)):
        empty = poisson_sample(size, rate, stream)
        assert empty.shape == (0,) and empty.dtype == np.int64
    one = [len(poisson_sample(1, 0.5, key.stream("one", step))) for step in range(300)]
    assert 0 < sum(one) < 300
    big = poisson_sample(50_000_000, 1e-6, stream)
    assert 0 < len(big) < 130 and 0 <= big.min() and big.max() < 50_000_000


def test_streams_repeat_and_have_nothing_in_common(key: RunKey) -> None:
    def draw(key: RunKey, purpose: str, step: int) -> bytes:
        return key.stream(purpose, step).bytes(32)

    assert draw(key, "noise", 3) == draw(key, "noise", 3)
    others = {
        draw(key, *label)
        for label in [("noise", 3), ("noise", 4), ("sample", 3), ("noise 3", 3), ("noise", 33)]
    }
    others.add(draw(RunKey(os.urandom(KEY_BYTES)), "noise", 3))
    assert len(others) == 6
    first, second = (key.stream("noise", step).uniform(20_000) for step in (0, 1))
    assert stats.pearsonr(first, second).pvalue > SURE


def test_one_bit_of_the_key_changes_every_stream() -> None:
    secret = os.urandom(KEY_BYTES)
    for place in (0, 15, KEY_BYTES - 1):
        other = bytearray(secret)
        other[place] ^= 1
        one, two = (RunKey(each).stream("n", 0).bytes(8) for each in (secret, bytes(other)))
        assert one != two


def test_key_is_stored_once_and_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)  # the most generous one
    try:
        first = RunKey.of_run(tmp_path)
    finally:
        os.umask(before)
    path = tmp_path / "key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 2 * KEY_BYTES == 64
    assert len(set(path.read_bytes())) > 10
    again = RunKey.of_run(tmp_path)
    assert first.stream("x", 0).bytes(16) == again.stream("x", 0).bytes(16)
    (tmp_path / "other").mkdir()
    other = RunKey.of_run(tmp_path / "other")
    assert first.stream("x", 0).bytes(16) != other.stream("x", 0).bytes(16)


@pytest.mark.parametrize("content", [b"", b"short", bytes(KEY_BYTES), bytes(2 * KEY_BYTES)])
def test_a_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(LedgerError, match="damaged"):
        RunKey.of_run(tmp_path)
    assert (tmp_path / "key").read_bytes() == content  # and not replaced by another


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be stored"):
        RunKey.of_run(tmp_path / "no such folder")


def test_a_seeded_key_repeats_and_leaves_no_file(tmp_path: Path) -> None:
    def draw(seed: int) -> bytes:
        return RunKey.of_run(tmp_path, insecure_seed=seed).stream("x", 0).bytes(16)

    assert draw(1) == draw(1) != draw(2)
    assert not list(tmp_path.iterdir())


def test_destroying_overwrites_and_removes(tmp_path: Path) -> None:
    RunKey.of_run(tmp_path)
    path, kept = tmp_path / "key", tmp_path / "kept"
    os.link(path, kept)  # the same bytes on disk under another name
    assert any(kept.read_bytes())
    RunKey.destroy(tmp_path)
    assert not path.exists()
    assert kept.read_bytes() == bytes(2 * KEY_BYTES)
    kept.unlink()
    RunKey.destroy(tmp_path)  # nothing left: nothing to do


def test_torch_streams_repeat_and_differ(key: RunKey) -> None:
    def draw(key: RunKey, purpose: str, step: int) -> bytes:
        return torch.randn(64, generator=key.torch_stream(purpose, step, CPU)).numpy().tobytes()

    assert draw(key, "draws g", 0) == draw(key, "draws g", 0)
    different = {draw(key, "draws g", 0), draw(key, "draws g", 1), draw(key, "draws h", 0)}
    different.add(draw(RunKey(os.urandom(KEY_BYTES)), "draws g", 0))
    assert len(different) == 4


def test_torch_streams_are_normal_uniform_and_whole(key: RunKey) -> None:
    generator = key.torch_stream("draws g", 0, CPU)
    normal = torch.randn(20_000, generator=generator).numpy()
    assert stats.kstest(normal, "norm").pvalue > SURE
    assert stats.kstest(normal * 1.5, "norm").pvalue < SURE
    uniform = torch.rand(20_000, generator=generator).numpy()
    assert stats.kstest(uniform, "uniform").pvalue > SURE
    whole = torch.randint(10, (20_000,), generator=generator).numpy()
    assert stats.chisquare(np.bincount(whole, minlength=10)).pvalue > SURE
    # The very first draws, over many states.
    first = [torch.rand(1, generator=key.torch_stream("f", s, CPU)).item() for s in range(2000)]
    assert stats.kstest(first, "uniform").pvalue > SURE


def test_torch_state_is_more_than_a_seed_of_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is avoided: a CPU generator keeps a seed modulo 2³² only.
    low, high = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.rand(8, generator=low), torch.rand(8, generator=high))

    class Fixed:
        """Streams that agree in their first word and nowhere else."""

        def __init__(self, seed: int) -> None:
            self.seed = seed

        def words(self, size: int) -> np.ndarray:
            words = np.random.default_rng(self.seed).integers(2**64, size=size, dtype=np.uint64)
            words[0] = 5
            return words

    drawn = []
    for seed in (1, 2):
        monkeypatch.setattr(RunKey, "stream", lambda *_, seed=seed: Fixed(seed))
        drawn.append(torch.rand(700, generator=RunKey(bytes(32)).torch_stream("d", 0, CPU)))
    assert not torch.equal(drawn[0][1:600], drawn[1][1:600])
    assert len(np.intersect1d(*drawn)) < 10


def test_every_word_of_the_torch_state_comes_from_the_key(key: RunKey) -> None:
    state = key.torch_stream("draws g", 0, CPU).get_state().numpy()
    words = state[24 : 24 + 624 * 8].view(np.uint64)
    assert len(np.unique(words)) > 620 and words.max() < 2**32
    other = key.torch_stream("draws g", 1, CPU).get_state().numpy()
    assert (words != other[24 : 24 + 624 * 8].view(np.uint64)).all()
    # Everything beside the words is what a fresh generator has.
    rest = np.r_[state[:24], state[24 + 624 * 8 :]]
    fresh = torch.Generator().get_state().numpy()
    assert np.array_equal(rest[8:], np.r_[fresh[:24], fresh[24 + 624 * 8 :]][8:])
