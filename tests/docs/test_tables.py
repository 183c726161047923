"""Tables of a page that a script writes: they say what the committed results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_claims_is_that_of_the_committed_results() -> None:
    found = importlib.util.spec_from_file_location("claims", ROOT / "benchmarks" / "claims.py")
    assert found is not None and found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- bench claims -->\n")[2].partition("<!-- /bench claims -->")[0]
    expected = script.table(ROOT / "benchmarks" / "results")
    assert shown == expected, "run: python benchmarks/claims.py benchmarks/results --page PAGE"
