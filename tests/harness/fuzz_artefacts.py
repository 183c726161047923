"""Targets that read what sfumato wrote: releases, models, evaluations, ledgers."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import fuzz_mutations as mutate
from fuzz_seeds import (
    CANARY,
    CLASSES,
    SPEC,
    STEPWISE,
    certificate_of_moments,
    core_of_steps,
    ledgers,
    models,
    records,
    release,
    shard,
)

from sfumato.errors import SfumatoError
from sfumato.methods import load_model
from sfumato.methods.mepf.embedding import Embedding
from sfumato.privacy.ledger import GENESIS, Ledger, seal
from sfumato.release import read_certificate, strict_json, verify
from sfumato.release.certificate import own_digest
from sfumato.release.files import digests, list_files
from sfumato.release.verification import claim, leaks
from sfumato.release.verification.pictures import png_problem
from sfumato.reporting.measurements import read_measurements


def _judge(core: dict[str, Any]) -> bool:
    found = [*claim.problems(core), *leaks.certificate_leaks(core)]
    claim.is_stamped(core)
    return not found


def certificate(folder: Path, rng: random.Random) -> bool:
    """A certificate alone: the parser, the claim and its accountants."""
    value = mutate.json_of(certificate_of_moments(), rng)
    value["digest"] = own_digest_or_none(value)
    (folder / "certificate.json").write_bytes(mutate.json_text(value, rng))
    return _judge(claim_of(read_certificate(folder)))


def certificate_of_steps(folder: Path, rng: random.Random) -> bool:
    """The same for queries of many steps; where units are sampled, by the slower accountant."""
    numbers = (1e-13, 0.06, 0.3, 1.0, 30.0, 1e5, 1e11)
    value = mutate.json_of(core_of_steps(rng.choice(list(STEPWISE))), rng)
    with contextlib.suppress(TypeError, LookupError, AttributeError, OverflowError):
        event = rng.choice(value["events"])
        if rng.random() < 0.4:
            event["noise_std"] = event["clip_norm"] * rng.choice(numbers)
        if rng.random() < 0.2:
            event["sampling_rate"] = rng.choice((1e-8, 1e-3, 0.5, 0.999999, 1.0))
        if rng.random() < 0.2:
            event["count"] = rng.choice((1, 1000, 10**6, 10**7))
        if rng.random() < 0.1:
            value["delta"] = value["budget"]["delta"] = rng.choice((1e-300, 1e-12, 0.5, 0.999))
    return _judge(strict_json.parse(mutate.json_text(value, rng), "certificate.json"))


def own_digest_or_none(value: dict[str, Any]) -> str | None:
    """The digest that fits, where the value has one."""
    try:
        return own_digest(value)
    except ValueError:
        return None


def claim_of(value: dict[str, Any]) -> dict[str, Any]:
    """What :func:`sfumato.verify` judges of a certificate."""
    from sfumato.release.certificate import core_of

    return core_of(value)


def bundle(folder: Path, rng: random.Random) -> bool:
    """A whole release: one file is damaged, and often every digest is made to fit."""
    root = folder / "release"
    shutil.copytree(release(), root)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = rng.choice(files)
    if path.suffix == ".json":
        value = mutate.json_of(json.loads(path.read_bytes()), rng)
        path.write_bytes(mutate.json_text(value, rng))
    elif path.suffix == ".png" and rng.random() < 0.5:
        path.write_bytes(mutate.png_of(path.read_bytes(), rng))
    else:
        path.write_bytes(mutate.bytes_of(path.read_bytes(), rng))
    if rng.random() < 0.2:
        (root / rng.choice(("x.pkl", "images/x", "images/0/y.png"))).symlink_to(
            rng.choice((f"../{CANARY}", "/etc", "/dev/zero"))
        )
    if rng.random() < 0.7:
        unfit = (SfumatoError, OSError, TypeError, AttributeError, ValueError, RecursionError)
        with contextlib.suppress(*unfit):
            value = json.loads((root / "certificate.json").read_bytes())
            value["files"] = digests(root, list_files(root)[0])
            value["digest"] = own_digest(value)
            (root / "certificate.json").write_text(json.dumps(value))
    verify(root)
    return True


def released_images(folder: Path, rng: random.Random) -> bool:
    """The linter of pictures: one PNG, a Parquet shard or a tar."""
    from sfumato.release.verification.pictures import check_images

    form = rng.choice(("folder", "folder", "parquet", "webdataset"))
    if form == "folder":
        data = rng.choice(records()[::5])
        return png_problem(mutate.png_of(data, rng), rng.choice((SPEC, None))) is None
    name, data = shard(form)
    (folder / "images").mkdir()
    (folder / "images" / name).write_bytes(mutate.bytes_of(data, rng))
    found, _ = check_images(folder, [f"images/{name}"], form, SPEC)
    return not found


def model(folder: Path, rng: random.Random) -> bool:
    """A model: what it loads must also be able to draw, or say clearly that it cannot."""
    path = folder / "model.safetensors"
    path.write_bytes(mutate.safetensors_of(rng.choice(models()), rng, "sfumato"))
    list(leaks.tensor_leaks(path, path.name))
    for _ in load_model(path).sample(3):
        pass
    return True


def embedding(folder: Path, rng: random.Random) -> bool:
    """A released mean embedding."""
    data = (release().parent / "embedding.safetensors").read_bytes()
    path = folder / "embedding.safetensors"
    path.write_bytes(mutate.safetensors_of(data, rng, "embedding"))
    list(leaks.tensor_leaks(path, path.name))
    Embedding.load(path)
    return True


def evaluation(folder: Path, rng: random.Random) -> bool:
    """The JSON that an evaluation wrote and a report reads."""
    score = {"mean": 0.5, "deviation": 0.1}
    utility = {"classifier": "logistic", "accuracy": score, "balanced_accuracy": score,
               "recall": [score] * 3, "runs": [{"diverged": None}], "training_count": 9,
               "test_count": 9}  # fmt: skip
    setting = {"extractor": "x", "weights_digest": "ab", "synthetic_count": 9, "real_count": 9,
               "image_type": "uint8", "grey_rule": None}  # fmt: skip
    fidelity = {"name": "FD", "value": 1.5, "deviation": 0.5, "better": "lower", "detail": "",
                "setting": setting}  # fmt: skip
    near = {"share_closer": 0.1, "probability_closer": 0.5, "p_value": 0.1}
    value = {"private": True, "classes": list(CLASSES), "utility": [utility],
             "baseline": [utility], "fidelity": [fidelity],
             "memorisation": {"result": near, "exact_copies": 0}}  # fmt: skip
    path = folder / "evaluation.json"
    path.write_bytes(mutate.json_text(mutate.json_of(value, rng), rng))
    read_measurements(path, {"classes": list(CLASSES), "epsilon": 1.0, "delta": 1e-5})
    return True


def ledger(folder: Path, rng: random.Random) -> bool:
    """A ledger, half of the time with a chain that was made to fit."""
    seed = rng.choice(ledgers())
    if rng.random() < 0.5:
        raw = mutate.bytes_of("".join(json.dumps(entry) + "\n" for entry in seed).encode(), rng)
        head = seed[-1]["hash"].encode()
    else:
        entries, previous = [], GENESIS
        for entry in mutate.json_of(seed, rng):
            if isinstance(entry, dict):
                with contextlib.suppress(ValueError):
                    entry = seal({**entry, "prev": previous})
                    previous = entry["hash"]
            entries.append(json.dumps(entry))
        raw, head = "\n".join([*entries, ""]).encode(), previous.encode()
    if rng.random() < 0.2:
        head = mutate.bytes_of(head, rng)
    (folder / "ledger.jsonl").write_bytes(raw)
    (folder / "ledger.head").write_bytes(head)
    book = Ledger(folder)
    with book.locked():
        book.entries()
        book.cap()
        book.charges()
    return True
