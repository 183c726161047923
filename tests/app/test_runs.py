"""Runs on the page: begun, watched, refused twice, cancelled, resumed, looked at, downloaded."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sfumato.app.child import Recorder
from sfumato.app.runs import Run, Runs
from sfumato.app.worker import last_message
from sfumato.app.zipped import zipped
from sfumato.errors import UsageError

FORM = {"data": "digits", "epsilon": "10", "method": "moments", "samples": "60", "name": "first"}
PATIENCE = 300.0


def wait(browser: Any, run: str, state: str) -> None:
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        told = browser.get(f"{run}/progress").json()
        assert set(told) <= {"state", "done", "stage", "share", "left"}
        if told["state"] != "running":
            break
        time.sleep(0.1)
    assert told["state"] == state, browser.get(run).text


def test_a_run_is_cancelled_resumed_under_another_server_and_charged_once(
    shared: Any, tmp_path: Path
) -> None:
    browser = shared.browser()
    plan = browser.get("/plan", params=FORM)
    assert plan.status_code == 200 and "their odds change by a factor of at most" in plan.text

    run = browser.post("/runs", data=FORM).headers["location"]
    second = browser.post("/runs", data={**FORM, "epsilon": "1", "name": "second"})
    assert second.status_code == 400 and "is going on already" in second.text
    assert "At work" in browser.get(run).text
    for part in ("samples.png", "report", "download"):
        assert browser.get(f"{run}/{part}").status_code == 404

    again = type(shared)(shared.root, shared.state)  # the server was started again
    other = again.browser()
    assert other.get(f"{run}/progress").json()["state"] == "running"
    assert other.post(f"{run}/resume").status_code == 400
    assert other.post(f"{run}/cancel").status_code == 303
    wait(other, run, "stopped")
    assert "can go on" in browser.get(run).text

    assert other.post(f"{run}/resume").status_code == 303
    wait(browser, run, "finished")
    assert other.post(f"{run}/resume").status_code == 400  # what is finished stays so
    shown = browser.get(run).text
    assert "samples.png" in shown and str(shared.state) not in shown.partition("<pre")[0]

    release = shared.root / "sfumato-releases/first"
    assert browser.get(f"{run}/samples.png").content == (release / "samples.png").read_bytes()
    report = browser.get(f"{run}/report")
    assert report.content == (release / "report.html").read_bytes()
    policy = report.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts") and "allow-same-origin" not in policy
    archive = zipfile.ZipFile(io.BytesIO(browser.get(f"{run}/download").content))
    inside = {name: archive.read(name) for name in archive.namelist()}
    files = [path for path in release.rglob("*") if path.is_file()]
    assert inside == {f"first/{p.relative_to(release).as_posix()}": p.read_bytes() for p in files}

    assert "<h2>Verified</h2>" in browser.post(f"{run}/verify").text
    (release / "README.md").write_text("changed")
    refused = browser.post(f"{run}/verify")
    assert refused.status_code == 400 and "README.md" in refused.text

    assert browser.post("/ledger", data={"data": "digits", "cap": "11"}).status_code == 303
    ledger = browser.get("/ledger", params={"data": "digits"}).text
    assert ledger.count("<td>moments</td>") == 1 and "ε = 11 (add-or-remove-one)" in ledger


def test_a_plan_that_cannot_be_says_why(shared: Any) -> None:
    browser = shared.browser()
    for wrong in ({"epsilon": "-1"}, {"epsilon": "many"}, {"image-size": "7"}):
        answer = browser.get("/plan", params={**FORM, **wrong})
        assert answer.status_code == 400 and 'role="alert"' in answer.text
        assert "Traceback" not in answer.text


def record(runs: Runs, folder: Path, **files: str) -> Run:
    """A run whose process is gone, with what it left."""
    id = "20260101-000000-00000000"
    (folder / id).mkdir()
    facts = {
        "id": id,
        "started": "",
        "data_set": {"data": "d"},
        "ledger": "l",
        "out": "o",
        "arguments": [],
    }
    (folder / id / "run.json").write_text(json.dumps(facts))
    for name, text in files.items():
        (folder / id / name.replace("_", ".")).write_text(text)
    run = runs.find(id)
    assert run is not None
    return run


@pytest.mark.parametrize(
    ("code", "state"), [(None, "stopped"), ("", "stopped"), ("0", "finished"), ("130", "stopped")]
)
def test_the_disk_tells_how_a_run_ended(tmp_path: Path, code: str | None, state: str) -> None:
    runs = Runs(tmp_path)
    run = record(runs, tmp_path, **({} if code is None else {"exit": code}))
    assert runs.state(run) == state
    assert runs.progress(run) == {}
    runs.cancel(run)  # nobody to interrupt
    if state == "finished":
        with pytest.raises(UsageError):
            runs.resume(run)


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    run = record(runs, tmp_path, exit="4", errors_txt="warning\nsfumato: no.\nmore\n")
    assert runs.state(run) == "failed"
    assert runs.message(run) == "no.\nmore"
    assert "without a word" in last_message("")


@pytest.mark.parametrize("id", ["..", "", "20260101-000000-0000000g", "x" * 24])
def test_only_names_of_runs_are_looked_up(tmp_path: Path, id: str) -> None:
    assert Runs(tmp_path).find(id) is None


def test_progress_holds_stages_and_shares_alone(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    recorder = Recorder(path)
    recorder("reading", 0.0)
    recorder("reading", 1.0)
    assert json.loads(path.read_text())["share"] == 1
    recorder("training", 0.5)  # resumed half-way: nothing is known of the time
    assert json.loads(path.read_text()) == {
        "done": ["reading"],
        "stage": "training",
        "share": 0.5,
        "left": None,
    }
    recorder("training", 0.6)  # too soon to be written
    assert json.loads(path.read_text())["share"] == 0.5


def test_a_zip_holds_regular_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.png").write_bytes(bytes(3_000_000))
    (tmp_path / "secret").write_text("private")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "away").symlink_to(tmp_path)
    parts = list(zipped(folder))
    assert len(parts) > 2  # it is made while it is sent
    archive = zipfile.ZipFile(io.BytesIO(b"".join(parts)))
    assert archive.testzip() is None and archive.namelist() == ["release/images/a.png"]
