from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d

from sfumato import synthesis
from sfumato.errors import BudgetExceededError, CertificateError, UsageError
from sfumato.evaluation import private_metrics as publishing
from sfumato.evaluation.extractors import Extractor
from sfumato.evaluation.judging import open_real, open_release
from sfumato.evaluation.private_metrics import publish
from sfumato.privacy import Budget
from sfumato.privacy.ledger import Ledger
from sfumato.release import convert_release, verify
from sfumato.release.certificate import own_digest
from sfumato.release.verification import metrics as checks


def tiles(images: torch.Tensor) -> torch.Tensor:
    return avg_pool2d(images[:, 0].float() / 255, 4).flatten(1)


@pytest.fixture(scope="module", autouse=True)
def fast() -> Any:
    extractor = Extractor("tiles", "0" * 64, tiles, 100, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "load_extractor", lambda name, device: extractor)
        yield


def buy(release: Path, state: Path, against: str = "digits:test", **other: Any) -> dict[str, Any]:
    real = open_real(against, open_release(release).spec)
    budget = other.pop("budget", Budget(2.0, 1e-5))
    options: dict[str, Any] = {"classifiers": ["logistic"], "state": state, "quiet": True, **other}
    return publish(release, real, budget, **options)


@pytest.fixture(scope="module")
def bought(
    digits_release: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Any]]:
    """A release with metrics, the state, and what was measured."""
    folder = tmp_path_factory.mktemp("bought")
    release = shutil.copytree(digits_release, folder / "release")
    return release, folder / "state", buy(release, folder / "state")


def test_metrics_are_published_and_accounted_for(
    bought: tuple[Path, Path, dict[str, Any]], digits_release: Path
) -> None:
    release, state, metrics = bought
    verdict = verify(release)
    assert verdict.metrics_recomputed is not None
    assert verdict.metrics_recomputed["add-or-remove-one"] == pytest.approx(2.0, rel=1e-3)
    assert verdict.epsilon == verify(digits_release).epsilon
    assert json.loads((release / "metrics.json").read_text()) == metrics
    accuracy = metrics["utility"][0]["accuracy"]
    assert abs(accuracy["value"] - 0.85) < 0.15 + 4 * accuracy["deviation"]
    assert metrics["same_data_set_as_release"] is False
    card = (release / "README.md").read_text()
    assert "Measured on real images" in card
    assert "logistic" in card
    real = open_real("digits:test", open_release(release).spec)
    (_, charge, *_) = Ledger(real.folder(state)).entries()
    assert charge["method"]["name"] == "publish-metrics"
    assert charge["budget"]["epsilon"] == 2.0


def test_metrics_are_published_once(
    bought: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    release = shutil.copytree(bought[0], tmp_path / "copy")
    with pytest.raises(UsageError, match="already"):
        buy(release, bought[1])


def test_further_samples_do_not_carry_the_metrics(
    bought: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    more = synthesis.sample(bought[0], samples=20, out=tmp_path / "more", quiet=True)
    assert verify(more).metrics_recomputed is None
    assert not (more / "metrics.json").exists()


def changed(release: Path, **parts: Any) -> None:
    """Change the metrics' part of a certificate, and seal it anew as a forger would."""
    path = release / "certificate.json"
    certificate = json.loads(path.read_text())
    certificate["published_metrics"] |= parts
    certificate["digest"] = own_digest(certificate)
    path.write_text(json.dumps(certificate))


def test_forged_metrics_fail_verification(
    bought: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    def copy(name: str) -> Path:
        return shutil.copytree(bought[0], tmp_path / name)

    better = copy("better")
    text = (better / "metrics.json").read_text()
    (better / "metrics.json").write_text(text.replace("0.", "0.9", 1))
    with pytest.raises(CertificateError, match=r"metrics\.json' was changed"):
        verify(better)

    cheaper = copy("cheaper")
    core = json.loads((cheaper / "certificate.json").read_text())["published_metrics"]
    changed(cheaper, epsilon_by_relation={**core["epsilon_by_relation"], "add-or-remove-one": 1.0})
    with pytest.raises(CertificateError, match="published_metrics: the events cost"):
        verify(cheaper)

    weaker = copy("weaker")
    events = [{**event, "noise_std": event["noise_std"] / 2} for event in core["events"]]
    changed(weaker, events=events)
    with pytest.raises(CertificateError, match="published_metrics: "):
        verify(weaker)

    unpaid = copy("unpaid")
    path = unpaid / "certificate.json"
    certificate = json.loads(path.read_text())
    del certificate["published_metrics"]
    certificate["digest"] = own_digest(certificate)
    path.write_text(json.dumps(certificate))
    with pytest.raises(CertificateError, match="accounted for by nothing"):
        verify(unpaid)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m["utility"][0]["accuracy"].update(value=0.999), "utility is not what"),
        (lambda m: m["utility"][0]["accuracy"].update(deviation=10**400), "utility is not what"),
        (lambda m: m["utility"][0]["recall"][3].update(value=None), "utility is not what"),
        (lambda m: m["utility"][0]["recall"][3].update(value=True), "must be a number or null"),
        (lambda m: m["utility"][0]["recall"].pop(), "utility is not what"),
        (lambda m: m["utility"][0].update(classifier="resnet18"), "utility is not what"),
        (lambda m: m["utility"][0].update(training_count=10**6), "is not the one that the query"),
        (lambda m: m["utility"][0].pop("training_count"), "is not the one that the query"),
        (lambda m: m["utility"].append(m["utility"][0]), "utility is not what"),
        (lambda m: m["answers"]["recall"].reverse(), "not the one that the ledger names"),
        (lambda m: m["answers"]["frechet"].append(2**70), "not the one that the ledger names"),
        (lambda m: m.pop("answers"), "must hold the answers"),
        (lambda m: m["frechet"].update(axes=2), "measured in another way"),
        (lambda m: m.pop("frechet"), "not asked for"),
    ],
)
def test_metrics_that_do_not_follow_from_the_answers_fail(
    bought: tuple[Path, Path, dict[str, Any]], change: Any, problem: str
) -> None:
    release, _, honest = bought
    certificate = json.loads((release / "certificate.json").read_text())
    names = ["metrics.json"]
    assert list(checks.problems(release, names, certificate)) == []
    metrics = json.loads(json.dumps(honest))
    change(metrics)
    path = release / "metrics.json"
    kept = path.read_bytes()
    try:
        path.write_text(json.dumps(metrics))
        assert problem in "; ".join(checks.problems(release, names, certificate))
    finally:
        path.write_bytes(kept)


def test_metrics_of_another_release_fail(bought: tuple[Path, Path, dict[str, Any]]) -> None:
    certificate = json.loads((bought[0] / "certificate.json").read_text())
    certificate["files"]["model.safetensors"] = "0" * 64
    found = "; ".join(checks.problems(bought[0], ["metrics.json"], certificate))
    assert "measured of another release" in found
    for part in ("files", "release"):  # which the verifier names elsewhere
        assert list(checks.problems(bought[0], ["metrics.json"], {**certificate, part: []})) == []


def test_metrics_stay_where_images_are_written_in_another_format(
    bought: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    other = convert_release(bought[0], tmp_path / "other", "parquet")
    assert verify(other).metrics_recomputed is not None


def test_a_cap_refuses_and_leaves_release_and_ledger_as_they_were(
    digits_release: Path, tmp_path: Path
) -> None:
    release = shutil.copytree(digits_release, tmp_path / "release")
    real = open_real("digits:test", open_release(release).spec)
    ledger = Ledger(real.folder(tmp_path / "state"))
    ledger.set_cap(Budget(1.0, 1e-5))
    before = ledger.entries(), sorted(release.rglob("*"))
    with pytest.raises(BudgetExceededError):
        buy(release, tmp_path / "state")
    assert (ledger.entries(), sorted(release.rglob("*"))) == before
    verify(release)


def test_a_release_that_does_not_verify_costs_nothing(digits_release: Path, tmp_path: Path) -> None:
    release = shutil.copytree(digits_release, tmp_path / "release")
    (release / "README.md").write_text("changed")
    with pytest.raises(CertificateError):
        buy(release, tmp_path / "state")
    real = open_real("digits:test", open_release(release).spec)
    assert Ledger(real.folder(tmp_path / "state")).entries() == []


def test_metrics_on_the_release_s_own_data_say_so(digits_release: Path, tmp_path: Path) -> None:
    state = shutil.copytree(digits_release.parent / "state", tmp_path / "state")
    release = shutil.copytree(digits_release, tmp_path / "release")
    metrics = buy(release, state, against="digits:train")
    assert metrics["same_data_set_as_release"] is True
    certificate = json.loads((release / "certificate.json").read_text())
    total = certificate["published_metrics"]["data_set_total"]
    assert total["runs"] == 2
    assert total["epsilon"] > 10
    assert "which are those that the release was made from" in (release / "README.md").read_text()


def test_a_killed_purchase_goes_on_without_a_second_charge(
    digits_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = shutil.copytree(digits_release, tmp_path / "release")
    state = tmp_path / "state"
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "attach_metrics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            buy(release, state)
    verify(release)
    buy(release, state)
    real = open_real("digits:test", open_release(release).spec)
    kinds = [entry["kind"] for entry in Ledger(real.folder(state)).entries()]
    assert kinds.count("plan") == 1
