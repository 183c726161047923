"""A release in a notebook: a few of its images, and what its certificate says, in words."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

from sfumato.privacy import Event
from sfumato.release import Certificate
from sfumato.release.certificate import is_classifier
from sfumato.release.files import SAMPLES
from sfumato.release.verification.claim import is_stamped
from sfumato.release.verification.numbers import percent, scientific
from sfumato.reporting.odds import make_odds

EVEN = 0.5


def summary(folder: Path, certificate: Certificate) -> str:
    """Return an HTML fragment that fetches nothing: the grid of samples and the claim in words.

    Args:
        folder: the release.
        certificate: the release's, verified.
    """
    stated: dict[str, Any] = certificate
    unit, relation, delta = stated["unit"], stated["relation"], stated["delta"]
    epsilons = stated["epsilon_by_relation"]
    events = [Event.from_dict(event) for event in stated["events"]]
    odds = make_odds(relation, epsilons[relation], events)
    one = "one record" if unit == "record" else unit
    guess = "was used" if relation == "add-or-remove-one" else "was used, and no other in its place"
    words = (
        f"Whoever held it for {percent(EVEN)} likely that one unit {guess} can hold it for at most "
        f"<strong>{percent(odds.most(EVEN))}</strong> likely after studying this release, except "
        f"with a probability of about {scientific(odds.missed)}. A unit is {escape(one)}."
    )
    if is_stamped(certificate):
        words = "<strong>NOT PRIVATE</strong>: the noise came from a known seed. Never share this."
    claim = ", ".join(f"ε = {value:.4g} ({name})" for name, value in epsilons.items())
    classes = len(stated["classes"])
    images = f"{stated['release']['samples']:,} synthetic images"
    what = "a classifier" if is_classifier(stated) else images
    total = stated["data_set_total"]
    return (
        '<div style="max-width: 46em">'
        f"<p><strong>{escape(folder.name)}</strong>: {what}"
        f"{f' of {classes} classes' if classes else ''}, "
        f"made by {escape(str(stated['method']['name']))}</p>"
        f"{_picture(folder / SAMPLES)}"
        f"<p>{claim} at δ = {scientific(delta)}. {words}</p>"
        f"<p>All runs on the data so far ({total['runs']}): ε = {total['epsilon']:.4g} "
        f"({relation}).</p>"
        "</div>"
    )


def _picture(path: Path) -> str:
    if not path.is_file():
        return ""
    data = b64encode(path.read_bytes()).decode()
    style = "image-rendering: pixelated; max-width: 100%"
    return f'<img alt="Synthetic images" style="{style}" src="data:image/png;base64,{data}">'
