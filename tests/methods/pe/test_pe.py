"""Private Evolution: candidates that private images are near to take over, at the plan's price."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.data.memory import from_arrays
from sfumato.data.spec import PublicSpec
from sfumato.errors import LedgerError, UsageError
from sfumato.features import public_patches
from sfumato.features.pooled import directions
from sfumato.methods.chosen_images import ChosenImages
from sfumato.methods.pe import drawn_text, evolution
from sfumato.methods.pe.drawn_text import DrawnText
from sfumato.methods.pe.evolution import chosen_by, generations
from sfumato.methods.pe.method import PrivateEvolution
from sfumato.methods.pe.nearness import LowFrequencies
from sfumato.methods.pe.public_images import PublicImages
from sfumato.privacy import Budget, Curator
from sfumato.release import verify
from sfumato.synthesis import synthesize

BUDGET = Budget(50.0, 1e-5)
SPEC = PublicSpec(28, 28, 1, ("a", "b"))
PUBLIC = public_patches(SPEC, 60)


def small(**changes: Any) -> PrivateEvolution:
    options = {"iterations": 3, "candidates": 30, "kept": 12, "near": "pixels", "public": PUBLIC}
    return PrivateEvolution(**{**options, **changes})


def private(counts: tuple[int, int], classes: tuple[str, ...] | None = ("a", "b")) -> Any:
    """Class a shows public image 3, class b public image 7."""
    labels = np.repeat([0, 1], counts)
    images = np.where((labels == 0)[:, None, None, None], PUBLIC[3], PUBLIC[7])
    return from_arrays(images, labels if classes else None, name="two", classes=classes or ())


def fitted(method: PrivateEvolution, source: Any, tmp_path: Any) -> tuple[ChosenImages, dict]:
    with Curator(source, BUDGET, state=tmp_path, quiet=True) as curator:
        model = method.fit(curator)
        record = curator.record()
        curator.close()
    return model, record


def distance(images: np.ndarray, to: np.ndarray) -> np.ndarray:
    return np.abs(images.astype(float) - to.astype(float)).mean(axis=(1, 2, 3))


def test_each_class_becomes_what_its_private_images_are_near_to(tmp_path: Any) -> None:
    model, record = fitted(small(), private((300, 100)), tmp_path)
    first, second = model.images[:12], model.images[12:]
    at_random = distance(PUBLIC, PUBLIC[3]).mean()
    assert distance(first, PUBLIC[3]).mean() < 0.5 * at_random
    assert distance(second, PUBLIC[7]).mean() < 0.5 * at_random
    assert np.abs(model.counts - [300, 100]).max() < 60
    shares = np.bincount(np.concatenate([labels for _, labels in model.sample(400)])) / 400
    assert shares[0] == pytest.approx(0.75, abs=0.12)
    events = {event["name"]: (event["query"], event["count"]) for event in record["events"]}
    assert events == {"sizes": ("histogram", 1), "votes": ("nearest", 3)}


def test_noise_alone_chooses_no_image(tmp_path: Any) -> None:
    """Without private images the same settings do not come near: the test above can fail."""
    model, _ = fitted(small(), private((0, 0)), tmp_path)
    assert distance(model.images[:12], PUBLIC[3]).mean() > 0.6 * distance(PUBLIC, PUBLIC[3]).mean()


def test_class_sizes_are_asked_for_or_equal(tmp_path: Any) -> None:
    assert [query.name for query in small(size_noise=0.0).queries(SPEC)] == ["votes"]
    model, _ = fitted(small(size_noise=0.0), private((300, 100)), tmp_path)
    assert model.counts.tolist() == [1, 1]


def test_without_classes_all_are_one_population(tmp_path: Any) -> None:
    model, record = fitted(small(), private((200, 200), None), tmp_path)
    assert len(model.images) == 12 and [e["name"] for e in record["events"]] == ["votes"]
    near = np.minimum(distance(model.images, PUBLIC[3]), distance(model.images, PUBLIC[7]))
    assert near.mean() < 0.5 * distance(PUBLIC, PUBLIC[3]).mean()


def test_candidates_are_chosen_in_proportion_and_the_same_number_a_label() -> None:
    votes, labels = np.array([3.0, 1, 0, 0, 0, 0]), np.array([0, 0, 0, 1, 1, 1])
    numbers = chosen_by(votes, labels, 4)
    assert np.bincount(numbers[:4], minlength=6).tolist() == [3, 1, 0, 0, 0, 0]
    assert np.bincount(numbers[4:], minlength=6)[3:].min() >= 1  # no votes: all alike


def test_the_threshold_is_that_of_the_noise_alone(tmp_path: Any) -> None:
    method = small(threshold=2.0)
    with Curator(private((300, 100)), BUDGET, state=tmp_path, quiet=True) as curator:
        generation = next(generations(method, curator))
        shown = directions(generation.candidates.images, LowFrequencies(curator.spec)).numpy()
        answer = curator.nearest("votes", 0, shown, generation.labels)  # the same answer again
    noise_std = curator.calibrate(method).event("votes").noise_std
    assert np.array_equal(generation.votes, np.maximum(answer.total[0] - 2 * noise_std, 0))


def test_looking_ahead_shows_the_mean_of_variations() -> None:
    method, coordinates = small(look_ahead=3), LowFrequencies(SPEC)
    source = PublicImages(PUBLIC, coordinates)
    candidates = source.first(np.zeros(5, np.int64), np.random.default_rng(0))
    shown = evolution._shown(method, candidates, source, coordinates, 0)
    rng = np.random.default_rng([0, 0, 1])
    varied = [source.vary(candidates, 0.6, rng).images for _ in range(3)]
    mean = np.mean([directions(images, coordinates).numpy() for images in varied], axis=0)
    assert np.allclose(shown, mean, atol=1e-6)
    alone = evolution._shown(replace(method, look_ahead=0), candidates, source, coordinates, 0)
    assert np.array_equal(alone, directions(candidates.images, coordinates).numpy())


@pytest.mark.parametrize("source", ["images", "text"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_variation_of_degree_0_is_the_image_and_a_larger_one_is_further_away(
    source: str, channels: int
) -> None:
    spec = PublicSpec(16, 16, channels, ("0", "1"))
    variations = evolution._source(
        small(source=source, public=public_patches(spec, 60)), spec, LowFrequencies(spec)
    )
    labels = np.repeat([0, 1], 30)
    first = variations.first(labels, np.random.default_rng(0))
    assert first.images.shape == (60, channels, 16, 16) and first.images.dtype == np.uint8
    far = []
    for degree in (0.0, 0.2, 1.0):
        varied = variations.vary(first, degree, np.random.default_rng(1))
        far.append(distance(varied.images, first.images).mean())
        again = variations.vary(first, degree, np.random.default_rng(1))
        assert np.array_equal(varied.images, again.images)
    assert far[0] == 0 < far[1] < far[2]


def test_public_images_are_not_shown_twice_while_there_are_others_and_move_to_neighbours() -> None:
    coordinates = LowFrequencies(SPEC)
    source = PublicImages(PUBLIC, coordinates)
    first = source.first(np.zeros(60, np.int64), np.random.default_rng(0))
    assert sorted(first.traits[:, 0]) == list(range(60))
    near = source._neighbours(np.arange(60), 5)
    features = directions(PUBLIC, coordinates)
    scores = (features @ features.T - 2 * torch.eye(60)).topk(5, dim=1).indices.numpy()
    assert np.array_equal(np.sort(near), np.sort(scores))
    assert not (near == np.arange(60)[:, None]).any()


def test_classes_with_short_names_are_written_and_stay_what_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []
    true = drawn_text._figure

    def noted(text: str, *rest: Any) -> Any:
        written.append(text)
        return true(text, *rest)

    monkeypatch.setattr(drawn_text, "_figure", noted)
    digits = DrawnText(PublicSpec(16, 16, 1, tuple("0123456789")))
    first = digits.first(np.arange(10), np.random.default_rng(0))
    assert written == list("0123456789")
    digits.vary(first, 1.0, np.random.default_rng(1))
    assert written[10:] == list("0123456789")
    assert (first.images.max(axis=(1, 2, 3)) > first.images.min(axis=(1, 2, 3)) + 50).all()
    pages = DrawnText(PublicSpec(16, 16, 1, ("invoice", "letter")))
    pages.first(np.zeros(200, np.int64), np.random.default_rng(0))
    assert any("\n" in text for text in written) and set(drawn_text.SHAPES) & set(written)


def test_images_come_once_before_any_comes_twice() -> None:
    images = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 28, 28), np.uint8)
    model = ChosenImages(SPEC, images, np.array([1.0, 1.0]), 4)
    ((sampled, labels),) = model.sample(8)
    assert sorted(sampled[:, 0, 0, 0].tolist()) == list(range(8))
    assert np.array_equal(sampled[:, 0, 0, 0] // 4, labels)
    ((more, _),) = model.sample(20)
    assert np.bincount(more[:, 0, 0, 0]).min() >= 2


def test_what_is_outside_its_rule_is_refused(tmp_path: Any) -> None:
    for wrong in ({"iterations": 0}, {"candidates": 1}, {"look_ahead": -1}, {"axes": 0},
                  {"first_degree": 1.5}, {"threshold": -1.0}, {"kept": 0}):  # fmt: skip
        with pytest.raises(UsageError, match="pe: "):
            small(**wrong)
    for public in (PUBLIC[:1], PUBLIC[:, :, :14]):
        with pytest.raises(UsageError, match="private images' form"):
            evolution._source(small(public=public), SPEC, LowFrequencies(SPEC))
    path = tmp_path / "candidates.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(LedgerError, match="damaged"):
        evolution._restored(path)


def test_a_release_whose_votes_were_near_in_the_encoders_space_verifies(tmp_path: Any) -> None:
    np.savez(tmp_path / "private.npz", images=PUBLIC[:20, 0], labels=np.arange(20) % 2)
    settings = {"iterations": 1, "candidates": 3, "kept": 4, "axes": 10, "encoder_size": 32}
    release = synthesize(
        tmp_path / "private.npz",
        epsilon=10.0,
        classes=2,
        method="pe",
        options=settings,
        samples=4,
        out=tmp_path / "release",
        state=tmp_path / "state",
        quiet=True,
    )
    assert 9.99 < verify(release, redraw=0).epsilon <= 10.0


def test_the_query_names_the_encoder_and_axes_that_it_is_near_in() -> None:
    query = small(near="encoder", axes=20, encoder_size=32).queries(SPEC)[-1]
    assert {"near", "encoder", "encoder_digest", "axes_digest"} <= set(query.describes)
    images = torch.from_numpy(PUBLIC[:3])
    assert query.values(images, torch.zeros(3, dtype=torch.int64)).shape == (3, 20)
