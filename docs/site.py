"""Build hook of the site: the repository's own pages and notebooks join it, and links follow."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
MATHEMATICS = re.compile(
    r"(?P<code>```.*?```|`[^`]+`)|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$]+)\$", re.DOTALL
)
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the repository's root, and the notebooks."""
    for source, target in PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=content))
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        content = notebook.read_text(encoding="utf-8")
        files.append(File.generated(config, f"examples/{notebook.name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files into links between pages, and a proof's LaTeX into MathML."""
    here = page.file.src_uri
    sources = {target: source for source, target in PAGES.items()}
    source = sources.get(here, f"docs/{here}")

    def linked(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        page_of_site = PAGES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(page_of_site, posixpath.dirname(here) or os.curdir)

    page_with_links = LINK.sub(linked, markdown)
    return rendered(page_with_links, here) if here.startswith("proofs/") else page_with_links


def rendered(markdown: str, where: str) -> str:
    """The same page with ``$...$`` and ``$$...$$`` as MathML, which browsers draw by themselves.

    Raises:
        PluginError: a formula has a command that no converter knows.
    """

    def drawn(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        display = match["display"]
        formula = convert(display or match["inline"], display="block" if display else "inline")
        if "\\" in formula:
            raise PluginError(f"{where}: not understood: {match[0]}")
        return f'\n<div class="formula">{formula}</div>\n' if display else f"<span>{formula}</span>"

    return MATHEMATICS.sub(drawn, markdown)
