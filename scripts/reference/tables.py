"""The reference pages that are tables: commands, settings, metrics, topics; made from what the program uses.

Markdown that reads well as text, on a code host and on the site.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from itertools import groupby
from typing import Any

from dmimad import cli
from dmimad.adapters.metrics import DM_EVENTS, FAMILIES, LATENCY, LATENCY_BUCKETS_SECONDS, SEVERITIES, Family
from dmimad.settings import Settings, reference
from scripts.command_line import arguments, explanation, parsers, subcommands_of

MADE = "<!-- Made from the code by `make reference`: change that, not this page. -->"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table; what would end a cell is escaped."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def prose(*pieces: str) -> list[str]:
    """A paragraph, in lines as the other pages have them."""
    return textwrap.wrap(" ".join(pieces), 120, break_long_words=False, break_on_hyphens=False)


def code(text: str) -> str:
    return f"`{text}`"


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".?") + ("?" if text.endswith("?") else ".")


def _page(title: str, *parts: Iterable[str]) -> str:
    lines = [f"# {title}", "", MADE, ""]
    for part in parts:
        lines += [*part, ""]
    return "\n".join(lines).rstrip("\n") + "\n"


# -- command line ---------------------------------------------------------------------------


def commands() -> str:
    every = list(parsers(cli.parser()))
    overview = [
        (f"[`{parser.prog}`](#{parser.prog.replace(' ', '-')})", sentence(parser.description or summary))
        for parser, summary in every
        if subcommands_of(parser) is None or parser.prog.count(" ") == 1
    ]
    intro = prose(
        "Exit status: 0 fine; 1 findings (`replay`, `doctor`, `baseline diff`, `baseline verify`);",
        "2 unusable input or arguments, with one line on standard error. Every command has `--help`;",
        "`--version` without a command tells the version.",
    )
    return _page(
        "Command line",
        intro,
        table(("command", "what it does"), overview),
        *(_command(parser, summary) for parser, summary in every),
    )


def _command(parser: argparse.ArgumentParser, summary: str) -> Iterator[str]:
    yield f"## {parser.prog}"
    yield ""
    yield sentence(parser.description or summary)
    if (below := subcommands_of(parser)) is not None:
        yield ""
        yield (
            "Its subcommands follow: "
            + ", ".join(code(f"{parser.prog} {name}") for name in below.choices)
            + "."
        )
        return
    actions = arguments(parser)
    positional = [_placeholder(action) for action in actions if not action.option_strings]
    options = ["[OPTION]…"] if any(action.option_strings for action in actions) else []
    yield ""
    yield "    " + " ".join([parser.prog, *options, *positional])
    yield ""
    yield from table(
        ("argument", "what it is for"), ((code(_invocation(a)), _meaning(parser, a)) for a in actions)
    )
    for group in parser._mutually_exclusive_groups:
        names = [code(_invocation(action)) for action in group._group_actions]
        yield ""
        yield f"{'Exactly' if group.required else 'At most'} one of " + ", ".join(names) + "."


def _placeholder(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        name = "|".join(str(getattr(choice, "value", choice)) for choice in action.choices)
    else:
        name = str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))
    return {"?": f"[{name}]", "+": f"{name}…", "*": f"[{name}…]"}.get(str(action.nargs), name)


def _invocation(action: argparse.Action) -> str:
    if not action.option_strings:
        return _placeholder(action)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {_placeholder(action)}"


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    needed = "; must be given" if action.required and action.option_strings else ""
    return _plain(explanation(parser, action)) + needed


# -- settings -------------------------------------------------------------------------------


def settings() -> str:
    parts = []
    for section, rows in groupby(reference(), lambda row: row.section):
        purpose = type(getattr(Settings(), section)).__doc__ or ""
        lines = [f"## [{section}]", "", purpose, ""]
        lines += table(
            ("setting", "default", "values", "what it is for"),
            ((code(row.key), code(row.default), row.allowed or row.kind, row.explanation) for row in rows),
        )
        parts.append(lines)
    intro = prose(
        "The settings file is `/etc/dmimad/dmimad.toml`, in TOML. Every setting has a default that suits a",
        "host with IMA and a broker on loopback; [the file as it ships](../../config/dmimad.toml) has all of",
        "them, commented out. What is unknown or wrong is refused with file, key and reason; `dmimad",
        "check-config` tells before. On a [reload](../handbook.md#reload) the last good settings stay in",
        "force. Paths that do not begin with `/` count from the directory of the file.",
    )
    return _page("Settings", intro, *parts)


# -- metrics --------------------------------------------------------------------------------

#: What is known of the values of a label.
LABELS = {
    "code": "a [finding's](../findings.md) code",
    "device": "name of the device",
    "event": ", ".join(DM_EVENTS),
    "fingerprint": "of the [configuration](../fingerprint.md)",
    "hash": "the kernel's table hash",
    "provenance": "measured, observed or both ([two witnesses](../witnesses.md#provenance))",
    "severity": ", ".join(SEVERITIES),
    "slot": "active or inactive",
    "use": "mqtt or metrics",
    "uuid": "uuid of the device, often empty",
    "version": "of dmimad",
}


def metrics() -> str:
    families: tuple[Family, ...] = (*FAMILIES, LATENCY)
    rows = (
        (code(family.name), family.kind, ", ".join(map(code, family.labels)), family.help)
        for family in families
    )
    used = {label for family in families for label in family.labels}
    intro = prose(
        "Served at `http://127.0.0.1:9837/metrics`; address, port and TLS are",
        "[settings](settings.md#metrics). The series of a device end with the device, so there are no more",
        "label values than devices allow. `process_*` of the daemon come besides.",
    )
    buckets = ", ".join(f"{bound:g}" for bound in LATENCY_BUCKETS_SECONDS)
    histogram = [f"The buckets of `{LATENCY.name}` end at {buckets} seconds."]
    labels = table(("label", "values"), ((code(label), LABELS.get(label, "")) for label in sorted(used)))
    return _page(
        "Metrics",
        intro,
        table(("metric", "kind", "labels", "what it tells"), rows),
        histogram,
        ["## Labels"],
        labels,
    )


# -- topics ---------------------------------------------------------------------------------


def _schema(name: str) -> Any:
    return json.loads(resources.files("dmimad.schemas").joinpath(name).read_text("utf-8"))


def topics() -> str:
    api = _schema("asyncapi.json")
    parts = [
        prose(
            "What is published, member by member, from the",
            "[AsyncAPI document](../../dmimad/schemas/asyncapi.json) and the JSON Schemas of",
            "[alerts](../../dmimad/schemas/alert.schema.json) and",
            "[devices](../../dmimad/schemas/device.schema.json). What it means, how it is delivered and",
            "which evidence each code has: [MQTT](../mqtt.md).",
        ),
        table(("topic", "retained", "QoS", "what it is"), map(list, _channels(api))),
        ["## Messages"],
        table(("message", "content type", "what it says"), map(list, _messages(api))),
    ]
    for title, name in (("Alert", "alert.schema.json"), ("Device", "device.schema.json")):
        schema = _schema(name)
        parts.append([f"## {title}", "", _plain(schema["description"]), "", *_members(schema)])
        for key, definition in schema["$defs"].items():
            if "properties" in definition:
                text = _plain(definition["description"])
                parts.append([f"### {title}: {key}", "", text, "", *_members(definition)])
        simple = {key: value for key, value in schema["$defs"].items() if "properties" not in value}
        if simple:
            rows = ((key, _plain(value["description"])) for key, value in simple.items())
            parts.append([f"### {title}: types", "", *table(("type", "what it is"), rows)])
    return _page("Topics and documents", *parts)


def _channels(api: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, channel in api["channels"].items():
        bindings = [
            operation["bindings"]["mqtt"]
            for operation in api["operations"].values()
            if operation["action"] == "send" and operation["channel"]["$ref"] == f"#/channels/{name}"
        ]
        retained = {True: "yes", False: "no"}[bindings[0]["retain"]]
        address = channel["address"].replace("{", "<").replace("}", ">")
        yield code(address), retained, str(bindings[0]["qos"]), sentence(channel["title"])


def _messages(api: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for message in api["components"]["messages"].values():
        yield code(message["name"]), message["contentType"], sentence(message["title"])


def _members(schema: Mapping[str, Any]) -> list[str]:
    needed = set(schema.get("required", ()))
    rows = (
        (code(name), _type(member), "yes" if name in needed else "no", _plain(member.get("description", "")))
        for name, member in schema["properties"].items()
    )
    return table(("member", "type", "always", "what it is"), rows)


def _plain(text: str) -> str:
    """As text that Markdown takes as it is."""
    return re.sub(r"([\\<*_])", r"\\\1", text)


def _type(member: Mapping[str, Any]) -> str:
    if "anyOf" in member:
        return " or ".join(map(_type, member["anyOf"]))
    if "$ref" in member:
        return str(member["$ref"]).rpartition("/")[2]
    if "const" in member:
        return code(json.dumps(member["const"]))
    if "enum" in member:
        values = member["enum"]
        return ", ".join(code(json.dumps(value)) for value in values) if len(values) < 8 else "string"
    kinds = member["type"] if isinstance(member["type"], list) else [member["type"]]
    words = [
        "list of " + _type(member["items"]) if kind == "array" and "items" in member else kind
        for kind in kinds
    ]
    return " or ".join(words)
