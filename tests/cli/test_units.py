"""Privacy units from the command line to the certificate, the card and the report."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from sfumato import synthesis
from sfumato.data import PublicSpec
from sfumato.methods import load_model
from sfumato.privacy.answering import integer_sums
from sfumato.privacy.ledger import GENESIS, digest, seal
from sfumato.privacy.plan import questions_of
from sfumato.privacy.records import decoded
from sfumato.release import read_certificate, verify
from sfumato.release.certificate import core_of
from sfumato.release.verification import claim

Run = Callable[..., Result]
QUICK = ["--method", "moments", "--set", "coefficients=6", "--samples", 20, "--quiet"]
PATTERN = r"patient_(\d+)_"
RULE = ["--unit-pattern", PATTERN, "--records-per-unit", 2, "--declared-size", 6]
SECRET = "4217"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; patients with one to four images."""
    place = tmp_path_factory.mktemp("data") / "scans"
    rng = np.random.default_rng(0)
    for number in range(14):
        patient = f"{SECRET[:3]}{min(number % 7, 4)}"
        path = place / ("ill" if number % 3 else "well") / f"patient_{patient}_{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(path)
    return place


def synthesize(run: Run, scans: Path, out: Path, *more: object) -> Result:
    result = run("synthesize", scans, "--epsilon", 1, "--channels", 1, "--out", out, *QUICK, *more)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def honest(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The core of a release's certificate at patient level; tests change a copy."""
    place = tmp_path_factory.mktemp("honest")
    release = synthesis.synthesize(
        scans,
        epsilon=1.0,
        out=place / "out",
        method="moments",
        options={"coefficients": 6},
        samples=20,
        channels=1,
        unit_pattern=PATTERN,
        state=place / "state",
        quiet=True,
    )
    return core_of(read_certificate(release))


def charge(core: dict[str, Any]) -> None:
    """Make a changed core consistent again, as a forger who knows the format would."""
    core["ledger"][0]["plan"], previous = digest(questions_of(core)), GENESIS
    for index, entry in enumerate(core["ledger"]):
        core["ledger"][index] = seal({**entry, "prev": previous})
        previous = core["ledger"][index]["hash"]


def test_the_unit_is_named_wherever_epsilon_is(run: Run, scans: Path, tmp_path: Path) -> None:
    words = f"all records whose names agree in `{PATTERN}`"
    out = tmp_path / "out"
    planned = run("plan", scans, "--epsilon", 1, *QUICK[:4], *RULE)
    assert planned.exit_code == 0 and words in planned.stdout
    shown = synthesize(run, scans, out, *RULE)
    certificate = read_certificate(out)
    assert certificate["unit"] == words
    assert certificate["spec"]["unit"] == {
        "column": None, "pattern": PATTERN, "records_per_unit": 2,
    }  # fmt: skip
    assert verify(out).unit == words and words in run("verify", out).stdout
    card = (out / "README.md").read_text()
    assert f"The unit of privacy is {words}" in card and "at most\n2 records" in card
    assert "one record" not in card and "declared number of private units, 6" in card
    assert run("report", out).exit_code == 0
    page = (out / "report.html").read_text()
    assert PATTERN in page and "your unit was not used" in page and "one image" not in page
    assert run("verify", out).exit_code == 0
    assert load_model(out / "model.safetensors").spec == PublicSpec.from_dict(certificate["spec"])
    again = tmp_path / "again"
    assert run("sample", out, "--samples", 5, "--out", again, "--quiet").exit_code == 0
    assert read_certificate(again)["unit"] == words
    # Keys are private.
    written = [path.read_bytes() for path in out.rglob("*") if path.suffix in (".json", ".md")]
    assert SECRET[:3] not in shown.output + planned.output
    assert not any(f"patient_{SECRET[:3]}".encode() in data for data in written)


@pytest.mark.parametrize(
    "change",
    [
        lambda core: core.update(unit="record"),
        lambda core: core["spec"].pop("unit"),
        lambda core: (core["spec"].pop("unit"), core.update(unit="record")),
        lambda core: core["ledger"][0].pop("unit"),
        lambda core: core["spec"]["unit"].update(pattern="all"),
        lambda core: core["spec"]["unit"].update(column="both"),
        lambda core: core["spec"]["unit"].update(pattern="(unclosed"),
        lambda core: core["spec"]["unit"].update(records_per_unit=0),
        lambda core: core["spec"]["unit"].update(more=1),
        lambda core: core["spec"].update(unit=None),
        lambda core: core["data_set_total"].update(units=["record"]),
    ],
)
def test_a_false_unit_fails_though_every_hash_is_right(
    honest: dict[str, Any], change: Callable[[dict], object]
) -> None:
    same = copy.deepcopy(honest)
    charge(same)
    assert list(claim.problems(same)) == [] and same == honest
    forged = copy.deepcopy(honest)
    change(forged)
    charge(forged)
    assert list(claim.problems(forged))


def test_a_record_level_release_says_what_it_always_said(
    run: Run, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    synthesize(run, scans, out)
    certificate = read_certificate(out)
    assert certificate["unit"] == "record" and "unit" not in certificate["spec"]
    assert "unit" not in certificate["ledger"][0]
    assert "The unit of privacy is one record: one image" in (out / "README.md").read_text()
    assert "unit: one record;" in run("verify", out).stdout


def test_runs_with_different_units_are_added_up_with_a_word_of_care(
    run: Run, scans: Path, tmp_path: Path
) -> None:
    synthesize(run, scans, tmp_path / "patients", *RULE)
    second = synthesize(run, scans, tmp_path / "records")
    assert "exactly one unit in each run" in second.stdout
    assert "exactly one unit in each of the runs" in (tmp_path / "records/README.md").read_text()
    shown = run("ledger", scans)
    assert "spent by 2 runs" in shown.stdout and "exactly one unit in each run" in shown.stdout
    charges = json.loads(run("ledger", scans, "--json").stdout)["charges"]
    assert [charge["unit"] for charge in charges][1] == "record"
    assert run("verify", tmp_path / "records").exit_code == 0
    assert run("report", tmp_path / "records").exit_code == 0
    assert "whoever is exactly one unit" in (tmp_path / "records/report.html").read_text()


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (["--unit", "patient"], 2),
        (["--unit-pattern", "("], 2),
        (["--unit-pattern", "a", "--unit", "b"], 2),
        (["--unit-pattern", r"/home/\d+|patient_\d+"], 2),
        (["--unit-pattern", r"patient_(\d+)|<!--"], 2),
        (["--records-per-unit", 3], 2),
    ],
)
def test_a_wrong_rule_is_refused_before_anything_is_charged(
    run: Run, scans: Path, tmp_path: Path, rule: list, code: int
) -> None:
    result = run("synthesize", scans, "--epsilon", 1, "--out", tmp_path / "out", *QUICK, *rule)
    assert result.exit_code == code, result.output
    assert SECRET[:3] not in result.output and not (tmp_path / "out").exists()
    assert json.loads(run("ledger", scans, "--json").stdout)["runs"] == 0


def test_an_audit_attacks_whole_units(
    run: Run, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = ["audit", scans, "--epsilon", 1, "--channels", 1, *QUICK[:4], "--canaries", 100]
    audit += ["--quiet", "--unit-pattern", PATTERN, "--records-per-unit", 2]
    honest = run(*audit)
    assert honest.exit_code == 0, honest.output
    assert f"unit: all records whose names agree in `{PATTERN}`" in honest.stdout
    assert SECRET[:3] not in honest.output
    for module in (integer_sums, decoded):
        monkeypatch.setattr(module, "units_of", lambda source: None)
    broken = run(*audit, "--json")
    assert broken.exit_code == 6
    assert json.loads(broken.stdout)["unit"] == f"all records whose names agree in `{PATTERN}`"
