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

#: What lines of shell begin with in our pages, beside the names of programs with a path.
_PROGRAMS = (
    "apt|cat|chmod|chown|cp|curl|dmimad|dmsetup|dnf|echo|editor|grep|install|journalctl|kernel-install|ln|losetup|"
    "make|mkdir|mosquitto_sub|openssl|pipx|pip|promtool|python3?|reboot|rm|sed|sqlite3|sudo|systemctl|systemd-[a-z]+|truncate|"
    "update-grub|git|sh|apt-get|disk=.*|issue\\(\\)|dracut|grubby|rpm-ostree|veritysetup|mosquitto|prometheus"
)
_SHELL = re.compile(rf"(\.?/?[\w./-]+/)?({_PROGRAMS})(\s|$)")


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
    """As Pygments calls it: toml, json, python, ini, console, bash, or none."""
    first = text.lstrip().partition("\n")[0]
    if text.lstrip().startswith("{"):
        return "json" if _parses(json.loads, text) else "none"
    if "=" in text and _parses(tomllib.loads, text):
        return "toml"
    if re.match(r"(from|import|async def|def|class) |\"\"\"", first) and _parses(ast.parse, text):
        return "python"
    if re.match(r"\[[A-Z]\w+\]$", first):
        return "ini"
    if first.startswith("$ "):
        return "console"
    joined = text.replace("\\\n", " ").splitlines()
    lines = [line for line in joined if line.strip() and not line.startswith((" ", "#", "}"))]
    return "bash" if lines and "…" not in first and all(map(_SHELL.match, lines)) else "none"


def _parses(parse: object, text: str) -> bool:
    try:
        parse(text)  # type: ignore[operator]  # each of the parsers above takes a text
    except (ValueError, SyntaxError):
        return False
    return True
