"""Results as tables beside published figures, in Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from sfumato.bench.results import Line, newest
from sfumato.errors import UsageError
from sfumato.evaluation.literature import Published, published_on

OURS = "measured here"
NONE = "–"
NEEDS = "needs: beyond this package, its public encoder and two processor cores"


@dataclass(frozen=True)
class Table:
    """Texts in rows under a heading; ``notes`` stand below."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(lines: Sequence[Line]) -> list[Table]:
    """Accuracy, distances and published FID of each data set, and the failures of all."""
    latest = newest(lines)
    done = [line for line in latest if line["status"] == "done"]
    made = []
    for data in dict.fromkeys(line["data"] for line in done):
        mine = [line for line in done if line["data"] == data]
        classifiers = [line for line in mine if line["frechet"] is None]
        if classifiers:
            made.append(_classifiers(data, classifiers))
        mine = [line for line in mine if line["frechet"] is not None]
        if not mine:
            continue
        made += [_accuracy(data, mine), _distances(data, mine)]
        if any(row.fid_at(e) is not None for row in published_on(data) for e in _epsilons(mine)):
            made.append(_published_fid(data, mine))
    failed = [line for line in latest if line["status"] != "done"]
    if failed:
        rows = tuple(
            (line["data"], _label(line), f"{line['epsilon']:g}", str(line["seed"]), line["error"])
            for line in failed
        )
        made.append(Table("Failed runs", ("data", "method", "ε", "seed", "error"), rows))
    return made


def _label(line: Line) -> str:
    return str(line["method"]["label"])


def _needs(lines: Sequence[Line], label: str) -> str:
    """What it took to run a method here."""
    mine = [line for line in lines if _label(line) == label]
    found = {
        "GPU": any(line["machine"]["gpu"] for line in mine),
        "public images": any("public" in line["method"]["options"] for line in mine),
    }
    return ", ".join(what for what, needed in found.items() if needed) or "none"


def _epsilons(lines: Sequence[Line]) -> list[float]:
    return sorted({float(line["epsilon"]) for line in lines})


def _methods(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(_label(line) for line in lines))


def _at(lines: Sequence[Line], label: str, epsilon: float) -> list[Line]:
    return [line for line in lines if (_label(line), line["epsilon"]) == (label, epsilon)]


def _spread(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return NONE
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def _accuracy(data: str, lines: Sequence[Line]) -> Table:
    epsilons = _epsilons(lines)
    rows = []
    for label in _methods(lines):
        for name in dict.fromkeys(n for line in lines for n in line["accuracy"]):
            cells = []
            for epsilon in epsilons:
                found = [line["accuracy"].get(name) for line in _at(lines, label, epsilon)]
                cells.append(_spread([100 * share for share in found if share is not None]))
            rows.append((label, name, *cells, _needs(lines, label), OURS))
    quoted = published_on(data)
    for row in quoted:
        at = [row.accuracy_at(epsilon) for epsilon in epsilons]
        if any(value is not None for value in at):
            texts = (NONE if value is None else f"{value:.1f}" for value in at)
            marked = _marked(row, quoted)
            rows.append((marked, row.classifier, *texts, row.needs, row.source.key))
    return Table(
        f"{data}: accuracy (%), trained on synthetic and tested on real images",
        ("method", "classifier", *(f"ε = {epsilon:g}" for epsilon in epsilons), "needs", "source"),
        tuple(rows),
        (*_settings(lines), NEEDS, *_footnotes(quoted)),
    )


def _classifiers(data: str, lines: Sequence[Line]) -> Table:
    """What classifiers that were trained privately themselves name right."""
    epsilons = _epsilons(lines)
    rows = []
    for label in _methods(lines):
        cells, seconds = [], []
        for epsilon in epsilons:
            found = _at(lines, label, epsilon)
            shares = [share for line in found for share in line["accuracy"].values()]
            cells.append(_spread([100 * share for share in shares]))
            seconds += [line["seconds"]["synthesize"] for line in found]
        rows.append((label, *cells, _spread([mean(seconds)], 0), _needs(lines, label), OURS))
    return Table(
        f"{data}: accuracy (%) of private classifiers on real test images",
        ("method", *(f"ε = {epsilon:g}" for epsilon in epsilons), "train (s)", "needs", "source"),
        tuple(rows),
        (*_settings(lines), NEEDS),
    )


def _settings(lines: Sequence[Line]) -> list[str]:
    """How the figures of this benchmark came about."""
    notes = []
    for epsilon in _epsilons(lines):
        # Post-processing and seeds leave a budget's cost as it is.
        known = next(line for line in lines if line["epsilon"] == epsilon)
        both = ", ".join(f"{e:.4g} ({r})" for r, e in known["epsilon_by_relation"].items())
        notes.append(f"{OURS}, ε = {epsilon:g}: budgeted under {known['relation']}; ε = {both}")
    samples = sorted({line["samples"] for line in lines})
    counts = ", ".join(f"{count:,}" for count in samples)
    images = f"{counts} synthetic images; last epoch; " if any(samples) else ""
    seeds = len({line["seed"] for line in lines})
    deltas = sorted({line["delta"] for line in lines})
    notes.append(
        f"{OURS}: δ = {', '.join(f'{delta:g}' for delta in deltas)}; {images}mean ± "
        f"standard deviation over {seeds} seed{'s' if seeds > 1 else ''}; "
        f"commit {', '.join(sorted({str(line['commit']) for line in lines}))}; "
        f"{', '.join(sorted({_machine(line) for line in lines}))}"
    )
    return notes


def _machine(line: Line) -> str:
    machine = line["machine"]
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores{gpu}"


def _marked(row: Published, rows: Sequence[Published]) -> str:
    caveats = list(dict.fromkeys(r.caveat for r in rows if r.caveat))
    mark = f" [{caveats.index(row.caveat) + 1}]" if row.caveat else ""
    return f"{row.method}{mark}{'' if row.checked else ' (unchecked)'}"


def _footnotes(rows: Sequence[Published]) -> list[str]:
    sources = {row.source.key: row.source for row in rows}
    caveats = dict.fromkeys(row.caveat for row in rows if row.caveat)
    notes = [f"{s.key} ({s.date}): {s.cite}; δ = {s.delta}; {s.protocol}" for s in sources.values()]
    notes += [f"[{number}] {caveat}" for number, caveat in enumerate(caveats, start=1)]
    if not all(row.checked for row in rows):
        notes.append("(unchecked) quoted second-hand")
    return notes


def _distances(data: str, lines: Sequence[Line]) -> Table:
    rows = []
    for label in _methods(lines):
        for epsilon in _epsilons(lines):
            found = _at(lines, label, epsilon)
            if not found:
                continue
            seconds = [line["seconds"] for line in found]
            rows.append(
                (
                    label,
                    f"{epsilon:g}",
                    _spread([line["frechet"] for line in found], 2),
                    _spread([1000 * line["kernel"] for line in found], 2),
                    _spread([taken["synthesize"] for taken in seconds], 0),
                    _spread([taken["evaluate"] for taken in seconds], 0),
                )
            )
    settings = {
        f"features: {s['extractor']} (SHA-256 {s['weights_digest'][:12]}…), "
        f"{s['synthetic_count']:,} synthetic against {s['real_count']:,} real test images, "
        f"{s['image_type']}" + (f", {s['grey_rule']}" if s["grey_rule"] else "")
        for s in (line["setting"] for line in lines)
    }
    return Table(
        f"{data}: distance to the real test images, and time",
        ("method", "ε", "Fréchet", "kernel × 1000", "synthesize (s)", "evaluate (s)"),
        tuple(rows),
        tuple(sorted(settings)),
    )


def _published_fid(data: str, lines: Sequence[Line]) -> Table:
    epsilons = _epsilons(lines)
    quoted, rows = published_on(data), {}
    for row in quoted:
        at = [row.fid_at(epsilon) for epsilon in epsilons]
        if any(value is not None for value in at):
            texts = (NONE if value is None else f"{value:g}" for value in at)
            rows[row.method, row.source.key] = (_marked(row, quoted), *texts, row.source.key)
    return Table(
        f"{data}: published FID",
        ("method", *(f"ε = {epsilon:g}" for epsilon in epsilons), "source"),
        tuple(rows.values()),
        ("In Inception-v3 features: not to be compared with the distances above.",),
    )


def to_markdown(lines: Sequence[Line]) -> str:
    """All tables in Markdown."""
    return "\n".join(_markdown(table) for table in tables(lines))


def _markdown(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(text.replace('|', '/') for text in texts)} |"

    parts = [f"**{table.title}**", "", line(table.head), line(["---"] * len(table.head))]
    parts += [line(row) for row in table.rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([*parts, "", *notes, *([""] if notes else [])])


def to_latex(lines: Sequence[Line]) -> str:
    """All tables in LaTeX; they need the package booktabs."""
    return "\n".join(_latex(table) for table in tables(lines))


def _latex(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return f"    {' & '.join(_escaped(text) for text in texts)} \\\\"

    return "\n".join(
        [
            "\\begin{table}",
            f"  \\caption{{{_escaped('. '.join([table.title, *table.notes]))}}}",
            f"  \\begin{{tabular}}{{{'l' * len(table.head)}}}",
            "    \\toprule",
            line(table.head),
            "    \\midrule",
            *(line(row) for row in table.rows),
            "    \\bottomrule",
            "  \\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": "\\textbackslash{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "ε": "$\\varepsilon$",
    "δ": "$\\delta$",
    "±": "$\\pm$",
    "×": "$\\times$",
    "–": "--",
    "…": "\\dots{}",
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in text)


def rewrite_section(page: Path, name: str, markdown: str) -> None:
    """Replace what stands between ``<!-- bench NAME -->`` and ``<!-- /bench NAME -->`` in a page.

    Raises:
        UsageError: the page cannot be read, or does not hold the two lines once, in this order.
    """
    begin, end = f"<!-- bench {name} -->\n", f"<!-- /bench {name} -->"
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--page {page}: cannot be read ({error.strerror}).") from None
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed) or begin in rest:
        raise UsageError(
            f"--page {page}: must hold the line {begin.strip()} and then {end}, each once."
        )
    page.write_text(f"{head}{begin}{markdown}{end}{tail}", encoding="utf-8")
