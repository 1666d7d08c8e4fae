"""Code in the documentation: which blocks there are, and in which language each is.

For the site, which colours them, and for the tests, which try them.  Blocks are indented by four spaces, as
the pages have them, or fenced; their text says what they are.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
import tomllib
from collections.abc import Callable

#: What lines of shell begin with in our pages.
_NAMES = """
    amtool apt apt-get cat cd chmod chown cp curl df dmimad dmsetup dnf echo editor git grubby install issue
    issue() journalctl kernel-install ln losetup make mkdir mosquitto_sub openssl pip pipx promtool python
    python3 reboot rm sed sh sqlite3 ssh sudo systemctl systemd-sysusers systemd-tmpfiles truncate
    update-grub veritysetup
"""
PROGRAMS = frozenset(_NAMES.split())


def blocks(markdown: str) -> list[str]:
    """The code blocks of a page, indented by four spaces or fenced, without their indentation."""
    found: list[str] = []
    lines = iter(markdown.splitlines())
    block: list[str] = []
    blank = True  # before the first line, and behind an empty one: otherwise an indented line is an item's
    for line in lines:
        begins, blank = blank, not line.strip()
        if fence := re.match(r"\s*(```+)", line):
            fenced = []
            for inner in lines:
                if inner.strip() == fence[1]:
                    break
                fenced.append(inner)
            found.append(textwrap.dedent("\n".join(fenced)))
        elif (line.startswith("    ") and (begins or block)) or (block and blank):
            block.append(line)
            continue
        if block:
            found.append(textwrap.dedent("\n".join(block)).strip("\n"))
            block = []
    if block:
        found.append(textwrap.dedent("\n".join(block)).strip("\n"))
    return found


def language_of(text: str) -> str:
    """As Pygments calls it: json, toml, python, ini, console, yaml, bash, or none."""
    return next((language for language, is_it in _LANGUAGES if is_it(text)), "none")


def _is_python(text: str) -> bool:
    return bool(re.match(r"(from|import|async def|def|class) |\"\"\"", text)) and _parses(ast.parse, text)


def _is_shell(text: str) -> bool:
    joined = text.replace("\\\n", " ").splitlines()
    lines = [line for line in joined if line.strip() and not line.startswith((" ", "#", "}"))]
    return bool(lines) and "…" not in lines[0] and all(map(_calls_a_program, lines))


def _calls_a_program(line: str) -> bool:
    first = line.split(maxsplit=1)[0]
    return first.rpartition("/")[2] in PROGRAMS or "=$(" in first


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except (ValueError, SyntaxError):
        return False
    return True


_LANGUAGES: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("json", lambda text: text.startswith("{") and _parses(json.loads, text)),
    ("toml", lambda text: "=" in text and _parses(tomllib.loads, text)),
    ("python", _is_python),
    ("ini", lambda text: re.match(r"\[[A-Z]\w+\]\n", text)),
    ("console", lambda text: text.startswith("$ ")),
    ("yaml", lambda text: re.match(r"[a-z_]+:\n", text)),
    ("bash", _is_shell),
)
