from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfumato.bench import rewrite_section, to_latex, to_markdown
from sfumato.errors import UsageError

SETTING = {
    "extractor": "efficientnet-lite0, pooled",
    "weights_digest": "ab" * 32,
    "synthetic_count": 10_000,
    "real_count": 10_000,
    "image_type": "uint8",
    "grey_rule": None,
}


def line(label: str, epsilon: float, seed: int, accuracy: float | None, **other: Any) -> Any:
    return {
        "key": f"{label} {epsilon} {seed}",
        "status": "done",
        "data": "fashion-mnist",
        "method": {"label": label, "method": label, "options": {}},
        "epsilon": epsilon,
        "epsilon_by_relation": {"add-or-remove-one": epsilon, "replace-one": 2.2 * epsilon},
        "delta": 1e-5,
        "relation": "add-or-remove-one",
        "seed": seed,
        "samples": 60_000,
        "accuracy": {"cnn": accuracy},
        "frechet": 20.0 + seed,
        "kernel": 0.01,
        "seconds": {"synthesize": 100.0, "evaluate": 50.0},
        "setting": SETTING,
        "commit": "0123456789ab",
        "machine": {"cpu": "A_CPU", "cores": 2, "threads": 1, "gpu": None},
        **other,
    }


LINES = [
    line("mepf", 1.0, 0, 0.80),
    line("mepf", 1.0, 1, 0.84),
    line("mepf", 10.0, 0, 0.86),
    line("moments", 1.0, 0, None),
]


def row(markdown: str, start: str) -> list[str]:
    (found,) = [text for text in markdown.splitlines() if text.startswith(start)]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_figures_stand_beside_published_ones_with_their_source() -> None:
    text = to_markdown(LINES)
    assert row(text, "| mepf | cnn") == [
        "mepf",
        "cnn",
        "82.0 ± 2.8",
        "86.0",
        "none",
        "measured here",
    ]
    assert row(text, "| moments | cnn") == ["moments", "cnn", "–", "–", "none", "measured here"]
    assert row(text, "| DPDM | CNN-type") == [
        "DPDM", "CNN-type", "76.4", "85.6", "GPU", "dpimagebench",
    ]  # fmt: skip
    assert "arXiv 2503.14681" in text
    assert "(unchecked) quoted second-hand" in text
    assert "budgeted under add-or-remove-one; ε = 1 (add-or-remove-one), 2.2 (replace-one)" in text
    assert "commit 0123456789ab" in text


def test_what_a_method_needs_is_said_of_our_rows_too() -> None:
    public = line("dpdm", 1.0, 0, 0.7, method={"label": "dpdm", "options": {"public": "x"}})
    machine = {"cpu": "A_CPU", "cores": 2, "threads": 1, "gpu": "A_GPU"}
    text = to_markdown([*LINES, public, line("merf", 1.0, 0, 0.6, machine=machine)])
    assert "public images" in row(text, "| dpdm | cnn")
    assert "GPU" in row(text, "| merf | cnn")


def test_distances_name_their_features_and_keep_apart_from_published_fid() -> None:
    text = to_markdown(LINES)
    assert row(text, "| mepf | 1 |") == [
        "mepf",
        "1",
        "20.50 ± 0.71",
        "10.00 ± 0.00",
        "100 ± 0",
        "50 ± 0",
    ]
    assert "efficientnet-lite0, pooled (SHA-256 abababababab…)" in text
    assert row(text, "| DP-MERF | – |") == ["DP-MERF", "–", "106", "dpimagebench-2025"]
    assert "not to be compared" in text


def test_failures_are_listed_until_a_later_line_mends_them() -> None:
    failed = {**line("mepf", 1.0, 2, None), "status": "failed", "error": "UsageError: no | good"}
    text = to_markdown([*LINES, failed])
    assert "Failed runs" in text
    assert "UsageError: no / good" in text
    assert "Failed runs" not in to_markdown([*LINES, failed, line("mepf", 1.0, 2, 0.8)])


def test_latex_is_escaped_and_balanced() -> None:
    text = to_latex(LINES)
    assert "A\\_CPU" in text
    assert "82.0 $\\pm$ 2.8" in text
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 3
    for mark in "ε±δ–…×":
        assert mark not in text
    assert "accuracy (\\%)" in text


def test_a_section_is_rewritten_and_the_rest_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench x -->\nold\n<!-- /bench x -->\nb\n")
    rewrite_section(page, "x", "new\n")
    rewrite_section(page, "x", "newer\n")
    assert page.read_text() == "a\n<!-- bench x -->\nnewer\n<!-- /bench x -->\nb\n"
    with pytest.raises(UsageError, match="bench y"):
        rewrite_section(page, "y", "new\n")
    with pytest.raises(UsageError, match="cannot be read"):
        rewrite_section(tmp_path / "none.md", "x", "new\n")


def test_private_classifiers_have_a_table_of_their_own() -> None:
    own = {"frechet": None, "kernel": None, "setting": None, "samples": 0}
    lines = [
        {**line("dp-sgd", 1.0, 0, None), **own, "accuracy": {"dp-sgd": 0.8}},
        {**line("dp-sgd", 10.0, 0, None), **own, "accuracy": {"dp-sgd": 0.85}},
    ]
    text = to_markdown(lines)
    assert "accuracy (%) of private classifiers on real test images" in text
    assert row(text, "| dp-sgd") == ["dp-sgd", "80.0", "85.0", "100", "none", "measured here"]
    assert "synthetic" not in text and "Fréchet" not in text
    both = to_markdown([*LINES, *lines])
    assert row(both, "| mepf | cnn")[:2] == ["mepf", "cnn"] and "| dp-sgd | cnn" not in both
