"""``sfumato plan``: what a run would ask and cost, before any private pixel is read."""

from __future__ import annotations

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.cli.spelling import as_options
from sfumato.data.options import DataOptions
from sfumato.options import MethodOptions
from sfumato.privacy.budget import Budget


def plan(
    data: p.Data,
    budget: Budget,
    method: MethodOptions,
    declared: DataOptions,
    measure: p.Measure = False,
    state: p.State = None,
    json: p.Json = False,
) -> None:
    """Say what a run would ask and cost; reads no pixel.

    Shows the queries, their noise and ε under both neighbouring relations, which accuracy the
    method had on public data at such an ε, and which ε was the cheapest useful one there. Reads
    the form of DATA (file names, headers), never a pixel, and charges nothing. What was worked out
    once is kept in the state folder, so the same plan comes at once. With --measure it also says
    what the run will take on this machine.

    \b
    Examples:
      sfumato plan xrays/ --epsilon 1
      sfumato plan fashion-mnist --epsilon 10 --method moments
    """
    from sfumato import planning
    from sfumato.data import open_images
    from sfumato.planning.advice import advise, sentences
    from sfumato.privacy.budget import delta_problem
    from sfumato.privacy.spending import ledger_of, spending

    source, delta = open_images(data, declared), budget.delta
    warning = delta_problem(delta, source.spec.declared_size)
    made = planning.plan(source, budget, method, state, measure)
    ledger = ledger_of(source, state)
    before, after = spending(ledger, delta), spending(ledger, delta, made.events)
    advice = advise(made.method, source.spec, budget, made.events)
    words = sentences(advice, made.method, source.spec, budget)
    if json:
        show.as_json(
            {
                **made.facts,
                "epsilon_by_relation": made.epsilons,
                "digest": made.digest,
                "spent": before.to_dict(),
                "spent_after": after.to_dict(),
                "estimate": made.estimate,
                "advice": {**advice.to_dict(), "sentences": words},
                "notes": list(source.notes),
                "warning": warning,
            }
        )
        return
    spec = source.spec
    show.line(
        f"{data}: {spec.height}x{spec.width}x{spec.channels}, "
        f"{len(spec.classes) or 'no'} classes; method {made.method}"
    )
    for note in source.notes:
        show.line(as_options(note))
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
            for event, facts in zip(made.events, made.facts["queries"], strict=True)
        ],
    )
    show.line(f"Protected as one: {show.unit(spec.unit_in_words)}.")
    if warning is not None:
        show.line(
            f"WARNING: {warning}. synthesize refuses it, and verify fails, unless "
            "--allow-large-delta is given."
        )
    show.line(f"This run would cost {show.epsilons(made.epsilons, delta)}.")
    show.line(f"Spent so far: {show.epsilons(before.by_relation, delta)}.")
    show.line(f"After it:     {show.epsilons(after.by_relation, delta)}.")
    if before.mixed_units:
        show.line(before.mixed_units)
    if after.cap is not None:
        show.line(
            f"The cap of ε = {after.cap.epsilon:g} ({after.cap.relation}) is checked at the start."
        )
    for what, value in made.estimate.items():
        show.line(f"Expected {what.replace('_', ' ')}: {value}")
    if not made.estimate:
        none = "this method predicts none" if measure else "not measured; --measure does"
        show.line(f"Time and memory: {none}.")
    show.line(
        "What to expect, from runs on public data and from arithmetic, not from these images:"
    )
    for sentence in words:
        show.line(f"  {sentence}")
