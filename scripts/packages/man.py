"""The man pages: what people wrote in packaging/man, with commands and settings as the program tells them."""

from __future__ import annotations

import argparse
import email.utils
import re
from itertools import groupby

from dmimad import __version__, cli
from dmimad.settings import Settings, reference
from scripts.command_line import arguments, explanation, parsers, subcommands_of
from scripts.packages.project import PROJECT

PAGES = PROJECT / "packaging/man"
CHANGELOG = PROJECT / "packaging/debian/changelog"


def pages() -> dict[str, str]:
    """Every page by its file name."""
    made = {"@DATE@": _date(), "@VERSION@": __version__, "@COMMANDS@": _commands(), "@SETTINGS@": _settings()}
    found = {}
    for path in sorted(PAGES.glob("*.[1-8]")):
        text = path.read_text(encoding="utf-8")
        for mark, value in made.items():
            text = text.replace(mark, value)
        found[path.name] = text
    return found


def roff(text: str) -> str:
    """As text that is set as it is: nothing in it is a request, an escape or a typographic dash or quote."""
    text = re.sub("\x1b\\[[0-9;]*m", "", text)  # newer argparse colours what it prints to a terminal
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti")
    text = text.replace("'", "\\(aq").replace("`", "\\(ga").replace('"', "\\(dq").replace("…", "\\|.\\|.\\|.")
    return re.sub(r"(?m)^(?=\.)", r"\\&", text)


def _date() -> str:
    (stamp,) = re.findall(r"(?m)^ -- .*>  (.*)$", CHANGELOG.read_text(encoding="utf-8"))
    return email.utils.parsedate_to_datetime(stamp).date().isoformat()


def _settings() -> str:
    lines = []
    for section, settings in groupby(reference(), lambda setting: setting.section):
        purpose = type(getattr(Settings(), section)).__doc__ or ""
        lines += [f".SS [{section}]", roff(purpose)]
        for setting in settings:
            allowed = f" ({setting.allowed})" if setting.allowed else ""
            lines += [".TP", f"\\fB{roff(setting.key)}\\fR = {roff(setting.default)}"]
            lines.append(roff(f"{setting.explanation.removesuffix('.')}{allowed}."))
    return "\n".join(lines)


def _commands() -> str:
    lines: list[str] = []
    for parser, summary in parsers(cli.parser()):
        lines += [f".SS {roff(parser.prog)}", roff(summary[:1].upper() + summary[1:].rstrip(".") + ".")]
        if subcommands_of(parser) is None:
            lines += _arguments(parser)
    return "\n".join(lines)


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    lines = [".PP", f"\\fB{roff(usage)}\\fR"]
    for action in arguments(parser):
        lines += [".TP", f"\\fB{roff(_invocation(parser, action))}\\fR"]
        lines.append(roff(explanation(parser, action)) or "\\&")
    return lines


def _invocation(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._format_action_invocation(action)
