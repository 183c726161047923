"""Lies in which every digest fits: what a certificate determines is derived again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sfumato.data.spec import PublicSpec
from sfumato.data.writers import encode_png
from sfumato.errors import CertificateError, UsageError
from sfumato.features import public_patches
from sfumato.methods import DPAF, DPGAN, DPMEPF, Moments
from sfumato.methods.base import Method
from sfumato.methods.classifiers.least_squares import LeastSquares
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.methods.registry import BUILT_IN, find_method
from sfumato.privacy.ledger import GENESIS, digest, seal
from sfumato.release import read_certificate, verify
from sfumato.release.files import CARD, EMBEDDING, MODEL, REPORT, SAMPLES
from sfumato.reporting import write_report
from sfumato.synthesis import classify, synthesize

Certificate = dict[str, Any]
Rewrite = Callable[..., None]
OLD = Path(__file__).parents[1] / "earlier" / "0.1.0"


def accuse(release: Path, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        verify(release)


def reseal(certificate: Certificate) -> None:
    """Charge the ledger anew for what the certificate says now, as a careful liar would."""
    keys = ("budget", "method", "spec", "queries", "events")
    plan, *answers = certificate["ledger"]
    plan.update({key: certificate[key] for key in ("budget", "method", "events")})
    plan["plan"] = digest({key: certificate[key] for key in keys})
    chain: list[Certificate] = []
    for entry in (plan, *answers):
        body = {key: value for key, value in entry.items() if key != "hash"}
        chain.append(seal({**body, "prev": chain[-1]["hash"] if chain else GENESIS}))
    certificate["ledger"] = chain


def refile(path: Path, facts: Callable[[Any], None] | None = None, **arrays: Any) -> None:
    """Write a safetensors file again, with other metadata or arrays."""
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    key = "embedding" if path.name == EMBEDDING else "sfumato"
    value = json.loads(metadata[key])
    if facts is not None:
        facts(value)
    tensors = {**load_file(path), **arrays}
    save_file(tensors, path, metadata={**metadata, key: json.dumps(value)})


# The model ------------------------------------------------------------------------------------


def test_a_model_of_another_method_is_accused(release: Path, rewrite: Rewrite) -> None:
    spec = verify_spec(release)
    width, latent = DPGAN.generator_width, DPGAN.latent
    other = GeneratorModel(spec, make_generator(spec, width, latent), width, np.ones(10))
    facts = {"method": "dpgan", "spec": spec.to_dict(), "config": other.config()}
    tensors = {name: np.ascontiguousarray(value) for name, value in other.tensors().items()}
    save_file(tensors, release / MODEL, metadata={"sfumato": json.dumps(facts)})
    rewrite(release)
    accuse(release, "another method")
    # Renamed, its arrays still tell.
    refile(release / MODEL, lambda facts: facts.update(method="moments"))
    rewrite(release)
    accuse(release, "arrays are not those of the model")


def verify_spec(release: Path) -> Any:
    from sfumato.release.verification.claim import spec_of

    return spec_of(read_certificate(release))


def test_the_model_of_another_release_of_the_same_method_is_accused(
    release: Path, rewrite: Rewrite
) -> None:
    tensors = load_file(release / MODEL)
    refile(
        release / MODEL,
        lambda facts: facts["config"].update(coefficients=5),
        means=tensors["means"][:, :5].copy(),
        roots=tensors["roots"][:, :5, :5].copy(),
    )
    rewrite(release)
    accuse(release, "another form than the method makes")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"counts": np.full(10, np.nan)}, "arrays are not those"),
        ({"counts": np.ones(10, np.float32)}, "arrays are not those"),
        ({"means": np.zeros((10, 6), np.float64)}, "arrays are not those"),
        ({"more": np.zeros(3)}, "arrays are not those"),
    ],
)
def test_arrays_of_another_shape_or_type_are_accused(
    release: Path, rewrite: Rewrite, change: dict[str, Any], words: str
) -> None:
    refile(release / MODEL, **change)
    rewrite(release)
    accuse(release, words)


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["spec"].update(declared_size=60_000),
        lambda facts: facts["spec"].update(classes=list("jihgfedcba")),
        lambda facts: facts.update(note="x"),
        lambda facts: facts["config"].update(note="x"),
    ],
)
def test_changed_metadata_of_a_model_is_accused(
    release: Path, rewrite: Rewrite, change: Callable[[Any], None]
) -> None:
    refile(release / MODEL, change)
    rewrite(release)
    accuse(release, MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"coefficients": 7},
        {"mean_weight": 0.5},
        {"count_weight": -1.0},
        {"note": "x"},
    ],
)
def test_an_edited_configuration_is_accused_though_the_ledger_is_charged_for_it(
    release: Path, rewrite: Rewrite, change: dict[str, Any]
) -> None:
    def edit(certificate: Certificate) -> None:
        certificate["method"]["config"].update(change)
        reseal(certificate)

    rewrite(release, edit)
    accuse(release, "configuration|queries")


# The embedding --------------------------------------------------------------------------------


@pytest.fixture
def embedded(embedded_release: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded_release, tmp_path / "embedded"))


def test_an_embedding_is_the_answer_that_the_ledger_names(embedded: Path) -> None:
    verdict = verify(embedded)
    assert any("'embedded' is not installed here" in remark for remark in verdict.remarks)


def nudge(facts: Any) -> None:
    facts["noise_std"] *= 1.0000001


@pytest.mark.parametrize("change", ["values", "one step", "noise", "config", "spec", "shape"])
def test_a_replaced_embedding_is_accused(embedded: Path, rewrite: Rewrite, change: str) -> None:
    path = embedded / EMBEDDING
    total = load_file(path)["total"]
    event = read_certificate(embedded)["events"][0]
    if change == "values":
        refile(path, total=np.random.default_rng(0).normal(size=total.shape))
    elif change == "one step":
        total[0, 0] += event["clip_norm"] / 2**20
        refile(path, total=total)
    elif change == "shape":
        refile(path, total=total.reshape(5, -1))
    elif change == "noise":
        refile(path, nudge)
    elif change == "config":
        refile(path, lambda facts: facts["config"].update(coefficients=7))
    else:
        refile(path, lambda facts: facts["spec"].update(declared_size=3))
    rewrite(embedded)
    accuse(embedded, EMBEDDING)


def test_the_embedding_of_another_release_is_accused(
    embedded: Path, release: Path, rewrite: Rewrite
) -> None:
    shutil.copy(embedded / EMBEDDING, release / EMBEDDING)
    rewrite(release)
    accuse(release, "none of the noisy answers")


# Texts and pictures ---------------------------------------------------------------------------


def test_an_edited_card_is_accused(release: Path, rewrite: Rewrite) -> None:
    text = (release / CARD).read_text("utf-8")
    for edited in (text.replace("1e-05", "1e-09"), text + " ", text.replace("\n", "\r\n")):
        (release / CARD).write_bytes(edited.encode())
        rewrite(release)
        accuse(release, "says something else than the card")


def test_an_edited_report_is_accused_and_made_anew(release: Path, rewrite: Rewrite) -> None:
    write_report(release)
    verify(release)
    text = (release / REPORT).read_text("utf-8")
    for edited in (text.replace("strong", "perfect").replace("moderate", "perfect"), text + " "):
        assert edited != text
        (release / REPORT).write_bytes(edited.encode())
        rewrite(release)
        accuse(release, "says something else than the report")
    write_report(release)
    verify(release)
    assert (release / REPORT).read_text("utf-8") == text


def test_another_picture_is_accused(release: Path, rewrite: Rewrite) -> None:
    from PIL import Image

    true = np.asarray(Image.open(release / SAMPLES)).transpose(2, 0, 1)
    noisy = true.copy()
    noisy[:, -30, -30] ^= 1
    names = true.copy()
    names[:, :, :20] = names[:, ::-1, :20]  # from the last class to the first
    for sheet in (noisy, names, true[:, :-1], np.zeros((1, 20, 20), np.uint8)):
        (release / SAMPLES).write_bytes(encode_png(np.ascontiguousarray(sheet)))
        rewrite(release)
        accuse(release, SAMPLES)
    (release / SAMPLES).write_bytes(encode_png(np.ascontiguousarray(true)))
    rewrite(release)
    verify(release)


def test_edited_labels_beside_the_images_are_accused(release: Path, rewrite: Rewrite) -> None:
    path = release / "images" / "metadata.parquet"
    kept, table = path.read_bytes(), pq.read_table(path)
    labels = table["label"].to_pylist()
    swapped = table.set_column(1, table.schema.field("label"), [labels[::-1]])
    for other in (swapped, table.slice(1), table.replace_schema_metadata({"x": "y"})):
        pq.write_table(other, path)
        rewrite(release)
        accuse(release, "metadata.parquet")
    path.write_bytes(kept)
    (release / "classes.txt").write_bytes(b"9\n8\n7\n6\n5\n4\n3\n2\n1\n0\n")
    rewrite(release)
    accuse(release, "classes.txt does not list")


# The version and δ ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["9.9.9", "0.0.1", "0.1.5", "0.2.0rc1", "0.2", ""])
def test_a_version_that_does_not_exist_is_accused(
    release: Path, rewrite: Rewrite, version: str
) -> None:
    rewrite(release, lambda certificate: certificate.update(sfumato=version))
    accuse(release, "sfumato")


def test_a_release_does_not_pass_as_one_of_an_earlier_version(
    release: Path, rewrite: Rewrite
) -> None:
    rewrite(release, lambda certificate: certificate.update(sfumato="0.1.0"))
    accuse(release, "noise")  # which that version drew in another way
    rewrite(release, lambda certificate: certificate.update(format="sfumato-certificate/1"))
    accuse(release, "does not belong there")
    rewrite(release, lambda certificate: certificate["release"].pop("sfumato"))
    accuse(release, "noise")


def test_a_release_of_the_version_before_verifies(tmp_path: Path, rewrite: Rewrite) -> None:
    old = Path(shutil.copytree(OLD, tmp_path / "old"))
    assert "made by sfumato 0.1.0" in verify(old).remarks[0]
    for name in (CARD, REPORT):
        kept = (old / name).read_bytes()
        (old / name).write_bytes(kept + b" ")
        rewrite(old)
        accuse(old, "says something else")
        (old / name).write_bytes(kept)
    refile(old / MODEL, lambda facts: facts.update(method="mepf"))
    rewrite(old)
    accuse(old, "another method")


@pytest.mark.parametrize(("delta", "declared"), [(0.999, None), (0.0011, None), (5e-4, 2000)])
def test_a_large_delta_is_refused_and_allowed_by_name(
    tmp_path: Path, delta: float, declared: int | None
) -> None:
    def make(**more: Any) -> Path:
        return synthesize(
            "digits",
            epsilon=2.0,
            delta=delta,
            declared_size=declared,
            method=Moments(coefficients=6),
            samples=10,
            out=tmp_path / "release",
            quiet=True,
            **more,
        )

    with pytest.raises(UsageError, match="allow-large-delta"):
        make()
    assert not (tmp_path / "release").exists()
    release = make(allow_large_delta=True)
    accuse(release, "allow-large-delta")
    assert verify(release, allow_large_delta=True).delta == delta


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_says_what_it_determines_of_its_model(name: str) -> None:
    assert find_method(name).model_config is not Method.model_config


@pytest.mark.parametrize(
    "method",
    [
        DPMEPF(
            steps=1,
            batch=6,
            layers=(5, 8),
            start_coefficients=4,
            labeller_size=5,
            width=16,
            public=public_patches(PublicSpec(28, 28, 1, ()), 50),
        ),
        DPAF(
            first_layer="public",
            layers=(5, 8),
            start_coefficients=4,
            steps=1,
            batch=30,
            generator_steps=1,
            generated=2,
            generator_width=8,
            upper_width=4,
            public=public_patches(PublicSpec(28, 28, 1, ()), 50),
        ),
    ],
    ids=["mepf", "dpaf"],
)
def test_queries_that_name_an_encoder_are_derived_too(
    method: Method, tmp_path: Path, rewrite: Rewrite
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(30) % 3)
    made = synthesize(
        tmp_path / "images.npz",
        epsilon=5.0,
        classes=3,
        declared_size=30,
        method=method,
        samples=12,
        out=tmp_path / "release",
        state=tmp_path / "state",
        quiet=True,
    )
    assert verify(made).redrawn == 12
    kept = (made / "certificate.json").read_bytes()
    for change in ({"bound": "clip"}, {"features": 7}, {"encoder_digest": "0" * 64}):

        def edit(certificate: Certificate, change: Certificate = change) -> None:
            certificate["queries"][0].update(change)
            if "encoder_digest" in change:
                certificate["encoder"]["digest"] = change["encoder_digest"]
            reseal(certificate)

        rewrite(made, edit)
        accuse(made, "queries are not those that the method asks")
        (made / "certificate.json").write_bytes(kept)


def test_queries_along_axes_of_given_public_images_are_derived(
    tmp_path: Path, rewrite: Rewrite
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(12) % 2)
    method = LeastSquares(axes=3, encoder_size=32, public=images.transpose(0, 3, 1, 2))
    to: dict[str, Any] = {"out": tmp_path / "release", "state": tmp_path / "state", "quiet": True}
    release = classify(tmp_path / "data.npz", classes=2, epsilon=1.0, method=method, **to)
    assert verify(release).epsilon <= 1.0

    def enlarged(certificate: Certificate) -> None:
        certificate["queries"][0]["encoder_size"] = 64
        reseal(certificate)

    rewrite(release, enlarged)
    accuse(release, "queries are not those that the method asks")
