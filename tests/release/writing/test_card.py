from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sfumato.release import citations, read_certificate
from sfumato.release.writing.card import make_card


@pytest.fixture
def certificate(honest: Path) -> dict[str, Any]:
    return read_certificate(honest)


def test_both_relations_stand_in_the_card(certificate: dict[str, Any], honest: Path) -> None:
    card = (honest / "README.md").read_text()
    for relation, value in certificate["epsilon_by_relation"].items():
        assert f"| {relation}" in card
        assert f"{value:.4g}" in card
    assert f"factor of at most {math.exp(certificate['epsilon']):.3g}" in card
    assert "NOT PRIVATE" not in card


def test_delta_is_no_probability_of_a_leak_nor_k_records_k_times_epsilon(
    certificate: dict[str, Any],
) -> None:
    words = " ".join(make_card(certificate, []).split())
    assert "and beyond that by at most δ" in words
    assert "not the probability of a leak" in words
    assert "δ·(1 + e^ε + … + e^((k−1)·ε))" in words
    assert "can cost more than k times ε" in words


def test_the_front_matter_is_yaml_that_points_at_the_images(honest: Path) -> None:
    yaml = pytest.importorskip("yaml")
    _, front, _ = (honest / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["configs"][0]["data_files"] == [{"split": "train", "path": "images/**"}]
    assert facts["size_categories"] == ["n<1K"]
    assert "differential-privacy" in facts["tags"]


def test_the_size_is_named_only_where_it_was_declared(certificate: dict[str, Any]) -> None:
    assert "stated nowhere" in make_card(certificate, [])
    declared = {**certificate, "spec": {**certificate["spec"], "declared_size": 60_000}}
    card = make_card(declared, [])
    assert "60,000, stated by whoever" in card
    assert "stated nowhere" not in card


def test_a_stamped_release_says_so_first(certificate: dict[str, Any]) -> None:
    card = make_card({**certificate, "private": "NOT PRIVATE: x"}, [])
    assert card.index("NOT PRIVATE") < card.index("synthetic images of")


def test_earlier_runs_are_counted_in(certificate: dict[str, Any]) -> None:
    card = make_card({**certificate, "data_set_total": {"epsilon": 7.125, "runs": 3}}, [])
    assert "one of 3 runs" in card
    assert "7.125" in card


def test_class_names_cannot_break_out_of_their_place(certificate: dict[str, Any]) -> None:
    card = make_card({**certificate, "classes": ["a`b", "{{ 7*7 }}", "<b>"]}, [])
    assert "0 = `a'b`, 1 = `{{ 7*7 }}`, 2 = `<b>`" in card


@pytest.mark.parametrize(
    ("form", "names", "line"),
    [
        ("folder", [], 'torchvision.datasets.ImageFolder("DIR/images", allow_empty=True)'),
        (
            "webdataset",
            ["images/train-000000.tar"],
            'webdataset.WebDataset("DIR/images/train-000000.tar")',
        ),
        (
            "webdataset",
            ["images/train-000000.tar", "images/train-000012.tar"],
            'webdataset.WebDataset("DIR/images/train-{000000..000012}.tar")',
        ),
        ("parquet", [], 'datasets.load_dataset("DIR", split="train")'),
    ],
)
def test_loading_is_one_line(
    certificate: dict[str, Any], form: str, names: list[str], line: str
) -> None:
    release = {**certificate["release"], "format": form}
    assert line in make_card({**certificate, "release": release}, names)


def test_an_embedding_is_mentioned_where_there_is_one(certificate: dict[str, Any]) -> None:
    assert "fit-embedding" not in make_card(certificate, [])
    assert "fit-embedding" in make_card(certificate, ["embedding.safetensors"])


def test_the_method_the_encoder_and_the_accountant_are_cited(certificate: dict[str, Any]) -> None:
    named = {
        **certificate,
        "method": {"name": "mepf", "config": {}},
        "encoder": {"name": "efficientnet-lite0", "digest": "0"},
    }
    card = make_card(named, [])
    for key in ("harder2023pretrained", "tan2019efficientnet", "doroshenko2022connect"):
        assert key in card
    assert "Harder, Fredrik and Jalali Asadabadi, Milad and" in card
    assert "harder2023pretrained" not in make_card(certificate, [])


def test_sfumato_and_the_noise_are_cited(
    certificate: dict[str, Any],
) -> None:
    card = make_card({**certificate, "sfumato": "1.2.3"}, [])
    assert "@software{sfumato," in card
    assert "version = {1.2.3}" in card
    assert "canonne2020discrete" in card
    for entry in citations(certificate):
        assert entry.count("{") == entry.count("}")
    assert "canonne2020discrete" not in make_card({**certificate, "noise": "another"}, [])


def test_what_a_method_says_of_its_images_stands_in_the_card(
    certificate: dict[str, Any], honest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfumato.methods import Moments

    assert make_card(certificate, []).count("\n\n\n") == 0
    monkeypatch.setattr(Moments, "card", "Expect blotches.")
    assert "`moments`.\nExpect blotches.\n\n!" in make_card(certificate, [])
