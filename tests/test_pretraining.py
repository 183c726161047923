"""Public models: trained on public images alone, started from, named and compared."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sfumato
from sfumato.choosing import make_method
from sfumato.data import PublicSpec
from sfumato.devices import CPU
from sfumato.errors import CertificateError, SfumatoError, UsageError
from sfumato.methods import find_method
from sfumato.methods.base import digest_of
from sfumato.methods.dpdm.diffusion import DiffusionModel
from sfumato.methods.dpdm.private_training import untrained
from sfumato.methods.mepf.matching import first_refiner
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.public_model import PublicModel
from sfumato.methods.registry import IMAGES, PRETRAINED, STARTED
from sfumato.methods.training import Session, Training
from sfumato.pretraining import UNCHECKED, _samples, pretrain
from sfumato.release import read_certificate, verify
from sfumato.release.writing.card import make_card
from sfumato.synthesis import sample, synthesize

pytestmark = pytest.mark.usefixtures("few_probes")

SIZE = 28
NETWORK = {"width": 8, "blocks": 1, "patch": 4}
PRIVATE = {"steps": 2, "batch": 10, "multiplicity": 1, "sampling_steps": 2}
MATCHED = {"steps": 2, "batch": 8, "layers": [5, 8], "start_coefficients": 4, "labeller_size": 9}
NOTHING = (np.zeros((0, 1, SIZE, SIZE), np.uint8), np.zeros(0, np.int64))
SPEC = PublicSpec(SIZE, SIZE, 1, ("cat", "dog"), 40)


class Killed(BaseException):
    """Stands for a kill, which no handler sees."""


def saved(path: Path, count: int, classes: int = 3, side: int = SIZE) -> Path:
    """Random grey images with labels, as an npz."""
    random = np.random.default_rng(count)
    images = random.integers(0, 256, (count, side, side), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % classes)
    return path


def synthesized(private: Path, folder: Path, method: str, options, model: Path | None) -> Path:
    """A release of four images."""
    return synthesize(
        private,
        epsilon=10.0,
        classes=2,
        declared_size=40,
        method=method,
        options=options,
        public_model=model,
        samples=4,
        out=folder / "release",
        state=folder / "state",
        quiet=True,
    )


def trained(folder: Path, name: str = "public", **changes) -> Path:
    """A tiny denoiser of 30 public images in three classes."""
    folder.mkdir(exist_ok=True)
    public = saved(folder / "public.npz", 30)
    options = {"public_steps": 4, "sampling_steps": 2, **NETWORK}
    stated = {"options": options, "quiet": True, "licence": "CC0", "classes": 3, **changes}
    return pretrain(public, out=folder / f"{name}.model", **stated)


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory) -> Path:
    """A tiny public denoiser."""
    return trained(tmp_path_factory.mktemp("public"))


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> Path:
    """40 private images in two classes."""
    return saved(tmp_path_factory.mktemp("private") / "private.npz", 40, 2)


@pytest.fixture(scope="module")
def released(tmp_path_factory, denoiser: Path, private: Path) -> Path:
    """A release of a denoiser that started from the public one."""
    folder = tmp_path_factory.mktemp("released")
    return synthesized(private, folder, "dpdm", PRIVATE, denoiser)


def refused(model: Path, spec: PublicSpec, options=None, method="dpdm") -> str:
    with pytest.raises(UsageError) as caught:
        made = make_method(method, spec, {**PRIVATE, **(options or {})}, public_model=model)
        untrained(made, spec, CPU)
    return str(caught.value)


def test_a_preset_does_not_warm_up_over_a_public_model_unless_it_is_asked_to(
    denoiser: Path,
) -> None:
    spec = PublicSpec(SIZE, SIZE, 1, ("a", "b"), declared_size=40)
    found = {
        asked: make_method(
            "dpdm", spec, {"warm_up": asked} if asked else {}, preset="cpu", public_model=denoiser
        )
        for asked in (None, "moments")
    }
    assert {asked: method.warm_up for asked, method in found.items()} == {
        None: "none",
        "moments": "moments",
    }
    assert make_method("dpdm", spec, preset="cpu").warm_up == "moments"


def test_a_public_model_says_what_it_learnt_from(denoiser: Path) -> None:
    model = PublicModel.read(denoiser)
    with np.load(denoiser.parent / "public.npz") as arrays:
        digest = digest_of(arrays["images"][:, None])
    said = {"licence": "CC0", "images": 30, "sha256": digest, "labels": True}
    assert said.items() <= model.card.items()
    assert model.card["statement"] == UNCHECKED
    assert model.digest == replace(model, digest="").digest  # the same bytes are made again
    assert denoiser.with_name("public.model.png").exists()
    assert sorted(path.name for path in denoiser.parent.iterdir()) == [
        "public.model",
        "public.model.png",
        "public.npz",
    ]


def test_a_killed_run_goes_on_to_the_same_model(
    tmp_path: Path, denoiser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfumato.methods.training.SAVED_EVERY", 2)
    update, taken = Training.along, []

    def watched(self, *arguments):
        if len(taken) == 3:
            raise Killed
        taken.append(None)
        update(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "along", watched)
        with pytest.raises(Killed):
            trained(tmp_path)
        patched.setattr(Training, "along", lambda *a: (taken.append(None), update(*a)))
        made = trained(tmp_path)
    assert len(taken) == 3 + 2  # two of the four steps were in the checkpoint
    assert made.read_bytes() == denoiser.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_only_classes_that_the_picture_shows_are_sampled(
    denoiser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    true = DiffusionModel.draw

    def draw(self, labels, random):
        drawn.extend(labels.tolist())
        return true(self, labels, random)

    monkeypatch.setattr("sfumato.pretraining.MOST_ROWS", 2)
    monkeypatch.setattr(DiffusionModel, "draw", draw)
    model = PublicModel.read(denoiser).model  # of three classes
    _samples(model, model.spec)
    assert sorted(drawn) == [0] * 10 + [1] * 10


def test_private_training_starts_from_the_public_weights(denoiser: Path) -> None:
    public = PublicModel.read(denoiser).model.denoiser.network
    made = make_method("dpdm", SPEC, PRIVATE, public_model=denoiser)
    assert (made.width, made.patch) == (8, 4)  # the network's settings come with the model
    private = untrained(made, SPEC, CPU)[0]
    rows = private.label.weight
    assert rows.shape[0] == 3 and torch.equal(rows, public.label.weight[-1].expand_as(rows))
    learnt = {name: value for name, value in public.state_dict().items() if name != "label.weight"}
    assert all(torch.equal(value, private.state_dict()[name]) for name, value in learnt.items())


@pytest.mark.parametrize("labelled", [True, False])
def test_any_class_starts_as_no_class_of_the_public_model(
    tmp_path: Path, denoiser: Path, labelled: bool
) -> None:
    path = denoiser if labelled else trained(tmp_path, classes=0)
    public = PublicModel.read(path).model.denoiser.network
    x, level = torch.randn(4, 1, SIZE, SIZE), torch.randn(4)
    expected = public(x, level)
    assert expected.abs().sum() > 0
    for classes, labels in (((), None), (("cat", "dog"), torch.tensor([0, 1, 1, 2]))):
        spec = replace(SPEC, classes=classes)
        private = untrained(make_method("dpdm", spec, PRIVATE, public_model=path), spec, CPU)[0]
        torch.testing.assert_close(private(x, level, labels), expected)


def test_a_model_that_does_not_fit_is_refused_with_its_reason(denoiser: Path) -> None:
    assert "28x28 pixels" in refused(denoiser, replace(SPEC, height=32, width=32))
    assert "channels=3" in refused(denoiser, replace(SPEC, channels=3))
    assert "another network" in refused(denoiser, SPEC, {"width": 12})
    with pytest.raises(UsageError, match="one of dpdm, which mepf cannot start from"):
        make_method("mepf", SPEC, public_model=denoiser)


def test_other_methods_name_those_that_can_start_from_a_model(denoiser: Path) -> None:
    starting = [
        name for name in IMAGES if "public_model" in {f.name for f in fields(find_method(name))}
    ]
    assert set(starting) == set(STARTED)
    for name in set(IMAGES) - set(STARTED):
        with pytest.raises(
            UsageError, match="cannot start from a public model; dpdm, mepf, guided, dpaf can"
        ):
            make_method(name, SPEC, public_model=denoiser)
    for name in set(IMAGES) - set(PRETRAINED):
        with pytest.raises(UsageError, match="on public images alone; dpdm and mepf can"):
            find_method(name).pretrained(SPEC, NOTHING, {}, Session())


@pytest.mark.parametrize("option", ["public_model", "public", "public_labels"])
def test_what_is_no_setting_cannot_be_set(option: str) -> None:
    with pytest.raises(UsageError, match=f"no option '{option}'"):
        make_method("dpdm", SPEC, {option: "a.model"})


def test_a_file_that_is_no_public_model_is_refused(
    tmp_path: Path, denoiser: Path, released: Path
) -> None:
    text, short, hollow = (tmp_path / name for name in ("text", "short", "hollow"))
    text.write_text("not a model")
    short.write_bytes(denoiser.read_bytes()[:-7])
    whole = PublicModel.read(denoiser)
    hollow.write_bytes(whole.to_bytes().replace(rb"\"width\": 8", rb"\"width\": 4"))
    for path in (text, short, hollow, tmp_path, tmp_path / "none", released / "model.safetensors"):
        with pytest.raises(UsageError, match="is no public model"):
            PublicModel.read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"wide": 3}}, "no option 'wide'"),
        ({"options": {"public": "x"}}, "no option 'public'"),
        ({"options": {"width": "x"}}, "width='x'"),
        ({"options": {"width": 7}}, "width=7"),
        ({"preset": "tpu"}, "cpu or gpu"),
        ({"method": "moments", "preset": "cpu"}, "left out"),
        ({"method": "dpdn"}, "must be one of"),
        ({"seed_public": -1}, "seed_public"),
    ],
)
def test_a_wrong_setting_is_refused_and_leaves_nothing(
    tmp_path: Path, change: dict, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        trained(tmp_path, **change)
    assert [path.name for path in tmp_path.iterdir()] == ["public.npz"]


def test_a_bad_public_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "m.model"
    (tmp_path / "empty").mkdir()
    for public in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(SfumatoError, match=public.name):
            pretrain(public, out=out, quiet=True)
    with pytest.raises(UsageError, match="no 2 images"):
        pretrain(saved(tmp_path / "one.npz", 1, 1), out=out, classes=1, quiet=True)
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(Path(sfumato.__file__).parents[2] / "docs" / "images" / "samples.png", folder)
    with pytest.raises(UsageError, match="Name a file elsewhere"):
        pretrain(folder, out=folder / "m.model", image_size=SIZE, classes=0, quiet=True)
    assert not out.exists() and len(list(folder.iterdir())) == 1
    out.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        pretrain("digits", out=out, quiet=True)
    assert out.read_text() == "mine"


def test_images_of_another_size_and_colour_are_converted(tmp_path: Path) -> None:
    public = saved(tmp_path / "large.npz", 6, side=40)
    options = {"public_steps": 1, "sampling_steps": 2, **NETWORK}
    stated = {"image_size": SIZE, "channels": 3, "classes": 0, "options": options, "quiet": True}
    made = PublicModel.read(pretrain(public, out=tmp_path / "m", **stated))
    assert (made.model.spec.height, made.model.spec.channels) == (SIZE, 3)


def test_a_release_names_its_public_model_and_verify_compares(
    denoiser: Path, released: Path, tmp_path: Path
) -> None:
    digest = PublicModel.read(denoiser).digest
    certificate = read_certificate(released)
    assert certificate["method"]["config"]["public_model_digest"] == digest
    assert digest in (released / "README.md").read_text()
    assert "not at hand" in " ".join(verify(released, redraw=0).remarks)
    said = " ".join(verify(released, redraw=0, public_model=denoiser).remarks)
    assert "maker's word" in said
    other = trained(tmp_path, "other", seed_public=1)
    with pytest.raises(CertificateError, match="started from the public model"):
        verify(released, redraw=0, public_model=other)
    with pytest.raises(UsageError, match="cannot be read"):
        verify(released, redraw=0, public_model=tmp_path / "none")
    again = sample(released, samples=4, out=tmp_path / "again", quiet=True)
    assert digest in make_card(read_certificate(again), [])


def test_a_release_without_a_public_model_is_of_none(
    private: Path, denoiser: Path, tmp_path: Path
) -> None:
    release = synthesized(private, tmp_path, "moments", {"coefficients": 4}, None)
    assert "public model" not in " ".join(verify(release, redraw=0).remarks)
    assert "public model" not in (release / "README.md").read_text()
    with pytest.raises(CertificateError, match="started from no public model"):
        verify(release, redraw=0, public_model=denoiser)


def test_nothing_is_charged_for_a_model_that_does_not_fit(
    private: Path, denoiser: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="another network"):
        synthesized(private, tmp_path, "dpdm", {**PRIVATE, "width": 12}, denoiser)
    assert "charge" not in "".join(p.read_text() for p in tmp_path.glob("state/*/ledger.jsonl"))


def test_a_generator_starts_from_a_public_one() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 1, SIZE, SIZE), dtype=np.uint8)
    patches = random.integers(0, 256, (100, 1, SIZE, SIZE), dtype=np.uint8)
    settings = {**MATCHED, "width": 8, "public": patches}
    made = DPMEPF.pretrained(SPEC, (images, np.arange(12) % 2), settings, Session(quiet=True))
    model = PublicModel("mepf", made, {})
    method = DPMEPF(width=8, public_model=model)
    private = first_refiner(method, replace(SPEC, classes=("a", "b", "c")), seed=1).state_dict()
    learnt = made.generator.refiner.state_dict()
    rows = learnt.pop("label.weight").mean(dim=0)
    torch.testing.assert_close(private.pop("label.weight"), rows.repeat(3, 1))
    assert all(torch.equal(value, private[name]) for name, value in learnt.items())
    config = method.config()
    assert DPMEPF.from_config(config, None, model) == method
    with pytest.raises(UsageError, match="another public model"):
        DPMEPF.from_config(config)
    with pytest.raises(UsageError, match="the run starts from the public model"):
        first_refiner(replace(method, public_model=None), SPEC, seed=1)
