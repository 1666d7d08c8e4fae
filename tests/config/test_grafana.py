"""`config/grafana/`: the dashboards against the code that makes them, and what each must have.

What Prometheus answers to them: `test_grafana_data.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from dmimad.adapters.metrics import FAMILIES, LATENCY
from scripts.grafana.__main__ import texts
from tests.config.dashboards import DASHBOARDS, FILES, FLEET, HOST, asked, panels, variables
from tests.config.shipped import CONFIG, ROOT

BUILT_IN_PANELS = {"bargauge", "heatmap", "stat", "state-timeline", "table", "timeseries"}
each_dashboard = pytest.mark.parametrize("document", DASHBOARDS.values(), ids=DASHBOARDS)


# -- the files --------------------------------------------------------------------------------


def test_the_files_are_what_the_code_makes() -> None:
    """If not: `make dashboards`."""
    assert {name: path.read_text("utf-8") for name, path in FILES.items()} == texts()


def test_making_them_again_makes_the_same() -> None:
    assert texts() == texts()


@each_dashboard
def test_the_models_of_the_library_take_every_field(document: dict[str, Any]) -> None:
    """Nothing is lost on the way through them: no key is misspelt or at a wrong place."""
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))
    assert again == document


@each_dashboard
def test_what_a_dashboard_must_have(document: dict[str, Any]) -> None:
    assert document["schemaVersion"] == 39
    assert document["uid"].startswith("dmimad-")
    assert "id" not in document  # given by each Grafana
    assert document["tags"] == ["dmimad"]
    assert (document["refresh"], document["time"]) == ("30s", {"from": "now-6h", "to": "now"})
    assert document["description"]


def cells(panel: dict[str, Any]) -> Iterator[tuple[int, int]]:
    place = panel["gridPos"]
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


@each_dashboard
def test_every_panel_has_its_own_place_and_number(document: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in document["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert all(numbers)
    taken = [cell for panel in document["panels"] for cell in cells(panel)]
    assert len(set(taken)) == len(taken)
    width = {x for x, _ in taken}
    height = {y for _, y in taken}
    assert width == set(range(24))
    assert len(taken) == 24 * len(height) == 24 * (max(height) + 1)  # no holes: what is seen is what is meant
    titles = [panel["title"] for panel in document["panels"]]
    assert len(set(titles)) == len(titles)


@each_dashboard
def test_every_panel_says_what_it_shows(document: dict[str, Any]) -> None:
    for panel in panels(document):
        title, defaults = panel["title"], panel["fieldConfig"]["defaults"]
        assert panel["type"] in BUILT_IN_PANELS, title
        assert len(panel["description"].split()) > 3, title
        assert len(defaults["noValue"].split()) > 1, title
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, title
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"]), title
        assert [target["refId"] for target in panel["targets"]] == list(
            "ABCDEFGHIJKL"[: len(panel["targets"])]
        )
        assert defaults.get("unit") or defaults.get("mappings") or panel["type"] == "table", title


@each_dashboard
def test_a_colour_never_stands_alone(document: dict[str, Any]) -> None:
    """What is mapped to a colour is a word too, and none is Grafana's red or green."""
    for panel in panels(document):
        for mapping in panel["fieldConfig"]["defaults"].get("mappings", []):
            if mapping["type"] == "value":
                assert all(result["text"] for result in mapping["options"].values()), panel["title"]
    text = json.dumps(document)
    assert not [name for name in ('"green"', '"red"', 'palette-classic"', "GrYlRd") if name in text]


@each_dashboard
def test_links_lead_to_the_other_dashboard_with_what_was_chosen(document: dict[str, Any]) -> None:
    uids = {each["uid"] for each in DASHBOARDS.values()}
    (link,) = document["links"]
    assert link["url"].split("?")[0] == f"/d/{(uids - {document['uid']}).pop()}"
    assert link["keepTime"]
    urls = set(found(document, "url"))
    known = {*variables(FLEET), *variables(HOST)}
    for url in urls:
        path, _, rest = url.partition("?")
        assert path.removeprefix("/d/") in uids, url
        assert "${datasource:queryparam}" in rest, url
        assert "${job:queryparam}" in rest, url
        assert url == link["url"] or "${__url_time_range}" in rest, url
        for part in rest.split("&"):
            name = part.partition("=")[0]
            assert part.startswith("${") or name.removeprefix("var-") in known, url


def found(value: Any, key: str) -> Iterator[str]:
    """Every value under that key, at any depth."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name == key and isinstance(each, str):
                yield each
            yield from found(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from found(each, key)


def test_from_every_host_that_the_fleet_shows_a_link_leads_there() -> None:
    leading = [
        panel["title"] for panel in panels(FLEET) if any("dmimad-host" in url for url in found(panel, "url"))
    ]
    assert {"Drift now", "Silent hosts", "All hosts", "PCR 10", "Daemons", "Broker", "Outbox"} <= set(leading)


@each_dashboard
def test_every_metric_exists(document: dict[str, Any]) -> None:
    """In the code, or of every program and every scrape; none is a recording rule's."""
    exist = {family.name for family in FAMILIES} | {f"{LATENCY.name}_bucket", "up"}
    text = " ".join(question.expression for question in asked(document))
    for name in re.findall(r"\b([a-z_:]+)\{", text):
        assert name in exist or name.startswith("process_"), name


def test_columns_of_a_table_exist() -> None:
    """What is renamed, linked or coloured is a column that the query brings."""
    for document in DASHBOARDS.values():
        for panel in panels(document):
            if panel["type"] != "table":
                continue
            organize = panel["transformations"][-1]["options"]
            titles = set(organize["renameByName"].values())
            named = {
                override["matcher"]["options"]
                for override in panel["fieldConfig"]["overrides"]
                if override["matcher"]["id"] == "byName"
            }
            assert named <= titles, panel["title"]
            for url in found(panel["fieldConfig"], "url"):
                for name in ("Host", "Device"):
                    assert f"fields.{name}" not in url or name in titles, panel["title"]


def test_provisioning_files() -> None:
    place = CONFIG / "grafana/provisioning"
    (provider,) = yaml.safe_load((place / "dashboards/dmimad.yml").read_text())["providers"]
    assert provider["type"] == "file"
    (source,) = yaml.safe_load((place / "datasources/dmimad.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    # $__rate_interval is four times this: it must be as in the scrape job.
    (job,) = yaml.safe_load((CONFIG / "prometheus/dmimad.yml").read_text())["scrape_configs"]
    assert source["jsonData"]["timeInterval"] == job["scrape_interval"]
    page = (ROOT / "docs/grafana.md").read_text("utf-8")
    assert provider["options"]["path"] in page
