"""What does Sfumato do on this device? Correctness, ratios, rates and a real run, within minutes.

One command for somebody who has a GPU for a quarter of an hour. Its stages run in this order, each
within its share of the time, and add a JSON line to ``DIR/gpu_check.jsonl`` with every figure:

* ``methods``: each image method is fitted on digits, in a few small steps, and must sample finite
  images of the right shape;
* ``sums``: what two ``sum`` queries take from each image, compared with the CPU's;
* ``engines``: the clipped per-unit gradient and, where it is installed, Opacus' over the plain one,
  K 1, 8 and 32, as ``clipped_gradient.py`` measures it;
* ``mepf``: DP-MEPF's pass over images over the bare encoder, as ``mepf_speed.py`` measures it;
* ``paper``: seconds a step of DPDM's preset ``paper`` at its batch, first from the gradients of as
  many units as time allows, in proportion; then, where time allows, of steps through the curator;
* ``release``: ``dpdm`` with a warm-up on Fashion-MNIST, with as many steps as time allows at the
  measured rate; its samples (``samples.png``) and its accuracy on the test set.

On a CPU with less than five minutes everything is tiny, on digits, the curator's steps are small
ones, and the last stage warms up with ``moments``: that shows that the script runs, and its figures
say nothing of a GPU. Noise is always drawn by the CPU. All data are public.

    python benchmarks/gpu_check.py --minutes 10 --out DIR [--device auto] [--stages methods ...]
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clipped_gradient import measured, random_units, seconds, setting
from gradient_peers import MODES
from mepf_speed import feature_turns, summary

from sfumato import synthesize
from sfumato.bench.results import environment
from sfumato.choosing import make_method
from sfumato.data import PublicSpec, open_images
from sfumato.devices import described, resolve_device
from sfumato.errors import DataError
from sfumato.evaluation.judging import judge, open_real
from sfumato.features import public_patches
from sfumato.methods import DPDM, DPMEPF, Moments, find_method
from sfumato.methods.dpdm.diffusion import Denoiser, DenoisingLoss, network_of
from sfumato.methods.dpdm.phases import PUBLIC_BATCH
from sfumato.methods.registry import IMAGES
from sfumato.privacy import Budget, Curator, SumQuery
from sfumato.privacy.answering.integer_sums import contributions
from sfumato.privacy.gradients.per_example import fastest_engine, gradient_sum, units_at_once

BUDGET = Budget(10.0, 1e-5)
SMALL: dict[str, dict[str, Any]] = {
    "mepf": {"steps": 3, "batch": 20, "layers": (5, 8), "labeller_size": 20, "width": 16},
    "moments": {},
    "dpdm": {"steps": 3, "batch": 20, "multiplicity": 2, "width": 8, "blocks": 1}
    | {"patch": 4, "sampling_steps": 2, "warm_up_steps": 3},
    "dpgan": {"steps": 4, "batch": 20, "critic_steps": 2, "discriminator_width": 4}
    | {"generator_width": 4, "latent": 8},
    "dpaf": {"steps": 3, "batch": 20, "every": 2, "width": 4, "maps": 4, "upper_width": 4}
    | {"generator_width": 4, "latent": 8, "generator_steps": 1, "generated": 2}
    | {"memory": 2, "first_layer_steps": 2},
    "datalens": {"teachers": 40, "steps": 3, "images_per_class": 2, "entries": 8}
    | {"dimension": 10, "student_steps": 2, "width": 4},
    "merf": {"steps": 3, "batch": 20, "width": 4, "latent": 8, "frequencies": 20},
    "ntk": {"steps": 3, "batch": 20, "width": 4, "latent": 8, "hidden": 3},
    "pe": {"iterations": 3, "candidates": 4, "kept": 6, "near": "pixels"},
    "guided": {"kept": 4, "matching_steps": 3, "pull_steps": 2, "labeller_size": 20},
}
"""A method's settings where it shall only be seen to work."""
FROM_PUBLIC = ("guided",)
"""The methods that need public images."""
DECLARED = {"digits": 1437, "fashion-mnist": 60_000}
"""Public numbers of training records."""
SAMPLES = 20
CURATOR_STEPS = 3

Line = dict[str, Any]


class TimeOver(BaseException):
    """A stage's share of the time is used up; no ``except Exception`` on the way may keep it."""


@dataclass(frozen=True)
class Check:
    """What the stages share; ``until`` is when this one ends, by the monotonic clock."""

    device: torch.device
    data: str
    tiny: bool
    out: Path
    work: Path
    until: float

    def left(self) -> float:
        """Seconds that are left to the stage."""
        return max(0.0, self.until - time.monotonic())


def methods(check: Check) -> Iterator[Line]:
    """Each image method on digits; a failure hides no other."""
    source = open_images("digits", declared_size=DECLARED["digits"])
    shape = (SAMPLES, source.spec.channels, source.spec.height, source.spec.width)
    for name in IMAGES:
        started = time.perf_counter()
        try:
            kind = find_method(name)
            state = check.work / "methods" / name
            with Curator(source, BUDGET, state=state, quiet=True, device=check.device) as curator:
                public = {"public": public_patches(source.spec)} if name in FROM_PUBLIC else {}
                model: Any = kind(**SMALL[name], **public).fit(curator)
                images = np.concatenate([part for part, _ in model.sample(SAMPLES, 0)])
                curator.close()
            weights = all(np.isfinite(t).all() for t in model.tensors().values() if t.dtype != bool)
            right = images.shape == shape and images.dtype == np.uint8 and bool(weights)
            line: Line = {"right": right, "different_pixels": len(np.unique(images))}
            line |= {} if right else {"error": "WrongImages"}
        except Exception as error:
            traceback.print_exc()
            line = {"error": type(error).__name__}
        yield {"what": name, **line, "took_s": time.perf_counter() - started}


def sums(check: Check) -> Iterator[Line]:
    """What two sums take from each of 128 digits on the device, beside the CPU's."""
    source = open_images("digits")
    images, labels = map(torch.from_numpy, next(source.batches(128)))
    for query in (
        Moments().queries(source.spec)[0],
        DPMEPF(**SMALL["mepf"]).queries(source.spec)[0],
    ):
        assert isinstance(query, SumQuery)
        theirs = contributions(query, images, labels, check.device).cpu()
        ours = contributions(query, images, labels)
        difference = (theirs - ours).norm(dim=1).max() / query.clip_norm
        yield {"what": f"sum {query.name}", "furthest_row_of_clip_norm": float(difference)}


def engines(check: Check) -> Iterator[Line]:
    """Clipped over plain gradient of as many images at each K, and Opacus' where it is there."""
    images = 64 if check.device.type == "cpu" else 2048
    peers = MODES if find_spec("opacus") and not check.tiny else ()
    for multiplicity in (1, 8, 32):
        units = setting(images // multiplicity, multiplicity, check.device)
        engine, turns = ("layers", 1) if check.tiny else (None, 5)
        result = measured(*units, engine, turns, peers)
        yield {"what": f"K {multiplicity}", **result}


def mepf(check: Check) -> Iterator[Line]:
    """The pass over digits, or over Fashion-MNIST's test set, against the bare encoder."""
    source = open_images("digits:test" if check.tiny else f"{check.data}:test")
    method = DPMEPF(**SMALL["mepf"]) if check.tiny else DPMEPF()
    turns = feature_turns(method, source, check.device, 1 if check.tiny else 5)
    bare, moments, whole = zip(*turns, strict=True)
    yield {"what": "perceptual moments", **summary(bare, moments)}
    yield {"what": "release before its noise", **summary(bare, whole)}


def step_seconds(method: DPDM, spec: PublicSpec, check: Check, limit: float) -> Line:
    """Seconds of a step's clipped gradients, from as many units as fit into ``limit`` seconds."""
    network, loss = trained_by(method, spec, check.device)
    shape, classes = (spec.channels, spec.height, spec.width), max(1, len(spec.classes))
    units, until = min(units_at_once(loss), method.batch), time.monotonic() + limit
    batch = random_units(loss, shape, classes, units, check.device)
    engine = "layers" if check.tiny else fastest_engine(network, loss, batch)
    while True:
        taken = seconds(
            partial(gradient_sum, network, loss, batch, method.clip_norm, engine), check.device
        )
        more = min(4 * units, method.batch)
        if more == units or time.monotonic() + taken * more / units > until:
            break
        units, batch = more, random_units(loss, shape, classes, more, check.device)
    return {"engine": engine, "units": units, **rate(taken * method.batch / units, method)}


def trained_by(method: DPDM, spec: PublicSpec, device: torch.device) -> tuple[Any, DenoisingLoss]:
    """The network and loss that ``method`` trains."""
    torch.manual_seed(method.seed_public)
    network = network_of(method.shape, spec).to(device)
    denoiser = Denoiser.of(network, method.parameterisation)
    return network, DenoisingLoss(denoiser, method.multiplicity, method.label_dropout)


def rate(step_s: float, method: DPDM) -> Line:
    """A step's seconds, and what they come to."""
    hours = step_s * method.steps / 3600
    return {"step_s": step_s, "steps_per_s": 1 / step_s, "full_run_hours": hours}


def paper(check: Check) -> Iterator[Line]:
    """DPDM's preset ``paper``: gradients alone, then the curator's steps, with their noise."""
    source = open_images(check.data, declared_size=DECLARED[check.data])
    method: Any = make_method("dpdm", source.spec, preset="paper")
    facts = {key: getattr(method, key) for key in ("batch", "multiplicity", "steps")}
    found = step_seconds(method, source.spec, check, check.left() / 4)
    yield {"what": "gradients alone", **facts, **found}
    if check.tiny:
        method = DPDM(**{**SMALL["dpdm"], "steps": 1 + CURATOR_STEPS})
        facts = {key: getattr(method, key) for key in facts}
    elif found["step_s"] * (CURATOR_STEPS + 2) > check.left():
        return
    network, loss = trained_by(method, source.spec, check.device)
    state = check.work / "paper"
    with Curator(source, BUDGET, state=state, quiet=True, device=check.device) as curator:
        curator.open(method)
        steps = itertools.count()
        taken = [
            seconds(lambda: curator.gradient("gradient", next(steps), network, loss), check.device)
            for _ in range(1 + CURATOR_STEPS)  # the first one reads the images and tries engines
        ]
    yield {"what": "through the curator", **facts, **rate(float(np.median(taken[1:])), method)}


def release(check: Check) -> Iterator[Line]:
    """A run from the images to the accuracy, with steps for about half of the time that is left."""
    size, left = DECLARED[check.data], check.left()
    spec = open_images(check.data, declared_size=size).spec
    options: Line = {"warm_up": "moments" if check.tiny else "mepf"}
    options |= DPDM.short if check.tiny else {}
    preset = None if check.tiny else "cpu"
    method: Any = make_method("dpdm", spec, options, preset=preset)
    found = step_seconds(method, spec, check, left / 20)
    warm_s = found["step_s"] * PUBLIC_BATCH / (method.batch * method.multiplicity)
    options |= {
        "steps": int(np.clip(0.3 * left / found["step_s"], 1, 20 if check.tiny else 2000)),
        "warm_up_steps": int(np.clip(0.1 * left / warm_s, 1, 50 if check.tiny else 3000)),
    }
    started, folder = time.perf_counter(), check.work / "release"
    run = {"state": check.work / "state", "quiet": True, "device": str(check.device)}
    wanted = {"out": folder, "samples": 200 if check.tiny else 10_000, **asdict(BUDGET), **run}
    synthesize(
        check.data, declared_size=size, method="dpdm", options=options, preset=preset, **wanted
    )
    shutil.copyfile(folder / "samples.png", check.out / "samples.png")
    facts = {"data": check.data, "epsilon": BUDGET.epsilon, **options, "rate": found}
    yield {"what": "released", **facts, "took_s": time.perf_counter() - started}
    real = open_real(check.data, spec).without_training()
    how = {"classifiers": ("logistic",) if check.tiny else ("logistic", "cnn"), "quick": True}
    judged = judge(folder, real, public=True, quiet=True, state=run["state"], **how)
    scores = {s.classifier: s.accuracy and s.accuracy.mean for s in judged.evaluation.utility}
    yield {"what": "accuracy, a tenth of the epochs", **facts, "accuracy": scores}


STAGES: dict[str, tuple[float, Callable[[Check], Iterator[Line]]]] = {
    "methods": (3.0, methods),
    "sums": (0.5, sums),
    "engines": (1.5, engines),
    "mepf": (1.0, mepf),
    "paper": (1.5, paper),
    "release": (4.0, release),
}
"""Each stage with its share of the time; what one leaves goes to those that follow."""


def run_stage(name: str, check: Check, write: Callable[[Line], None]) -> bool:
    """Write a stage's lines and how it ended; whether nothing failed."""

    def stop(*_: object) -> None:
        raise TimeOver

    status, good = {"status": "done"}, True
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(check.left(), 0.001))
    try:
        for line in STAGES[name][1](check):
            good = good and "error" not in line
            write({"stage": name, **line})
    except TimeOver:
        status = {"status": "time over"}
    except Exception as error:
        traceback.print_exc()
        status, good = {"status": "failed", "error": type(error).__name__}, False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    write({"stage": name, "what": "end", **status})
    return good


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; 1 if something failed, which a stage without time did not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    started = time.monotonic()
    deadline = started + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {**environment(), "device": described(device), "torch": torch.__version__}
    tiny = device.type == "cpu" and options.minutes < 5
    data = "digits" if tiny else "fashion-mnist"
    try:
        open_images(data)
    except DataError:
        print("Fashion-MNIST is not installed here: digits take its place.", file=sys.stderr)
        data = "digits"

    def write(line: Line) -> None:
        line = {**line, "seconds": round(time.monotonic() - started, 2), "tiny": tiny, **facts}
        text = json.dumps(line)
        with (options.out / "gpu_check.jsonl").open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(text, flush=True)

    good, left = True, [name for name in STAGES if name in options.stages]
    with tempfile.TemporaryDirectory() as work:
        while left:
            share = STAGES[left[0]][0] / sum(STAGES[name][0] for name in left)
            now = time.monotonic()
            until = now + share * max(0.0, deadline - now)
            check = Check(device, data, tiny, options.out, Path(work), until)
            good = run_stage(left.pop(0), check, write) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
