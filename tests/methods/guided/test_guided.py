"""Guided: what one released answer chooses, pulls and samples, without asking anything more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU
from sfumato.errors import LedgerError, UsageError
from sfumato.features import public_patches, to_unit
from sfumato.methods import Guided
from sfumato.methods.base import Batch
from sfumato.methods.dpdm.diffusion import DiffusionModel
from sfumato.methods.dpdm.samplers import DDIM
from sfumato.methods.guided.guidance import Guidance
from sfumato.methods.guided.making import _check
from sfumato.methods.guided.pieces import in_pieces
from sfumato.methods.guided.sources import (
    PublicDenoiser,
    Pulled,
    StartingImages,
    chosen_by,
    public_classes,
    with_views,
)
from sfumato.methods.mepf.embedding import JointEmbedding, public_embedding
from sfumato.methods.public_model import PublicModel
from sfumato.methods.training import Session
from sfumato.privacy import Budget, Curator
from sfumato.release import read_certificate, verify
from sfumato.synthesis import synthesize

BUDGET = Budget(10.0, 1e-5)
SPEC = PublicSpec(28, 28, 1, ("bright", "dark"))


class Killed(BaseException):
    """Stands for a kill, which no handler sees."""


def two_classes(count: int = 60) -> Batch:
    """Patches, and whether each is dark."""
    images = public_patches(SPEC, count)
    return images, (images.mean(axis=(1, 2, 3)) < 127).astype(np.int64)


@pytest.fixture(scope="module")
def guidance(small_guided: Any) -> Guidance:
    """What the noiseless embedding of bright and dark patches guides."""
    method = small_guided().matching()
    joint = JointEmbedding(method, SPEC)
    targets = joint.targets(public_embedding(joint, two_classes(), method.config()))
    return Guidance.of(joint, targets, 0.0, False, CPU)


def random() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_a_class_takes_the_images_that_are_surest_and_no_other_class_has_them() -> None:
    margins = np.array([[0.9, -0.9], [0.5, -0.5], [0.4, -0.4], [0.1, -0.1], [-0.2, 0.2]])
    assert chosen_by(margins.astype(np.float32), 2).tolist() == [[0, 1], [4, 3]]
    rng = np.random.default_rng(0)
    many = chosen_by(rng.normal(size=(50, 3)).astype(np.float32), 16)
    assert len(np.unique(many)) == 48
    few = chosen_by(margins.astype(np.float32), 5)  # two a class are there
    assert few.tolist() == [[0, 1, 0, 1, 0], [4, 3, 4, 3, 4]]


def test_views_follow_the_images_that_they_are_parts_of() -> None:
    images = public_patches(SPEC, 20)
    seen = with_views(images, 2, True, 0)
    assert seen.shape == (60, 1, 28, 28) and np.array_equal(seen[:20], images)
    assert np.array_equal(seen, with_views(images, 2, True, 0))
    same = np.abs(seen[20:40].astype(float) - images).mean()
    other = np.abs(seen[20:40].astype(float) - np.roll(images, 2, axis=0)).mean()
    assert 0 < same < other
    assert np.array_equal(with_views(images, 0, True, 0), images)


def test_the_labeller_is_surest_of_what_its_class_looks_like(guidance: Guidance) -> None:
    images, labels = two_classes()
    shares: list[float] = []
    margins = guidance.margins(images, shares.append)
    assert shares == [1.0]
    assert margins.shape == (60, 2) and np.allclose(margins[:, 0], -margins[:, 1], atol=1e-6)
    assert (margins.argmax(axis=1) == labels).mean() > 0.8
    chosen = chosen_by(margins, 10)
    assert (labels[chosen[0]] == 0).mean() > 0.8 < (labels[chosen[1]] == 1).mean()
    assert guidance.margins(images[:0]).shape == (0, 2)


def test_a_step_is_as_long_as_asked_and_makes_an_image_more_of_its_class(
    guidance: Guidance,
) -> None:
    images = 0.25 + 0.5 * to_unit(two_classes(16)[0])  # no step meets black or white
    margins = []
    for label in (0, 1):
        moved, same = images, random()
        for step in range(5):
            moved = guidance.moved(moved, label, 0.01, same)
            if step == 0:
                far = (moved - images).square().mean(dim=(1, 2, 3)).sqrt()
                torch.testing.assert_close(far, torch.full((16,), 0.01))
        assert not moved.requires_grad
        margins.append(guidance._margins(moved)[:, 0])
    assert (margins[0] > margins[1]).float().mean() > 0.8
    assert margins[0].mean() > guidance._margins(images)[:, 0].mean()


def test_a_slope_of_the_labeller_is_of_its_own_image_and_the_moments_pull_the_batch(
    guidance: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfumato.methods.guided.guidance.JITTER", 0.0)
    images = 0.25 + 0.5 * to_unit(two_classes(12)[0])
    alone = guidance.moved(images[:1], 0, 0.01, random())
    torch.testing.assert_close(
        guidance.moved(images, 0, 0.01, random())[:1], alone, atol=1e-4, rtol=0
    )
    by_mean = replace(guidance, labeller=None)  # as where there is one class

    def distance(batch: torch.Tensor) -> float:
        return float((by_mean._first(batch).mean(dim=0) - by_mean.means[1]).norm())

    moved, same = images, random()
    for _ in range(5):
        moved = by_mean.moved(moved, 1, 0.01, same)
    assert distance(moved) < 0.95 * distance(images)
    joint = replace(guidance, moment_weight=5.0).moved(images, 0, 0.01, random())
    assert not torch.allclose(joint[:1], alone, atol=1e-4)
    one = replace(by_mean, means=by_mean.means[:1])
    assert one.margins(two_classes(3)[0]).shape == (3, 1)


def test_a_sampler_without_moves_is_the_denoisers_own_and_small_noise_keeps_the_images(
    guidance: Guidance, public_denoiser: PublicModel
) -> None:
    model = public_denoiser.model
    assert isinstance(model, DiffusionModel)
    still = PublicDenoiser(model.denoiser, [np.array([2]), np.array([0, 1])], guidance, 3, 0.0)
    made = still.made(1, np.arange(4), random())
    start = torch.randn(4, 1, 28, 28, generator=random())
    labels = torch.tensor([0, 1, 0, 1])
    plain = DDIM(3).sample(
        lambda x, sigma: model.denoiser(x, sigma, labels).clamp(-1, 1), start, random()
    )
    torch.testing.assert_close(made, (plain + 1) / 2)
    moving = replace(still, length=0.05)
    assert not torch.allclose(moving.made(1, np.arange(4), random()), made)
    images = public_patches(SPEC, 8)
    chosen = StartingImages(images, np.arange(8).reshape(2, 4))
    starting = replace(still, starting=chosen, start_noise=0.01).made(1, np.arange(4), random())
    torch.testing.assert_close(starting, to_unit(images[4:]), atol=0.03, rtol=0)
    unlabelled = replace(still, classes=()).made(0, np.arange(2), random())
    assert unlabelled.shape == (2, 1, 28, 28)


def test_a_private_class_is_sampled_from_the_public_ones_that_the_labeller_calls_by_it(
    guidance: Guidance, public_denoiser: PublicModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = public_denoiser.model
    assert isinstance(model, DiffusionModel)
    table = np.repeat(np.array([[0.1], [0.9], [0.5], [0.3]], np.float32), 4, axis=0)
    margins = np.concatenate([table, -table, -table - 0.1], axis=1)
    monkeypatch.setattr(Guidance, "margins", lambda self, images: margins[: len(images)])
    first, second, third = public_classes(model, guidance, 0)
    assert first.tolist() == [1, 2, 3, 0]  # the surest first
    assert second.tolist() == [0] and third.tolist() == [0]  # the nearest, where none has the name
    nameless = replace(model, spec=replace(model.spec, classes=()))
    assert public_classes(nameless, guidance, 0) == []


def test_a_run_killed_while_guiding_goes_on_and_ends_with_the_same_images(
    small_guided: Any, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, calls = Pulled.made, []

    def made(self: Pulled, label: int, *rest: Any) -> Any:
        if len(calls) == 4:
            raise Killed
        calls.append(label)
        return true(self, label, *rest)

    def run(state: str) -> np.ndarray:
        with Curator(
            digits, BUDGET, state=tmp_path / state, quiet=True, insecure_seed=1
        ) as curator:
            return small_guided().fit(curator).images

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Pulled, "made", made)
        run("stopped")
    with monkeypatch.context() as patched:
        calls.clear()
        patched.setattr(Pulled, "made", lambda self, *a: (calls.append(a[0]), true(self, *a))[1])
        stopped = run("stopped")
        assert calls == [4, 5, 6, 7, 8, 9]  # a piece a class; four were there
    assert np.array_equal(stopped, run("whole"))


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    session = Session(tmp_path, quiet=True)
    piece = np.zeros((2, 1, 4, 4), np.uint8)
    in_pieces("guiding", "abc", 2, session, lambda number: piece + number)
    again = in_pieces("guiding", "abc", 2, session, lambda number: 1 / 0)
    assert [int(images.max()) for images in again] == [0, 1]
    (tmp_path / "guiding-abc-1.safetensors").write_bytes(b"damaged")
    with pytest.raises(LedgerError, match=r"guiding-abc-1\.safetensors is damaged"):
        in_pieces("guiding", "abc", 2, session, lambda number: piece)


def test_what_cannot_be_guided_is_refused_in_a_sentence(
    small_guided: Any, public_denoiser: PublicModel
) -> None:
    with pytest.raises(UsageError, match="nothing public to guide"):
        Guided().queries(SPEC)
    for wrong in ({"kept": 0}, {"matched": 1.0}, {"views": -1}, {"sampling_steps": 1},
                  {"length": 2.0}, {"start_noise": 0.0}, {"labeller_size": 0}):  # fmt: skip
        with pytest.raises(UsageError, match="guided: "):
            small_guided(**wrong)
    with pytest.raises(UsageError, match="mepf: encoder_size"):
        small_guided(encoder_size=7)
    images = public_patches(SPEC, 3)
    for public in (images[:1], images[:, :, :14]):
        with pytest.raises(UsageError, match="private images' form"):
            _check(small_guided(public=public), SPEC)
    with pytest.raises(UsageError, match="not at hand"):
        _check(replace(small_guided(), public=None), SPEC)
    from_model = small_guided(public=None, public_model=public_denoiser)
    _check(from_model, SPEC)
    with pytest.raises(UsageError, match="starts from the public model of digest"):
        _check(replace(from_model, public_model=None), SPEC)
    with pytest.raises(UsageError, match="28x28 pixels in 1"):
        _check(from_model, replace(SPEC, channels=3))
    other = replace(public_denoiser, method="mepf")
    with pytest.raises(UsageError, match="one of mepf, which guided cannot start from"):
        _check(small_guided(public_model=other), SPEC)


def test_an_estimate_says_how_long_guiding_takes(
    small_guided: Any, public_denoiser: PublicModel
) -> None:
    said = small_guided(kept=10, public_model=public_denoiser).estimate(SPEC)
    assert said["guiding_time"].endswith("for 20 images") and "2 steps" in said["training_time"]
    alone = small_guided(matched=0.0).estimate(SPEC)
    assert "training_time" not in alone and alone["guiding_time"].endswith("for 8 images")


def test_a_release_from_both_sources_verifies_and_says_what_its_images_are(
    public_denoiser: PublicModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = "sfumato.methods.mepf.embedding.public_images"
    monkeypatch.setattr(patches, lambda spec, _: public_patches(spec, 60))  # 4,000 take long
    images, labels = two_classes(40)
    np.savez(tmp_path / "private.npz", images=images[:, 0], labels=labels)
    np.savez(tmp_path / "public.npz", images=public_patches(SPEC, 20, seed=1)[:, 0])
    (tmp_path / "public.model").write_bytes(public_denoiser.to_bytes())
    settings = {"kept": 4, "matched": 0.0, "sampling_steps": 2, "labeller_size": 9}
    release = synthesize(
        tmp_path / "private.npz",
        epsilon=10.0,
        classes=2,
        method="guided",
        options={**settings, "encoder_size": 32},
        public=tmp_path / "public.npz",
        public_model=tmp_path / "public.model",
        samples=6,
        out=tmp_path / "release",
        state=tmp_path / "state",
        quiet=True,
    )
    certificate = read_certificate(release)
    assert [event["query"] for event in certificate["events"]] == ["sum"]
    assert certificate["method"]["config"]["public_digest"]
    said = " ".join(verify(release, redraw=0, public_model=tmp_path / "public.model").remarks)
    assert "maker's word" in said
    assert "Licences of the public images apply" in (release / "README.md").read_text()
