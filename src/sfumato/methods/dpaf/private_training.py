"""DPAF's training: a first layer where wanted, then three networks on noisy class means."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import torch

from sfumato.data.spec import PublicSpec
from sfumato.devices import moved
from sfumato.features.shipped import layer_shapes
from sfumato.methods.dpaf.asymmetric_training import AsymmetricSettings, AsymmetricTraining
from sfumato.methods.dpaf.class_means import ClassMaps, NoisyClassMeans
from sfumato.methods.dpaf.first_layer import Classifier, learn_first_layer
from sfumato.methods.dpaf.public_layers import NoisyEmbeddings, PublicMaps, no_gaussians
from sfumato.methods.mean_matching import warm_up_and_cosine
from sfumato.methods.mepf.embedding import joint_embedding
from sfumato.methods.mepf.generator import StartedGenerator
from sfumato.methods.mepf.matching import first_refiner
from sfumato.methods.mepf.model import MEPFModel
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
    training = AsymmetricTraining(
        session, lower, upper, generator, maps, _settings(method, every), method.seed_public
    )
    released = training.run(method.steps, means, {"tally": tally}, means.forget)
    counts = means.counts().double().cpu().numpy()
    return GeneratorModel(spec, released, method.generator_width, counts)


def train_on_public_layers(method: DPAF, curator: Curator) -> MEPFModel:
    """Train on noisy class means of a public encoder's activations."""
    embedding, spec = method.embedding(), curator.spec
    # What is wrong with a public model is said before the charge.
    refiner = first_refiner(embedding, spec, method.seed_public, method.name)
    joint = joint_embedding(embedding, spec)
    plan = curator.open(method)
    (query,) = plan.queries
    assert isinstance(query, AggregateQuery)
    session = Session.of(curator)
    torch.manual_seed(method.seed_public)
    shapes = layer_shapes(method.layers, spec.height, spec.width)
    upper = Upper(shapes * (2 if method.second_weight else 1), query.rows, method.upper_width)
    size = 0 if joint.start is None else joint.start.size
    start = no_gaussians(query.rows, size) if size else None
    generator = StartedGenerator(spec, start, refiner).to(session.device)
    maps = PublicMaps(method.second_weight)
    noise_std = query.noise_stds(plan.event(query.name).noise_std)[0]
    means = NoisyEmbeddings(
        curator, query, noise_std, moved(joint, session.device), maps, generator.start
    )
    training = AsymmetricTraining(
        session,
        joint,
        upper.to(session.device),
        generator,
        maps,
        _settings(method, 0),
        method.seed_public,
        warm_up_and_cosine(method.steps * method.generator_steps),
    )
    released = training.run(method.steps, means, means.state, means.forget)
    made = StartedGenerator(spec, generator.start, released.refiner).eval()
    return MEPFModel(spec, means.counts(method.steps), made, None)


def _settings(method: DPAF, every: int) -> AsymmetricSettings:
    names = {entry.name for entry in fields(AsymmetricSettings)} - {"every"}
    return AsymmetricSettings(**{n: getattr(method, n) for n in names}, every=every)


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
    upper = Upper(lower.map_shapes, max(len(spec.classes), 1), method.upper_width)
    generator = make_generator(spec, method.generator_width, method.latent)
    return lower.to(device), upper.to(device), generator.to(device)
