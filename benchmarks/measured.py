"""What accuracy did methods reach on public data? The table that ``sfumato plan`` shows.

Reads ``benchmarks/results/*/results.jsonl`` and writes ``src/sfumato/planning/measured.json``. Runs
of experiments stay out: those of fewer than 10,000 samples, but on digits, those whose label does
not begin with the method's name, and those of compressed answers.

    python benchmarks/measured.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLE = ROOT / "src" / "sfumato" / "planning" / "measured.json"
TRAINED_ON = {"fashion-mnist": (60_000, 10), "cifar10": (50_000, 10), "digits": (1_438, 10)}
"""Images and classes of the public training splits."""
LEAST_SAMPLES = 10_000


def rows() -> list[dict[str, Any]]:
    """One row of each data set, method, ε and classifier: the least and the greatest accuracy."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for path in sorted(RESULTS.glob("*/results.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for line in {line["key"]: line for line in lines}.values():
            label, method = line["method"]["label"], line["method"]["method"]
            few = 0 < line["samples"] < LEAST_SAMPLES and line["data"] != "digits"
            compressed = bool(line["method"]["options"].get("compress"))
            if line["status"] != "done" or few or compressed or not label.startswith(method):
                continue
            if line["relation"] != "add-or-remove-one":
                continue
            for classifier, accuracy in line["accuracy"].items():
                key = (line["data"], method, line["epsilon"], line["delta"], classifier)
                found.setdefault(key, []).append(accuracy)
    return [
        {
            "data": data,
            "method": method,
            "records": TRAINED_ON[data][0],
            "classes": TRAINED_ON[data][1],
            "epsilon": epsilon,
            "delta": delta,
            "classifier": classifier,
            "accuracy": [round(min(all_), 4), round(max(all_), 4)],
            "runs": len(all_),
        }
        for (data, method, epsilon, delta, classifier), all_ in sorted(found.items())
    ]


def text() -> str:
    """The table as it ships, a row a line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows()) + "\n]\n"


if __name__ == "__main__":
    TABLE.write_text(text(), encoding="utf-8")
