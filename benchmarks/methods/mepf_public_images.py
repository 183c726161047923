"""What does DP-MEPF's sum tell of its classes, with which public images, means and axes?

Question: scales, means and axes come from public images. Are drawn figures worth having among them,
where data are grey; does it help to subtract their mean; and how many axes shall the labeller have?
A curator answers each variant's sum over some of the training records, with the noise of its ε; the
labeller is judged on others of them, never on the test set. Beside it stands the norm of what tells
mean embeddings of classes apart: the noise is compared with that.

    python benchmarks/methods/mepf_public_images.py DATA [--epsilon 1 10] [--json FILE]
    DATA: fashion-mnist, or an NPZ file with uint8 ``images`` and int64 ``labels`` of ten classes
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.data import load_labelled, open_images
from sfumato.data.memory import from_arrays
from sfumato.data.source import ImageSource
from sfumato.methods import DPMEPF
from sfumato.methods.mepf.embedding import Embedding, JointEmbedding
from sfumato.privacy import Budget, Curator

RECORDS, JUDGED, AT_ONCE, CLASSES = 20_000, 10_000, 500, 10
VARIANTS: dict[str, dict[str, Any]] = {
    "photographs alone": {"centred": False, "figures": False},
    "with figures": {"centred": False},
    "with figures, centred": {},
    "with figures, centred, 600 axes": {"labeller_size": 600},
}


def answered(joint: JointEmbedding, records: ImageSource, epsilon: float) -> tuple[float, Any]:
    """The mean norm of class means less their mean, from a noisy answer, and the labeller."""
    method = joint.method
    assert isinstance(method, DPMEPF)
    with tempfile.TemporaryDirectory() as state:
        curator = Curator(records, Budget(epsilon, 1e-5), state=Path(state), quiet=True)
        curator.open(method)
        answer = curator.sum("embedding")
    found = Embedding(answer.total, answer.shared, answer.noise_std, joint.spec, method.config())
    targets = joint.targets(found)
    apart = (targets.first - targets.first.mean(dim=0)).norm(dim=1)
    return float(apart.mean()), targets.labeller


def main() -> None:
    """Print a line for each variant and ε."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("data")
    asked.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 10.0])
    asked.add_argument("--json", type=Path)
    said = asked.parse_args()
    stated = {"classes": CLASSES} if said.data.endswith(".npz") else {}
    data = load_labelled(open_images(said.data, **stated))
    order = np.random.default_rng(7).permutation(len(data.labels))
    images, labels = data.images[order], data.labels[order]
    records = from_arrays(images[:RECORDS], labels[:RECORDS], classes=CLASSES, name="fitted")
    judged, truth = torch.from_numpy(images[-JUDGED:]), labels[-JUDGED:]
    found: dict[str, Any] = {}
    for name, changes in VARIANTS.items():
        method = DPMEPF(**changes)
        joint = JointEmbedding(method, records.spec)
        for epsilon in said.epsilon:
            apart, labeller = answered(joint, records, epsilon)
            called = torch.cat([labeller(part) for part in judged.split(AT_ONCE)]).numpy()
            right = float((called == truth).mean())
            found[f"{name}, ε = {epsilon:g}"] = {"labeller": right, "class means apart": apart}
            print(f"{name}, ε = {epsilon:g}: labeller {100 * right:.1f} %, apart {apart:.3f}")
    if said.json:
        said.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
