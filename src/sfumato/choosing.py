"""The method that options choose, with all its settings, and the public things it learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sfumato.data import LabelledImages, PublicSpec, load_labelled, open_images, stated_path
from sfumato.errors import UsageError
from sfumato.methods import find_method
from sfumato.methods.base import Method
from sfumato.methods.registry import STARTED
from sfumato.options import ClassifierOptions, Location, MethodOptions

if TYPE_CHECKING:
    from sfumato.methods.public_model import PublicModel


def make_method(
    chosen: MethodOptions | str,
    spec: PublicSpec,
    options: Mapping[str, Any] | None = None,
    **stated: Any,
) -> Method:
    """Configure a method: its defaults, then a preset's settings, then the stated ones.

    Args:
        chosen: the choice, or a method's name with ``options`` and other fields of
            :class:`MethodOptions`.

    Raises:
        UsageError: the method or one of its options is not known, or a value is outside its rule.
    """
    if isinstance(chosen, str):
        chosen = MethodOptions(chosen, options=options, **stated)
    if isinstance(chosen.method, Method):
        return chosen.method
    kind = find_method(chosen.method)
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    values = dict(chosen.options or {})
    if chosen.preset is not None:
        values = {**kind.preset(chosen.preset, spec), **values}
    if chosen.public_model is not None:
        if "public_model" not in known:
            raise UsageError(
                f"public_model={chosen.public_model}: {kind.name} cannot start from a public "
                f"model; {', '.join(STARTED)} can."
            )
        model = read_public_model(chosen.public_model)
        model.check(kind.name, spec)
        its = {name: value for name, value in model.settings().items() if name in known}
        own = dict(chosen.options or {})
        values |= {**kind.started, **its, **own, "public_model": model}
    if chosen.pretrain is not None:
        values["public_steps"] = chosen.pretrain
    if isinstance(chosen, ClassifierOptions) and chosen.compress:
        values["compress"] = True
    if chosen.public is not None:
        start, votes = values.get("public_model"), bool(values.get("public_votes"))
        wanted = bool(values.get("public_conditional")) or (
            votes and (start is None or start.centres is None)
        )
        labelled = "public_labels" in known and wanted
        images = public_images(chosen.public, spec, labelled, limited=not votes)
        values["public"] = images.images
        if "public_labels" in known:
            values["public_labels"] = images.labels
    if "seed_public" in known:
        values.setdefault("seed_public", chosen.seed_public)
    return kind.of(values)


def read_public_model(location: Location) -> PublicModel:
    """The public model in a file.

    Raises:
        UsageError: the file is missing or is no public model.
    """
    from sfumato.methods.public_model import PublicModel

    return PublicModel.read(stated_path(location, "public_model"))


def public_images(
    location: Location, spec: PublicSpec, labelled: bool = False, limited: bool = True
) -> LabelledImages:
    """Read images that the user declares public, in the form of the private ones.

    Args:
        labelled: with their own labels.
        limited: these stand for private classes, so there must not be more of them.

    Raises:
        UsageError: labels are wanted, and there are more classes than the private images have.
    """
    classes = None if labelled else 0
    source = open_images(location, image_size=spec.height, channels=spec.channels, classes=classes)
    if limited and len(source.spec.classes) > len(spec.classes):
        raise UsageError(
            f"public={location} has {len(source.spec.classes)} classes, but the private images "
            f"have {len(spec.classes)}; conditional pre-training needs as many or fewer."
        )
    return load_labelled(source)
