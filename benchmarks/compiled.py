"""Does ``torch.compile`` pay? DP-MEPF's encoder pass and generator step, compiled over as they are.

Question: how long does the public encoder take for a batch, and how long does one step of the
generator's training, once they are compiled, and what does compiling cost first? Both are run on
empty images of Fashion-MNIST's size. On a CPU the processor's seconds count, of the fastest turn.

    python benchmarks/compiled.py [--device auto] [--turns 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from clipped_gradient import seconds

from sfumato.data import PublicSpec
from sfumato.devices import described, resolve_device
from sfumato.methods import DPMEPF
from sfumato.methods.mepf.embedding import Targets, joint_embedding
from sfumato.methods.mepf.matching import Matching
from sfumato.methods.training import Session

CLASSES = tuple(str(number) for number in range(10))


def untrained(device: torch.device) -> Matching:
    """The training of a generator towards an embedding of zeros, by the default settings."""
    method, spec = DPMEPF(), PublicSpec(28, 28, 1, CLASSES)
    joint = joint_embedding(method, spec)
    zeros = torch.zeros(len(CLASSES), joint.blocks.width)
    targets = Targets(np.ones(len(CLASSES)), zeros, zeros, None, None)
    return Matching(joint, targets, 0, Session(device=device))


def least(work: Callable[[], object], device: torch.device, turns: int) -> float:
    """Seconds of the fastest turn; of the processor where that is the device."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    return min(seconds(work, device, clock) for _ in range(turns))


def main() -> None:
    """Print both ratios, and the seconds that the first compiled turn took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    device = resolve_device(options.device)
    matching = untrained(device)
    features, generator = matching.joint.features, matching.generator
    images = torch.zeros(len(matching.labels), 1, 28, 28, device=device)

    def encoder() -> None:
        with torch.no_grad():
            features.activations(images)

    def step() -> None:
        matching.advance(1)

    result: dict[str, object] = {"device": described(device), "threads": torch.get_num_threads()}
    sides = {"encoder": encoder, "step": step}
    plain = {name: (side(), least(side, device, options.turns))[1] for name, side in sides.items()}
    features.activations = torch.compile(features.activations)  # type: ignore[method-assign]
    generator.refiner = torch.compile(generator.refiner)  # type: ignore[assignment]
    for name, side in sides.items():
        compiling = seconds(side, device)
        compiled = least(side, device, options.turns)
        ratio = compiled / plain[name]
        result[name] = {"plain_s": plain[name], "compiled_s": compiled, "compiling_s": compiling}
        print(f"{name}: compiled {ratio:.2f} of {plain[name]:.3f} s, after {compiling:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
