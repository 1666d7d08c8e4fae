"""What of docs/ is made from the code: reference pages, and pictures.

Committed, so that a code host shows it; tests/test_docs.py holds it to the code.
"""

from __future__ import annotations

import re
from pathlib import Path

from dmimad.settings import default_file
from scripts.reference import machine, pictures, tables

PROJECT = Path(__file__).resolve().parents[2]


def made() -> dict[str, str]:
    """Each file below the project's folder, with what is to be in it."""
    return {
        "config/dmimad.toml": default_file(),
        "docs/reference/commands.md": tables.commands(),
        "docs/reference/settings.md": tables.settings(),
        "docs/reference/metrics.md": tables.metrics(),
        "docs/reference/topics.md": tables.topics(),
        "docs/state-machine.md": _with("docs/state-machine.md", "transitions", machine.rows()),
        "docs/images/state-machine.svg": machine.picture(),
        "docs/images/deduplication.svg": pictures.deduplication(),
        "docs/images/two-witnesses.svg": pictures.two_witnesses(),
        "docs/images/trust-boundaries.svg": pictures.trust_boundaries(),
    }


def _with(path: str, mark: str, text: str) -> str:
    """A page written by people, with `text` between its comments `mark` and `end`."""
    page = (PROJECT / path).read_text("utf-8")
    found, times = re.subn(
        rf"(<!-- {mark}:[^>]*-->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}\n{text}\n\n{match[2]}",
        page,
        flags=re.DOTALL,
    )
    if times != 1:
        raise ValueError(f"{path} must have one pair of comments for {mark}")
    return found
