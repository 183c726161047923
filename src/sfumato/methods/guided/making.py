"""Guided's images: chosen from public ones or sampled, pulled along the released embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU, moved, random_on
from sfumato.errors import UsageError
from sfumato.methods.base import Sampling, labels_for
from sfumato.methods.chosen_images import ChosenImages
from sfumato.methods.dpdm.diffusion import Denoiser, DiffusionModel
from sfumato.methods.estimate import TIMED, seconds_of
from sfumato.methods.guided.guidance import Guidance
from sfumato.methods.guided.pieces import in_pieces
from sfumato.methods.guided.sources import (
    PublicDenoiser,
    Pulled,
    Source,
    StartingImages,
    chosen_by,
    public_classes,
    with_views,
)
from sfumato.methods.mepf.embedding import Embedding, JointEmbedding, joint_embedding
from sfumato.methods.mepf.labeller import Labeller
from sfumato.methods.mepf.model import MEPFModel
from sfumato.methods.public_model import PublicModel, check_at_hand, check_form
from sfumato.methods.training import Session
from sfumato.networks import to_bytes
from sfumato.privacy import Curator, distributed
from sfumato.privacy.ledger import digest
from sfumato.progress import stage

if TYPE_CHECKING:
    from sfumato.methods.guided.method import Guided

AT_ONCE = 250
"""Images of a class that are guided, and stored, together: a mean embedding needs many."""

SAMPLED = 2000
"""Images of the matched generator that are sampled, and stored, together."""


def estimate(method: Guided, spec: PublicSpec) -> dict[str, str]:
    """Expected time and memory on this machine, measured on empty images."""
    matching, classes = method.matching(), max(1, len(spec.classes))
    joint = moved(JointEmbedding(matching, spec, blank=True), CPU)
    labeller = None
    if joint.coordinates is not None:
        weights = torch.zeros(joint.coordinates.width + 1, classes)
        labeller = Labeller(joint.coordinates, weights)
    means = torch.zeros(classes, joint.blocks.width)
    guidance = Guidance(joint, labeller, means, method.moment_weight, method.mirrored)
    seconds, total = 0.0, method.kept * classes
    part = np.zeros((TIMED, spec.channels, spec.height, spec.width), np.uint8)
    if method.public is not None:
        looked_at = len(method.public) * (1 + method.views)
        seconds += seconds_of(lambda: guidance.margins(part)) * looked_at / TIMED
    starting = StartingImages(part, np.zeros((classes, TIMED), np.int64))
    source, numbers = _source(method, guidance, starting, ()), np.arange(TIMED)
    random = random_on(CPU, method.seed_public)
    seconds += seconds_of(lambda: source.made(0, numbers, random)) * total / TIMED
    found = matching.estimate(spec)
    if not method.generated:
        del found["training_time"]
    return {**found, "guiding_time": f"{seconds / 60:.0f} minutes for {total:,} images"}


def make(method: Guided, curator: Curator) -> ChosenImages:
    """Ask once, then guide; a killed run goes on with the images that it has made."""
    spec, matching = curator.spec, method.matching()
    # What is wrong with public images or a public model is said before the charge.
    _check(method, spec)
    joint = joint_embedding(matching, spec)
    curator.open(method)
    answer, session = curator.sum("embedding"), Session.of(curator)
    embedding = Embedding(answer.total, answer.shared, answer.noise_std, spec, matching.config())
    targets = joint.targets(embedding)
    guidance = Guidance.of(joint, targets, method.moment_weight, method.mirrored, session.device)
    generated = None
    if method.generated:
        generated = _generated(method, matching.learn(embedding, session), session)
    images = _guided(method, guidance, session, generated)
    return ChosenImages(spec, images, targets.counts, method.kept)


def _check(method: Guided, spec: PublicSpec) -> None:
    check_at_hand(method.public_model, method.public_model_digest, method.name, spec)
    if not method.public_digest:
        return
    if method.public is None:
        raise UsageError(
            f"guided: the public images of digest {method.public_digest[:12]}… are not at hand. "
            "Pass them: --public (public=)."
        )
    check_form(method.public, method.name, spec, fewest=max(1, len(spec.classes)))


def _generated(method: Guided, generator: MEPFModel, session: Session) -> StartingImages:
    """What DP-MEPF's generator makes."""
    generator.move(session.device)
    classes = len(generator.counts)
    wanted = Sampling(method.generated * classes, method.seed_public, balance=True)

    def make(piece: int) -> NDArray[np.uint8]:
        numbers = np.arange(piece * SAMPLED, min((piece + 1) * SAMPLED, wanted.count))
        return np.concatenate([images for images, _ in generator.redraw(wanted, numbers)])

    pieces = -(-wanted.count // SAMPLED)
    images = np.concatenate(in_pieces("sampling", digest(method.config()), pieces, session, make))
    order = np.argsort(labels_for(generator.counts, wanted), kind="stable")
    return StartingImages(images, order.reshape(classes, method.generated))


def _guided(
    method: Guided, guidance: Guidance, session: Session, generated: StartingImages | None
) -> NDArray[np.uint8]:
    """All images, class after class: chosen and generated ones pulled, or a denoiser's."""
    classes, starting = len(guidance.means), generated
    if method.public is not None:
        images = with_views(method.public, method.views, method.mirrored, method.seed_public)
        with stage("choosing public images", session.quiet) as report:
            margins = guidance.margins(images, report)
        # Ranks choose alike: the first one's choice counts.
        chosen = distributed.from_first(chosen_by(margins, method.kept - method.generated))
        starting = StartingImages(images, chosen)
        if generated is not None:
            both = np.concatenate([images, generated.images])
            numbers = np.hstack([chosen, len(images) + generated.chosen])
            starting = StartingImages(both, numbers)
    known: Sequence[NDArray[np.int64]] = ()
    if method.public_model is not None:
        known = distributed.from_first(
            public_classes(_denoiser(method.public_model), guidance, method.seed_public)
        )
    there = 0 if starting is None else starting.chosen.shape[1]
    parts: list[tuple[Source, NDArray[np.int64]]] = []
    for start, count in ((starting, there), (None, method.kept - there)):
        pieces = -(-count // AT_ONCE)
        if pieces:
            source = _source(method, guidance, start, known)
            # Each has images of all margins: they are compared with the mean of their class.
            parts += [(source, np.arange(part, count, pieces)) for part in range(pieces)]

    def make(piece: int) -> NDArray[np.uint8]:
        label, part = divmod(piece, len(parts))
        source, numbers = parts[part]
        seed = np.random.SeedSequence([method.seed_public, piece]).generate_state(1)
        made = source.made(label, numbers, random_on(session.device, int(seed[0])))
        pixels: NDArray[np.uint8] = to_bytes(2 * made - 1).cpu().numpy()
        return pixels

    done = in_pieces("guiding", digest(method.config()), classes * len(parts), session, make)
    return np.concatenate(done)


def _source(
    method: Guided,
    guidance: Guidance,
    starting: StartingImages | None,
    known: Sequence[NDArray[np.int64]],
) -> Source:
    if method.public_model is None:
        assert starting is not None
        return Pulled(starting, guidance, method.pull_steps, method.length)
    model = _denoiser(method.public_model)
    return PublicDenoiser(
        Denoiser.of(moved(model.denoiser.network, guidance.device), model.parameterisation),
        known,
        guidance,
        method.sampling_steps,
        method.length,
        starting,
        method.start_noise,
    )


def _denoiser(public: PublicModel) -> DiffusionModel:
    assert isinstance(public.model, DiffusionModel)  # see PublicModel.check
    return public.model
