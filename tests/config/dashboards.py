"""The dashboards as Grafana has them: what they ask Prometheus, with the variables in their places.

Source: Grafana's documentation of variables ("Variable syntax"), and what its data source Prometheus does:
the values of a variable that may have several are escaped for regular expressions and joined.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.config.shipped import CONFIG
from tests.prometheus import Window, label_values, query

FILES = {path.name: path for path in sorted((CONFIG / "grafana/dashboards").glob("*.json"))}
DASHBOARDS: dict[str, dict[str, Any]] = {
    name: json.loads(path.read_text("utf-8")) for name, path in FILES.items()
}
FLEET, HOST = DASHBOARDS["dmimad-fleet.json"], DASHBOARDS["dmimad-host.json"]
#: What Grafana fills in for itself, with a scrape each second.
BUILT_IN = {"__rate_interval": "4s", "__interval": "1s", "__range": "600s"}
WINDOW = Window(600)


def panels(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those that show something: no rows."""
    return [panel for panel in document["panels"] if panel["type"] != "row"]


def variables(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in document["templating"]["list"]}


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to Prometheus, and where it stands."""

    place: str
    expression: str
    instant: bool
    annotation: bool = False

    async def answer(self, address: str, values: Mapping[str, str]) -> list[dict[str, Any]]:
        """The series, those without a number left out; an error of Prometheus fails the test."""
        expression = filled_in(self.expression, values)
        if self.instant:
            found = await query(address, expression)
            return [series for series in found if series["value"][1] != "NaN"]
        found = await WINDOW.query(address, expression)
        return [series for series in found if any(number != "NaN" for _, number in series["values"])]


def asked(document: Mapping[str, Any]) -> Iterator[Asked]:
    """What the panels and annotations of a dashboard ask."""
    title = document["title"]
    for panel in panels(document):
        for target in panel["targets"]:
            place = f"{title} / {panel['title']} / {target['refId']}"
            yield Asked(place, target["expr"], target.get("instant", False))
    for each in document["annotations"]["list"]:
        yield Asked(f"{title} / annotation {each['name']}", each["expr"], instant=False, annotation=True)


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """With the values of variables; one that nobody knows fails."""
    known = {**BUILT_IN, **values}
    return re.sub(r"\$(?:([a-z_]\w*)|\{([a-z_]\w*)\})", lambda match: known[match[1] or match[2]], text)


def chosen(document: Mapping[str, Any], **choice: list[str]) -> dict[str, str]:
    """The text for each variable: what is chosen, or else what a new visitor has."""
    return {
        name: _text(variable, choice.get(name))
        for name, variable in variables(document).items()
        if variable["type"] != "datasource"
    }


def _text(variable: Mapping[str, Any], values: list[str] | None) -> str:
    if variable["type"] == "custom":
        return str((values or [variable["current"]["value"]])[0])
    several = variable.get("multi") or variable.get("includeAll")
    if not several:
        assert values, f"{variable['name']}: one must be chosen"
        return values[0].replace("\\", "\\\\").replace('"', '\\"')
    if values is None:
        assert "allValue" in variable, f"{variable['name']}: all is what there is"
        return str(variable["allValue"])
    escaped = [re.sub(r"[$^*{}\[\]+?.()|\\]", r"\\\\\g<0>", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


async def offered(address: str, variable: Mapping[str, Any], values: Mapping[str, str]) -> set[str]:
    """What a variable of values of a label offers."""
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
    assert match, variable["query"]
    return await label_values(address, filled_in(match[1], values), match[2])
