"""A method attacked end to end: passes when it is right, and is found out when it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.audit import Attacked, judge, play
from sfumato.audit.attacks import image_scores
from sfumato.audit.canaries import RECORDS, CanaryImages, WithCanaries
from sfumato.audit.method import audit, run
from sfumato.data import ImageSource, LabelledImages, open_images
from sfumato.errors import UsageError
from sfumato.methods import DPDM, Moments
from sfumato.privacy import RELATIONS, Budget, Curator, Relation
from sfumato.privacy.answering import base
from sfumato.privacy.records.units import group
from sfumato.privacy.run import default_state

QUICK = Moments(coefficients=30)


pytestmark = pytest.mark.usefixtures("few_probes")


@pytest.fixture(scope="module")
def digits(few_digits: Path) -> ImageSource:
    return open_images(few_digits, classes=10, declared_size=400)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_right_method_is_not_refuted(digits: ImageSource, relation: Relation) -> None:
    verdict = audit(QUICK, digits, Budget(4.0, 1e-5, relation), canaries=200, quiet=True)
    assert not verdict.refuted
    assert [finding.attack for finding in verdict.findings] == ["queries", "answers", "images"]
    game, answers, images = verdict.findings
    assert 0.3 * verdict.claimed < game.bound <= verdict.claimed
    assert answers.epsilon_independent is None and images.bound < verdict.claimed
    assert not default_state().exists(), "the user's ledger is not touched"


def test_a_method_without_noise_is_refuted_by_every_look_at_its_answers(
    digits: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "add_noise", lambda total, std, stream: total)
    verdict = audit(QUICK, digits, Budget(1.0, 1e-5), canaries=200, quiet=True)
    bounds = {finding.attack: finding.bound for finding in verdict.findings}
    assert verdict.refuted and bounds["queries"] > 3 and bounds["answers"] > 3


@pytest.mark.parametrize("name", ["moments", "dpdm"])
def test_floating_point_noise_is_found_by_its_bits(
    digits: ImageSource, attackable: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def blurred(true: Callable[..., Any]) -> Callable[..., Any]:
        def answer(self: Curator, *arguments: Any) -> Any:
            given = true(self, *arguments)
            if isinstance(given, torch.Tensor):
                return given + 1e-9 * torch.randn(given.shape, dtype=torch.float64)
            return replace(given, total=given.total + 1e-9 * np.random.normal(size=(10, 1)))

        return answer

    for query in ("sum", "gradient"):
        monkeypatch.setattr(Curator, query, blurred(getattr(Curator, query)))
    _, off_grid = run(attackable[name], digits, Budget(8.0, 1e-5), 40, quiet=True)
    assert off_grid


def test_images_that_are_the_canaries_are_refuted(digits: ImageSource) -> None:
    budget, canaries = Budget(1.0, 1e-5), CanaryImages.draw(digits.spec, 1000)
    present = np.random.default_rng(0).random(1000) < 0.5
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, canaries.images.shape, dtype=np.uint8)
    memorised = np.concatenate([canaries.images[present], noise])
    labels = np.concatenate([canaries.labels[present], canaries.labels])
    released = LabelledImages(memorised, labels, digits.spec.classes)
    scores = image_scores(released, canaries, budget.relation)
    _, plan = play(QUICK.queries(digits.spec), budget, 100, digits.spec.classes)
    verdict = judge(plan, [Attacked("images", "memorised", scores, present)], 0.95)
    assert verdict.refuted


def test_answers_model_and_images_are_attacked(
    digits: ImageSource, attackable: dict[str, Any]
) -> None:
    for name, method in attackable.items():
        attacks, off_grid = run(method, digits, Budget(8.0, 1e-5), 40, quiet=True)
        assert not off_grid, name
        names = [attack.name for attack in attacks]
        assert names[-1] == "images", name
        assert ("model" in names) == (name == "dpdm")
        assert all(np.isfinite(attack.scores).all() for attack in attacks)


@pytest.fixture(scope="module")
def attackable() -> dict[str, Any]:
    dpdm = DPDM(steps=1, batch=400, multiplicity=1, width=8, blocks=1, patch=4)
    return {"moments": QUICK, "dpdm": dpdm}


def test_canaries_come_by_their_coins(digits: ImageSource) -> None:
    canaries = CanaryImages.draw(digits.spec, 20)
    present = np.arange(20) % 3 == 0
    real = sum(len(labels) for _, labels in digits.batches(500))

    def records(relation: Relation) -> np.ndarray:
        mixed = WithCanaries(digits, canaries, present, relation)
        return np.concatenate([images for images, _ in mixed.batches(500)])[real:]

    assert np.array_equal(records("add-or-remove-one"), canaries.images[present])
    replaced = records("replace-one")
    assert np.array_equal(replaced[present], canaries.images[present])
    assert np.array_equal(replaced[~present], canaries.others[~present])
    other = WithCanaries(digits, canaries, ~present, "replace-one")
    assert (
        other.fingerprint() != WithCanaries(digits, canaries, present, "replace-one").fingerprint()
    )


@pytest.fixture
def patients(tmp_path: Path) -> ImageSource:
    """Thirty patients with up to four images each, of whom two are used."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (75, 28, 28), np.uint8), np.arange(75) % 3
    np.savez(tmp_path / "scans.npz", images=images, labels=labels, patient=np.arange(75) % 30)
    return open_images(tmp_path / "scans.npz", classes=3, unit="patient", records_per_unit=2)


@pytest.mark.parametrize("relation", RELATIONS)
def test_canaries_are_units_where_data_have_units(
    patients: ImageSource, relation: Relation, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = np.arange(20) % 3 == 0
    mixed = WithCanaries(patients, CanaryImages.draw(patients.spec, 20), present, relation)
    canaries = int(present.sum()) if relation == "add-or-remove-one" else 20
    found = group(mixed._unit_keys(), 2)
    assert len(found) == 30 + canaries and (found.kept[30:] == 2).all()
    assert len(found.owner) == mixed._private_length() == 75 + RECORDS * canaries
    # An attacker who knows what a unit adds reads all coins from sums without noise.
    monkeypatch.setattr(base, "add_noise", lambda total, std, stream: total)
    method, budget = Moments(coefficients=60), Budget(1e4, 1e-5, relation)
    (answers, _), _ = run(method, patients, budget, 60, True)
    assert answers.name == "answers"
    assert ((answers.scores > 0) == answers.present).all()


@pytest.mark.parametrize("wrong", [{"canaries": 3}, {"confidence": 1.0}, {"confidence": 0.1}])
def test_values_outside_their_rules_are_refused(digits: ImageSource, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        audit(QUICK, digits, Budget(1.0, 1e-5), **wrong)


def test_a_query_without_an_audit_is_named(digits: ImageSource) -> None:
    with pytest.raises(UsageError, match="no audit of 'sum'"):
        play(QUICK.queries(digits.spec), Budget(1.0, 1e-5), 10, games={})
