"""Valid inputs that damage starts from, each made once a process."""

from __future__ import annotations

import io
import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_models import MODELS
from PIL import Image
from safetensors.numpy import save

from sfumato.data import PublicSpec, write_images
from sfumato.methods import Moments
from sfumato.methods.mepf.embedding import Embedding
from sfumato.privacy import (
    AggregateQuery,
    Budget,
    GradientQuery,
    HistogramQuery,
    Query,
    TopSigns,
    VoteQuery,
    make_plan,
)
from sfumato.privacy.accounting.epsilon import accountant_name
from sfumato.privacy.ledger import GENESIS, seal, total_epsilon
from sfumato.release import make_core, read_certificate
from sfumato.release.verification import claim, mechanisms

CLASSES = ("ant", "bee", "cat")
SPEC = PublicSpec(28, 28, 1, CLASSES)
CANARY = "canary.png"


@lru_cache(maxsize=1)
def records() -> list[bytes]:
    """Nine encoded images in five formats, with what encoders add."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(9):
        colour = index % 2
        shape = (32, 32, 3) if colour else (30, 34)
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        kind = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")[index % 5]
        options: dict[str, Any] = {}
        if kind in ("JPEG", "WEBP"):
            exif = Image.Exif()
            exif[0x0112] = 6
            options["exif"] = exif.tobytes()
        if index == 5:
            image = image.convert("RGBA" if colour else "LA")
        if kind == "TIFF":
            options["compression"] = "tiff_lzw" if colour else "tiff_deflate"
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append(buffer.getvalue())
    return found


@lru_cache(maxsize=1)
def arrays() -> dict[str, bytes]:
    """The members of a valid NPZ."""
    rng = np.random.default_rng(0)
    members = {
        "images": rng.integers(0, 256, (9, 32, 32), np.uint8),
        "labels": np.arange(9) % 3,
        "classes": np.array(CLASSES),
    }
    found = {}
    for name, values in members.items():
        buffer = io.BytesIO()
        np.save(buffer, values)
        found[f"{name}.npy"] = buffer.getvalue()
    return found


@lru_cache(maxsize=1)
def release() -> Path:
    """A small release by moments with an embedding beside it, made once a process."""
    import tempfile

    from sfumato.synthesis import synthesize

    place = Path(tempfile.mkdtemp(prefix="sfumato-fuzz-"))
    state = place / "state"
    method = Moments(coefficients=4)
    made = synthesize(
        "digits", epsilon=2.0, method=method, samples=10, out=place / "r", state=state, quiet=True
    )
    found = Embedding(np.zeros((3, 5)), np.zeros(0), 1.0, SPEC, {"width": 8, "layers": [1]})
    found.save(place / "embedding.safetensors")
    next(state.glob("*/ledger.jsonl")).rename(place / "ledger.jsonl")
    return made


def bins_of(images: Any, labels: Any) -> Any:
    """A vote that is never asked for."""
    return labels


def prepare() -> None:
    """Make whatever is made once, before any input is read."""
    certificate_of_moments(), ledgers(), models(), arrays(), records()
    for form in ("parquet", "webdataset"):
        shard(form)


def forget() -> None:
    """Remove what :func:`release` made."""
    if release.cache_info().currsize:
        shutil.rmtree(release().parent, ignore_errors=True)
        release.cache_clear()


@lru_cache(maxsize=1)
def certificate_of_moments() -> dict[str, Any]:
    """The certificate of :func:`release`."""
    return read_certificate(release())


@lru_cache(maxsize=1)
def models() -> list[bytes]:
    """A model of each method."""
    found = [(release() / "model.safetensors").read_bytes()]
    torch.manual_seed(0)
    for made in MODELS:
        facts, tensors = made()
        whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        found.append(save(whole, {"sfumato": json.dumps(facts)}))
    return found


STEPWISE: dict[str, Query] = {
    "gradient": GradientQuery("steps", 10, 1.0, 0.01, 300),
    "compressed gradient": GradientQuery("steps", 10, None, 0.01, 300, compress=TopSigns(4)),
    # Both parts together have noise 1, so that its price is known from the others'.
    "aggregate": AggregateQuery(
        "steps", 3, 10, 0.7, 0.01, 300, 5 / 4, gradient_dimension=9, backward_noise=5 / 3
    ),
    "vote": VoteQuery("steps", 12, 4, 20, 300, parts=2),
}
"""A query of each kind that is asked step by step."""


@lru_cache
def core_of_steps(kind: str) -> dict[str, Any]:
    """The core of a run that asks a histogram, and 300 steps of a kind."""
    queries = [HistogramQuery("sizes", bins_of, 3), STEPWISE[kind]]
    plan = make_plan({"name": "dpdm", "config": {}}, queries, Budget(8.0, 1e-5), SPEC)
    by_relation = plan.epsilons()
    noise = "; ".join(sorted({mechanisms.NOISE_PATHS[query.mechanism] for query in queries}))
    common = {"noise": noise, "accountant": accountant_name()}
    charged = {key: plan.to_dict()[key] for key in ("events", "budget", "method")}
    entries = [seal({"kind": "plan", "run": "a", "plan": plan.digest(), **charged, **common,
                     "prev": GENESIS})]  # fmt: skip
    for query in queries:
        previous = entries[-1]["hash"]
        answer = {"kind": "answer", "run": "a", "name": query.name, "answer": "0", "prev": previous}
        entries.append(seal(answer))
    alone = {"epsilon": by_relation["add-or-remove-one"], "delta": 1e-5}
    record = {**plan.to_dict(), **common, **alone, "relation": "add-or-remove-one"}
    total = {"epsilon": total_epsilon([plan.events], 1e-5, "add-or-remove-one"), "runs": 1}
    core = make_core(
        {**record, "epsilon_by_relation": by_relation, "ledger": entries, "data_set_total": total}
    )
    assert list(claim.problems(core)) == []
    return core


@lru_cache(maxsize=1)
def ledgers() -> list[list[dict[str, Any]]]:
    """The entries of valid ledgers: of :func:`release`, and of a run of each kind of steps."""
    lines = (release().parent / "ledger.jsonl").read_bytes().splitlines()
    return [
        [json.loads(line) for line in lines],
        *(core_of_steps(kind)["ledger"] for kind in STEPWISE),
    ]


@lru_cache(maxsize=2)
def shard(form: str) -> tuple[str, bytes]:
    """Name and bytes of a release's images in one file."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        images = np.zeros((6, 1, 28, 28), np.uint8)
        write_images([(images, np.arange(6) % 3)], CLASSES, Path(place), form)
        (path,) = (Path(place) / "images").iterdir()
        return path.name, path.read_bytes()
