"""The AsyncAPI document and its schemas, as a subscriber's tools use them: which messages may be where."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema

from tests.broker import Received

SCHEMAS = ("alert.schema.json", "device.schema.json")
ASYNCAPI = "asyncapi.json"
DIALECTS = (jsonschema.Draft202012Validator, jsonschema.Draft7Validator)


def load(name: str) -> dict[str, Any]:
    """A file of `dmimad.schemas`, found as a subscriber finds it."""
    document = json.loads((importlib.resources.files("dmimad.schemas") / name).read_text("utf-8"))
    assert isinstance(document, dict)
    return document


def problems(schema: dict[str, Any], instance: object) -> list[str]:
    """What is wrong with `instance`; the same by draft 7, which is what AsyncAPI 3 knows."""
    found = [
        sorted(f"{error.json_path}: {error.message}" for error in dialect(schema).iter_errors(instance))
        for dialect in DIALECTS
    ]
    assert found[0] == found[1]
    return found[0]


def resolve(document: dict[str, Any], node: Any) -> Any:
    """What a node is, or what its reference leads to: in the same document, or a file beside it."""
    while isinstance(node, dict) and "$ref" in node:
        file, _, pointer = node["$ref"].partition("#")
        if file:
            document = load(file.removeprefix("./"))
        node = document
        for step in pointer.split("/")[1:]:
            node = node[step]
    return node


def references(node: Any) -> Iterator[str]:
    """All references below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from references(each)


@dataclass(frozen=True, slots=True)
class Described:
    """A message as the document has it: its channel, its name there, the topic's parameters, the payload."""

    channel: str
    message: str
    parameters: dict[str, str]
    payload: Any


class Contract:
    """What the AsyncAPI document says of the messages dmimad sends."""

    def __init__(self, document: dict[str, Any] | None = None) -> None:
        self.document = load(ASYNCAPI) if document is None else document
        self.sends = {
            operation["channel"]["$ref"].removeprefix("#/channels/"): operation["bindings"]["mqtt"]
            for operation in self.document["operations"].values()
            if operation["action"] == "send"
        }

    def messages(self, channel: str) -> dict[str, dict[str, Any]]:
        """Of a channel, by name."""
        found = self.document["channels"][channel]["messages"]
        return {name: resolve(self.document, message) for name, message in found.items()}

    def channel_of(self, topic: str) -> tuple[str, dict[str, str]]:
        """The one channel whose address a topic has, and the values of its parameters."""
        found = []
        for name, channel in self.document["channels"].items():
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", channel["address"])
            match = re.fullmatch(pattern, topic)
            if match is not None and self._allows(channel, match.groupdict()):
                found.append((name, match.groupdict()))
        assert len(found) == 1, f"{topic} is described {len(found)} times"
        return found[0]

    def describe(self, received: Received) -> Described:
        """What a message is; AssertionError if it is not as the document says."""
        channel, parameters = self.channel_of(received.topic)
        wrong: dict[str, list[str]] = {}
        found = []
        for name, message in self.messages(channel).items():
            is_text = message["contentType"] == "text/plain"
            try:
                payload = received.payload.decode() if is_text else json.loads(received.payload)
            except ValueError as error:
                wrong[name] = [str(error)]
                continue
            wrong[name] = problems(resolve(self.document, message["payload"]), payload)
            if not wrong[name]:
                found.append((Described(channel, name, parameters, payload), message))
        assert len(found) == 1, f"{received.topic} is {len(found)} messages: {wrong} {received.payload!r}"
        described, message = found[0]
        self._check_binding(channel, message, received)
        self._check_locations(described)
        return described

    def _allows(self, channel: dict[str, Any], parameters: dict[str, str]) -> bool:
        rules = {name: resolve(self.document, rule) for name, rule in channel["parameters"].items()}
        return all(value in rules[name].get("enum", [value]) for name, value in parameters.items())

    def _check_binding(self, channel: str, message: dict[str, Any], received: Received) -> None:
        binding = self.sends[channel]
        assert (received.qos, received.retained) == (binding["qos"], binding["retain"]), received.topic
        content_type = message.get("bindings", {}).get("mqtt", {}).get("contentType")
        assert received.content_type == content_type, received.topic

    def _check_locations(self, described: Described) -> None:
        """A parameter says where in the payload it is, too."""
        rules = self.document["channels"][described.channel]["parameters"]
        for name, value in described.parameters.items():
            location = resolve(self.document, rules[name]).get("location", "")
            if location and isinstance(described.payload, dict):
                found: Any = described.payload
                for step in location.removeprefix("$message.payload#/").split("/"):
                    found = found[step]
                assert found == value, (described.channel, name)


def undescribed(schema: dict[str, Any], instance: Any) -> list[str]:
    """Members of `instance` that no schema names, by their path."""
    return list(_undescribed(schema, schema, instance, "$"))


def _undescribed(root: dict[str, Any], node: dict[str, Any], instance: Any, path: str) -> Iterator[str]:
    node = resolve(root, node)
    if isinstance(instance, list):
        for each in instance:
            yield from _undescribed(root, node["items"], each, f"{path}[]")
    if not isinstance(instance, dict):
        return
    if "anyOf" in node:  # that, or null
        node = resolve(root, node["anyOf"][0])
    for name, value in instance.items():
        member = node.get("properties", {}).get(name, node.get("additionalProperties"))
        if member is None:
            yield f"{path}.{name}"
        else:
            yield from _undescribed(root, member, value, f"{path}.{name}")
