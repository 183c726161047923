from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sfumato.release import read_certificate
from sfumato.release.images import first_pictures
from sfumato.reporting.measurements import PublishedMetrics, read_measurements
from sfumato.reporting.page import render

VOID = {"meta", "img", "br", "rect"}
NO_PICTURES: list[list[bytes]] = [[]] * 4


class Page(HTMLParser):
    """A page's elements, its text by element, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u202f", " ").split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(release: Path, **changes: Any) -> Page:
    certificate = {**read_certificate(release), **changes}
    return Page(render(certificate, first_pictures(release, certificate)))


def changed(release: Path, part: str, **values: Any) -> Page:
    certificate = copy.deepcopy(read_certificate(release))
    certificate[part].update(values)
    return Page(render(certificate, first_pictures(release, certificate)))


def test_hostile_class_names_are_shown_and_nothing_else(hostile: Path) -> None:
    page = page_of(hostile)
    classes = read_certificate(hostile)["classes"]
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 1
    assert all(not name.startswith("on") for _, values in page.elements for name in values)
    headings = [text for text in page.texts if text in classes]
    assert set(headings) == set(classes)
    alts = [image["alt"] for image in page.all("img")]
    assert all(any(alt and alt.endswith(name) for alt in alts) for name in classes)


def test_nothing_is_fetched(hostile: Path) -> None:
    page = page_of(hostile)
    fetching = {"srcset", "action", "formaction", "data", "ping", "background", "poster"}
    for _, attributes in page.elements:
        assert not fetching & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    for image in page.all("img")[:-1]:  # the last is filled by the script, from the others
        assert (image["src"] or "").startswith("data:image/png;base64,iVBOR")
    assert all("src" not in attributes for attributes in page.all("script"))
    html = render(read_certificate(hostile), NO_PICTURES)
    assert "url(" not in html and "@import" not in html
    policy = page.all("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy and "http" not in policy


def test_both_relations_stand_with_the_numbers_that_hand_computation_gives(hostile: Path) -> None:
    epsilons = {"add-or-remove-one": 1.0, "replace-one": 3.0}
    text = page_of(hostile, epsilon=1.0, epsilon_by_relation=epsilons).text
    first, second = text.split("add-or-remove-one – the relation that was budgeted")[1].split(
        "“Was it my record, or another in its place?”"
    )
    assert "ε = 1 strong bound" in first and "ε = 3 moderate bound" in second
    assert "at most 2.72 (e" in first and "at most 20.1 (e" in second
    # e/(1+e) = 0.7311, e³/(1+e³) = 0.9526; e/(99+e) = 0.0267, e³/(99+e³) = 0.1687
    assert "between 26.9 % and 73.1 %" in first and "between 4.7 % and 95.3 %" in second
    assert "ends at 2.7 % at most" in first and "ends at 16.9 % at most" in second


def test_a_large_epsilon_is_called_a_weak_bound(hostile: Path) -> None:
    assert "At ε = 10 the worst-case bound is weak." in page_of(hostile).text
    by_relation = {"add-or-remove-one": 0.5, "replace-one": 1.1}
    text = page_of(hostile, epsilon=0.5, epsilon_by_relation=by_relation).text
    assert "weak" not in text and "At ε = 0.5 the worst-case bound is strong." in text


def test_several_answers_share_the_bar_by_their_price(hostile: Path) -> None:
    certificate = read_certificate(hostile)
    (event,), (query,) = certificate["events"], certificate["queries"]
    events = [
        {**event, "name": "loud", "noise_std": event["noise_std"] * 2},
        {**event, "name": "still"},
    ]
    page = page_of(hostile, events=events, queries=[query, query])
    bar = [element for element in page.all("rect") if element.get("height") == "40"]
    assert [(part["x"], part["width"]) for part in bar] == [
        ("0.00", "200.00"),
        ("200.00", "800.00"),
    ]
    assert "loud 20.0 %, still 80.0 %" in str(page.all("svg"))
    assert "2 noisy answers" in page.text


def test_a_stamped_release_is_stamped_all_over(stamped: Path, hostile: Path) -> None:
    page = page_of(stamped)
    assert "NOT PRIVATE – do not share" in page.text
    assert page.text.startswith("NOT PRIVATE")  # the title
    assert "In one sentence" not in page.text
    assert "NOT PRIVATE" not in page_of(hostile).text


def test_an_earlier_run_is_part_of_the_total(hostile: Path) -> None:
    assert "this was the first run" in page_of(hostile).text
    text = page_of(hostile, data_set_total={"epsilon": 12.345, "runs": 3}).text
    assert "3 runs on the same private images had cost ε = 12.35 together" in text


def test_what_was_public_is_listed(hostile: Path) -> None:
    encoder = {"name": "efficientnet-lite0", "digest": "ab" * 32}
    method = {"name": "mepf", "config": {"public_digest": "", "seed_public": 5}}
    text = page_of(hostile, encoder=encoder, method=method).text
    assert "28 × 28 pixels, colour" in text
    assert "250, as declared by whoever made the release" in text
    assert f"SHA-256 of its weights {'ab' * 32}" in text
    assert "photographs that scikit-learn ships" in text
    assert "training 5, drawing the images 0" in text
    assert "harder2023pretrained" in text and "tan2019efficientnet" in text
    assert "not stated, and not counted" in changed(hostile, "spec", declared_size=None).text


@pytest.mark.parametrize(
    ("form", "shown", "hidden"),
    [
        ("folder", "ImageFolder", "WebDataset("),
        ("webdataset", "WebDataset(", "ImageFolder"),
        ("parquet", "load_dataset", "ImageFolder"),
    ],
)
def test_loading_fits_the_format(hostile: Path, form: str, shown: str, hidden: str) -> None:
    certificate = copy.deepcopy(read_certificate(hostile))
    certificate["release"]["format"] = form
    text = Page(render(certificate, NO_PICTURES)).text
    assert shown in text and hidden not in text
    assert 'sfumato.open_images("RELEASE")' in text


def test_unlabelled_images_have_no_classes(hostile: Path) -> None:
    certificate = copy.deepcopy(read_certificate(hostile))
    certificate["classes"] = certificate["spec"]["classes"] = []
    text = Page(render(certificate, [[b"\x89PNG"]])).text
    assert "none: the images have no labels" in text and "all images" in text
    assert "ImageFolder" not in text


def test_a_private_evaluation_is_shown_under_a_watermark(hostile: Path, metrics: Path) -> None:
    certificate = read_certificate(hostile)
    html = render(certificate, NO_PICTURES, None, read_measurements(metrics, certificate))
    page = Page(html)
    assert page.text.startswith("NOT PRIVATE")
    assert "Privacy: none." in page.text
    assert "81.2 ± 1.5" in page.text and "93.8 ± 1.5" in page.text  # trained on real images
    assert "2 (2 diverged)" in page.text
    assert "123.5 ± 0.5" in page.text and "1.25 %" in page.text


def bought_metrics(same_data_set: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``metrics.json`` holds, and the part of the certificate that pays for it."""
    noisy, drowned = {"value": 0.8125, "deviation": 0.025}, {"value": None, "deviation": None}
    metrics = {
        "utility": [
            {
                "classifier": "<i>cnn</i>",
                "training_count": 60,
                "accuracy": noisy,
                "recall": [noisy, drowned, noisy, noisy],
            }
        ],
        "frechet": {
            "value": 98.7654,
            "deviation": 1.25,
            "floor": 12.5,
            "encoder": "efficientnet-lite0",
            "encoder_digest": "ab" * 32,
            "axes": 8,
            "radius": 1.0,
            "synthetic_count": 60,
        },
        "same_data_set_as_release": same_data_set,
    }
    paid = {
        "epsilon_by_relation": {"add-or-remove-one": 0.5, "replace-one": 0.707},
        "delta": 1e-6,
        "relation": "add-or-remove-one",
        "unit": "record",
        "data_set_total": {"epsilon": 10.2, "runs": 2},
    }
    return metrics, paid


def test_bought_metrics_are_shown_with_their_price(hostile: Path) -> None:
    certificate = read_certificate(hostile)
    metrics, paid = bought_metrics(same_data_set=True)
    text = Page(render(certificate, NO_PICTURES, PublishedMetrics(metrics, paid))).text
    assert "Privacy: paid for." in text and "this release bought none" not in text
    assert "ε = 0.5 (add-or-remove-one) or 0.707 (replace-one) at δ = 10⁻⁶" in text
    assert "<i>cnn</i> 81.2 ± 2.5" in text and "drowned in the noise" in text
    assert "98.77 ± 1.2" in text
    # The header says the price of everything, not of the images alone.
    assert "all 2 runs on it together have cost ε = 10.2" in text.split("Images Guarantee")[0]


def test_metrics_of_another_ledger_are_not_said_to_be_of_other_records(hostile: Path) -> None:
    # A copy of the private images has a ledger of its own, so the certificate cannot tell.
    certificate = read_certificate(hostile)
    metrics, paid = bought_metrics(same_data_set=False)
    text = Page(render(certificate, NO_PICTURES, PublishedMetrics(metrics, paid))).text
    assert "which have another ledger than those that the release was made from" in text
    assert "for a record that is in both, both prices count" in text
    assert "A record that is in both data sets has paid both totals" in text
    assert "not made from" not in text


def test_the_page_is_the_same_at_every_time(hostile: Path) -> None:
    certificate = read_certificate(hostile)
    pictures = first_pictures(hostile, certificate)
    html = render(certificate, pictures)
    assert html == render(certificate, pictures)
    assert not re.search(r"20\d\d-\d\d|\d\d:\d\d", Page(html).text)


def test_every_section_and_class_has_a_heading_that_exists(hostile: Path) -> None:
    page = page_of(hostile)
    ids = [values["id"] for _, values in page.elements if "id" in values]
    assert len(ids) == len(set(ids))
    for _, values in page.elements:
        if "aria-labelledby" in values:
            assert values["aria-labelledby"] in ids
        if (values.get("href") or "").startswith("#"):
            assert (values["href"] or "")[1:] in ids
