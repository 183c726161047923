"""The method of ``docs/adding-a-method.md``, as a package of its own, through every command."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sfumato.methods import registry

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


@pytest.fixture
def averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's example, installed; returns its text."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (points,) = re.findall(r"```toml\n\[project.entry-points.*?\]\n(.*?)```", text, re.DOTALL)
    info = tmp_path / "averages-1.0.dist-info"
    info.mkdir()
    (tmp_path / "averages.py").write_text(code, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: averages\nVersion: 1.0\n")
    entry = points.replace('"', "")
    (info / "entry_points.txt").write_text(f"[sfumato.methods]\n{entry}")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._known.cache_clear()
    yield code
    registry._known.cache_clear()
    sys.modules.pop("averages", None)


def test_the_example_is_short_and_every_command_knows_it(
    averages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.cli.app import app

    monkeypatch.setenv("SFUMATO_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    lines = [line for line in averages.splitlines() if line.strip()]
    assert len(lines) <= 66

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "grain" in run("methods", "averages")
    method = ["--epsilon", "1", "--method", "averages"]
    plan = json.loads(run("plan", "digits", *method, "--json"))
    assert plan["events"][0]["count"] == 1
    run("audit", "digits", *method, "--canaries", "100", "--quiet")
    made = ["--out", "release", "--samples", "40", "--quiet", "--set", "grain=0.2"]
    run("synthesize", "digits", *method, *made)
    assert json.loads(run("verify", "release", "--json"))["method"] == "averages"
    run("sample", "release", "--samples", "5", "--out", "more", "--quiet")
