"""The device check in miniature: no figure of it is judged, and time is never short."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu_check")


def run(gpu_check, out, *stages, minutes="4.9"):
    code = gpu_check.main(
        ["--minutes", minutes, "--out", str(out), "--device", "cpu", "--stages", *stages]
    )
    lines = (out / "gpu_check.jsonl").read_text().splitlines()
    return code, [json.loads(line) for line in lines]


def test_each_method_is_a_line_and_one_that_fails_hides_no_other(gpu_check, monkeypatch, tmp_path):
    assert set(gpu_check.SMALL) == set(gpu_check.IMAGES)
    monkeypatch.setattr(gpu_check, "IMAGES", ["no-such-method", "moments"])
    code, lines = run(gpu_check, tmp_path, "methods")
    assert code == 1
    assert [line["what"] for line in lines] == ["no-such-method", "moments", "end"]
    assert lines[0]["error"] == "UsageError"
    assert lines[1]["right"] and "error" not in lines[1] and lines[2]["status"] == "done"
    for line in lines:
        assert line["stage"] == "methods" and line["device"] == "the CPU" and line["tiny"]
        assert line["torch"] and line["sfumato"] and "commit" in line and line["seconds"] >= 0


def test_a_stage_that_fails_or_has_no_time_left_hides_no_other(gpu_check, monkeypatch, tmp_path):
    def failing(check):
        yield {"what": "first"}
        raise ZeroDivisionError

    def endless(check):
        yield {"what": "first"}
        while True:
            pass

    def last(check):
        yield {"what": "last"}

    stages = {"engines": (1.0, failing), "mepf": (0.01, endless), "paper": (1.0, last)}
    monkeypatch.setattr(gpu_check, "STAGES", stages)
    code, lines = run(gpu_check, tmp_path, *stages, minutes="2")
    assert code == 1
    ends = [line for line in lines if line["what"] == "end"]
    assert [end["status"] for end in ends] == ["failed", "time over", "done"]
    assert ends[0]["error"] == "ZeroDivisionError"
    assert [line["what"] for line in lines if line["what"] != "end"] == ["first", "first", "last"]
