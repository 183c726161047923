"""``sfumato audit``: what it prints, writes and returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sfumato.privacy.answering import base

AUDIT = ["audit", "digits", "--method", "moments", "--set", "coefficients=6", "--epsilon", "1"]
FEW = ["--canaries", "100", "--quiet"]


def test_figures_are_printed_beside_the_claim(run: Callable, state: Path) -> None:
    result = run(*AUDIT, *FEW)
    assert result.exit_code == 0, result.output
    for said in ("PRIVATE unless DATA are public", "proves nothing", "claimed: ε = 1", "images"):
        assert said in result.output
    assert "not refuted" in result.output and "1,000 canaries" in result.output
    assert not state.exists()


def test_a_broken_claim_ends_with_code_6(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "add_noise", lambda total, std, stream: total)
    written = tmp_path / "audit.json"
    result = run(*AUDIT, *FEW, "--json", "--out", written)
    assert result.exit_code == 6
    printed = json.loads(result.stdout)
    assert printed == json.loads(written.read_text(encoding="utf-8"))
    assert written.stat().st_mode & 0o077 == 0
    assert printed["refuted"] and "PRIVATE" in printed["note"]
    assert printed["findings"][0]["epsilon_one_run"] > 1


def test_few_canaries_are_refused(run: Callable) -> None:
    assert run(*AUDIT, "--canaries", "2").exit_code == 2
