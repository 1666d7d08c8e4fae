"""The documentation against the code: what it names exists, what must be named is, links lead somewhere."""

from __future__ import annotations

import argparse
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dmimad import cli
from dmimad.adapters.metrics import FAMILIES, LATENCY
from dmimad.config import reference
from dmimad.core.device import Device
from dmimad.core.drift import Judgement, Verdict
from dmimad.core.finding import CODES
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget
from dmimad.core.table import Provenance, Table
from dmimad.core.view import device_view

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "tests/vm/README.md",
    *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
TEXTS = {page: (ROOT / page).read_text("utf-8") for page in sorted(PAGES) if (ROOT / page).exists()}

SETTINGS = {f"{row.section}.{row.key}" for row in reference()}
SECTIONS = {row.section for row in reference()}
#: Of files, which look like settings and findings: `config.py`.
FILE_ENDINGS = ("md", "py", "toml", "json", "jsonl")

in_each_page = pytest.mark.parametrize("page", TEXTS)


def spans(text: str) -> list[str]:
    """What is set as code: between backticks, and indented."""
    inline = re.findall(r"`([^`\n]+)`", text)
    return inline + [line.strip() for line in text.splitlines() if line.startswith("    ")]


def anchors(text: str) -> set[str]:
    """Of its headings, as the usual renderers make them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def rows(text: str, columns: int) -> list[list[str]]:
    """Rows of tables with so many columns."""
    cells = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in cells if len(row) == columns]


# -- links --------------------------------------------------------------------------------


@in_each_page
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text("utf-8")), f"{page}: {target}"


def test_every_page_is_linked_from_the_readme() -> None:
    for page in TEXTS:
        assert page == "README.md" or f"]({page})" in TEXTS["README.md"], page


# -- findings -----------------------------------------------------------------------------


def test_every_finding_has_its_row_with_its_usual_severity() -> None:
    found = {
        match[1]: row[1].split(" ")[0]
        for row in rows(TEXTS["docs/findings.md"], 4)
        if (match := re.search(r"`([a-z._]+)`", row[0]))
    }
    assert found == {code: severity.value for code, (severity, _) in CODES.items()}


def test_sections_about_findings_are_about_existing_ones() -> None:
    sections = set(re.findall(r"^## ([a-z]+\.[a-z_]+)$", TEXTS["docs/findings.md"], re.MULTILINE))
    assert sections
    assert sections <= CODES.keys()


@in_each_page
def test_named_findings_exist(page: str) -> None:
    groups = {code.partition(".")[0] for code in CODES}
    for span in spans(TEXTS[page]):
        match = re.fullmatch(r"([a-z]+)\.([a-z_]+)", span)
        if match and match[1] in groups - SECTIONS and match[2] not in FILE_ENDINGS:
            assert span in CODES or span in TEXTS["docs/doctor.md"], f"{page}: {span}"


# -- settings, commands, metrics ----------------------------------------------------------


@in_each_page
def test_named_settings_exist(page: str) -> None:
    checks = set(re.findall(r"^### (\S+)$", TEXTS["docs/doctor.md"], re.MULTILINE))
    for span in spans(TEXTS[page]):
        match = re.fullmatch(r"([a-z]+)\.([a-z_]+)( = .+)?", span)
        if match is None or match[1] not in SECTIONS or match[2] in FILE_ENDINGS:
            continue
        name = f"{match[1]}.{match[2]}"
        assert name in SETTINGS | checks | CODES.keys(), f"{page}: {span}"


def options_of(command: str) -> set[str]:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"dmimad.commands.{cli.COMMANDS[command][0]}").add_arguments(parser)
    return options_in(parser)


def options_in(parser: argparse.ArgumentParser) -> set[str]:
    """Its own, and those of its subcommands."""
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options_in, action.choices.values()))
    return found


@in_each_page
def test_named_commands_and_their_options_exist(page: str) -> None:
    for span in spans(TEXTS[page].replace("\\\n", " ")):
        match = re.match(r"(?:sudo )?(?:\S*/bin/)?dmimad ([a-z-]+)(.*)", span)
        if match is None:
            continue
        assert match[1] in cli.COMMANDS, f"{page}: {span}"
        asked = set(re.findall(r"(?<![\w-])--[a-z-]+", match[2]))
        assert asked <= options_of(match[1]), f"{page}: {span}"


def test_every_command_is_documented() -> None:
    everything = "\n".join(TEXTS.values())
    for command in cli.COMMANDS:
        assert re.search(rf"(dmimad|make) {command}\b", everything), command


@in_each_page
def test_named_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for span in spans(TEXTS[page]):
        if match := re.match(r"make ([a-z-]+)", span):
            assert match[1] in targets, f"{page}: {span}"


@in_each_page
def test_named_metrics_exist(page: str) -> None:
    names = {family.name for family in (*FAMILIES, LATENCY)}
    for span in spans(TEXTS[page]):
        for name in re.findall(r"\bdmimad_[a-z_]+\b", span):
            assert name in names, f"{page}: {name}"


# -- modules ------------------------------------------------------------------------------


@in_each_page
def test_named_modules_exist(page: str) -> None:
    """As `core/pcr.py` or `dmimad/witnesses.py`; a bare name may be in any folder."""
    for span in spans(TEXTS[page]):
        if not re.fullmatch(r"[\w/]+(\.py|/)", span) or span.startswith("/"):
            continue
        places = (ROOT / span, ROOT / "dmimad" / span, (ROOT / page).parent / span)
        known = any(place.exists() for place in places)
        bare = "/" not in span and any((ROOT / "dmimad").rglob(span))
        assert known or bare or page == "tests/vm/README.md", f"{page}: {span}"


# -- the device document ------------------------------------------------------------------


def shape(value: Any) -> Any:
    """Its keys, all the way down; of a list its first entry."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    return [shape(value[0])] if isinstance(value, list) else None


def test_the_device_document_is_as_documented() -> None:
    text = TEXTS["docs/mqtt.md"].partition("## Device document")[2]
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    example = json.loads("".join(lines))
    active = Table(b"\1" * 32, b"linear1", b"", 1, provenance=Provenance.BOTH)
    targets = (LiveTarget(0, 8192, "linear", b"target_name=linear;"),)
    live = LiveDevice(254, 0, b"linear1", b"", False, False, 0, LiveTable(targets), None)
    device = Device("254:0", 254, 0, b"linear1", b"", active)
    actual = json.loads(device_view(device, Judgement(Verdict.APPROVED), live))
    assert shape(example) == shape(actual)
    for field in (*actual, *actual["active"]):
        assert f"`{field}`" in text or field in {"key", "major", "minor", "num_targets", "drift"}, field
