"""What is refused before anything is read, spent or written."""

from __future__ import annotations

import os
from pathlib import Path

from sfumato.data import ImageSource, PublicSpec, open_images, stated_path
from sfumato.data.source import Place
from sfumato.data.writers import FORMATS
from sfumato.errors import UsageError
from sfumato.methods.base import Classifier, Fitted, Method, Model
from sfumato.options import Location, ReleaseOptions
from sfumato.privacy.family import known_places
from sfumato.privacy.run import state_of
from sfumato.release.verification.leaks import json_leaks

COMMANDS = {Model.releases: "synthesize", Classifier.releases: "classify"}
"""The command that makes a release of each kind."""

WORDS = {Model.releases: "synthetic images", Classifier.releases: "a classifier"}

MOST_SAMPLES = 10**9
"""More images than any file system keeps as files."""


def check_output(to: ReleaseOptions) -> Path:
    """Check where and how a release is to be written, before anything is spent on it."""
    if to.format not in FORMATS:
        raise UsageError(f"format={to.format!r} must be one of {', '.join(FORMATS)}.")
    if to.samples is not None and not 1 <= to.samples <= MOST_SAMPLES:
        raise UsageError(f"samples={to.samples} must be from 1 to {MOST_SAMPLES:,}.")
    from sfumato.release import check_target

    target = stated_path(to.out, "out")
    check_target(target, to.force)
    return target


def check_command(method: Method, command: str, to: ReleaseOptions) -> None:
    """Refuse a command whose method releases something else, before anything is spent on it."""
    releases = type(method).model.releases
    if COMMANDS[releases] != command:
        raise UsageError(
            f"method={method.name!r} releases {WORDS[releases]}, which {command} does not. Use "
            f"sfumato {COMMANDS[releases]} ({COMMANDS[releases]}())."
        )
    if command == "classify" and (to.samples is not None or to.format != ReleaseOptions.format):
        raise UsageError(
            f"samples={to.samples}, format={to.format!r}: a classifier's release holds no images. "
            "Leave both out."
        )


def check_classes(model: type[Fitted], spec: PublicSpec, label: str | None, balance: bool) -> None:
    """Refuse to sample classes as asked where that cannot be done, before anything is spent."""
    if label is None and not balance:
        return
    if not (issubclass(model, Model) and model.by_class):
        raise UsageError("label, balance: this method's images come in classes as they come.")
    if label is not None and label not in spec.classes:
        named = ", ".join(map(repr, spec.classes)) or "there are none"
        raise UsageError(f"label={label!r} must be one of the classes: {named}.")
    if balance and (label is not None or not spec.classes):
        raise UsageError("balance=True is for all of several classes, not for one or none.")


def check_publishable(spec: PublicSpec) -> None:
    """Refuse public names that no release may hold, before anything is spent on one."""
    found = list(json_leaks([*spec.classes, spec.unit_in_words], "the classes and the unit"))
    if found or "<!--" in spec.unit_in_words:
        raise UsageError(
            "a class name or the unit looks like an absolute path or a comment, which no release "
            "may hold. Rename the class, or write the unit another way: names of records have no "
            "leading slash."
        )


def check_public(
    public: Location | ImageSource | None,
    private: ImageSource | None = None,
    state: Path | None = None,
) -> None:
    """Refuse public images that lie where private ones do; the images themselves are not compared.

    Places are declared and container-level. Whether two sets share an image depends on single
    records, so it is not looked at: ``docs/public-models.md``.

    Args:
        public: images that are declared public, if there are any.
        private: the data set that they shall serve, if there is one.
        state: the state folder, whose ledgers tell what else is private; the user's by default.

    Raises:
        UsageError: a place of theirs is private, or the state folder lies in one.
        LedgerError: a ledger of the state folder is damaged.
    """
    if public is None:
        return
    if not isinstance(public, ImageSource):
        public = open_images(public, classes=0)
    places = [] if private is None else [(private.name, place) for place in private.places]
    folder = state_of(public, state)
    for location, place in [*places, *known_places(folder)]:
        if any(_is_same(own, place) for own in public.places):
            raise UsageError(
                f"public={public.name} overlaps {location}, which is private: nothing protects "
                "images that are learnt from as public ones. Name images that lie elsewhere; if "
                f"these are public and a run was only tried on them, its ledger is in {folder}, "
                "and another folder, --state (state=), has none."
            )


def _is_same(one: Place, other: Place) -> bool:
    """Whether places overlap, or are two names of one file."""
    if one.path == other.path:
        return one.overlaps(other)  # or they are different splits of it
    try:
        return one.overlaps(other) or (
            Path(one.path).is_file() and os.path.samefile(one.path, other.path)
        )
    except (OSError, ValueError):  # a known name, or not there
        return False


def check_apart(target: Path, made_from: ImageSource | Path, state: Location | None = None) -> None:
    """Refuse a release that would lie in or around what it is made from, or the ledgers."""
    place = Place(str(target.resolve()))
    places: tuple[Place, ...] = ()
    if isinstance(made_from, ImageSource):
        places = made_from.places
        private = state_of(made_from, None if state is None else stated_path(state, "state"))
        if place.overlaps(Place(str(private))):
            raise UsageError(
                f"out={target} lies in the state folder {private}, or around it; a ledger is never "
                "released. Name another folder."
            )
    else:
        places = (Place(str(made_from.resolve())),)
    if any(place.overlaps(other) for other in places):
        shown = made_from.name if isinstance(made_from, ImageSource) else made_from
        raise UsageError(
            f"out={target} lies in {shown}, which it is made from, or around it. Name another "
            "folder."
        )
