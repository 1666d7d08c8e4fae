"""The documentation against the code: what it names exists, what must be named is, links lead somewhere."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dmimad import cli
from dmimad.adapters.block_names import _DISK
from dmimad.adapters.metrics import FAMILIES, LATENCY
from dmimad.core.device import Device
from dmimad.core.drift import Judgement, Verdict
from dmimad.core.finding import CODES
from dmimad.core.health import VOLATILE, is_volatile
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget
from dmimad.core.table import Provenance, Table
from dmimad.core.view import device_view
from dmimad.message_ids import MESSAGE_IDS
from dmimad.reloading import _FIXED
from dmimad.settings import reference
from scripts.reference import made
from tests.vm.scenario_names import SCENARIOS, scenario_names

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "systemd/README.md",
    "tests/vm/README.md",
    *(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
)
TEXTS = {page: (ROOT / page).read_text("utf-8") for page in sorted(PAGES) if (ROOT / page).exists()}

SETTINGS = {f"{row.section}.{row.key}" for row in reference()}
SECTIONS = {row.section for row in reference()}
#: Of files, which look like settings and findings: `config.py`.
FILE_ENDINGS = ("md", "py", "toml", "json", "jsonl")

MADE = made()
#: Every test and every class of tests, by name.
TESTS = {
    name
    for path in ROOT.glob("tests/**/test_*.py")
    for name in re.findall(r"^ *(?:async def|def|class) (\w+)", path.read_text("utf-8"), re.MULTILINE)
}

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


def test_every_page_is_listed_on_the_first_page() -> None:
    assert "](docs/index.md)" in TEXTS["README.md"]
    for page in TEXTS.keys() - {"README.md", "docs/index.md"}:
        from_docs = page.removeprefix("docs/") if page.startswith("docs/") else f"../{page}"
        assert f"]({from_docs})" in TEXTS["docs/index.md"], f"list it in docs/index.md: {page}"


@pytest.mark.parametrize("path", MADE)
def test_what_is_made_from_the_code_is_as_the_code_has_it(path: str) -> None:
    assert (ROOT / path).read_text("utf-8") == MADE[path], "run: make reference"


# -- findings -----------------------------------------------------------------------------


FINDINGS = TEXTS["docs/findings.md"]
#: What the entry of a finding has beside its meaning, in this order.
PARTS = ("Severity:", "Check:", "Do:", "Ends:")


def entries() -> dict[str, str]:
    """The entry of each code."""
    pieces = re.split(r"^## (.+)$", FINDINGS, flags=re.MULTILINE)[1:]
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def test_every_finding_has_its_row_with_its_usual_severity() -> None:
    found = {
        match[1]: row[1]
        for row in rows(FINDINGS.partition("\n## ")[0], 3)
        if (match := re.match(r"\[`([a-z._]+)`\]\(#", row[0]))
    }
    assert found == {code: severity.value for code, (severity, _) in CODES.items()}


def test_every_finding_has_its_entry_and_nothing_else_has() -> None:
    assert entries().keys() == CODES.keys()


@pytest.mark.parametrize("code", CODES)
def test_the_entry_says_what_it_means_how_to_check_and_what_to_do(code: str) -> None:
    entry = entries()[code]
    meaning, *parts = re.split(r"^\*\*(\w+:)\*\* ", entry, flags=re.MULTILINE)
    assert len(meaning.split()) > 5
    assert tuple(parts[::2]) == PARTS
    said = {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}
    assert all(len(text.split()) > 0 for text in said.values())
    assert said["Severity:"].startswith(CODES[code][0].value) or rows(said["Severity:"], 2)
    assert "`" in said["Check:"] or "    " in said["Check:"] or "as for [" in said["Check:"]


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


def command_lines(text: str) -> list[str]:
    """Of the indented blocks: the calls of dmimad, without comments and what is piped where."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    calls = [re.sub(r"\s(#|[|>]|&&).*", "", line) for line in lines]
    return [call for call in calls if re.match(r"dmimad [a-z-]+( |$)", call)]


@in_each_page
def test_shown_commands_are_right_to_the_last_argument(page: str) -> None:
    for call in command_lines(TEXTS[page]):
        if "[" in call or "…" in call:  # a synopsis
            continue
        words = shlex.split(re.sub(r"\$\([^)]*\)", "0" * 64, call))
        assert cli._parse(words[1:]).command == words[1], f"{page}: {call}"


def test_every_command_is_documented() -> None:
    everything = "\n".join(TEXTS.values())
    for command in cli.COMMANDS:
        assert re.search(rf"(dmimad|make) {command}\b", everything), command


@in_each_page
def test_named_make_targets_exist(page: str) -> None:
    lines = re.findall(r"^([a-z0-9 -]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = {target for line in lines for target in line.split()}
    for span in spans(TEXTS[page]):
        if match := re.match(r"make ([a-z0-9-]+)", span):
            assert match[1] in targets, f"{page}: {span}"


@in_each_page
def test_named_metrics_exist(page: str) -> None:
    names = {family.name for family in (*FAMILIES, LATENCY)}
    for span in spans(TEXTS[page]):
        recorded = re.sub(r"\w+:\w+:\w+", "", span)  # by rules, see tests/config/test_rules.py
        for name in re.findall(r"\bdmimad_[a-z_]+\b", recorded):
            assert name in names, f"{page}: {name}"


# -- fingerprints -------------------------------------------------------------------------


def test_attributes_that_move_by_themselves_are_those_of_the_code() -> None:
    section = TEXTS["docs/fingerprint.md"].partition("## Attributes that move by themselves\n")[2]
    documented = {
        kind: re.findall(r"`([^`]+)`", row[1])
        for row in rows(section.partition("\n## ")[0], 2)[2:]
        for kind in row[0].split(", ")
    }
    assert documented.keys() == VOLATILE.keys()
    for kind, attributes in documented.items():
        assert VOLATILE[kind].pattern.count("|") + 1 == len(attributes), kind
        for attribute in attributes:
            for number in ("0", "12", "1_2"):
                assert is_volatile(kind, attribute.replace("N", number)), f"{kind}: {attribute}"
            assert not is_volatile("linear", attribute)


def test_forms_of_names_are_those_of_the_code() -> None:
    section = TEXTS["docs/fingerprint.md"].partition("## Names of devices\n")[2].partition("\n## ")[0]
    documented = {form for row in rows(section, 2)[2:] for form in re.findall(r"`([a-z-]+):", row[0])}
    places = ("core/backing.py", "core/configuration.py", "adapters/block_names.py")
    code = "".join((ROOT / "dmimad" / place).read_text("utf-8") for place in places)
    assert documented == {*re.findall(r"f\"([a-z-]+):\{", code), *(prefix for _, prefix in _DISK)}


# -- units ----------------------------------------------------------------------------------


def unit(*names: str) -> dict[str, list[str]]:
    """What a unit and its drop-ins set; an empty value takes back what was set before."""
    found: dict[str, list[str]] = {}
    for name in names:
        for line in (ROOT / "systemd" / name).read_text("utf-8").splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found[key] = [*found.get(key, []), value] if value else []
    return found


def test_the_rights_of_the_services_are_as_documented() -> None:
    """User, capabilities and network of docs/security.md, against the units."""
    units = {
        ("dmimad.service", "252"): unit("dmimad.service"),
        ("dmimad.service", "253 or later"): unit("dmimad.service", "dmimad.service.d/10-systemd-253.conf"),
        ("dmimad-live.service", "any"): unit("dmimad-live.service"),
    }
    documented = {
        (row[0].strip("`"), row[1]): row[2:5]
        for row in rows(TEXTS["docs/security.md"], 6)
        if ".service" in row[0]
    }
    actual = {
        name: [
            "".join(settings["User"]),
            " ".join(settings["CapabilityBoundingSet"]) or "none",
            "no" if settings.get("PrivateNetwork") == ["yes"] else "yes",
        ]
        for name, settings in units.items()
    }
    assert documented == actual
    for settings in units.values():
        ambient = settings.get("AmbientCapabilities", [])
        assert settings["User"] == ["root"] or ambient == settings["CapabilityBoundingSet"]


def test_the_directories_are_as_documented() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(TEXTS["docs/security.md"], 3)}
    tmpfiles = (ROOT / "systemd/tmpfiles.d/dmimad.conf").read_text("utf-8")
    for _, path, mode, user, *_ in map(str.split, re.findall(r"^d .*$", tmpfiles, re.MULTILINE)):
        if path in documented:
            assert documented[path] == f"{user}, {mode}"
    daemon = unit("dmimad.service")
    assert documented["/var/lib/dmimad"] == f"dmimad, {daemon['StateDirectoryMode'][0]}"
    assert documented["/run/dmimad/live.sock"] == f"dmimad, {unit('dmimad-live.socket')['SocketMode'][0]}"
    assert daemon["LoadCredential"] == ["secrets:/etc/dmimad/secrets"]


def test_what_needs_a_restart_is_as_documented() -> None:
    (paragraph,) = [
        part
        for part in TEXTS["docs/handbook.md"].split("\n\n")
        if "systemctl restart" in part and "[host]" in part
    ]
    assert set(re.findall(r"`\[([a-z]+)\]`", paragraph)) == set(_FIXED)


@in_each_page
def test_events_of_the_journal_exist(page: str) -> None:
    for name in re.findall(r"DMIMAD_EVENT=([a-z_]+)", TEXTS[page]):
        assert name == "alert" or name in MESSAGE_IDS, f"{page}: {name}"


# -- modules ------------------------------------------------------------------------------


@in_each_page
def test_named_modules_exist(page: str) -> None:
    """As `core/pcr.py` or `dmimad/witnesses.py`; a bare name may be in any folder."""
    for span in spans(TEXTS[page]):
        if not re.fullmatch(r"[\w/]+(\.py|/)", span) or span.startswith("/"):
            continue
        places = (ROOT / span, ROOT / "dmimad" / span, (ROOT / page).parent / span)
        known = any(place.exists() for place in places) or span.startswith("keylime/")
        bare = "/" not in span and any((ROOT / "dmimad").rglob(span))
        assert known or bare or page == "tests/vm/README.md", f"{page}: {span}"


@in_each_page
def test_named_tests_and_scenarios_exist(page: str) -> None:
    """What shows a claim: `tests/core/test_pcr.py::test_…`, or a scenario of tests/vm."""
    for span in spans(TEXTS[page]):
        if match := re.fullmatch(r"(tests/[\w/]+\.py)::(\w+)", span):
            text = (ROOT / match[1]).read_text("utf-8")
            assert re.search(rf"^ *(async def|def|class) {match[2]}\b", text, re.MULTILINE), f"{page}: {span}"
        elif re.fullmatch(r"test_\w+|Test[A-Z]\w+", span):
            assert span in TESTS, f"{page}: {span}"
    for name in re.findall(r"scenario `([^`]+)`", TEXTS[page]):
        assert name in scenario_names(), f"{page}: scenario {name}"


def test_the_threat_model_names_only_steps_that_scenarios_have() -> None:
    for name, label in re.findall(r"scenario `(\w+)`: \*([^*]+)\*", TEXTS["docs/threat-model.md"]):
        assert f'"{label}"' in (SCENARIOS / f"{name}.py").read_text("utf-8"), f"{name}: {label}"


def test_the_map_of_the_architecture_has_every_part() -> None:
    for path in (ROOT / "dmimad").iterdir():
        name = f"dmimad/{path.name}" + ("/" if path.is_dir() else "")
        if not path.name.startswith("__"):
            assert f"`{name}`" in TEXTS["docs/architecture.md"], name


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
    actual = json.loads(device_view(device, Judgement(Verdict.APPROVED), live).payload)
    assert shape(example) == shape(actual)
    for field in (*actual, *actual["active"]):
        assert f"`{field}`" in text or field in {"key", "major", "minor", "num_targets", "drift"}, field
