"""Benchmarks: methods × data sets × ε × seeds from a suite file, beside published figures.

``suite`` reads what to run, ``runs`` runs it, ``results`` keeps a line for each finished run, and
``tables`` sets them beside what others publish. A suite's data is declared public.
"""

from sfumato.bench.results import read_results
from sfumato.bench.runs import run_suite
from sfumato.bench.suite import Case, MethodChoice, Suite, load_suite
from sfumato.bench.tables import rewrite_section, to_latex, to_markdown

__all__ = [
    "Case",
    "MethodChoice",
    "Suite",
    "load_suite",
    "read_results",
    "rewrite_section",
    "run_suite",
    "to_latex",
    "to_markdown",
]
