"""The AsyncAPI document is one of AsyncAPI 3, whole, and its examples are as it says.

`asyncapi3` has the models of AsyncAPI 3.0 with its bindings, closed as the specification closes them.
References, addresses and examples it does not look at; that is done here.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from dmimad.core.cloudevent import CONTENT_TYPE, alert_topic, device_topic
from dmimad.core.finding import Severity
from dmimad.settings import MqttSettings
from tests.broker import Received
from tests.schemas.contract import ASYNCAPI, Contract, load, problems, references, resolve, undescribed

with warnings.catch_warnings():
    # Where the specification has a member `schema`, so have its models; pydantic has a method of that name.
    warnings.filterwarnings("ignore", r'Field name "schema" in "\w+" shadows', UserWarning)
    from asyncapi3 import AsyncAPI3

Change = Callable[[dict[str, Any]], object]
CONTRACT = Contract()
DOCUMENT = CONTRACT.document


def test_it_is_a_document_of_asyncapi_3() -> None:
    model = AsyncAPI3.model_validate_json(json.dumps(load(ASYNCAPI)))
    assert model.asyncapi == "3.0.0"
    assert model.channels is not None
    assert set(model.channels) == {"status", "device", "alert"}
    # Nothing was taken for an extension, or left out.
    assert json.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) == DOCUMENT


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(asyncapi="2.6.0"),
        lambda document: document["info"].pop("version"),
        lambda document: document.update(topics={}),
        lambda document: document["servers"]["plain"].update(url="mqtt://127.0.0.1"),
        lambda document: document["channels"]["alert"].update(subscribe={}),
        lambda document: document["channels"]["alert"]["parameters"]["severity"].update(schema={}),
        lambda document: document["channels"]["alert"]["parameters"]["severity"].update(enum="info"),
        lambda document: document["operations"]["sendAlert"].update(action="publish"),
        lambda document: document["operations"]["sendAlert"].pop("channel"),
        lambda document: document["operations"]["sendAlert"]["bindings"]["mqtt"].update(qos=3),
        lambda document: document["components"]["messages"]["alert"].update(schemaFormat="x"),
        lambda document: document["components"]["serverBindings"]["daemon"]["mqtt"].update(lastwill={}),
    ],
)
def test_the_models_refuse_what_is_none(change: Change) -> None:
    """So that their word is worth something."""
    document = copy.deepcopy(DOCUMENT)
    change(document)
    with pytest.raises(ValidationError):
        AsyncAPI3.model_validate_json(json.dumps(document))


def test_references_lead_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert {"./alert.schema.json", "./device.schema.json"} <= set(found)
    for reference in found:
        assert isinstance(resolve(DOCUMENT, {"$ref": reference}), dict), reference


def test_every_component_is_used() -> None:
    parts = {f"#/components/{kind}/{name}" for kind, all_ in DOCUMENT["components"].items() for name in all_}
    assert parts <= set(references(DOCUMENT))


@pytest.mark.parametrize("name", DOCUMENT["channels"])
def test_addresses_have_the_parameters_that_are_described(name: str) -> None:
    channel = DOCUMENT["channels"][name]
    assert set(re.findall(r"\{(\w+)\}", channel["address"])) == set(channel["parameters"])
    for parameter in channel["parameters"].values():
        assert resolve(DOCUMENT, parameter)["description"].endswith(".")


@pytest.mark.parametrize("name", DOCUMENT["channels"])
def test_each_channel_is_sent_to_and_received_from(name: str) -> None:
    channel = {"$ref": f"#/channels/{name}"}
    actions = [each["action"] for each in DOCUMENT["operations"].values() if each["channel"] == channel]
    assert sorted(actions) == ["receive", "send"]


MESSAGES = [(name, message) for name in DOCUMENT["channels"] for message in CONTRACT.messages(name)]


@pytest.mark.parametrize(("channel", "message"), MESSAGES)
def test_examples_are_messages_of_their_channel(channel: str, message: str) -> None:
    described = CONTRACT.messages(channel)[message]
    schema = resolve(DOCUMENT, described["payload"])
    assert described["examples"]
    for example in described["examples"]:
        payload = example["payload"]
        assert problems(schema, payload) == []
        assert undescribed(schema, payload) == []
        topic = topic_of(channel, payload)
        as_sent = payload if isinstance(payload, str) else json.dumps(payload)
        content_type = CONTENT_TYPE if channel == "alert" else None
        received = Received(topic, as_sent.encode(), 1, channel != "alert", content_type)
        assert CONTRACT.describe(received).message == message


def topic_of(channel: str, payload: Any) -> str:
    """By the code that publishes."""
    if channel == "alert":
        return alert_topic("web-1", Severity(payload["data"]["severity"]))
    if channel == "device":
        return device_topic("web-1", payload["key"] if payload else "254:0")
    return "dmimad/v1/web-1/status"


@pytest.mark.parametrize(
    "topic",
    [
        "dmimad/v1/web-1",
        "dmimad/v1/web-1/state",
        "dmimad/v2/web-1/status",
        "dmimad/v1/a/b/status",
        "dmimad/v1/web-1/alert/fatal",
        "dmimad/v1/web-1/alert",
        "dmimad/v1/web-1/device/254:0/active",
        "dmimad/v1//status",
    ],
)
def test_other_topics_are_not_described(topic: str) -> None:
    with pytest.raises(AssertionError, match="described 0 times"):
        CONTRACT.channel_of(topic)


ALERT = json.dumps(CONTRACT.messages("alert")["alert"]["examples"][0]["payload"]).encode()
CRITICAL, STATUS = "dmimad/v1/web-1/alert/critical", "dmimad/v1/web-1/status"


@pytest.mark.parametrize(
    "received",
    [
        Received(STATUS, b"away", 1, True, None),
        Received(STATUS, b"online", 0, True, None),
        Received(STATUS, b"online", 1, False, None),
        Received(STATUS, b"online", 1, True, "text/plain"),
        Received("dmimad/v1/web-1/device/254:0", b"{}", 1, True, None),
        Received(CRITICAL, ALERT, 1, True, CONTENT_TYPE),
        Received(CRITICAL, ALERT, 1, False, None),
        Received(CRITICAL, b"", 1, False, CONTENT_TYPE),
        Received("dmimad/v1/web-1/alert/info", ALERT, 1, False, CONTENT_TYPE),
    ],
    ids=str,
)
def test_messages_that_are_otherwise_are_refused(received: Received) -> None:
    with pytest.raises((AssertionError, KeyError)):
        CONTRACT.describe(received)


def test_what_it_says_of_the_connection_is_so() -> None:
    binding = DOCUMENT["components"]["serverBindings"]["daemon"]["mqtt"]
    settings = MqttSettings()
    assert binding["keepAlive"] == settings.keepalive_seconds
    plain = DOCUMENT["servers"]["plain"]["variables"]
    assert (plain["broker"]["default"], plain["port"]["default"]) == (settings.host, str(settings.port))
    assert settings.protocol == 5
