"""Remaining time on plain lines counts from where a stage began, resumed or not."""

import pytest

from sfumato import progress


@pytest.mark.parametrize("begun", [0.0, 0.5])
def test_remaining_time_counts_from_where_a_stage_began(begun, capsys, monkeypatch):
    seconds = iter(range(0, 10_000, 20))  # twenty from each look at the clock to the next
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))
    with progress.stage("training", begun=begun) as report:
        for step in range(1, 5):
            report(begun + 0.1 * step)
    lines = capsys.readouterr().err.splitlines()
    # A tenth takes twenty seconds, whatever was done before.
    left = [round(20 * (1 - begun - 0.1 * step) / 0.1) for step in range(1, 5)]
    assert [line.split("about ")[1] for line in lines[:4]] == [f"{s} s left" for s in left]
    assert lines[4] == "training: done in 100 s"
