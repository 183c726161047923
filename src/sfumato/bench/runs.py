"""Run a suite: synthesize, evaluate, write a line; skip what is done, record what fails."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sfumato.bench.results import Line, append_result, environment, read_results
from sfumato.bench.suite import Case, Suite
from sfumato.data import open_images
from sfumato.devices import computing_device
from sfumato.evaluation.compare import FRECHET, KERNEL, fidelity
from sfumato.evaluation.judging import Judged, judge, open_real, open_release
from sfumato.options import ClassifierOptions, EvaluationOptions, ReleaseOptions, RunOptions
from sfumato.privacy import Budget
from sfumato.release.files import SAMPLES
from sfumato.synthesis import classify, synthesize

Say = Callable[[str], None]


def run_suite(
    suite: Suite,
    out: Path,
    *,
    locations: Mapping[str, str],
    minutes: float | None = None,
    retry: bool = False,
    extractor: str | None = None,
    say: Say = lambda text: None,
    quiet: bool = False,
    device: str = "auto",
) -> list[Line]:
    """Run what ``out`` has no line of yet, and return the suite's lines.

    Args:
        suite: what to run.
        out: folder of results, sample grids and working files; made if it is not there.
        locations: where each data set of the suite lies, :meth:`Suite.locations`.
        minutes: start no run that would end after so many, judging by the same method's last one.
        retry: do runs again that failed.
        extractor: of the fidelity scores, as in :func:`sfumato.evaluation.load_extractor`.
        say: takes a line about each run.
        quiet: show no progress.
        device: where everything is computed, as in :class:`RunOptions`.

    A run that fails is recorded with its error and left out from then on.

    Raises:
        DataError: a data set cannot be opened; nothing is run.
    """
    computing = RunOptions(quiet=quiet, device=str(computing_device(device, quiet)))
    for location in locations.values():
        open_images(location)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for case in suite.cases():
        known = read_results(out)
        before = [line for line in known if line["key"] == case.key()]
        if any(line["status"] == "done" or not retry for line in before):
            continue
        left = None if minutes is None else 60 * minutes - (time.monotonic() - started)
        if left is not None and left < expected_seconds(known, case):
            say(f"{case}: no time left")
            continue
        line = _run(case, suite.name, out, locations, extractor, computing)
        append_result(out, line)
        say(f"{case}: {_outcome(line)}")
    keys = [case.key() for case in suite.cases()]
    return [line for line in read_results(out) if line["key"] in keys]


def expected_seconds(known: Sequence[Line], case: Case) -> float:
    """How long the last finished run of the same method on the same data took; 0 if none did."""
    same = [
        line
        for line in known
        if line["status"] == "done"
        and (line["data"], line["method"]) == (case.data, asdict(case.method))
        and line["samples"] == case.samples
    ]
    return sum(same[-1]["seconds"].values()) if same else 0.0


def _run(
    case: Case,
    suite: str,
    out: Path,
    locations: Mapping[str, str],
    extractor: str | None,
    run: RunOptions,
) -> Line:
    key, location = case.key(), locations[case.data]
    seconds: dict[str, float] = {}
    line: Line = {
        "key": key,
        "suite": suite,
        **asdict(case),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **environment(),
        "seconds": seconds,
    }
    release, state = out / "work" / key, out / "state" / key
    try:
        chosen = case.method.chosen(case.seed, locations)
        to = ReleaseOptions(release, force=True)
        if not isinstance(chosen, ClassifierOptions):
            to = replace(to, samples=case.samples, format="parquet")
        with _timed(seconds, "synthesize"):
            (classify if isinstance(chosen, ClassifierOptions) else synthesize)(
                location,
                Budget(case.epsilon, case.delta, case.relation),
                chosen,
                to,
                replace(run, state=state),
                declared_size=case.declared_size,
            )
        with _timed(seconds, "evaluate"):
            real = open_real(location, open_release(release).spec).without_training()
            judged = judge(
                release,
                real,
                EvaluationOptions(case.classifiers, extractor=extractor, public=True),
                replace(run, state=out / "state" / "evaluation"),
                seed=case.seed,
            )
        if (release / SAMPLES).exists():  # a classifier has none
            grid = out / "samples" / f"{key}.png"
            grid.parent.mkdir(exist_ok=True)
            shutil.copyfile(release / SAMPLES, grid)
        line |= {"status": "done", **_scores(judged)}
    except Exception as error:  # the next run may well succeed, and the data is public
        # Results are shared: they name no folder of this machine.
        text = str(error).replace(str(out), "OUT")
        for name, place in locations.items():
            text = text.replace(place, name)
        line |= {"status": "failed", "error": f"{type(error).__name__}: {text}"[:500]}
    # A finished run needs them no more; an interrupted one goes on from them.
    shutil.rmtree(release, ignore_errors=True)
    shutil.rmtree(state, ignore_errors=True)
    return line


def _scores(judged: Judged) -> dict[str, Any]:
    utility, scores = judged.evaluation.utility, fidelity(judged.evaluation)
    settings = [asdict(score.setting) for score in judged.evaluation.fidelity[:1]]
    return {
        "epsilon_by_relation": judged.release.facts()["epsilon_by_relation"],
        "accuracy": {
            score.classifier: None if score.accuracy is None else score.accuracy.mean
            for score in utility
        },
        "precision": {score.classifier: score.precision for score in utility},
        "frechet": scores.get(FRECHET),
        "kernel": scores.get(KERNEL),
        "setting": settings[0] if settings else None,
    }


def _outcome(line: Line) -> str:
    if line["status"] != "done":
        return f"failed, {line['error']}"
    shown = [
        f"{name} " + ("diverged" if share is None else f"{100 * share:.1f} %")
        for name, share in line["accuracy"].items()
    ]
    taken = f"{sum(line['seconds'].values()):.0f} s"
    distance = [] if line["frechet"] is None else [f"Fréchet {line['frechet']:.4g}"]
    return ", ".join([*shown, *distance, taken])


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = round(time.monotonic() - started, 1)
