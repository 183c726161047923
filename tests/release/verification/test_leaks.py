from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import load_file, save_file

from sfumato.errors import CertificateError
from sfumato.methods import Moments
from sfumato.release import verify
from sfumato.release.verification.leaks import json_leaks
from sfumato.reporting import write_report
from sfumato.synthesis import sample, synthesize

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


def empty_folder_named_after_a_source(release: Path) -> None:
    (release / "images" / "patient_0042").mkdir()


def header_of_the_model(change: Callable[[str], str]) -> Callable[[Path], None]:
    def plant(release: Path) -> None:
        path = release / "model.safetensors"
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = change(data[8 : 8 + length].decode().rstrip()).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])

    return plant


def bytes_after_the_tensors(release: Path) -> None:
    path = release / "model.safetensors"
    path.write_bytes(path.read_bytes() + bytes(8))


def report(text: str) -> Callable[[Path], None]:
    def plant(release: Path) -> None:
        page = write_report(release, out=release.parent / "page.html").read_text()
        (release / "report.html").write_text(page.replace("</main>", f"{text}</main>"))

    return plant


def a_report_of_a_private_evaluation(release: Path) -> None:
    report('<div class="watermark">NOT PRIVATE</div>')(release)


def jpeg_in_the_report(release: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "JPEG")
    report(f'<img src="data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}">')(release)


def exif_in_the_report(release: Path) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x010E] = "patient 42"
    Image.new("L", (28, 28)).save(buffer, "PNG", exif=exif)
    report(f'<img src="data:image/png;base64,{b64encode(buffer.getvalue()).decode()}">')(release)


def card(text: str) -> Callable[[Path], None]:
    def plant(release: Path) -> None:
        (release / "README.md").write_text((release / "README.md").read_text() + text)

    return plant


LEAKS = {
    "empty folder": empty_folder_named_after_a_source,
    "header padding": header_of_the_model(
        lambda text: text.replace('"dtype"', '"source":"patient_0042.png","dtype"', 1)
    ),
    "metadata twice": header_of_the_model(
        lambda text: '{"__metadata__":{"sfumato":"{}"},' + text[1:]
    ),
    "tensor twice": header_of_the_model(
        lambda text: text[:-1] + ',"counts":' + json.dumps(json.loads(text)["counts"]) + "}"
    ),
    "bytes after the tensors": bytes_after_the_tensors,
    "comment in the report": report("<!-- n = 1437 -->"),
    "link in the report": report('<a href="https://hospital.example/xrays">source</a>'),
    "tracker in the report": report('<img src="//hospital.example/1.gif">'),
    "report of an evaluation": a_report_of_a_private_evaluation,
    "path in the report": report("<p>/home/me/xrays</p>"),
    "jpeg in the report": jpeg_in_the_report,
    "exif in the report": exif_in_the_report,
    "comment in the card": card("<!-- n = 1437 -->"),
    "count in the card": card("Made from 1437 images.\n"),
    "user in the card": card("Made by jane on host-17.\n"),
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


def test_a_release_with_its_own_report_passes(release: Path) -> None:
    write_report(release)
    assert verify(release).samples == 40
    write_report(release)
    assert verify(release).samples == 40


def test_a_stamped_release_may_be_reported_on_twice(tmp_path: Path) -> None:
    release = synthesize(
        "digits", epsilon=2.0, method=Moments(coefficients=6), samples=20,
        out=tmp_path / "release", state=tmp_path / "state", quiet=True, insecure_seed=1,
    )  # fmt: skip
    write_report(release)
    write_report(release)
    assert "NOT PRIVATE" in (release / "report.html").read_text()


def shard_of(release: Path) -> Path:
    (path,) = (release / "images").iterdir()
    return path


def rewrite_parquet(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def plant(release: Path) -> None:
        path = shard_of(release)
        pq.write_table(change(pq.read_table(path)), path)

    return plant


def source_names_in_parquet(table: pa.Table) -> pa.Table:
    rows = [
        {"bytes": row["bytes"], "path": "patient_0042.png"} for row in table["image"].to_pylist()
    ]
    return table.set_column(0, table.schema.field(0), pa.array(rows, table.schema.field(0).type))


def more_of_the_features(table: pa.Table) -> pa.Table:
    about = json.loads(table.schema.metadata[b"huggingface"])
    about["info"]["description"] = "from /srv/xrays"
    return table.replace_schema_metadata({"huggingface": json.dumps(about)})


def hole_in_parquet(release: Path) -> None:
    path = shard_of(release)
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:footer] + b"patient_0042" + data[footer:])


PARQUET_LEAKS = {
    "column": rewrite_parquet(lambda table: table.append_column("source", table["label"])),
    "metadata": rewrite_parquet(
        lambda table: table.replace_schema_metadata({**table.schema.metadata, b"user": b"jane"})
    ),
    "features": rewrite_parquet(more_of_the_features),
    "field metadata": rewrite_parquet(
        lambda table: table.cast(
            table.schema.set(1, table.schema.field(1).with_metadata({"source": "patient_0042"}))
        )
    ),
    "source names": rewrite_parquet(source_names_in_parquet),
    "hole": hole_in_parquet,
}


@pytest.mark.parametrize("leak", PARQUET_LEAKS)
def test_a_leak_in_a_shard_of_parquet_is_found(
    honest: Path, tmp_path: Path, rewrite: Rewrite, leak: str
) -> None:
    release = sample(honest, samples=20, out=tmp_path / "p", format="parquet", quiet=True)
    rewrite(release)
    assert verify(release).samples == 20
    PARQUET_LEAKS[leak](release)
    rewrite(release)
    with pytest.raises(CertificateError):
        verify(release)


def repack(change: Callable[[tarfile.TarInfo], None], style: int) -> Callable[[Path], None]:
    def plant(release: Path) -> None:
        path = shard_of(release)
        with tarfile.open(path) as old:
            files = [(member.name, old.extractfile(member).read()) for member in old]  # type: ignore[union-attr]
        with tarfile.open(path, "w", format=style) as tar:
            for name, data in files:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                change(member)
                tar.addfile(member, io.BytesIO(data))

    return plant


def padding_of_tar(release: Path) -> None:
    path = shard_of(release)
    data = bytearray(path.read_bytes())
    size = int(data[124:135], 8)
    data[512 + size : 512 + size + 8] = b"patient4"
    assert size % 512 < 504
    path.write_bytes(data)


USTAR, PAX = tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT
TAR_LEAKS = {
    "nothing": repack(lambda member: None, USTAR),
    "user": repack(lambda member: setattr(member, "uname", "jane"), USTAR),
    "time": repack(lambda member: setattr(member, "mtime", 1700000000), USTAR),
    "link name": repack(lambda member: setattr(member, "linkname", "patient_0042.dcm"), USTAR),
    "mode": repack(lambda member: setattr(member, "mode", 0o600), USTAR),
    "pax": repack(lambda member: setattr(member, "pax_headers", {"source": "x.dcm"}), PAX),
    "source name": repack(lambda member: setattr(member, "name", f"p_{member.name}"), USTAR),
    "padding": padding_of_tar,
}


@pytest.mark.parametrize("leak", TAR_LEAKS)
def test_a_leak_in_a_tar_is_found(
    honest: Path, tmp_path: Path, rewrite: Rewrite, leak: str
) -> None:
    release = sample(honest, samples=20, out=tmp_path / "t", format="webdataset", quiet=True)
    TAR_LEAKS[leak](release)
    rewrite(release)
    if leak == "nothing":
        assert verify(release).samples == 20
        return
    with pytest.raises(CertificateError):
        verify(release)


def certificate_text(key: str, text: str) -> Callable[[dict[str, Any]], None]:
    def plant(certificate: dict[str, Any]) -> None:
        for entry in (certificate, *certificate["ledger"]):
            if key in entry:
                entry[key] = text

    return plant


@pytest.mark.parametrize("key", ["run", "answer", "accountant"])
def test_free_texts_of_the_certificate_have_a_form(
    release: Path, rewrite: Rewrite, key: str
) -> None:
    rewrite(release, certificate_text(key, "jane@host-17 xrays"))
    with pytest.raises(CertificateError, match=f"{key} says more"):
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
