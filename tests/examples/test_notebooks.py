"""Every notebook of ``examples/`` runs from top to bottom as it stands, and holds no output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient", reason="install the extra 'test'")
pytest.importorskip("ipykernel", reason="install the extra 'test'")

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SHOWS = {  # what a reader must have seen at its end
    "comparing": "accuracy of 2 runs",
    "own-method": "is not in the plan that was paid for",
    "patients": "over its cap of 4",
    "quick-start": "data:image/png;base64,",
}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def test_all_notebooks_are_known() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(SHOWS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_its_outputs(path: Path) -> None:
    book = read(path)
    nbformat.validate(book)
    for cell in book.cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        assert cell.metadata == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    book = read(path)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=600, kernel_name="python3", resources=where).execute()
    shown = str([cell.get("outputs", []) for cell in book.cells])
    assert SHOWS[path.stem] in shown


def test_the_method_of_the_notebook_is_the_one_of_the_docs() -> None:
    text = (ROOT / "docs/adding-a-method.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    cells = [cell.source for cell in read(ROOT / "examples/own-method.ipynb").cells]
    assert code.strip() in cells


def test_links_between_notebooks_and_docs_lead_somewhere() -> None:
    for path in NOTEBOOKS:
        text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        links = re.findall(r"\]\(([^)#]+)", text)
        assert all((path.parent / link).resolve().is_file() for link in links)
