from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import load_file, save_file

from sfumato.bundle import verify
from sfumato.bundle.leaks import json_leaks
from sfumato.errors import CertificateError

Rewrite = Callable[..., None]


def first_png(release: Path) -> Path:
    return min(release.glob("images/*/*.png"))


def add_file(name: str, content: bytes = b"x") -> Callable[[Path], None]:
    def plant(release: Path) -> None:
        (release / name).parent.mkdir(parents=True, exist_ok=True)
        (release / name).write_bytes(content)

    return plant


def png_text(release: Path) -> None:
    path = first_png(release)
    note = PngImagePlugin.PngInfo()
    note.add_text("source", "patient_0042.dcm")
    Image.open(path).save(path, pnginfo=note)


def png_exif(release: Path) -> None:
    path = first_png(release)
    exif = Image.Exif()
    exif[0x010E] = "patient 42"
    Image.open(path).save(path, exif=exif)


def png_trailer(release: Path) -> None:
    path = first_png(release)
    path.write_bytes(path.read_bytes() + b"count=1437")


def png_of_another_size(release: Path) -> None:
    Image.new("L", (512, 512)).save(first_png(release))


def jpeg_named_png(release: Path) -> None:
    Image.new("L", (28, 28)).save(first_png(release), "JPEG")


def image_named_after_a_record(release: Path) -> None:
    first_png(release).rename(release / "images" / "0" / "patient_0042_03.png")


def class_of_its_own(release: Path) -> None:
    first_png(release).rename(release / "images" / "000000.png")


def text_in_the_grid(release: Path) -> None:
    path = release / "samples.png"
    note = PngImagePlugin.PngInfo()
    note.add_text("command", "sfumato synthesize /home/me/xrays")
    Image.open(path).save(path, pnginfo=note)


def tensor(name: str, file: str = "model.safetensors") -> Callable[[Path], None]:
    def plant(release: Path) -> None:
        tensors = load_file(release / file)
        save_file({**tensors, name: np.zeros(3, np.float32)}, release / file)

    return plant


def metadata(**facts: Any) -> Callable[[Path], None]:
    def plant(release: Path) -> None:
        path = release / "model.safetensors"
        save_file(load_file(path), path, metadata={k: json.dumps(v) for k, v in facts.items()})

    return plant


def link_to_the_data(release: Path) -> None:
    (release / "images" / "0" / "999999.png").symlink_to("/etc/hostname")


def link_to_a_folder(release: Path) -> None:
    (release / "images" / "more").symlink_to("/etc")


def path_in_the_card(release: Path) -> None:
    card = release / "README.md"
    card.write_text(card.read_text() + "\nMade from /home/me/xrays/2024.\n")


def pickled_model(release: Path) -> None:
    (release / "model.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))


def fifo(release: Path) -> None:
    os.mkfifo(release / "images" / "0" / "999999.png")


LEAKS = {
    "pickle": add_file("model.pkl"),
    "checkpoint": add_file("checkpoint.pt"),
    "array": add_file("features.npy"),
    "ledger": add_file("ledger.jsonl"),
    "ledger head": add_file("ledger.head"),
    "lock": add_file("run.lock"),
    "answer": add_file("answer-moments.safetensors"),
    "run folder": add_file("runs/0123/checkpoint.safetensors"),
    "private folder": add_file("private/metrics.json"),
    "key": add_file("noise.key"),
    "log": add_file("train.log"),
    "measurements": add_file("metrics.json", b'{"fid": 12.3}'),
    "hidden file": add_file(".DS_Store"),
    "hidden image": add_file("images/0/.thumb.png"),
    "deep folder": add_file("images/0/raw/000000.png"),
    "source beside an image": add_file("images/0/000000.jpg"),
    "text chunk": png_text,
    "exif": png_exif,
    "bytes after the end": png_trailer,
    "another size": png_of_another_size,
    "jpeg": jpeg_named_png,
    "record's name": image_named_after_a_record,
    "outside the classes": class_of_its_own,
    "text in the grid": text_in_the_grid,
    "discriminator": tensor("discriminator.0.weight"),
    "teacher": tensor("teachers.17.bias"),
    "optimiser": tensor("optim.exp_avg"),
    "raw sum": tensor("embedding.raw_sum"),
    "norms": tensor("grad_norms"),
    "foreign metadata": metadata(sfumato={}, command="sfumato"),
    "counts in metadata": metadata(sfumato={"class_counts": [5, 3]}),
    "loss in metadata": metadata(sfumato={"train": {"loss": 0.31}}),
    "path in metadata": metadata(sfumato={"folder": "/home/me/xrays"}),
    "link": link_to_the_data,
    "linked folder": link_to_a_folder,
    "path in the card": path_in_the_card,
    "pickled model": pickled_model,
    "pipe": fifo,
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_found_though_every_digest_fits(
    release: Path, rewrite: Rewrite, leak: str
) -> None:
    rewrite(release)
    assert verify(release).samples == 40
    LEAKS[leak](release)
    rewrite(release)
    with pytest.raises(CertificateError):
        verify(release)


CONFIG_LEAKS: dict[str, Any] = {
    "seed_private": 7,
    "insecure_seed": 7,
    "class_counts": [1, 2],
    "num_records": 1437,
    "loss": 0.25,
    "fid": 12.0,
    "accuracy": [0.8, 0.9],
    "data": "/srv/xrays",
    "note": "read from /home/me/xrays",
    "cache": "C:\\Users\\me",
    "norms": "3.1",
}


@pytest.mark.parametrize("key", CONFIG_LEAKS)
@pytest.mark.parametrize("part", ["method", "query"])
def test_a_leak_in_the_free_parts_of_the_certificate_is_found(
    release: Path, rewrite: Rewrite, key: str, part: str
) -> None:
    def plant(certificate: dict[str, Any]) -> None:
        place = certificate["method"]["config"] if part == "method" else certificate["queries"][0]
        place[key] = CONFIG_LEAKS[key]

    rewrite(release, plant)
    with pytest.raises(CertificateError, match=r"private value|absolute path"):
        verify(release)


def test_choices_that_merely_sound_like_measurements_pass() -> None:
    config = {
        "loss": "moving-average",
        "norm": "clip",
        "count_weight": 0.1,
        "layers": [1, 3],
        "encoder": "efficientnet-lite0",
        "classes": ["T-shirt/top", "and/or"],
        "coefficients": None,
    }
    assert list(json_leaks(config, "config")) == []


def test_the_message_says_what_was_found_and_keeps_to_one_line_each(release: Path) -> None:
    (release / "ledger.jsonl").write_text("x")
    (release / "model.pkl").write_bytes(b"x")
    with pytest.raises(CertificateError) as caught:
        verify(release)
    assert "'ledger.jsonl' belongs to a private ledger" in str(caught.value)
    assert "'model.pkl' may hold a pickle or a checkpoint" in str(caught.value)


def test_a_pickle_is_never_loaded(release: Path, rewrite: Rewrite, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path / 'exploded'}",))

    data = pickle.dumps(Bomb())
    for name in ("model.safetensors", "samples.png"):
        (release / name).write_bytes(data)
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    first_png(release).write_bytes(buffer.getvalue())
    rewrite(release)
    with pytest.raises(CertificateError):
        verify(release)
    assert not (tmp_path / "exploded").exists()
