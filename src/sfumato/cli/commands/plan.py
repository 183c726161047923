"""``sfumato plan``: what a run would ask and cost, before any private pixel is read."""

from __future__ import annotations

from sfumato.cli import parameters as p
from sfumato.cli import show


def plan(
    data: p.Data,
    epsilon: p.Epsilon,
    delta: p.Delta = 1e-5,
    relation: p.Relation = "add-or-remove-one",
    method: p.MethodName = "mepf",
    preset: p.Preset = None,
    set_: p.Set = None,
    public: p.Public = None,
    pretrain: p.Pretrain = None,
    image_size: p.ImageSize = None,
    channels: p.Channels = None,
    classes: p.Classes = None,
    declared_size: p.DeclaredSize = None,
    split: p.Split = None,
    unit: p.Unit = None,
    unit_pattern: p.UnitPattern = None,
    records_per_unit: p.RecordsPerUnit = None,
    state: p.State = None,
    seed_public: p.SeedPublic = 0,
    json: p.Json = False,
) -> None:
    """Say what a run would ask and cost; reads no pixel.

    Shows the queries, their noise and ε under both neighbouring relations. Reads the form of DATA
    (file names, headers), never a pixel, and charges nothing.

    \b
    Examples:
      sfumato plan xrays/ --epsilon 1
      sfumato plan fashion-mnist --epsilon 10 --method moments
    """
    from sfumato.data import open_images
    from sfumato.privacy import Budget, Curator
    from sfumato.privacy.budget import delta_problem
    from sfumato.privacy.spending import ledger_of, spending
    from sfumato.synthesis import make_method

    source = open_images(
        data,
        image_size=image_size,
        channels=channels,
        classes=p.parse_classes(classes),
        declared_size=declared_size,
        split=split,
        unit=unit,
        unit_pattern=unit_pattern,
        records_per_unit=records_per_unit,
    )
    budget = Budget(epsilon, delta, p.parse_relation(relation))
    warning = delta_problem(delta, source.spec.declared_size)
    settings = p.parse_settings(set_, pretrain)
    chosen = make_method(method, source.spec, settings, public, seed_public, preset)
    made = Curator(source, budget, state=state, quiet=True).calibrate(chosen)
    ledger = ledger_of(source, state)
    before, after = spending(ledger, delta), spending(ledger, delta, made.events)
    estimate = chosen.estimate(source.spec)
    if json:
        show.as_json(
            {
                **made.to_dict(),
                "epsilon_by_relation": made.epsilons(),
                "digest": made.digest(),
                "spent": before.to_dict(),
                "spent_after": after.to_dict(),
                "estimate": estimate,
                "notes": list(source.notes),
                "warning": warning,
            }
        )
        return
    spec = source.spec
    show.line(
        f"{data}: {spec.height}x{spec.width}x{spec.channels}, "
        f"{len(spec.classes) or 'no'} classes; method {chosen.name}"
    )
    for note in source.notes:
        show.line(note)
    show.table(
        ["query", "asks", "times", "of", "coordinates", "clip norm", "σ (noise / clip norm)"],
        [
            (
                event.query,
                event.name,
                f"{event.count:,}",
                "all" if event.sampling_rate == 1 else f"{100 * event.sampling_rate:.3g} %",
                str(facts.get("dimension", facts.get("bins", ""))),
                f"{event.clip_norm:.4g}",
                f"{event.noise_std / event.clip_norm:.4g}",
            )
            for event, facts in zip(made.events, made.to_dict()["queries"], strict=True)
        ],
    )
    show.line(f"Protected as one: {show.unit(spec.unit_in_words)}.")
    if warning is not None:
        show.line(
            f"WARNING: {warning}. synthesize refuses it, and verify fails, unless "
            "--allow-large-delta is given."
        )
    show.line(f"This run would cost {show.epsilons(made.epsilons(), delta)}.")
    show.line(f"Spent so far: {show.epsilons(before.by_relation, delta)}.")
    show.line(f"After it:     {show.epsilons(after.by_relation, delta)}.")
    if before.mixed_units:
        show.line(before.mixed_units)
    if after.cap is not None:
        show.line(
            f"The cap of ε = {after.cap.epsilon:g} ({after.cap.relation}) is checked at the start."
        )
    for what, value in estimate.items():
        show.line(f"Expected {what.replace('_', ' ')}: {value}")
    if not estimate:
        show.line("Time and memory: this method predicts none.")
