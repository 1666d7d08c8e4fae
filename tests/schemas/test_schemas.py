"""The JSON Schemas are ones, say of each member what it is, and refuse what is not as they say."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat

from dmimad.adapters.keys import PublicKeys, SigningKey
from dmimad.core.alert import Status as AlertStatus
from dmimad.core.cloudevent import Sign
from dmimad.core.configuration import LABEL
from dmimad.core.drift import Verdict
from dmimad.core.event import EventKind
from dmimad.core.finding import CODES, Severity
from dmimad.core.table import Provenance
from dmimad.core.verifiability import MAX_MATERIAL_CHARS, Status, sign_event, verify_event
from dmimad.core.view import MAX_TARGETS_TOLD
from tests.schemas.contract import ASYNCAPI, SCHEMAS, Contract, load, problems, undescribed
from tests.schemas.events import check_with_sdk, every_code, notices, payload

ALERT, DEVICE = (load(name) for name in SCHEMAS)
Change = Callable[[dict[str, Any]], object]


def example(message: str, name: str) -> dict[str, Any]:
    """An example of the AsyncAPI document."""
    examples = Contract().document["components"]["messages"][message]["examples"]
    (found,) = [each["payload"] for each in examples if each["name"] == name]
    assert isinstance(found, dict)
    return copy.deepcopy(found)


# -- the schemas themselves ---------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_they_are_schemas_of_2020_12(name: str) -> None:
    schema = load(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert schema["$id"] == f"urn:dmimad:v1:{name.split('.', 1)[0]}"


def objects(node: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas below a node that describe an object."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            yield path, node
        for name, each in node.items():
            if name not in ("allOf", "if", "then", "else"):  # conditions between members
                yield from objects(each, f"{path}.{name}")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_member_is_described(name: str) -> None:
    schema = load(name)
    found = dict(objects(schema))
    assert len(found) >= 4
    for path, each in found.items():
        for member, described in each["properties"].items():
            text = described.get("description", "")
            assert text.endswith("."), f"{path}.{member}"
    for each in (schema, *schema["$defs"].values()):
        assert each["title"]
        assert each["description"].endswith(".")


def test_the_codes_are_those_of_the_core() -> None:
    assert ALERT["$defs"]["code"]["enum"] == list(CODES)
    assert ALERT["properties"]["type"]["enum"] == [f"dmimad.alert.{code}" for code in CODES]


def test_words_and_limits_are_those_of_the_core() -> None:
    data, evidence = (ALERT["$defs"][name]["properties"] for name in ("data", "evidence"))
    assert ALERT["$defs"]["severity"]["enum"] == [severity.value for severity in Severity]
    assert data["status"]["enum"] == [status.value for status in AlertStatus]
    assert evidence["event"]["enum"] == [kind.value for kind in EventKind]
    assert set(evidence["witness"]["enum"]) == {*(each.value for each in Provenance), "live"}
    assert ALERT["properties"]["dssematerial"]["maxLength"] == MAX_MATERIAL_CHARS
    slot = DEVICE["$defs"]["slot"]["properties"]
    assert DEVICE["properties"]["verdict"]["enum"] == [verdict.value for verdict in Verdict]
    assert slot["provenance"]["enum"] == [each.value for each in Provenance]
    assert slot["fingerprint"]["pattern"] == f"^{LABEL}[0-9a-f]{{64}}$"
    assert slot["targets"]["maxItems"] == MAX_TARGETS_TOLD


def test_a_subscriber_finds_them_as_documented() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "mqtt.md").read_text("utf-8")
    line = re.findall(r'^    python3 -c "(.+)"$', page, re.MULTILINE)[0]
    found = subprocess.run([sys.executable, "-c", line], check=True, capture_output=True, text=True).stdout
    for name in (*SCHEMAS, ASYNCAPI):
        assert json.loads((Path(found.rstrip("\n")) / name).read_text("utf-8")) == load(name)


# -- what they accept ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture(scope="module")
def sign(key: SigningKey) -> Sign:
    return lambda event: sign_event(event, key.keyid, key.sign)


@pytest.mark.parametrize("code", every_code())
def test_alerts_of_every_code_are_as_described_signed_or_not(
    code: str, sign: Sign, key: SigningKey, tmp_path_factory: pytest.TempPathFactory
) -> None:
    public = tmp_path_factory.mktemp("keys") / "host.pub"
    public.write_bytes(key.public_pem)
    trusted = PublicKeys.load([public])
    seen = set()
    for notice in notices(code):
        for message in (payload(notice), payload(notice, sign)):
            event = check_with_sdk(message)
            assert problems(ALERT, event) == []
            assert undescribed(ALERT, event) == []
            signed = "dssematerial" in event
            expected = Status.VALID if signed else Status.UNSIGNED
            assert verify_event(event, trusted.verify).status is expected
            seen.add((event["data"]["status"], event["data"]["severity"], signed))
    assert len(seen) == 12  # every status with every severity, signed and not


@pytest.mark.parametrize("schema", [ALERT, DEVICE], ids=SCHEMAS)
def test_members_may_be_added(schema: dict[str, Any]) -> None:
    document = example("alert", "firing") if schema is ALERT else example("device", "drift")
    document["later"] = {"more": 1}
    document.get("data", document)["later"] = [None]
    assert problems(schema, document) == []


def test_the_words_of_a_severity_belong_together() -> None:
    for severity, number in (("info", 9), ("warning", 13), ("critical", 18)):
        event = example("alert", "firing")
        event["data"]["severity"] = severity
        assert problems(ALERT, event) or severity == "critical"
        event["severitytext"], event["severitynumber"] = severity.upper(), number
        assert problems(ALERT, event) == []


# -- what they refuse ---------------------------------------------------------------------


def put(path: str, value: object) -> Change:
    """The member at a path like `data.device.key` is another."""
    *parents, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        node: Any = document
        for step in parents:
            node = node[int(step) if isinstance(node, list) else step]
        node[last] = value

    return change


def drop(path: str) -> Change:
    """The member at a path is missing."""
    *parents, last = path.split(".")

    def change(document: dict[str, Any]) -> None:
        node: Any = document
        for step in parents:
            node = node[int(step) if isinstance(node, list) else step]
        del node[last]

    return change


NAIVE, NO_MILLISECONDS, ELSEWHERE = (
    "2026-11-22T14:37:14.203",
    "2026-11-22T14:37:14Z",
    "2026-11-22T14:37:14.203+01:00",
)
NO_SUCH_MONTH = "2026-13-22T14:37:14.203Z"
A_DIFFERENCE = {"target": 0, "attribute": "start", "expected": "0", "actual": "8"}
A_MAINTENANCE = {
    "id": "0123456789ab",
    "reason": "x",
    "until": "2026-11-22T14:37:14.203Z",
    "severity": "critical",
}

WRONG_ALERTS: list[tuple[str, Change]] = [
    *((f"no {name}", drop(name)) for name in ALERT["required"]),
    *((f"no data.{name}", drop(f"data.{name}")) for name in ALERT["$defs"]["data"]["required"]),
    ("another version", put("specversion", "0.3")),
    ("id with capitals", put("id", "0CE2588B4B70F9A3676D18E345CBCCE6")),
    ("short id", put("id", "0ce2588b")),
    ("source with a space", put("source", "web 1")),
    ("empty source", put("source", "")),
    ("unknown type", put("type", "dmimad.alert.drift.sideways")),
    ("empty subject", put("subject", "")),
    ("naive time", put("time", NAIVE)),
    ("no milliseconds", put("time", NO_MILLISECONDS)),
    ("another time zone", put("time", ELSEWHERE)),
    ("no such month", put("time", NO_SUCH_MONTH)),
    ("seconds since 1970", put("time", 1_700_000_000)),
    ("data is no JSON", put("datacontenttype", "text/plain")),
    ("sequence as a number", put("sequence", 1)),
    ("sequence without zeros", put("sequence", "1")),
    ("severitytext of another severity", put("severitytext", "INFO")),
    ("severitynumber of another severity", put("severitynumber", 9)),
    ("signature that is no base64", put("dssematerial", "{}")),
    ("signature too long", put("dssematerial", "A" * 65_540)),
    ("data as text", put("data", "{}")),
    ("unknown code", put("data.code", "drift.sideways")),
    ("unknown severity", put("data.severity", "fatal")),
    ("unknown status", put("data.status", "over")),
    ("empty message", put("data.message", "")),
    ("device as text", put("data.device", "linear1")),
    ("device without its key", drop("data.device.key")),
    ("device without its name", drop("data.device.name")),
    ("another device key", put("data.device.key", "dm-0")),
    ("expected is a list", put("data.expected", ["a"])),
    ("actual is a number", put("data.actual", 1)),
    ("naive since", put("data.since", NAIVE)),
    ("it never occurred", put("data.occurrence", 0)),
    ("it never fired", put("data.count", 0)),
    ("first is no time", put("data.first", None)),
    ("last is no time", put("data.last", "today")),
    ("flapping in words", put("data.flapping", "no")),
    ("maintenance without an end", put("data.maintenance", {"id": "0123456789ab", "reason": "x"})),
    ("maintenance that does not soften", put("data.maintenance", A_MAINTENANCE)),
    ("maintenance with another id", put("data.maintenance", {**A_MAINTENANCE, "id": "1"})),
    ("difference without actual", put("data.differences", [{**A_DIFFERENCE, "actual": None}])),
    ("difference of target -1", put("data.differences", [{**A_DIFFERENCE, "target": -1}])),
    ("difference of nothing", put("data.differences", [{**A_DIFFERENCE, "attribute": ""}])),
    ("too many differences", put("data.differences", [A_DIFFERENCE] * 65)),
    ("a storm's summary", put("data.summary", example("alert", "storm")["data"]["summary"])),
    ("evidence without a record", drop("data.evidence.record")),
    ("record -1", put("data.evidence.record", -1)),
    ("record as text", put("data.evidence.record", "6")),
    ("evidence that is no text", put("data.evidence.bank", 256)),
    ("unknown witness", put("data.evidence.witness", "hearsay")),
    ("unknown slot", put("data.evidence.slot", "passive")),
    ("unknown event", put("data.evidence.event", "table_swap")),
    ("evidence of another hash", put("data.evidence.hash", "sha256:" + "g" * 64)),
    ("digest that is none", put("data.evidence.template_digest", "xyz")),
    ("firing, with a duration", put("data.duration_seconds", 1.5)),
    ("firing, with what ended it", put("data.resolved_by_record", 7)),
]

WRONG_RESOLVED: list[tuple[str, Change]] = [
    ("no duration", drop("data.duration_seconds")),
    ("negative duration", put("data.duration_seconds", -0.5)),
    ("nothing about what ended it", drop("data.resolved_by_record")),
    ("ended by record -1", put("data.resolved_by_record", -1)),
]

WRONG_STORMS: list[tuple[str, Change]] = [
    ("no summary", put("data.summary", None)),
    *((f"no {name}", drop(f"data.summary.{name}")) for name in ALERT["$defs"]["summary"]["required"]),
    ("alerts of an unknown code", put("data.summary.by_code", {"drift.sideways": 2})),
    ("alerts of an unknown severity", put("data.summary.by_severity.fatal", 1)),
    ("alerts without a severity", drop("data.summary.by_severity.info")),
    ("negative number", put("data.summary.more_devices", -1)),
    ("too many names", put("data.summary.devices", [f"d{number}" for number in range(101)])),
    ("the same name twice", put("data.summary.devices", ["a", "a"])),
    ("names as text", put("data.summary.devices", "a")),
]

WRONG_DEVICES: list[tuple[str, Change]] = [
    *((f"no {name}", drop(name)) for name in DEVICE["required"]),
    *((f"no active.{name}", drop(f"active.{name}")) for name in DEVICE["$defs"]["slot"]["required"]),
    ("another key", put("key", "dm-0")),
    ("empty key", put("key", "")),
    ("key without numbers, for numbers", put("key", "name-0123456789ab")),
    ("numbers in the key alone", lambda document: document.update(major=None, minor=None)),
    ("half a number", put("minor", None)),
    ("hash of another kind", put("active.hash", "sha1:" + "0" * 40)),
    ("hash with capitals", put("active.hash", "sha256:" + "A" * 64)),
    ("short hash", put("active.hash", "sha256:" + "a" * 63)),
    ("hash null", put("active.hash", None)),
    ("hash as fingerprint", put("active.fingerprint", "sha256:" + "a" * 64)),
    ("long fingerprint", put("active.fingerprint", "config:" + "a" * 65)),
    ("unknown provenance", put("active.provenance", "hearsay")),
    ("observed, and a record", put("active.provenance", "observed")),
    ("measured, and no record", put("active.record", None)),
    ("negative targets", put("active.num_targets", -1)),
    ("target without a length", drop("active.targets.0.length")),
    ("target with bytes", put("active.targets.0.begin", 0.5)),
    ("target of a nameless type", put("active.targets.0.type", "")),
    ("too many targets", put("active.targets", [{"begin": 0, "length": 1, "type": None}] * 1025)),
    ("slot as a hash", put("inactive", "sha256:" + "a" * 64)),
    ("live in words", put("live", "yes")),
    ("live, and nothing known", put("live", True)),
    ("not live, and something known", put("suspended", False)),
    ("unknown verdict", put("verdict", "fine")),
    ("drift of one slot", drop("drift.inactive")),
    ("drift as one word", put("drift", False)),
]

WRONG = [
    pytest.param(schema, message, name, change, id=f"{name}: {what}")
    for schema, message, name, changes in (
        (ALERT, "alert", "firing", WRONG_ALERTS),
        (ALERT, "alert", "resolved", WRONG_RESOLVED),
        (ALERT, "alert", "storm", WRONG_STORMS),
        (DEVICE, "device", "drift", WRONG_DEVICES),
    )
    for what, change in changes
]


@pytest.mark.parametrize(("schema", "message", "name", "change"), WRONG)
def test_what_is_wrong_is_refused(schema: dict[str, Any], message: str, name: str, change: Change) -> None:
    document = example(message, name)
    assert problems(schema, document) == []
    change(document)
    assert problems(schema, document) != []


@pytest.mark.parametrize("name", ["id", "source", "type", "subject"])
def test_the_library_refuses_events_too(name: str) -> None:
    """So that its word on the others is worth something."""
    event = {**example("alert", "firing"), name: ""}
    with pytest.raises(CloudEventValidationError, match=name):
        JSONFormat().read(None, json.dumps(event).encode())
