"""Remaining time on plain lines counts from where a stage began, resumed or not."""

import re
import sys

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


def test_a_listener_hears_every_share_and_nothing_is_printed(capsys):
    heard = []
    progress.listen(lambda stage, share: heard.append((stage, share)))
    try:
        with progress.stage("training", begun=0.25) as report:
            report(0.5)
        with progress.stage("unheard", quiet=True) as report:
            report(0.5)
    finally:
        progress.listen(None)
    assert heard == [("training", 0.25), ("training", 0.5), ("training", 1.0)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("installed", [True, False])
def test_a_notebook_gets_a_bar_of_shares_where_tqdm_is_installed(capsys, monkeypatch, installed):
    class Notebook:
        is_jupyter, is_terminal = True, False

        def __init__(self, **settings):
            pass

    monkeypatch.setattr(progress, "Console", Notebook)
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with progress.stage("training") as report:
        report(0.4)
        report(0.8)
    shown = capsys.readouterr().err
    assert ("100 %|" in shown) == installed
    assert ("done in" in shown) != installed
    assert not re.search(r"\d/\d|it/s", shown)  # never a count
