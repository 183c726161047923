"""What four papers claim, beside what a sound ε gave here: a table from committed results.

    python benchmarks/claims.py benchmarks/results --page docs/benchmarks.md

Nothing is run. A result that is not there is "not run" in the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfumato.bench.results import read_results
from sfumato.bench.tables import rewrite_section

HEAD = "| claim | source | ε here | measured here | at the same ε |\n|---|---|---|---|---|"


def scored(results: Path, suite: str, method: str, epsilon: float) -> str:
    """Mean accuracy (%) of the CNN over the seeds of each of a method's settings, or "not run"."""
    by_setting: dict[str, list[float]] = {}
    for line in read_results(results / suite):
        if (line["method"]["method"], line["epsilon"]) == (method, epsilon):
            if line["status"] == "done" and "cnn" in line.get("accuracy", {}):
                by_setting.setdefault(line["method"]["label"], []).append(line["accuracy"]["cnn"])
    shown = []
    for label, values in by_setting.items():
        setting = label.removeprefix(method).strip(", ")
        mean = f"{100 * sum(values) / len(values):.1f} %"
        shown.append(f"{mean} ({setting})" if setting else mean)
    return ", ".join(shown) or "not run"


def private_classifiers(results: Path, suite: str, epsilon: float) -> str:
    """Accuracies (%) of the private classifiers that ``sfumato classify`` trains."""
    found = {
        line["method"]["label"]: line["accuracy"][line["method"]["method"]]
        for line in read_results(results / suite)
        if line["epsilon"] == epsilon and line["status"] == "done"
    }
    shown = (f"{label} {100 * accuracy:.1f} %" for label, accuracy in sorted(found.items()))
    return ", ".join(shown) or "not run"


def topagg(rows: list[dict[str, Any]], data: str, method: str, epsilon: float) -> str:
    """Accuracy (%) of a classifier of ``methods/topagg.py``, the best of those that were run."""
    found = [
        row["accuracy"]
        for row in rows
        if (row["data"], row["method"], row["epsilon"]) == (data, method, epsilon)
    ]
    return f"{max(found):.1f} %" if found else "not run"


def lines(results: Path) -> list[Mapping[str, str]]:
    """The rows of the table."""
    trained = json.loads((results / "topagg.json").read_text())
    images = {
        "claim": "images like CIFAR-10's at ε ≈ 2",
        "source": "DP-MEPF, arXiv 2205.12900",
    }
    rows = []
    for epsilon in (1.0, 10.0):
        rows.append(
            {
                **images,
                "ε": f"CIFAR-10, {epsilon:g}",
                "here": f"CNN on its images: {scored(results, 'cifar10', 'mepf', epsilon)}",
                "with": private_classifiers(results, "cifar10-classifiers", epsilon),
            }
        )
    rows.append(
        {
            "claim": "a classifier on its images is on a par with one trained privately",
            "source": "DPDM, arXiv 2210.09929",
            "ε": "Fashion-MNIST, 10",
            "here": f"CNN on its images: {scored(results, 'dpdm', 'dpdm', 10.0)}",
            "with": private_classifiers(results, "classifiers", 10.0),
        }
    )
    for data in ("fashion-mnist", "cifar10"):
        for epsilon in (1.0, 10.0):
            rows.append(
                {
                    "claim": "TopAgg trains better than DP-SGD in most cases",
                    "source": "DataLens, arXiv 2103.11109",
                    "ε": f"{data}, {epsilon:g}",
                    "here": f"TopAgg: {topagg(trained, data, 'TopAgg', epsilon)}",
                    "with": f"DP-SGD: {topagg(trained, data, 'DP-SGD', epsilon)}",
                }
            )
    for epsilon in (1.0, 10.0):
        rows.append(
            {
                "claim": "useful images of 64 and 128 pixels",
                "source": "DPAF, arXiv 2304.12185",
                "ε": f"Fashion-MNIST (28 pixels), {epsilon:g}",
                "here": f"CNN on its images: {scored(results, 'dpaf', 'dpaf', epsilon)}",
                "with": f"moments: {scored(results, 'fashion-mnist', 'moments', epsilon)}",
            }
        )
    return rows


def table(results: Path) -> str:
    """The whole table, as a page holds it."""
    return "\n".join([HEAD, *(f"| {' | '.join(row.values())} |" for row in lines(results)), ""])


def main() -> None:
    """Print the table, and write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--page", type=Path, help="a page whose section of claims is rewritten")
    arguments = parser.parse_args()
    found = table(arguments.results)
    print(found, end="")
    if arguments.page:
        rewrite_section(arguments.page, "claims", found)


if __name__ == "__main__":
    main()
