"""Audit every query and every method; a row each, with its claim and what was proven.

Question: how much of the claimed ε do attacks prove, and is any claim refuted? Queries are played
in the worst case, under both relations; methods run over the digits of scikit-learn with canaries.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sfumato.audit import Verdict, judge, play
from sfumato.audit.method import audit
from sfumato.choosing import make_method
from sfumato.data import open_images
from sfumato.methods import find_method
from sfumato.privacy import (
    RELATIONS,
    AggregateQuery,
    Budget,
    GradientQuery,
    HistogramQuery,
    NearestQuery,
    Query,
    SumQuery,
    VoteQuery,
)

DELTA, CONFIDENCE = 1e-5, 0.95
CLASSES = ("a", "b", "c")
DECLARED = 1500
QUERIES: tuple[Query, ...] = (
    SumQuery("sum", lambda images, labels: images, 9, 0.7, by_class=True, shared=2),
    HistogramQuery("histogram", lambda images, labels: labels, 9),
    NearestQuery("nearest", lambda images: images, 9, 9, steps=10),
    GradientQuery("gradient", 9, 0.7, 0.2, 10),
    AggregateQuery("aggregate", 3, 9, 0.7, 0.2, 5, gradient_dimension=9),
    VoteQuery("vote", 9, 1, 9, 10),
)


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each query, relation and ε, then one for each method and ε."""
    for query in (query for query in QUERIES if query.mechanism in arguments.queries):
        for relation in RELATIONS:
            for epsilon in arguments.epsilon:
                budget = Budget(epsilon, DELTA, relation)

                def played(query: Query = query, budget: Budget = budget) -> Verdict:
                    attacked, plan = play([query], budget, arguments.game, CLASSES)
                    return judge(plan, [attacked], CONFIDENCE)

                yield timed({"query": query.mechanism}, played)
    source = open_images("digits", declared_size=DECLARED)
    for name in arguments.methods:
        for epsilon in arguments.epsilon:
            method = make_method(name, source.spec, find_method(name).short)
            budget = Budget(epsilon, DELTA)

            def audited(method: Any = method, budget: Budget = budget) -> Verdict:
                return audit(method, source, budget, canaries=arguments.canaries, quiet=True)

            yield timed({"method": name}, audited)


def timed(what: dict[str, Any], work: Callable[[], Verdict]) -> dict[str, Any]:
    """A row: what was audited, the verdict, and wall seconds."""
    started = time.perf_counter()
    verdict = work()
    return {**what, **verdict.to_dict(), "seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Parse, run, print and write after every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--canaries", type=int, default=1000, help="in DATA")
    parser.add_argument("--game", type=int, default=10_000, help="in the game of one query")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument(
        "--methods",
        nargs="*",
        default=["moments", "mepf", "dpdm", "dpgan", "dpaf", "datalens"],
    )
    parser.add_argument("--queries", nargs="*", default=[query.mechanism for query in QUERIES])
    arguments = parser.parse_args()
    done = []
    for row in rows(arguments):
        done.append(row)
        print(json.dumps(row, ensure_ascii=False), flush=True)
        if arguments.json:
            facts = {"rows": done, "torch": torch.__version__, "threads": torch.get_num_threads()}
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
