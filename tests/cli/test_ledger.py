"""``sfumato ledger`` finds the ledger of whatever ``synthesize`` can read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def test_data_that_need_words_have_a_ledger_too(run: Callable[..., Any], tmp_path: Path) -> None:
    encoded = io.BytesIO()
    Image.new("L", (32, 32), 90).save(encoded, "PNG")
    table = tmp_path / "scans.parquet"
    pq.write_table(pa.table({"scan": [encoded.getvalue()] * 3}), table)
    assert run("ledger", table, "--json").exit_code == 3  # nobody can tell which column it is
    words = ["--image-key", "scan", "--json"]
    first = run("ledger", table, *words, "--cap", 2)
    assert json.loads(first.stdout)["cap"]["epsilon"] == 2
    again = json.loads(run("ledger", table, *words, "--image-size", 64).stdout)
    assert again["ledger"] == json.loads(first.stdout)["ledger"] and again["runs"] == 0
