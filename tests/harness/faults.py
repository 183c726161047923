"""Kill `synthesize` at every change of a file and at random moments, and run it again to its end.

Question: is anything lost, spent twice, or answered before it is charged? Each run is a process
forked from one that has imported everything, on a hundred digits of scikit-learn. After each kill
the ledger must be whole and have charged whatever has left the curator; in the end the command
must have ended well, with one charge, one answer to every question and a release that verifies.
Where the release was whole already, the command says so, and ends well with --force.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fault_disk import Disk, Fault
from sklearn.datasets import load_digits

from sfumato.errors import SfumatoError, UsageError
from sfumato.methods import DPDM, DataLens, Moments, training
from sfumato.methods.base import Method
from sfumato.privacy import Curator
from sfumato.privacy.answering import sampled, vote
from sfumato.privacy.ledger import Entry, Ledger
from sfumato.release import verify
from sfumato.synthesis import synthesize

METHODS: dict[str, Method] = {
    "moments": Moments(coefficients=6),
    "dpdm": DPDM(
        steps=4,
        batch=20,
        multiplicity=1,
        width=4,
        blocks=1,
        patch=2,
        sampling_steps=2,
        warm_up="moments",
        warm_up_steps=2,
    ),
    "datalens": DataLens(
        teachers=20,
        kind="network",
        steps=4,
        images_per_class=1,
        entries=8,
        dimension=6,
        student_steps=1,
        width=4,
    ),
}
QUESTIONS = {"moments": 1, "dpdm": 5, "datalens": 4}
"""How many answers a whole run gets."""
RECORDS = 100
SAVED_EVERY = 2


class Case:
    """A method's job in a folder of its own: forked, killed, looked at, and run again."""

    def __init__(self, method: str, folder: Path, **options: Any) -> None:
        self.method, self.folder, self.options = method, folder, options
        self.state, self.out = folder / "state", folder / "out" / "release"
        self.told, self.text = folder / "answers", folder / "text"
        self.data = folder / "digits.npz"
        if not self.data.exists():
            images, labels = few_digits()
            np.savez(self.data, images=images, labels=labels)

    def start(self, disk: Disk | None = None, before: Callable[[], object] | None = None) -> int:
        """Fork a process that does the job, and return its id."""
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            with open(self.text, "w") as text, contextlib.redirect_stderr(text):
                code = self._job(disk, before)
        finally:
            os._exit(code)

    def _job(self, disk: Disk | None, before: Callable[[], object] | None) -> int:
        try:
            self._tell()
            if before is not None:
                before()
            if disk is not None:
                disk.install()
            synthesize(**self.arguments())
        except SfumatoError as error:
            self._note(f"{type(error).__name__}: {error}")
            return error.exit_code
        except OSError as error:
            self._note(f"OSError: {error}")
            return 1
        except BaseException:
            self._note(traceback.format_exc())
            return 70
        if disk is not None:
            self._note(json.dumps([disk.done, disk.writes]))
        return 0

    def arguments(self) -> dict[str, Any]:
        """What is asked for."""
        return {
            "data": self.data,
            "epsilon": 10.0,
            "classes": 10,
            "declared_size": RECORDS,
            "method": METHODS[self.method],
            "samples": 3,
            "out": self.out,
            "state": self.state,
            "quiet": True,
            **self.options,
        }

    def _note(self, text: str) -> None:
        # By descriptor: the disk that fails is not asked.
        handle = os.open(self.text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(handle, text.encode())
        os.close(handle)

    def _tell(self) -> None:
        """Note each answer the moment it leaves the curator."""
        handle = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def noting(name: str) -> Any:
            true = getattr(Curator, name)

            def asked(curator: Curator, query: str, *args: Any) -> Any:
                answer = true(curator, query, *args)
                values = answer.total if name == "sum" else answer.numpy()
                signature = hashlib.sha256(values.tobytes()).hexdigest()
                step = args[0] if args else 0
                os.write(handle, (json.dumps([query, step, signature]) + "\n").encode())
                return answer

            return asked

        for name in ("sum", "gradient", "vote"):
            setattr(Curator, name, noting(name))

    def run(self, disk: Disk | None = None, before: Callable[[], object] | None = None) -> int:
        """Do the job to its end or the disk's; its exit code, or minus the signal."""
        _, status = os.waitpid(self.start(disk, before), 0)
        return os.waitstatus_to_exitcode(status)

    def again(self) -> int:
        """Do as one is told to after a kill: the same command, or --force if it asks for that."""
        code = self.run()
        if code == UsageError.exit_code and "already holds a release" in self.said():
            verify(self.out)
            if "closed" in [entry["kind"] for entry in self.entries()]:
                return 0  # it was killed after its end
            code = Case(self.method, self.folder, **self.options, force=True).run()
        return code

    def said(self) -> str:
        """What the last process said."""
        return self.text.read_text() if self.text.exists() else ""

    def answers(self) -> dict[tuple[str, int], set[str]]:
        """The different answers to each question that have ever left."""
        found: dict[tuple[str, int], set[str]] = {}
        for line in self.told.read_text().splitlines() if self.told.exists() else []:
            name, step, signature = json.loads(line)
            found.setdefault((name, step), set()).add(signature)
        return found

    def entries(self) -> list[Entry]:
        """The ledger, read from a copy: nothing is mended for the next run."""
        (folder,) = [*self.state.glob("*/")] or [self.state]
        with tempfile.TemporaryDirectory() as copy:
            for path in folder.glob("ledger.[jh]*"):
                shutil.copy(path, copy)
            entries = Ledger(Path(copy)).entries()
        return [entry for entry in entries if entry["kind"] != "data"]

    def problems_now(self) -> Iterator[str]:
        """What is wrong at a moment when the job may have been killed."""
        plans = [entry for entry in self.entries() if entry["kind"] == "plan"]
        if len(plans) > 1:
            yield f"{len(plans)} charges"
        paid = {event["name"]: event["count"] for plan in plans for event in plan["events"]}
        for (name, step), signatures in self.answers().items():
            if step >= paid.get(name, 0):
                yield f"{name} {step} was answered and not charged"
            if len(signatures) > 1:
                yield f"{name} {step} has {len(signatures)} answers"

    def problems_at_the_end(self, killed_after: bool = False) -> Iterator[str]:
        """What is wrong after the job has ended well; secrets may outlive one killed after that."""
        yield from self.problems_now()
        kinds = [entry["kind"] for entry in self.entries()]
        if kinds.count("plan") != 1 or kinds.count("closed") != 1:
            yield f"the ledger has {kinds}"
        if len(self.answers()) != QUESTIONS[self.method]:
            yield f"{len(self.answers())} questions were answered"
        verify(self.out)
        left = [path.name for path in self.state.rglob("*") if path.name in SECRETS]
        left += [path.name for path in self.state.rglob("steps-*")]
        left += [path.name for path in self.out.parent.glob(".*")]
        if left and not killed_after:
            yield f"{left} outlive the run"


SECRETS = ("key",)


@cache
def few_digits() -> tuple[np.ndarray, np.ndarray]:
    """The first digits of scikit-learn, uint8 ``[n, 8, 8]``, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return (images[:RECORDS] * 15).astype(np.uint8).reshape(-1, 8, 8), labels[:RECORDS]


def killed(case: Case, kill: Callable[[], int]) -> dict[str, Any]:
    """Kill the job, look, run it to its end, look again: one row, with what was wrong."""
    code = kill()
    wrong = list(case.problems_now())
    charged, left = len(case.entries()), sum(map(len, case.answers().values()))
    ended = "closed" in [entry["kind"] for entry in case.entries()]
    again = case.again()
    if again != 0:
        wrong.append(f"the same command ended with {again}: {case.said()}")
    else:
        wrong += case.problems_at_the_end(ended)
    return {"code": code, "entries": charged, "answers_left": left, "wrong": wrong}


def prepare(*methods: str) -> None:
    """Import and warm up what all forks share; checkpoints every few steps."""
    torch.set_num_threads(1)
    for module in (vote, training):
        module.SAVED_EVERY = SAVED_EVERY
    sampled.engine_that_fits = lambda *_: (
        "layers",
        64,
    )  # so that the number of changes is always the same
    for method in methods:
        with tempfile.TemporaryDirectory() as place:
            case = Case(method, Path(place))
            synthesize(**case.arguments())


def count(method: str, folder: Path) -> tuple[int, list[int]]:
    """How many changes the job makes when nothing fails, and which of them are writes."""
    case = Case(method, folder)
    disk = Disk((case.state, case.out.parent))
    if case.run(disk) != 0:
        raise SystemExit(f"{method} does not even end unharmed: {case.said()}")
    done, writes = json.loads(case.said())
    if wrong := list(case.problems_at_the_end()):
        raise SystemExit(f"{method}, unharmed, ends wrong: {wrong}")
    return done, writes


def at_change(method: str, folder: Path, fault: Fault, at: int) -> dict[str, Any]:
    """Fail at one change."""
    case = Case(method, folder)
    return killed(case, lambda: case.run(Disk((case.state, case.out.parent), fault, at)))


def at_random(method: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Kill after some time."""
    case = Case(method, folder)

    def kill() -> int:
        child = case.start()
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return killed(case, kill)


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each method and way to be hurt."""
    chance = random.Random(arguments.seed)

    def fresh() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    for method in arguments.methods:
        started = time.perf_counter()
        changes, writes = count(method, fresh())
        whole = time.perf_counter() - started
        for fault in ("kill", "tear", "full", "read-only"):
            places = writes if fault == "tear" else list(range(changes))
            if fault in ("full", "read-only") and len(places) > arguments.most:
                places = sorted(chance.sample(places, arguments.most))
            found = [at_change(method, fresh(), fault, place) for place in places]
            yield row(method, fault, changes, found)
        times = [chance.uniform(0, whole) for _ in range(arguments.runs)]
        found = [at_random(method, fresh(), seconds) for seconds in times]
        yield row(method, "kill at random", changes, found)


def row(method: str, fault: str, changes: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up."""
    return {
        "method": method,
        "fault": fault,
        "changes_of_files": changes,
        "runs": len(found),
        "died_or_refused": sum(one["code"] != 0 for one in found),
        "after_charge": sum(one["entries"] > 0 for one in found),
        "after_an_answer": sum(one["answers_left"] > 0 for one in found),
        "wrong": [text for one in found for text in one["wrong"]],
    }


def main() -> None:
    """Parse, run, print and write after every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--runs", type=int, default=40, help="kills at random, for each method")
    parser.add_argument("--most", type=int, default=20, help="places of a full or read-only disk")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    arguments = parser.parse_args()
    prepare(*arguments.methods)
    done = []
    with tempfile.TemporaryDirectory() as place:
        for one in rows(arguments, Path(place) / "case"):
            done.append(one)
            print(json.dumps(one), flush=True)
            if arguments.json:
                facts = {"seed": arguments.seed, "torch": torch.__version__, "rows": done}
                arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(any(one["wrong"] for one in done))


if __name__ == "__main__":
    main()
