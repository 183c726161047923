from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfumato.bench import MethodChoice, Suite, read_results, run_suite, runs
from sfumato.bench.results import RESULTS, append_result
from sfumato.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("tile_features", "few_probes")

SUITE = Suite(
    name="tiny",
    public=True,
    data=("digits",),
    methods=(MethodChoice("moments", "moments", {"coefficients": 20}),),
    epsilons=(10.0,),
    seeds=(0,),
    samples=60,
    classifiers=("logistic",),
)
WHERE = {"digits": "digits"}


def test_a_run_leaves_one_line_and_its_samples(tmp_path: Path) -> None:
    said: list[str] = []
    (line,) = run_suite(SUITE, tmp_path, locations=WHERE, say=said.append, quiet=True)
    assert line["status"] == "done"
    assert line["accuracy"]["logistic"] > 0.3
    assert line["frechet"] > 0
    assert line["epsilon_by_relation"]["add-or-remove-one"] == pytest.approx(10, rel=1e-3)
    assert set(line["seconds"]) == {"synthesize", "evaluate"}
    assert line["machine"]["cores"] >= 1
    assert "torch" in line["versions"]
    assert line["setting"]["extractor"] == "tiles"
    assert (tmp_path / "samples" / f"{line['key']}.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "work").iterdir())
    assert "logistic" in said[0]
    assert read_results(tmp_path) == [line]


def test_finished_runs_are_skipped_and_new_ones_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_suite(SUITE, tmp_path, locations=WHERE, quiet=True)
    before = (tmp_path / RESULTS).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_run", None)
        run_suite(SUITE, tmp_path, locations=WHERE, quiet=True)
    assert (tmp_path / RESULTS).read_bytes() == before
    more = run_suite(replace(SUITE, seeds=(0, 1)), tmp_path, locations=WHERE, quiet=True)
    assert [line["seed"] for line in more] == [0, 1]
    assert (tmp_path / RESULTS).read_bytes().startswith(before)
    assert more[0]["accuracy"] != more[1]["accuracy"] or more[0]["frechet"] != more[1]["frechet"]


def test_a_failure_is_recorded_skipped_and_retried_on_demand(tmp_path: Path) -> None:
    failing = replace(
        SUITE, methods=(MethodChoice("broken", "moments", {"nonsense": 1}), *SUITE.methods)
    )
    said: list[str] = []
    lines = run_suite(failing, tmp_path, locations=WHERE, say=said.append, quiet=True)
    assert [line["status"] for line in lines] == ["failed", "done"]
    assert "nonsense" in lines[0]["error"]
    assert "failed" in said[0]
    run_suite(failing, tmp_path, locations=WHERE, quiet=True)
    assert len(read_results(tmp_path)) == 2
    run_suite(failing, tmp_path, locations=WHERE, retry=True, quiet=True)
    assert [line["status"] for line in read_results(tmp_path)] == ["failed", "done", "failed"]


def test_an_error_names_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(location: str, **other: Any) -> Path:
        raise DataError(f"{location}: broken; see {other['out']}")

    monkeypatch.setattr(runs, "synthesize", fails)
    (line,) = run_suite(SUITE, tmp_path, locations=WHERE, quiet=True)
    assert line["status"] == "failed"
    assert str(tmp_path) not in json.dumps(line)


def test_an_interrupted_run_goes_on_at_no_second_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sfumato.synthesis.write_release", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_suite(SUITE, tmp_path, locations=WHERE, quiet=True)
    assert read_results(tmp_path) == []
    (ledger,) = (tmp_path / "state").rglob("ledger.jsonl")
    answered = ledger.read_bytes()
    seen: list[bytes] = []
    monkeypatch.setattr(runs, "judge", lambda *_, **__: seen.append(ledger.read_bytes()) or 1 / 0)
    run_suite(SUITE, tmp_path, locations=WHERE, quiet=True)
    assert seen[0].startswith(answered)
    assert seen[0].count(b'"kind":"plan"') == 1


def test_no_run_is_started_that_would_end_too_late(tmp_path: Path) -> None:
    (line,) = run_suite(SUITE, tmp_path, locations=WHERE, quiet=True)
    (tmp_path / RESULTS).unlink()
    append_result(tmp_path, {**line, "seconds": {"synthesize": 3600.0, "evaluate": 1.0}})
    said: list[str] = []
    both = replace(SUITE, seeds=(0, 1))
    lines = run_suite(both, tmp_path, locations=WHERE, minutes=1.0, say=said.append, quiet=True)
    assert [line["seed"] for line in lines] == [0]
    assert "no time left" in said[0]


def test_a_torn_line_is_run_again(tmp_path: Path) -> None:
    append_result(tmp_path, {"key": "a"})
    with open(tmp_path / RESULTS, "ab") as file:
        file.write(b'{"key": "b", "stat')
    assert read_results(tmp_path) == [{"key": "a"}]
    append_result(tmp_path, {"key": "b"})
    assert read_results(tmp_path) == [{"key": "a"}, {"key": "b"}]


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_bytes(b'{"key": \n{"key": "b"}\n')
    with pytest.raises(DataError, match="not JSON"):
        read_results(tmp_path)


def test_data_that_cannot_be_opened_stops_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        run_suite(SUITE, tmp_path, locations={"digits": str(tmp_path / "nowhere")}, quiet=True)
    assert read_results(tmp_path) == []


def test_a_private_classifier_is_run_beside_methods_that_make_images(tmp_path: Path) -> None:
    choice = MethodChoice("dp-sgd", "dp-sgd", {"steps": 2, "batch": 50, "width": 1})
    suite = replace(SUITE, methods=(choice,), samples=0, classifiers=(), declared_size=1500)
    said: list[str] = []
    (line,) = run_suite(suite, tmp_path, locations=WHERE, say=said.append, quiet=True)
    assert line["status"] == "done", line
    assert 0 <= line["accuracy"]["dp-sgd"] <= 1
    assert line["frechet"] is None and line["setting"] is None
    assert not (tmp_path / "samples").exists() and "dp-sgd" in said[0]
    with pytest.raises(UsageError, match="samples=0"):
        replace(suite, methods=SUITE.methods)
