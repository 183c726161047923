"""Do votes of signs train a private classifier better than clipped gradients? TopAgg and DP-SGD.

Question: test accuracy of one small network, trained through the curator with the same budget,
sampling rate and number of steps, once on sums of clipped gradients and once on sums of votes:
the k largest entries of each example's gradient, as signs. Each side's learning rate is the best
of a grid on the last 10,000 *training* records, after a full training on the others; the test set
is looked at once, after a training on all training records. No ε pays for the search: this is for
public data.

    python benchmarks/methods/topagg.py --data fashion-mnist --epsilon 1 --json topagg.json
    python benchmarks/methods/topagg.py --data TRAIN.parquet --test TEST.parquet --name cifar10
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sfumato.data import ImageSource, LabelledImages, PublicSpec, load_labelled, open_images
from sfumato.data.source import Record
from sfumato.methods.classifiers.tanh_cnn import CrossEntropy
from sfumato.privacy import Budget, Curator, GradientQuery, Plan, TopSigns, make_plan
from sfumato.privacy.gradients.layers import unflatten

HELD_OUT = 10_000
CLIP_NORM = 0.1
MOMENTUM = 0.9
RATES = (0.15, 0.45, 1.35)
"""Learning rates, in units of what one example may add at most."""

SIGNS = ("plain", "stochastic")


class InMemory(ImageSource):
    """Labelled images as a private source."""

    def __init__(self, images: LabelledImages, part: slice = slice(None)) -> None:
        _, channels, height, width = images.images.shape
        count = len(images.labels[part])
        super().__init__("memory", PublicSpec(height, width, channels, images.classes, count), "")
        self._images, self._labels = images.images[part], images.labels[part]

    def _records(self) -> Iterator[Record]:
        yield from zip(self._images, self._labels.tolist(), strict=True)

    def _private_length(self) -> int:
        return len(self._labels)

    def fingerprint(self) -> str:
        return hashlib.sha256(self._labels.tobytes()).hexdigest()


def classifier(spec: PublicSpec) -> nn.Module:
    """A small network of tanh units (Papernot et al., arXiv 2007.14191), its weights seeded."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(spec.channels, 16, 8, stride=2, padding=2),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Flatten(),
    )
    size = features(torch.zeros(1, spec.channels, spec.height, spec.width)).shape[1]
    return nn.Sequential(features, nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, len(spec.classes)))


def planned(spec: PublicSpec, settings: dict[str, Any]) -> Plan:
    """The plan of one training on data of this description."""
    size = sum(parameter.numel() for parameter in classifier(spec).parameters())
    compress = None
    if settings["method"] == "TopAgg":
        compress = TopSigns(round(settings["entries"] * size), settings["stochastic"])
    clip_norm = CLIP_NORM if compress is None else None
    assert spec.declared_size is not None
    rate = settings["batch"] / spec.declared_size
    query = GradientQuery("classifier", size, clip_norm, rate, settings["steps"], compress=compress)
    budget = Budget(settings["epsilon"], settings["delta"], settings["relation"])
    return make_plan({"name": "classifier", "config": {}}, [query], budget, spec)


def trained(source: InMemory, plan: Plan, batch: int, rate: float) -> nn.Module:
    """The network after the plan's steps of gradient descent with momentum."""
    network, loss = classifier(source.spec), CrossEntropy()
    parameters = list(network.parameters())
    (query,) = plan.queries
    assert isinstance(query, GradientQuery)
    optimiser = torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM)
    with (
        tempfile.TemporaryDirectory() as state,
        Curator(source, plan.budget, state=Path(state), quiet=True) as curator,
    ):
        curator.open_plan(plan)
        for step in range(query.steps):
            mean = curator.gradient(query.name, step, network, loss) / (query.bound * batch)
            for parameter, value in zip(parameters, unflatten(mean, parameters), strict=True):
                parameter.grad = value.clone()
            optimiser.step()
            curator.forget(query.name, step)
    return network


@torch.no_grad()
def accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images, in per cent, that the network names right."""
    blocks = torch.from_numpy(images).split(1000)
    found = torch.cat([network(block.float() / 127.5 - 1).argmax(dim=1) for block in blocks])
    return 100 * float((found.numpy() == labels).mean())


def measured(
    train: LabelledImages, test: LabelledImages, settings: dict[str, Any]
) -> dict[str, Any]:
    """One row: the rate chosen on held-out training records, then the figure on the test set."""
    batch = settings["batch"]
    part, rest = InMemory(train, slice(None, -HELD_OUT)), slice(-HELD_OUT, None)
    plan = planned(part.spec, settings)
    started, scores = time.perf_counter(), {}
    for rate in RATES:
        network = trained(part, plan, batch, rate)
        scores[rate] = accuracy(network, train.images[rest], train.labels[rest])
    rate = max(scores, key=lambda candidate: scores[candidate])
    searched = time.perf_counter()
    whole = InMemory(train)
    plan = planned(whole.spec, settings)
    network = trained(whole, plan, batch, rate)
    seconds = time.perf_counter() - searched
    (query,), (event,) = plan.queries, plan.events
    return {
        "accuracy": accuracy(network, test.images, test.labels),
        "epsilon_by_relation": plan.epsilons(),
        "noise_multiplier": event.noise_multiplier(plan.budget.relation),
        "query": query.to_dict(),
        "learning_rate": rate,
        "held_out": {str(key): value for key, value in scores.items()},
        "seconds": seconds,
        "seconds_search": searched - started,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| data | ε | method | accuracy (%) | learning rate | held out (%) | seconds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["data"] != "fashion-mnist", row["epsilon"])):
        method = row["method"]
        if method == "TopAgg":
            signs = "stochastic" if row["stochastic"] else "plain"
            method += f", k = {row['query']['compress']['entries']:,}, {signs} signs"
        best = max(row["held_out"].values())
        lines.append(
            f"| {row['data']} | {row['epsilon']:g} | {method} | {row['accuracy']:.1f} | "
            f"{row['learning_rate']:g} | {best:.1f} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure both sides, print them, and add them to a file that remembers finished rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist", help="a named set, or a location")
    parser.add_argument("--test", help="the test set's location; of a named set its own")
    parser.add_argument("--name", help="of the data, in the results; by default that of its file")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--relation", default="add-or-remove-one")
    parser.add_argument("--batch", type=int, default=256, help="expected")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--entries", type=float, default=0.1, help="k, as a share of all entries")
    parser.add_argument("--signs", choices=SIGNS, nargs="+", default=["plain"], help="of the votes")
    parser.add_argument("--json", type=Path, help="file of all rows")
    parser.add_argument("--table", action="store_true", help="print the file as Markdown only")
    options = parser.parse_args()

    done = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    if options.table:
        print(table(done))
        return
    test = options.test or f"{options.data}:test"
    train_set, test_set = (load_labelled(open_images(where)) for where in (options.data, test))
    for signs in (None, *options.signs):
        settings = {
            "data": options.name or Path(options.data).stem,
            "method": "TopAgg" if signs else "DP-SGD",
            "epsilon": options.epsilon,
            "delta": options.delta,
            "relation": options.relation,
            "batch": options.batch,
            "steps": options.steps,
        }
        if signs:
            settings |= {"entries": options.entries, "stochastic": signs == "stochastic"}
        if any(settings.items() <= row.items() for row in done):
            continue
        done.append({**settings, **measured(train_set, test_set, settings)})
        print(json.dumps(done[-1]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
