"""Does DP-MEPF cost more than its bare arithmetic? Feature release and generator step, as ratios.

Questions: the perceptual moments against the bare encoder's forward pass over the same images
(bound: 1.10); the whole exact release before its noise (moments, the labeller's 45,000 products an
image, clipping, rounding, sums) against the same; one generator step against the bare forward and
backward of the same generator and encoder (bound: 1.15). All sides run in the same process, turn by
turn, and the medians are compared.

    python benchmarks/mepf_speed.py [--data fashion-mnist:test] [--steps 20] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from clipped_gradient import seconds

from sfumato.data import ImageSource
from sfumato.data.opening import open_images
from sfumato.devices import CPU, moved
from sfumato.features import to_unit
from sfumato.methods import DPMEPF
from sfumato.methods.mepf.embedding import Embedding, joint_embedding
from sfumato.methods.mepf.matching import Matching
from sfumato.privacy import Budget, Curator, SumQuery
from sfumato.privacy.answering import integer_sums


def feature_turns(
    method: DPMEPF, source: ImageSource, device: torch.device, turns: int
) -> list[tuple[float, ...]]:
    """Seconds of each turn over all images on ``device``: bare encoder, perceptual moments, and the
    exact release before its noise."""
    joint = joint_embedding(method, source.spec)
    (query,) = method.queries(source.spec)
    assert isinstance(query, SumQuery)
    batches = [
        torch.from_numpy(images).to(device) for images, _ in source.batches(integer_sums.BATCH)
    ]

    moved(joint, device)

    def bare_features() -> None:
        with torch.inference_mode():
            for images in batches:
                joint.features.activations(to_unit(images))

    def features() -> None:
        with torch.inference_mode():
            for images in batches:
                joint.moments(joint.features.activations(to_unit(images)))

    def release() -> None:
        integer_sums.total(query, source, integer_sums.BATCH, lambda share: None, device=device)

    bare_features()
    sides = (bare_features, features, release)
    return [tuple(seconds(side, device) for side in sides) for _ in range(turns)]


def summary(bare: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Medians and their ratio."""
    medians = statistics.median(bare), statistics.median(ours)
    return {"bare_s": medians[0], "ours_s": medians[1], "ratio": medians[1] / medians[0]}


def main() -> None:
    """Print the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion-mnist:test")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    source, method = open_images(options.data), DPMEPF()
    turns = feature_turns(method, source, CPU, 5)
    joint = joint_embedding(method, source.spec)

    with tempfile.TemporaryDirectory() as state:
        curator = Curator(open_images("digits"), Budget(10.0, 1e-5), state=Path(state), quiet=True)
        small = DPMEPF(steps=1)
        embedding: Embedding | None = small.fit(curator).embedding
    assert embedding is not None
    matching = Matching(joint, joint_embedding(method, embedding.spec).targets(embedding), 0)

    def bare_step() -> None:
        images, _ = matching.generator(matching.labels, matching.random)
        outputs = joint.features.activations(images)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        matching.generator.zero_grad(set_to_none=True)

    bare_step()
    matching.advance(0)
    step_turns = [
        (seconds(bare_step, CPU), seconds(lambda: matching.advance(1), CPU))
        for _ in range(options.steps)
    ]

    bare, moments, whole = zip(*turns, strict=True)
    result = {
        "features": summary(bare, moments),
        "release": summary(bare, whole),
        "step": summary(*zip(*step_turns, strict=True)),
    }
    if options.json:
        print(json.dumps(result))
    else:
        for name, values in result.items():
            print(
                f"{name}: {values['ours_s']:.3f} s against {values['bare_s']:.3f} s bare, "
                f"ratio {values['ratio']:.2f}"
            )


if __name__ == "__main__":
    main()
