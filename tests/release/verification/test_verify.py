from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import CertificateError
from sfumato.methods import Moments
from sfumato.release import certificate as certificates
from sfumato.release import trusted_core, verify
from sfumato.release.files import MODEL, list_files
from sfumato.release.versions import FORMAT
from sfumato.synthesis import synthesize


def test_an_honest_release_verifies_with_the_other_accountant(honest: Path) -> None:
    verdict = verify(honest)
    assert verdict.samples == 40
    assert verdict.method == "moments"
    for relation, claimed in verdict.epsilon_by_relation.items():
        assert verdict.recomputed[relation] <= claimed * (1 + 1e-9)
        assert verdict.recomputed[relation] == pytest.approx(claimed, rel=1e-3)


def test_a_run_with_a_known_seed_is_stamped_everywhere_and_fails(tmp_path: Path) -> None:
    release = synthesize(
        "digits",
        epsilon=2.0,
        method=Moments(coefficients=6),
        samples=20,
        out=tmp_path / "release",
        state=tmp_path / "state",
        quiet=True,
        insecure_seed=1,
    )
    with pytest.raises(CertificateError, match="NOT PRIVATE: the noise of this run"):
        verify(release)
    assert "NOT PRIVATE" in (release / "README.md").read_text()
    assert "NOT PRIVATE" in json.loads((release / "certificate.json").read_text())["private"]


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "samples.png", "image"])
@pytest.mark.parametrize("deed", ["change", "remove"])
def test_a_changed_or_missing_file_fails(release: Path, name: str, deed: str) -> None:
    path = min(release.glob("images/*/*.png")) if name == "image" else release / name
    if deed == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CertificateError, match=r"digest|missing"):
        verify(release)


def test_an_image_more_or_under_another_label_fails(release: Path) -> None:
    path = min(release.glob("images/0/*.png"))
    path.rename(release / "images" / "1" / path.name)
    with pytest.raises(CertificateError, match="images"):
        verify(release)


def test_a_missing_image_fails_though_every_digest_fits(
    release: Path, rewrite: Callable[..., None]
) -> None:
    min(release.glob("images/0/*.png")).unlink()
    rewrite(release)
    with pytest.raises(CertificateError, match="does not name each image"):
        verify(release)


def test_a_file_that_is_too_large_is_named_and_not_read(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = min(release.glob("images/*/*.png"))
    with open(path, "wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(CertificateError, match="larger than"):
        verify(release)


def test_endless_files_are_refused(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.release.files.MOST_FILES", 10)
    names, problems = list_files(release)
    assert names == []
    assert "more than 10 files" in problems[-1]


def test_the_problems_of_a_hopeless_release_are_cut_short(release: Path) -> None:
    for number in range(300):
        (release / f"{number}.bin").write_bytes(b"")
    with pytest.raises(CertificateError, match="more") as caught:
        verify(release)
    assert len(str(caught.value).splitlines()) < 60


def test_fewer_images_than_stated_fail_though_every_digest_fits(
    release: Path, rewrite: Callable[..., None]
) -> None:
    max(release.glob("images/*/*.png"), key=lambda path: path.name).unlink()
    table = pq.read_table(release / "images" / "metadata.parquet")
    pq.write_table(table.slice(0, 39), release / "images" / "metadata.parquet")
    rewrite(release)
    with pytest.raises(CertificateError, match="39 images"):
        verify(release)


@given(data=st.binary(max_size=300))
def test_no_certificate_makes_anything_but_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    (folder / "certificate.json").write_bytes(data)
    with pytest.raises(CertificateError):
        verify(folder)


@given(values=st.dictionaries(st.sampled_from(["files", "events", "release", "x"]), st.none()))
def test_a_well_formed_but_empty_certificate_is_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, None]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz-json"
    folder.mkdir(exist_ok=True)
    text = json.dumps({"format": FORMAT, **values})
    (folder / "certificate.json").write_text(text)
    with pytest.raises(CertificateError):
        verify(folder)


def test_another_release_is_made_only_from_an_honest_one(
    release: Path, rewrite: Callable[..., None]
) -> None:
    assert trusted_core(release, MODEL)["method"]["name"] == "moments"
    rewrite(release, lambda certificate: certificate["events"][0].update(noise_std=1e-3))
    with pytest.raises(CertificateError, match="cannot be made"):
        trusted_core(release, MODEL)


def test_another_release_is_not_made_from_a_changed_model(release: Path) -> None:
    path = release / MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CertificateError, match="was changed"):
        trusted_core(release, MODEL)


@pytest.mark.parametrize("part", ["certificate", "release"])
def test_a_field_that_is_missing_or_of_another_kind_is_refused_in_words(
    release: Path, part: str
) -> None:
    path = release / certificates.NAME
    honest = path.read_bytes()

    def place(certificate: dict[str, Any]) -> dict[str, Any]:
        return certificate if part == "certificate" else certificate["release"]

    for key, right in place(json.loads(honest)).items():
        for wrong in (..., None, [], {}, -1, 10**30):
            if wrong == right and type(wrong) is type(right):
                continue
            certificate = json.loads(honest)
            place(certificate)[key] = wrong
            if wrong is ...:
                del place(certificate)[key]
            if key != "digest":
                certificate["digest"] = certificates.own_digest(certificate)
            path.write_bytes(certificates.to_bytes(certificate))
            with pytest.raises(CertificateError):
                verify(release)
