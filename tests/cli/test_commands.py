from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from sfumato.data.source import ImageSource
from sfumato.release import read_certificate, verify

Run = Callable[..., Result]
QUICK = ["--method", "moments", "--set", "coefficients=6", "--quiet"]


def synthesize(run: Run, out: Path, *more: object, epsilon: float = 1.0) -> Result:
    return run(
        "synthesize", "digits", "--epsilon", epsilon, "--out", out, "--samples", 30, *QUICK, *more
    )


def charges(run: Run, data: object = "digits") -> list[dict[str, Any]]:
    result = run("ledger", data, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["charges"]
    return found


def test_plan_reads_no_pixel_and_charges_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a record was read")

    monkeypatch.setattr(ImageSource, "batches", never)
    result = run("plan", "digits", "--epsilon", 1, *QUICK[:-1], "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["epsilon_by_relation"]["add-or-remove-one"] == pytest.approx(1, rel=1e-3)
    assert plan["epsilon_by_relation"]["replace-one"] > 1.5
    assert plan["events"][0]["noise_std"] > 0
    assert plan["spent"]["runs"] == 0
    assert plan["spent_after"]["epsilon_by_relation"]["add-or-remove-one"] > 0.99
    assert charges(run) == []


def test_the_same_plan_is_remembered_and_another_is_not(run: Run, state: Path) -> None:
    asked = ["plan", "digits", *QUICK[:-1], "--json"]
    first = json.loads(run(*asked, "--epsilon", 1).stdout)
    (kept,) = (state / "plans").iterdir()
    again = json.loads(run(*asked, "--epsilon", 1).stdout)
    assert again == first
    kept.write_text(kept.read_text().replace(first["digest"], "f" * 64))
    assert json.loads(run(*asked, "--epsilon", 1).stdout)["digest"] == "f" * 64
    kept.write_text("{")
    assert json.loads(run(*asked, "--epsilon", 1).stdout) == {
        **first, "estimate": json.loads(kept.read_text())["estimate"],
    }  # fmt: skip
    assert json.loads(run(*asked, "--epsilon", 2).stdout)["digest"] != first["digest"]
    assert run("plan", "digits", "--epsilon", 1, *QUICK[:2], "--set", "gone=1").exit_code == 2


def test_what_plan_promises_is_what_synthesize_does(run: Run, tmp_path: Path) -> None:
    plan = json.loads(run("plan", "digits", "--epsilon", 1, *QUICK[:-1], "--json").stdout)
    assert synthesize(run, tmp_path / "out").exit_code == 0
    certificate = read_certificate(tmp_path / "out")
    assert certificate["events"] == plan["events"]
    assert certificate["ledger"][0]["plan"] == plan["digest"]


def test_both_relations_stand_wherever_one_epsilon_does(run: Run, tmp_path: Path) -> None:
    shown = [
        synthesize(run, tmp_path / "out"),
        run("plan", "digits", "--epsilon", 1, *QUICK[:-1]),
        run("ledger", "digits"),
        run("verify", tmp_path / "out"),
    ]
    for result in shown:
        assert result.exit_code == 0, result.output
        lines = [line for line in result.stdout.splitlines() if "(add-or-remove-one)" in line]
        assert lines
        assert all("(replace-one)" in line for line in lines)


def test_without_a_cap_a_run_prints_the_total_of_all_runs(run: Run, tmp_path: Path) -> None:
    synthesize(run, tmp_path / "first")
    second = synthesize(run, tmp_path / "second", "--seed-public", 1)
    total = json.loads(run("ledger", "digits", "--json").stdout)["epsilon_by_relation"]
    assert total["add-or-remove-one"] > 1.3
    assert f"so far: ε = {total['add-or-remove-one']:.4g}" in second.stdout
    assert "no cap is set" in second.stdout


def test_a_cap_refuses_the_next_run_and_says_what_is_left(run: Run, tmp_path: Path) -> None:
    assert synthesize(run, tmp_path / "out", "--cap", 1.5).exit_code == 0
    refused = synthesize(run, tmp_path / "more", "--seed-public", 1, epsilon=1.2)
    assert refused.exit_code == 4
    assert "cap" in refused.stderr
    assert not (tmp_path / "more").exists()
    assert len(charges(run)) == 1
    left = json.loads(run("ledger", "digits", "--json").stdout)["left"]
    assert 1.0 < left < 1.2
    # What is said to be left can be spent, nearly all of it.
    assert synthesize(run, tmp_path / "more", epsilon=left * 0.999).exit_code == 0
    assert json.loads(run("ledger", "digits", "--json").stdout)["left"] < 0.1


def test_the_ledger_command_sets_a_cap(run: Run, tmp_path: Path) -> None:
    assert "no cap" in run("ledger", "digits").stdout
    assert "cap: ε = 0.5" in run("ledger", "digits", "--cap", 0.5).stdout
    assert synthesize(run, tmp_path / "out").exit_code == 4


def test_a_copy_is_no_way_round_a_cap(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data, copy = tmp_path / "data.npz", tmp_path / "copy.npz"
    for path in (data, copy):
        np.savez(path, images=rng.integers(0, 256, (20, 28, 28), np.uint8))
    shutil.copy(data, copy)

    def made(location: Path, *more: object) -> Result:
        words = ["--epsilon", 1, "--samples", 8, "--out", tmp_path / location.stem, *QUICK]
        return run("synthesize", location, *words, *more)

    assert made(data, "--cap", 1.2).exit_code == 0
    refused = made(copy)
    assert refused.exit_code == 2 and f"--same-data-as '{data}'" in refused.stderr
    assert made(copy, "--same-data-as", data).exit_code == 4
    assert f"counted with it (private): {data}" in run("ledger", copy).stdout
    assert "cap: ε = 1.2" in run("ledger", copy).stdout
    assert len(charges(run, copy)) == 1
    assert made(copy, "--independent-data", "--same-data-as", data).exit_code == 2


def test_a_killed_run_goes_on_with_other_settings_of_training(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["synthesize", "digits", "--epsilon", 1, "--out", tmp_path / "out", *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr("sfumato.synthesis.write_release", lambda *_, **__: 1 / 0)
        assert run(*words, "--samples", 30).exit_code == 1
    other = run(*words, "--epsilon", 2, "--samples", 30)
    assert other.exit_code == 2 and "epsilon 1.0" in other.stderr and "--fresh" in other.stderr
    assert run(*words, "--samples", 20, "--format", "parquet").exit_code == 0
    assert len(charges(run)) == 1 and verify(tmp_path / "out").samples == 20


def test_the_ledger_needs_no_class_names(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = tmp_path / "data.npz"
    images = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.savez(data, images=images, labels=np.arange(20) % 2)
    made = run(
        "synthesize", data, "--epsilon", 1, "--classes", "cat,dog", "--samples", 8,
        "--out", tmp_path / "out", *QUICK,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert read_certificate(tmp_path / "out")["classes"] == ["cat", "dog"]
    assert len(charges(run, data)) == 1


def test_sample_draws_another_release_of_the_same_price(run: Run, tmp_path: Path) -> None:
    synthesize(run, tmp_path / "out")
    result = run(
        "sample", tmp_path / "out", "--samples", 50, "--format", "parquet",
        "--out", tmp_path / "more", "--json", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["samples"] == 50
    assert verify(tmp_path / "more").samples == 50
    first, second = (read_certificate(tmp_path / name) for name in ("out", "more"))
    assert first["ledger"] == second["ledger"]
    assert len(charges(run)) == 1
    said = run(
        "sample", tmp_path / "out", "--label", "7", "--count", 5, "--out", tmp_path / "7", "--quiet"
    ).output  # nothing is charged, so no price is named
    assert "nothing was charged" in said and "ε" not in said and "cost" not in said
    assert sorted(path.name for path in tmp_path.glob("7/images/7/*.png")) == [
        f"00000{number}.png" for number in range(5)
    ]
    checked = run("verify", tmp_path / "7", "--redraw", 2)
    assert "2 of 5 images, chosen at random" in checked.output
    refused = run("verify", tmp_path / "7", "--redraw", "some")
    assert refused.exit_code == 2 and "--redraw" in refused.output
    refused = run("sample", tmp_path / "out", "--label", "x", "--out", tmp_path / "x", "--quiet")
    assert refused.exit_code == 2 and "must be one of the classes: '0', '1'" in refused.output


def test_verify_speaks_json_and_fails_with_its_own_code(run: Run, tmp_path: Path) -> None:
    synthesize(run, tmp_path / "out")
    verdict = json.loads(run("verify", tmp_path / "out", "--json").stdout)
    assert verdict["verified"] is True
    assert verdict["recomputed"]["replace-one"] > 1.5
    (tmp_path / "out" / "model.pkl").write_bytes(b"x")
    failed = run("verify", tmp_path / "out")
    assert failed.exit_code == 6
    assert "model.pkl" in failed.stderr
    assert failed.stdout == ""


def test_a_release_is_signed_and_verified_by_two_commands(run: Run, tmp_path: Path) -> None:
    synthesize(run, tmp_path / "out")
    release, key = tmp_path / "out", tmp_path / "key"
    assert "consistent, not signed" in run("verify", release).stdout
    made = json.loads(run("keygen", key, "--json").stdout)
    assert run("keygen", key).exit_code == 2
    signed = json.loads(run("sign", release, "--key", key, "--json").stdout)
    assert f"signed by {key}.pub" in run("verify", release, "--public-key", f"{key}.pub").stdout
    verdict = json.loads(run("verify", release, "--json").stdout)
    assert (verdict["signed_by"], verdict["signer_expected"]) == (signed["signed_by"], None)
    run("keygen", tmp_path / "other")
    assert run("verify", release, "--public-key", tmp_path / "other.pub").exit_code == 6
    assert made["public_key"] == f"{key}.pub"


def test_a_stamped_release_says_so_on_the_terminal(run: Run, tmp_path: Path) -> None:
    made = synthesize(run, tmp_path / "out", "--insecure-seed", 1)
    assert made.exit_code == 0
    assert made.stdout.startswith("NOT PRIVATE")
    failed = run("verify", tmp_path / "out")
    assert failed.exit_code == 6
    assert "NOT PRIVATE" in failed.stderr


def test_standard_output_holds_the_result_and_nothing_else(run: Run, tmp_path: Path) -> None:
    made = run(
        "synthesize", "digits", "--epsilon", 1, "--out", tmp_path / "out", "--samples", 30,
        "--json", *QUICK[:-1],
    )  # fmt: skip
    assert "reading the private images" in made.stderr
    facts = json.loads(made.stdout)
    assert facts["out"] == str(tmp_path / "out")
    assert facts["epsilon_by_relation"]["replace-one"] > facts["epsilon"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["synthesize", "digits", "--epsilon", 0, "--out", "OUT"], 2, "epsilon"),
        (["synthesize", "digits", "--epsilon", "x", "--out", "OUT"], 2, "epsilon"),
        (["synthesize", "digits", "--epsilon", 1], 2, "--out"),
        (["plan", "digits", "--epsilon", 1, "--relation", "swap"], 2, "add-or-remove-one"),
        (["plan", "digits", "--epsilon", 1, "--method", "gan"], 2, "moments"),
        (["plan", "digits", "--epsilon", 1, *QUICK[:2], "--set", "x=1"], 2, "coefficients"),
        (["plan", "digits", "--epsilon", 1, *QUICK[:2], "--set", "x"], 2, "name=value"),
        (["plan", "nowhere", "--epsilon", 1], 3, "nowhere"),
        (["synthesize", "digits", "--epsilon", 1, "--format", "gif", "--out", "OUT"], 2, "parquet"),
        (["synthesize", "digits", "--epsilon", 1, "--samples", 0, "--out", "OUT"], 2, "samples"),
        (["verify", "OUT"], 6, "not a release"),
        (["sample", "OUT", "--samples", 3, "--out", "MORE"], 6, "not a release"),
        (["fit-embedding", "OUT", "--out", "MORE"], 2, "embedding"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_each_mistake_has_its_exit_code_and_names_itself(
    run: Run, tmp_path: Path, arguments: list[object], code: int, said: str
) -> None:
    places = {"OUT": tmp_path / "out", "MORE": tmp_path / "more"}
    result = run(*[places.get(str(argument), argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused_before_anything_is_charged(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    assert synthesize(run, tmp_path / "out").exit_code == 2
    assert synthesize(run, tmp_path / "out", "--force").exit_code == 2
    assert charges(run) == []
    assert (tmp_path / "out" / "mine.txt").read_text() == "x"


def test_the_demo_is_the_main_job_on_digits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the yardstick instead of the generator, whose training takes minutes.
    from sfumato import choosing
    from sfumato.cli.commands import demo
    from sfumato.methods import Moments

    monkeypatch.setattr(demo, "QUICK", {"coefficients": 6})
    monkeypatch.setattr(choosing, "find_method", lambda name: Moments)
    for _ in range(2):  # again replaces the first
        result = run("demo", "--out", tmp_path / "demo", "--quiet")
        assert result.exit_code == 0, result.output
    for name in ("samples.png", "README.md", "images", "report.html"):
        assert str(tmp_path / "demo" / name) in result.stdout
        assert (tmp_path / "demo" / name).exists()
    assert verify(tmp_path / "demo").samples == 1000


def test_the_help_of_each_command_shows_an_example(run: Run) -> None:
    overview = run("--help").stdout
    assert "Exit codes:" in overview
    for code in range(7):
        assert f"\n    {code}  " in overview
    for command in ("plan", "synthesize", "sample", "fit-embedding", "verify", "ledger", "demo"):
        assert command in overview
        assert "\n    sfumato " in run(command, "--help").stdout


def test_methods_are_listed_with_their_options(run: Run) -> None:
    from sfumato.methods import method_names

    listed = json.loads(run("methods", "--json").stdout)
    assert list(listed) == method_names()
    one = json.loads(run("methods", "dpdm", "--json").stdout)
    assert one["presets"] == ["cpu", "paper"]
    assert {"steps", "multiplicity"} <= {option["name"] for option in one["options"]}
    assert "multiplicity" in run("methods", "dpdm").stdout
    assert run("methods", "gan").exit_code == 2
