"""DPAF's training: a first layer where wanted, then three networks on noisy class means."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import torch

from sfumato.data.spec import PublicSpec
from sfumato.methods.dpaf.asymmetric_training import AsymmetricSettings, AsymmetricTraining
from sfumato.methods.dpaf.class_means import ClassMaps, NoisyClassMeans
from sfumato.methods.dpaf.first_layer import Classifier, learn_first_layer
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.methods.training import Session
from sfumato.networks import Generator
from sfumato.networks.aggregating import FixedConvolution, Lower, Upper
from sfumato.privacy import AggregateQuery, Curator, GradientQuery, Query

if TYPE_CHECKING:
    from sfumato.methods.dpaf.method import DPAF


def train(method: DPAF, curator: Curator) -> GeneratorModel:
    """Learn a first layer where wanted, then train on noisy class means."""
    plan = curator.open(method)
    spec, session = curator.spec, Session.of(curator)
    asked = {query.name: query for query in plan.queries}
    lower, upper, generator = _untrained(method, spec, session.device)
    maps, rows = ClassMaps(method.reach(spec)), generator.classes
    if "first-layer" in asked:
        _transfer(method, lower, asked["first-layer"], curator)
    forward, joint = (asked.get(name) for name in ("means", "means-and-gradient"))
    assert forward is None or isinstance(forward, AggregateQuery)
    assert joint is None or isinstance(joint, AggregateQuery)
    some = forward or joint
    assert some is not None
    every = method.every if lower.shape.trained else 0
    tally = torch.zeros(rows + 1, device=session.device)
    means = NoisyClassMeans(
        curator,
        forward,
        joint,
        every,
        some.noise_stds(plan.event(some.name).noise_std)[0],
        lower,
        maps,
        method.batch / rows,
        tally,
    )
    names = {entry.name for entry in fields(AsymmetricSettings)} - {"every"}
    settings = AsymmetricSettings(**{n: getattr(method, n) for n in names}, every=every)
    training = AsymmetricTraining(
        session, lower, upper, generator, maps, settings, method.seed_public
    )
    released = training.run(method.steps, means, tally, means.forget)
    counts = means.counts().double().cpu().numpy()
    return GeneratorModel(spec, released, method.generator_width, counts)


def _transfer(method: DPAF, lower: Lower, query: Query, curator: Curator) -> None:
    """Learn the first layer and put it in its place."""
    assert isinstance(query, GradientQuery)
    spec = curator.spec
    classifier = Classifier(spec.channels, method.width, len(spec.classes)).to(lower.device)
    learned = learn_first_layer(classifier, query, method.batch, 1e-3, curator)
    first = lower.blocks[0]
    assert isinstance(first, FixedConvolution)
    first.load_state_dict({k: v.detach() for k, v in learned.state_dict().items()})


def _untrained(
    method: DPAF, spec: PublicSpec, device: torch.device
) -> tuple[Lower, Upper, Generator]:
    torch.manual_seed(method.seed_public)
    lower = Lower(
        spec.height, spec.channels, method.width, method.maps, method.position, method.normalised
    )
    upper = Upper(lower, max(len(spec.classes), 1), method.upper_width)
    generator = make_generator(spec, method.generator_width, method.latent)
    return lower.to(device), upper.to(device), generator.to(device)
