from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d
from typer.testing import CliRunner, Result

from sfumato.cli.app import app
from sfumato.data import open_images
from sfumato.evaluation import judging, private_metrics
from sfumato.evaluation.extractors import Extractor

asked: list[str] = []


def tiles(images: torch.Tensor) -> torch.Tensor:
    return avg_pool2d(images[:, 0].float(), 4).flatten(1)


def tiny(name: str, device: torch.device) -> Extractor:
    asked.append(name)
    return Extractor("tiles", "0" * 64, tiles, 100, device)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    asked.clear()
    monkeypatch.setattr(judging, "load_extractor", tiny)
    monkeypatch.setattr(private_metrics, "load_extractor", tiny)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_evaluate_prints_a_watermarked_table_and_keeps_the_result_privately(
    digits_release: Path, tmp_path: Path
) -> None:
    result = run(
        "evaluate", digits_release, "--against", "digits", "--classifiers", "logistic",
        "--state", tmp_path / "state", "--quiet",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "NOT PRIVATE" in result.stdout
    assert "Fréchet distance" in result.stdout
    (kept,) = (tmp_path / "state").rglob("evaluations/*.json")
    assert kept.name in result.stdout.replace("\n", "")
    assert "NOT PRIVATE" in json.loads(kept.read_text())["watermark"]


def test_public_data_and_quick_are_stated_in_the_result(
    digits_release: Path, tmp_path: Path
) -> None:
    words = [
        "evaluate", digits_release, "--against", "digits:test", "--classifiers", "mlp", "--public",
        "--quick", "--inception", "weights.pth", "--state", tmp_path / "state", "--quiet",
    ]  # fmt: skip
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert "watermark" not in value
    assert [score["classifier"] for score in value["utility"]] == ["mlp-quick"]
    assert asked == ["inception:weights.pth"]
    assert "not the protocol" in run(*words).stdout


def test_bought_metrics_are_printed_with_their_price(digits_release: Path, tmp_path: Path) -> None:
    release = shutil.copytree(digits_release, tmp_path / "release")
    words = ["evaluate", release, "--against", "digits", "--classifiers", "logistic", "-q"]
    state = ["--state", tmp_path / "state"]
    result = run(*words, "--publish-metrics", "--epsilon", 2, *state)
    assert result.exit_code == 0, result.output
    assert "ε = 2 (add-or-remove-one)" in result.stdout
    assert "accuracy, logistic" in result.stdout
    verified = run("verify", release)
    assert "published metrics" in verified.stdout
    spent = json.loads(run("ledger", "digits:test", *state, "--json").stdout)
    assert spent["epsilon_by_relation"]["add-or-remove-one"] == pytest.approx(2, rel=1e-3)
    assert json.loads(run("ledger", "digits", *state, "--json").stdout)["runs"] == 0


def test_metrics_can_be_bought_by_the_patient(digits_release: Path, tmp_path: Path) -> None:
    release = shutil.copytree(digits_release, tmp_path / "release")
    scans, number = tmp_path / "scans", 0
    for images, labels in open_images("digits:test").batches(40):
        for image, label in zip(images, labels, strict=True):
            path = scans / str(label) / f"patient_{number // 5:03d}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)
            number += 1
    words = ["evaluate", release, "--against", scans, "--classifiers", "logistic", "-q"]
    rule = ["--unit-pattern", r"patient_(\d+)"]
    state = ["--state", tmp_path / "state"]
    assert run(*words, *rule, *state).exit_code == 2  # nothing else has a price
    result = run(*words, *rule, *state, "--publish-metrics", "--epsilon", 2)
    assert result.exit_code == 0, result.output
    core = json.loads((release / "certificate.json").read_text())["published_metrics"]
    assert core["unit"] in run("verify", release).stdout and "patient_" in core["unit"]
    assert f"a unit being {core['unit']}:" in (release / "README.md").read_text()
    assert "The unit of privacy is one record" in (release / "README.md").read_text()
    assert run("report", release).exit_code == 0
    assert "a unit being all records" in (release / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--publish-metrics"], 2, "belong together"),
        (["--epsilon", "1"], 2, "belong together"),
        (["--classifiers", "svm"], 2, "svm"),
        (["--inception", "a", "--extractor", "timm:b"], 2, "exclude each other"),
        (["--repeats", "0"], 2, "--repeats 0"),
    ],
)
def test_faults_in_the_options_are_named(
    digits_release: Path, words: list[str], code: int, message: str
) -> None:
    result = run("evaluate", digits_release, "--against", "digits", "-q", *words)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_folder_that_is_no_release_ends_with_its_exit_code(tmp_path: Path) -> None:
    assert run("evaluate", tmp_path, "--against", "digits").exit_code == 6


def test_compare_writes_table_and_plot(digits_release: Path, tmp_path: Path) -> None:
    other = shutil.copytree(digits_release, tmp_path / "other")
    words = ["compare", digits_release, other, "--against", "digits", "--classifiers", "logistic"]
    out = tmp_path / "comparison"
    result = run(*words, "--out", out, "--state", tmp_path / "state", "-q")
    assert result.exit_code == 0, result.output
    assert "NOT PRIVATE" in result.stdout
    assert {path.name for path in out.iterdir()} == {
        "comparison.json", "comparison.md", "comparison.png",
    }  # fmt: skip
    assert not any(path.stat().st_mode & 0o077 for path in (out, *out.iterdir()))
    rows = json.loads((out / "comparison.json").read_text())["releases"]
    assert [row["name"] for row in rows] == ["digits", "other"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    # A comparison leaves no evaluation behind that lacks what sfumato evaluate measures.
    assert not list((tmp_path / "state").rglob("evaluations/*.json"))


def test_compare_never_writes_into_a_release(digits_release: Path) -> None:
    result = run(
        "compare", digits_release, "--against", "digits", "--out", digits_release / "comparison"
    )
    assert result.exit_code == 2
    assert "Name another folder" in result.stderr


SUITE = """
name = "tiny"
public = true
data = ["mine"]
epsilons = [10]
seeds = [0]
samples = 60
classifiers = ["logistic"]
[methods.moments]
coefficients = 20
"""


def test_bench_runs_once_and_rewrites_tables_and_page(tmp_path: Path) -> None:
    suite, page, out = tmp_path / "tiny.toml", tmp_path / "page.md", tmp_path / "out"
    suite.write_text(SUITE)
    page.write_text("<!-- bench tiny -->\n<!-- /bench tiny -->\n")
    nothing = run("bench", suite, "--out", out, "--tables")
    assert nothing.exit_code == 2
    assert "no results" in nothing.stderr
    assert run("bench", suite, "--out", out).exit_code == 2  # where is "mine"?
    result = run("bench", suite, "--out", out, "--data", "mine=digits", "--json", "-q")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["planned"], value["done"]) == (1, 1)
    (out / "tables.md").unlink()
    assert run("bench", suite, "--out", out, "--tables", "--page", page).exit_code == 0
    assert "| moments | logistic |" in (out / "tables.md").read_text()
    assert "\\toprule" in (out / "tables.tex").read_text()
    assert "| moments | logistic |" in page.read_text()
