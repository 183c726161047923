from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato import choosing, synthesis
from sfumato.errors import CertificateError, SfumatoError, UsageError
from sfumato.methods import Moments
from sfumato.methods.base import Batch, Model
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.spending import ledger_of
from sfumato.release import read_certificate, verify
from sfumato.release.files import EMBEDDING

QUICK = Moments(coefficients=6)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def synthesize(out: Path, state: Path, **changes: Any) -> Path:
    arguments = {
        "epsilon": 1.0,
        "method": QUICK,
        "samples": 30,
        "out": out,
        "state": state,
        "quiet": True,
        **changes,
    }
    return sfumato.synthesize(arguments.pop("data", "digits"), **arguments)


def kinds(state: Path) -> list[str]:
    (folder,) = [path for path in state.iterdir() if path.is_dir()]
    ledger = Ledger(folder)
    with ledger.locked():
        return [e["kind"] for e in ledger.entries() if e["kind"] != "data"]


def test_the_public_names_are_there() -> None:
    for name in sfumato.__all__:
        assert getattr(sfumato, name) is not None
    assert set(sfumato.__all__) <= set(dir(sfumato))
    with pytest.raises(AttributeError, match="sythesize"):
        sfumato.sythesize  # noqa: B018


def test_a_release_is_private_as_asked(tmp_path: Path, state: Path) -> None:
    out = synthesize(tmp_path / "out", state, delta=1e-6, relation="replace-one")
    verdict = sfumato.verify(out)
    assert verdict.relation == "replace-one"
    assert verdict.epsilon == verdict.epsilon_by_relation["replace-one"]
    assert 0.999 < verdict.epsilon <= 1
    assert verdict.epsilon_by_relation["add-or-remove-one"] < 0.7


@pytest.mark.parametrize(
    ("declared", "samples", "expected"), [(None, 30, 30), (25, None, 25), (25, 30, 30)]
)
def test_the_number_of_images_is_stated_or_declared_never_counted(
    tmp_path: Path, state: Path, declared: int | None, samples: int | None, expected: int
) -> None:
    out = synthesize(tmp_path / "out", state, declared_size=declared, samples=samples)
    assert read_certificate(out)["release"]["samples"] == expected


def test_undeclared_size_gives_the_default_number(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "DEFAULT_SAMPLES", 17)
    out = synthesize(tmp_path / "out", state, samples=None)
    assert read_certificate(out)["release"]["samples"] == 17


def test_the_run_is_closed_only_once_the_release_is_whole(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = synthesis.write_release

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(synthesis, "write_release", crash)
    with pytest.raises(RuntimeError):
        synthesize(tmp_path / "out", state)
    assert kinds(state) == ["plan", "answer"]

    def looked(*arguments: Any, **options: Any) -> Path:
        made = real(*arguments, **options)
        assert kinds(state) == ["plan", "answer"]
        return made

    monkeypatch.setattr(synthesis, "write_release", looked)
    synthesize(tmp_path / "out", state)
    assert kinds(state) == ["plan", "answer", "closed"]
    assert read_certificate(tmp_path / "out")["data_set_total"]["runs"] == 1


def test_a_closed_run_is_charged_again_and_so_is_a_fresh_one(tmp_path: Path, state: Path) -> None:
    synthesize(tmp_path / "one", state)
    synthesize(tmp_path / "two", state)
    assert read_certificate(tmp_path / "two")["data_set_total"]["runs"] == 2
    assert kinds(state).count("plan") == 2


def test_the_public_seed_changes_the_draw_and_never_the_noise(tmp_path: Path, state: Path) -> None:
    def images(name: str) -> np.ndarray:
        files = sorted((tmp_path / name).glob("images/*/*.png"))
        return np.stack([np.asarray(Image.open(file)) for file in files])

    out = synthesize(tmp_path / "a", state)
    for name, seed in (("b", 0), ("c", 0), ("d", 5)):
        synthesis.sample(out, samples=30, out=tmp_path / name, seed_public=seed, quiet=True)
    assert (images("b") == images("c")).all()
    assert images("b").shape != images("d").shape or (images("b") != images("d")).any()
    # The same seed again, on a new run: other noise, other images.
    synthesize(tmp_path / "e", state)
    answers = [
        next(e["answer"] for e in read_certificate(tmp_path / name)["ledger"] if "answer" in e)
        for name in ("a", "e")
    ]
    assert answers[0] != answers[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"patient_{number}.jpg")
    return tmp_path / "pets"


def test_a_folder_becomes_a_release_that_names_nothing_of_it(
    folder: Path, tmp_path: Path, state: Path
) -> None:
    out = synthesize(tmp_path / "out", state, data=folder, image_size=32)
    assert verify(out).samples == 30
    assert read_certificate(out)["classes"] == ["cat", "dog"]
    content = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for secret in (b"patient", b"pets", str(tmp_path).encode(), str(state).encode()):
        assert secret not in content


def test_a_release_keeps_apart_from_its_data_and_the_ledger(
    folder: Path, tmp_path: Path, state: Path
) -> None:
    before = sorted(folder.rglob("*"))
    for out in (folder / "release", folder / "cat" / "release"):
        with pytest.raises(UsageError, match="lies in"):
            synthesize(out, state, data=folder)
    with pytest.raises(UsageError, match="never released"):
        synthesize(tmp_path / "out", tmp_path / "out" / "state", data=folder)
    with pytest.raises(UsageError, match="never released"):
        synthesize(tmp_path / "ledgers" / "out", tmp_path / "ledgers", data=folder)
    assert sorted(folder.rglob("*")) == before
    assert not state.exists()


@pytest.mark.parametrize("place", ["pets/state", "pets/cat/state", "pets", "."])
def test_the_state_folder_keeps_apart_from_the_data(
    folder: Path, tmp_path: Path, place: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "link").symlink_to(tmp_path / place)
    for state in (tmp_path / place, tmp_path / "link"):
        with pytest.raises(UsageError, match="lies in the data"):
            synthesize(tmp_path / "out", state, data=folder)
        with pytest.raises(UsageError, match="lies in the data"):
            ledger_of(sfumato.open_images(folder), state)
    (tmp_path / "link").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_location_is_never_the_current_folder(
    folder: Path, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    calls: list[Callable[[], object]] = [
        lambda: sfumato.open_images(""),
        lambda: sfumato.open_images(" "),
        lambda: synthesize(tmp_path / "out", state, data=""),
        lambda: sfumato.synthesize(folder, epsilon=1.0, out="", method="moments"),
        lambda: sfumato.synthesize(folder, epsilon=1.0, out=tmp_path / "out", state=""),
        lambda: synthesis.sample("", samples=1, out=tmp_path / "out"),
        lambda: synthesis.fit_embedding("", out=tmp_path / "out"),
        lambda: choosing.public_images("", sfumato.open_images(folder).spec),
        lambda: verify(""),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="is empty"):
            call()


def test_unlabelled_images_become_an_unlabelled_release(
    folder: Path, tmp_path: Path, state: Path
) -> None:
    out = synthesize(tmp_path / "out", state, data=folder, classes=0)
    assert verify(out).samples == 30
    assert len(list(out.glob("images/*.png"))) == 30


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "gan"},
        {"method": "moments", "options": {"steps": 3}},
        {"method": "moments", "options": {"coefficients": "many"}},
        {"method": "moments", "public": "digits:test"},
        {"format": "gif"},
        {"samples": 0},
        {"epsilon": -1.0},
        {"delta": 1.0},
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_charged(
    tmp_path: Path, state: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(SfumatoError):
        synthesize(tmp_path / "out", state, **changes)
    assert not list(state.glob("*/ledger.jsonl"))
    assert not (tmp_path / "out").exists()


def test_a_method_is_made_by_name_with_its_options() -> None:
    spec = sfumato.open_images("digits").spec
    made = choosing.make_method("moments", spec, {"coefficients": 8}, seed_public=3)
    assert made.config()["coefficients"] == 8
    made = choosing.make_method("mepf", spec, {"layers": [1, 3], "steps": 5}, seed_public=3)
    assert made.config()["seed_public"] == 3
    assert made.config()["layers"] == [1, 3]


def test_public_images_take_the_form_of_the_private_ones(folder: Path) -> None:
    spec = sfumato.open_images("digits").spec
    images = choosing.public_images(folder, spec).images
    assert images.shape == (12, 1, 28, 28)
    assert images.dtype == np.uint8


class Retrained(Model):
    """What ``fit_embedding`` might return: black digits."""

    def __init__(self, spec: sfumato.data.PublicSpec) -> None:  # type: ignore[name-defined]
        self.spec = spec

    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        yield np.zeros((count, 1, 28, 28), np.uint8), np.arange(count) % 10

    def tensors(self) -> dict[str, Any]:
        return {"weights": np.zeros(2, np.float32)}

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def load(cls, spec: Any, config: Any, tensors: Any) -> Model:
        raise NotImplementedError


def test_refitting_carries_the_certificate_of_the_embedding(
    tmp_path: Path, embedded_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.methods.mepf import method

    released = Path(shutil.copytree(embedded_release, tmp_path / "released"))
    core = synthesis.trusted_core(released, EMBEDDING)
    asked: dict[str, Any] = {}

    def fit(path: Path, **options: Any) -> Retrained:
        asked.update(options, path=path)
        return Retrained(synthesis.spec_of(core))

    monkeypatch.setattr(method, "fit_embedding", fit)
    for given in (released, released / EMBEDDING):
        out = synthesis.fit_embedding(
            given, out=tmp_path / "again", samples=12, steps=7, seed_public=4, force=True,
            quiet=True,
        )  # fmt: skip
        assert asked["path"] == released / EMBEDDING
        assert (asked["steps"], asked["seed_public"]) == (7, 4)
        certificate = read_certificate(out)
        assert verify(out).samples == 12
        assert certificate["release"]["made_by"] == "fit-embedding"
        assert certificate["ledger"] == core["ledger"]
    (released / EMBEDDING).write_bytes(b"other")
    with pytest.raises(CertificateError, match="was changed"):
        synthesis.fit_embedding(released, out=tmp_path / "forged", samples=12, quiet=True)
