"""Fill the page's template: everything that it shows comes from its arguments, and no clock."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from sfumato.privacy import RELATIONS, Event
from sfumato.release.certificate import RECORD, is_classifier
from sfumato.release.files import EMBEDDING
from sfumato.release.verification.claim import is_stamped
from sfumato.release.verification.numbers import factor, percent, scientific
from sfumato.release.writing.citations import citations
from sfumato.reporting.measurements import Measurements, PublishedMetrics
from sfumato.reporting.odds import loss_variance, make_odds

SMALL, LARGE = 56, 448
"""Sides, in CSS pixels, that images are enlarged towards in the rows and in the dialog."""
LARGEST_SMALL = 96


def render(
    certificate: Mapping[str, Any],
    pictures: Sequence[Sequence[bytes]],
    published: PublishedMetrics | None = None,
    measurements: Measurements | None = None,
) -> str:
    """Return the page of a release, one HTML text that fetches nothing.

    Args:
        certificate: the release's, verified.
        pictures: PNG files, a list for each of the first classes.
        published: the release's published metrics, if it has any.
        measurements: an evaluation on real images; only for a page outside the release.
    """
    style, script = _asset("page.css"), _asset("page.js")
    spec, delta = certificate["spec"], certificate["delta"]
    events = [Event.from_dict(event) for event in certificate["events"]]
    odds = [
        make_odds(relation, certificate["epsilon_by_relation"][relation], events)
        for relation in RELATIONS
    ]
    return _template().render(
        certificate=certificate,
        classes=certificate["classes"],
        spec=spec,
        total={"units": [], **certificate["data_set_total"]},
        unit=spec.get("unit"),
        one="unit" if "unit" in spec else RECORD,
        release=certificate["release"],
        classifier=is_classifier(certificate),
        config=certificate["method"]["config"],
        budgeted=next(one for one in odds if one.relation == certificate["relation"]),
        odds=odds,
        asked=sum(event.count for event in events),
        expected=None if spec["declared_size"] is None else delta * spec["declared_size"],
        answers=_answers(events, certificate),
        rows=_named(pictures, certificate["classes"]),
        **_sides(spec),
        embedding=EMBEDDING in certificate["files"],
        stamped=is_stamped(certificate),
        citations=citations(certificate),
        published_metrics=published,
        measurements=measurements,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


@cache  # compiled once a process
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"factor": factor, "percent": percent, "scientific": scientific}
    environment.filters["png"] = _data_uri
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(_asset("page.html.jinja"))


def _asset(name: str) -> str:
    return files("sfumato.reporting").joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy: no network, and no style or script but the page's own."""
    own = [
        f"{kind} 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
        for kind, text in (("style-src", style), ("script-src", script))
    ]
    return "; ".join(["default-src 'none'", "img-src data:", *own, "base-uri 'none'"])


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _named(
    pictures: Sequence[Sequence[bytes]], classes: Sequence[str]
) -> list[tuple[str, Sequence[bytes]]]:
    names = classes[: len(pictures)] if classes else ["all images"]
    return list(zip(names, pictures, strict=True))


def _sides(spec: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Widths and heights of the small and the large view, whole multiples where they fit."""
    longest = max(spec["height"], spec["width"])
    scale = min(-(-SMALL // longest), LARGEST_SMALL / longest)
    sizes = {"small": scale, "large": max(1, LARGE // longest)}
    return {
        name: (round(spec["width"] * by), round(spec["height"] * by)) for name, by in sizes.items()
    }


def _answers(events: Sequence[Event], certificate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each noisy answer was and took, with its place on a bar of 1000 units."""
    relation = certificate["relation"]
    whole = sum(loss_variance(event, relation) for event in events)
    rows, at = [], 0.0
    for event, query in zip(events, certificate["queries"], strict=True):
        share = loss_variance(event, relation) / whole
        rows.append(
            {
                "event": event,
                "coordinates": query.get("dimension", query.get("bins")),
                "by_class": query.get("by_class", False),
                "multipliers": [event.noise_multiplier(name) for name in RELATIONS],
                "share": share,
                "start": f"{1000 * at:.2f}",
                "length": f"{1000 * share:.2f}",
            }
        )
        at += share
    return rows
