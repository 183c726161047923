"""The data set card: README.md with Hugging Face's front matter, in words for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sfumato.release.certificate import RECORD, is_classifier
from sfumato.release.files import EMBEDDING
from sfumato.release.verification.claim import is_stamped
from sfumato.release.verification.numbers import factor
from sfumato.release.versions import FIRST_FORMAT
from sfumato.release.writing.citations import about_method, citations

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def make_card(
    certificate: Mapping[str, Any],
    names: Sequence[str],
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Write a release's card from its certificate (files and digest may still be missing).

    names: the release's files so far, relative. metrics: those that were published, if any were.
    """
    # A card of the first format is derived from its own words.
    name = "card-1.md.jinja" if certificate["format"] == FIRST_FORMAT else "card.md.jinja"
    classifier = is_classifier(certificate)
    return _rendered(
        name,
        names,
        certificate,
        certificate=certificate,
        title=f"{'A classifier' if classifier else 'Synthetic images'} with differential privacy",
        classifier=classifier,
        total={"units": [], **certificate["data_set_total"]},
        unit=certificate["spec"].get("unit"),
        one="unit" if "unit" in certificate["spec"] else RECORD,
        embedding=EMBEDDING in names,
        stamped=is_stamped(certificate),
        citations=citations(certificate),
        about=about_method(certificate["method"]["name"]),
        metrics=metrics,
        published=certificate.get("published_metrics"),
    )


def make_mock_card(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    """Write the card of a mock from what its ``mock.json`` states, and from its files so far."""
    title = "A mock of synthetic images, without any guarantee"
    version = facts["release"]["sfumato"]
    return _rendered("mock.md.jinja", names, facts, title=title, classifier=False, version=version)


def _rendered(template: str, names: Sequence[str], facts: Mapping[str, Any], **more: Any) -> str:
    """Fill a template with what any card says of the images, and with ``more``."""
    samples = facts["release"]["samples"]
    return (
        _environment()
        .get_template(template)
        .render(
            classes=facts["classes"],
            spec=facts["spec"],
            samples=samples,
            size_category=next((name for most, name in _SIZES if samples < most), "10M<n<100M"),
            form=facts["release"]["format"],
            shards=_shards([name for name in names if name.endswith(".tar")]),
            **more,
        )
    )


@cache  # a template is compiled once a process
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sfumato.release.writing", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["eps"] = lambda value: f"{value:.4g}"
    environment.filters["percent"] = _percent
    environment.filters["factor"] = factor
    environment.filters["yaml"] = lambda text: json.dumps(text, ensure_ascii=False)
    return environment


def _percent(measured: Mapping[str, Any]) -> str:
    """A published share, with the deviation of its noise."""
    if measured["value"] is None:
        return "drowned in the noise"
    return f"{100 * measured['value']:.1f} % ± {100 * measured['deviation']:.1f}"


def _shards(names: list[str]) -> str:
    """Name one tar, or several in the braces that WebDataset expands."""
    last = max(names, default="").rpartition("/")[2]
    number = last.rpartition("-")[2].removesuffix(".tar")
    return last.replace(number, f"{{000000..{number}}}") if len(names) > 1 else last
