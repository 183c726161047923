"""``sfumato synthesize``: the whole job."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.data.options import DataOptions
from sfumato.options import MethodOptions, ReleaseOptions, RunOptions
from sfumato.privacy.budget import Budget


def synthesize(
    data: p.Data,
    budget: Budget,
    method: MethodOptions,
    to: ReleaseOptions,
    declared: DataOptions,
    run: RunOptions,
    json: p.Json = False,
) -> None:
    """Turn private images into a release of synthetic ones.

    A release holds the images, the model, a card for people and a certificate for machines. The
    budget is charged once, before any noise is drawn. After Ctrl-C or a crash the same command
    goes on where it was, also with other settings of training and sampling: these cost nothing.

    \b
    Examples:
      sfumato synthesize xrays/ --epsilon 1 --out release/
      sfumato synthesize fashion-mnist --epsilon 10 --declared-size 60000 --out release/
      sfumato synthesize scans.zip --epsilon 1 --image-size 64 --cap 3 --out release/
      sfumato synthesize xrays/ --epsilon 1 --balance --out release/
      sfumato synthesize xrays/ --epsilon 1 --unit-pattern "patient_(\\d+)" --out release/
      sfumato synthesize digits --epsilon 10 --method moments --format parquet --out release/
      sfumato synthesize faces/ --epsilon 10 --declared-size 20000 --method dpdm --out release/
      torchrun --nproc-per-node 4 -m sfumato synthesize faces/ ... --method dpdm --preset paper
    """
    from sfumato.synthesis import synthesize

    release = synthesize(data, budget, declared, method, run, to)
    conclude(release, data, declared, run.folder, budget.delta, json)


def conclude(
    release: Path, data: str, declared: DataOptions, state: Path | None, delta: float, json: bool
) -> None:
    """Print what a run on private data made and cost, and the data's total."""
    from sfumato.privacy.distributed import is_first

    if not is_first():
        return
    describe(release, json)
    if not json:
        show_total(data, declared, state, delta)


def show_total(data: str, declared: DataOptions, state: Path | None, delta: float) -> None:
    """Print what the private data has been charged over all runs."""
    from sfumato.data import open_images
    from sfumato.privacy.spending import ledger_of, spending

    total = spending(ledger_of(open_images(data, declared), state), delta)
    show.line(f"all runs on {data} so far: {show.epsilons(total.by_relation, delta)}")
    if total.mixed_units:
        show.line(total.mixed_units)
    if total.cap is None:
        show.line(f"no cap is set; set one with: sfumato ledger {data} --cap E")
    else:
        show.line(f"cap: ε = {total.cap.epsilon:g}; a further run may cost ε = {total.left:.4g}")


def describe(release: Path, json: bool, charged: bool = True) -> None:
    """Print what a release holds and what it has cost, if it was charged."""
    from sfumato.release import read_certificate
    from sfumato.release.certificate import is_classifier

    certificate = read_certificate(release)
    if json:
        keys = ("epsilon", "delta", "relation", "unit", "epsilon_by_relation", "private")
        stated = {key: certificate[key] for key in keys}
        total = {"data_set_total": certificate["data_set_total"]}
        show.as_json({"out": str(release), **stated, **certificate["release"], **total})
        return
    if certificate["private"] is not True:
        show.line("NOT PRIVATE: the noise came from a known seed. Never share this release.")
    if is_classifier(certificate):
        show.line(
            f"classifier of {len(certificate['classes'])} classes in "
            f"{release / 'model.safetensors'}; to use it: sfumato.load({str(release)!r}).predict"
        )
    else:
        show.line(
            f"{certificate['release']['samples']} synthetic images in {release / 'images'}, "
            f"a few of them in {release / 'samples.png'}"
        )
    show.line(f"card: {release / 'README.md'}   certificate: {release / 'certificate.json'}")
    if (release / "report.html").exists():
        show.line(f"report: {release / 'report.html'}")
    if not charged:
        show.line("nothing was charged: the private images were not read again")
    else:
        price = show.epsilons(certificate["epsilon_by_relation"], certificate["delta"])
        show.line(f"cost: {price}")
