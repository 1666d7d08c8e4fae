"""Sphinx: the pages of docs/ and what they link to beside it, as a site that loads nothing from elsewhere.

The source directory is the project's own, so that links between pages are the same here, in an editor and
on a code host.  The navigation is what `docs/index.md` lists: a group for each heading, in that order.

`make docs` builds it, `scripts/reference/` makes some of the pages and pictures from the code.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import dmimad  # noqa: E402  # of this folder, whatever is installed
from scripts.reference.samples import language_of  # noqa: E402

project = "dmimad"
author = "The dmimad founders"
copyright = author
release = version = dmimad.__version__

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**", "CHANGELOG.md", "CONTRIBUTING.md", "systemd/README.md", "tests/vm/README.md"]
exclude_patterns = ["docs/_root", "docs/_static", ".venv*", "build", "dist", "**/__pycache__", "**/.*"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3  # the anchors that code hosts give to headings
highlight_language = "none"  # `_name_the_language` says more where it can
nitpicky = True

html_theme = "furo"
html_title = "dmimad"
html_static_path = ["_static"]
html_css_files = ["dmimad.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_extra_path = ["_root"]  # leads from the site's root to its first page
# Furo's own, without the fonts of anybody else.
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5c8f", "color-brand-content": "#0b5c8f"},
    "dark_css_variables": {"color-brand-primary": "#6cbcec", "color-brand-content": "#6cbcec"},
}


def navigation(index: str) -> dict[str, list[str]]:
    """The pages that docs/index.md lists below each of its headings, as Sphinx names them."""
    groups: dict[str, list[str]] = {}
    for heading, text in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", index, re.MULTILINE):
        links = re.findall(r"^- \[[^\]]+\]\(([^)#]+)\.md\)", text, re.MULTILINE)
        groups[heading] = [posixpath.normpath(f"docs/{link}") for link in links]
    return {heading: pages for heading, pages in groups.items() if pages}


def _add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    if page != root_doc:
        return
    for heading, pages in navigation(source[0]).items():
        entries = "\n".join(f"/{entry}" for entry in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n{entries}\n```\n"


def _name_the_language(app: Sphinx, tree: nodes.document) -> None:
    """Indented blocks say nothing of their language; their text does."""
    for block in tree.findall(nodes.literal_block):
        if block.get("language", "none") == "none":
            block["language"] = language_of(block.astext())


def _make_accessible(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Captions of the navigation are headings of some level; what may be moved sideways takes keys."""
    captions = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = captions.replace('role="heading"', 'role="heading" aria-level="2"')
    body = context.get("body", "")
    for start in ("<pre", "<p><img", '<div class="table-wrapper'):
        body = body.replace(start, re.sub(r"^<\w+", r'\g<0> tabindex="0"', start))
    context["body"] = body


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _add_navigation)
    app.connect("doctree-read", _name_the_language)
    app.connect("html-page-context", _make_accessible, priority=900)  # behind the theme's own
    return {"parallel_read_safe": True}
