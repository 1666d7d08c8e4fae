"""`config/prometheus/rules`: each rule by promtool, firing and not; what it says and where its link leads.

The cases are in `rules/*.test.yml`, as promtool reads them.  On real daemons: `test_rules_live`.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmimad.adapters.metrics import FAMILIES, LATENCY
from scripts.packages.payload import FILES
from tests.config.shipped import CONFIG, ROOT, block_with
from tests.test_docs import anchors, rows

RULES = CONFIG / "prometheus/rules/dmimad.rules.yml"
CASES = sorted((Path(__file__).parent / "rules").glob("*.test.yml"))
HANDBOOK = "/usr/share/doc/dmimad/docs/handbook.md"
#: What Prometheus itself and its client for Python have.
OF_OTHERS = {"up", "process_start_time_seconds"}
SECONDS = {"s": 1, "m": 60, "h": 3600}

Rule = dict[str, Any]


def loaded(file: Path) -> Any:
    return yaml.safe_load(file.read_text("ascii"))


GROUPS = loaded(RULES)["groups"]
ALERTS: list[Rule] = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
RECORDS: list[Rule] = [rule for group in GROUPS for rule in group["rules"] if "record" in rule]

each_alert = pytest.mark.parametrize("rule", ALERTS, ids=[rule["alert"] for rule in ALERTS])


def seconds(duration: str) -> int:
    return sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)([smh])", duration))


# -- promtool -----------------------------------------------------------------------------


def promtool_says(promtool: str, *arguments: str) -> str:
    result = subprocess.run(
        [promtool, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_promtool_has_nothing_to_say(promtool: str) -> None:
    said = promtool_says(promtool, "check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert f"SUCCESS: {len(ALERTS) + len(RECORDS)} rules found" in said


@pytest.mark.parametrize("file", CASES, ids=[file.name for file in CASES])
def test_cases(promtool: str, file: Path) -> None:
    assert "SUCCESS" in promtool_says(promtool, "test", "rules", str(file))


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    firing: set[str] = set()
    silent: set[str] = set()
    for file in CASES:
        for case in loaded(file)["tests"]:
            for look in case.get("alert_rule_test", ()):
                (firing if look.get("exp_alerts") else silent).add(look["alertname"])
    names = {rule["alert"] for rule in ALERTS}
    assert (names - firing, names - silent, (firing | silent) - names) == (set(), set(), set())


@each_alert
def test_a_case_stands_on_both_sides_of_for(rule: Rule) -> None:
    """The last look that is silent is less than one evaluation away from the first that fires."""
    edges = []
    for file in CASES:
        document = loaded(file)
        for case in document["tests"]:
            looks = [
                (seconds(look["eval_time"]), bool(look.get("exp_alerts")))
                for look in case.get("alert_rule_test", ())
                if look["alertname"] == rule["alert"]
            ]
            step = max(seconds(case["interval"]), seconds(document["evaluation_interval"]))
            for (before, fired), (after, fires) in itertools.pairwise(looks):
                edges.append(not fired and fires and after - before <= step)
    # What fires at once may fire from the first look on.
    assert any(edges) or seconds(rule["for"]) == 0


def test_every_record_has_a_case_with_series_and_one_without() -> None:
    """At the end of one case there is what is recorded, and in another there is none of it."""
    there: set[str] = set()
    absent: set[str] = set()
    for file in CASES:
        for case in loaded(file)["tests"]:
            for look in case.get("promql_expr_test", ()):
                (there if look.get("exp_samples") else absent).add(look["expr"].partition("{")[0])
    names = {rule["record"] for rule in RECORDS}
    assert (names - there, names - absent) == (set(), set())


# -- what they say ------------------------------------------------------------------------


def test_names_are_there_once() -> None:
    names = [rule.get("alert") or rule["record"] for rule in (*ALERTS, *RECORDS)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"Dmimad[A-Z][A-Za-z]+", rule["alert"]) for rule in ALERTS)


@each_alert
def test_an_alert_says_all_that_is_needed(rule: Rule) -> None:
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert len(notes["description"].split()) > len(notes["summary"].split()) > 3
    assert "\n" not in notes["description"]
    about = "absent(" not in rule["expr"] and "by (job, device)" not in rule["expr"]
    assert not about or "{{ $labels.instance }}" in notes["summary"]


@each_alert
def test_its_link_leads_into_the_handbook(rule: Rule) -> None:
    base, _, anchor = rule["annotations"]["runbook_url"].rpartition("#")
    assert (
        base
        == f"{{{{ with $externalLabels.handbook }}}}{{{{ . }}}}{{{{ else }}}}file://{HANDBOOK}{{{{ end }}}}"
    )
    assert anchor in anchors((ROOT / "docs/handbook.md").read_text("utf-8"))
    assert anchor == rule["alert"].lower()


def test_the_handbook_is_where_the_links_lead() -> None:
    assert f"/{FILES['docs']}/handbook.md" == HANDBOOK


@each_alert
def test_the_handbook_says_how_to_check_and_what_to_do(rule: Rule) -> None:
    text = (ROOT / "docs/handbook.md").read_text("utf-8")
    entry = text.partition(f"### {rule['alert']}\n")[2].partition("\n### ")[0]
    meaning, check, do = re.split(r"^\*\*(?:Check|Do):\*\* ", entry, flags=re.MULTILINE)
    assert len(meaning.split()) > 5
    assert all("`" in part or "](" in part or len(part.split()) > 3 for part in (check, do))


def test_the_handbook_has_no_entry_of_an_alert_that_is_not() -> None:
    titles = re.findall(r"^### (Dmimad\w+)$", (ROOT / "docs/handbook.md").read_text("utf-8"), re.MULTILINE)
    assert titles == [rule["alert"] for rule in ALERTS]


def test_expressions_name_metrics_that_there_are() -> None:
    known = {family.name for family in (*FAMILIES, LATENCY)} | {f"{LATENCY.name}_bucket"} | OF_OTHERS
    known |= {rule["record"] for rule in RECORDS}
    for rule in (*ALERTS, *RECORDS):
        named = set(re.findall(r"\b(?:\w+:)?(?:dmimad_|up\b|process_)[\w:]*", rule["expr"]))
        assert named, rule
        assert named <= known, rule


# -- the page -----------------------------------------------------------------------------


PAGE = (ROOT / "docs/prometheus.md").read_text("utf-8")


def test_the_page_has_every_alert_as_it_is() -> None:
    documented = [row[:3] for row in rows(PAGE, 4) if "handbook.md#" in row[0]]
    assert documented == [
        [f"[`{rule['alert']}`](handbook.md#{rule['alert'].lower()})", rule["labels"]["severity"], rule["for"]]
        for rule in ALERTS
    ]


def test_the_page_has_every_record() -> None:
    documented = [row[0].strip("`") for row in rows(PAGE, 2) if ":" in row[0]]
    assert documented == [rule["record"] for rule in RECORDS]


def test_settings_on_the_page_are_those_of_prometheus(promtool: str, tmp_path: Path) -> None:
    """Put together, with the rules where they are here."""
    text = block_with("docs/prometheus.md", "scrape_configs:") + block_with(
        "docs/prometheus.md", "rule_files:"
    )
    installed = "/etc/prometheus/rules/dmimad.rules.yml"
    assert installed in text
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace(installed, str(RULES)))
    assert f"{len(ALERTS) + len(RECORDS)} rules found" in promtool_says(
        promtool, "check", "config", str(file)
    )


def test_settings_in_the_comment_of_the_scrape_job_too(promtool: str, tmp_path: Path) -> None:
    shipped = (CONFIG / "prometheus/dmimad.yml").read_text("ascii")
    lines = [line.removeprefix("#   ") for line in shipped.splitlines() if line.startswith("#   ")]
    file = tmp_path / "prometheus.yml"
    text = "\n".join(lines).replace("/etc/prometheus/rules/dmimad.rules.yml", str(RULES))
    file.write_text(f"{text}\n{shipped}")
    assert "SUCCESS" in promtool_says(promtool, "check", "config", str(file))
