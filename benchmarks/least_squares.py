"""How many real test images does a classifier from one noisy sum name rightly?

    python benchmarks/least_squares.py --data TRAIN.parquet --test TEST.parquet --name cifar10 \
        --epsilon 1 10 --json benchmarks/results/least-squares.json

Each budget is one run through the curator (δ = 1e-5, add-or-remove-one); the test set is looked at
once. A setting that is in the file is not run again. The data must be public.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sfumato.bench.results import environment
from sfumato.data.arrays import LabelledImages, load_labelled
from sfumato.data.opening import open_images
from sfumato.methods.least_squares import LeastSquares
from sfumato.privacy import Budget, Curator

BATCH = 250


def run(data: str, test: LabelledImages, epsilon: float, method: LeastSquares) -> dict[str, Any]:
    """One private classifier and its accuracy on real test images."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as state:
        source = open_images(data)
        with Curator(source, Budget(epsilon, 1e-5), state=Path(state), quiet=True) as curator:
            classifier = method.fit(curator)
            curator.close()
    trained = time.monotonic() - started
    images, labels = torch.from_numpy(test.images), torch.from_numpy(test.labels)
    named = torch.cat([classifier(part) for part in images.split(BATCH)])
    right = float((named == labels).double().mean())
    return {"epsilon": epsilon, "accuracy": right, "seconds": round(trained)}


def main() -> None:
    """Run what the file lacks, and print it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--axes", type=int, default=600)
    parser.add_argument("--encoder-size", type=int, default=64)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    method = LeastSquares(axes=arguments.axes, encoder_size=arguments.encoder_size)
    known = json.loads(arguments.json.read_text()) if arguments.json.exists() else []
    test = load_labelled(open_images(arguments.test))
    for epsilon in arguments.epsilon:
        setting = {"data": arguments.name, "epsilon": epsilon, "method": method.config()}
        if any({key: line[key] for key in setting} == setting for line in known):
            continue
        line = {**setting, **run(arguments.data, test, epsilon, method), **environment()}
        known.append(line)
        arguments.json.write_text(json.dumps(known, indent=1) + "\n")
    for line in known:
        print(f"{line['data']} ε = {line['epsilon']:g}: {100 * line['accuracy']:.1f} %")


if __name__ == "__main__":
    main()
