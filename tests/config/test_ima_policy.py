"""`config/ima-policy` and its page: rules the kernel knows, and what is said of their cost."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmimad.doctor.measuring import policy_rule
from tests.config.shipped import CONFIG, ROOT

#: Of Documentation/ABI/testing/ima_policy, Linux 5.15: what may stand beside func=CRITICAL_DATA.
CONDITIONS = {"func", "label", "uid", "euid", "gid", "egid", "pcr", "template"}


def rules(text: str) -> list[str]:
    """As the kernel takes them, one a line: empty ones and those that begin with # are passed over."""
    return [line for line in text.split("\n") if line and not line.startswith("#")]


@pytest.fixture
def policy() -> list[str]:
    return rules((CONFIG / "ima-policy").read_text("ascii"))


def test_rules_are_of_the_kernels_grammar(policy: list[str]) -> None:
    assert policy
    for rule in policy:
        action, *conditions = rule.split(" ")  # the kernel splits at each space or tab
        assert action == "measure"
        pairs = dict(condition.split("=") for condition in conditions)
        assert pairs.keys() <= CONDITIONS
        assert pairs["func"] == "CRITICAL_DATA"


def test_device_mapper_is_measured_and_nothing_else(policy: list[str]) -> None:
    assert policy_rule(tuple(policy)) == policy[0]
    assert [rule.partition("label=")[2] for rule in policy] == ["device-mapper"]


def test_the_page_shows_the_rule_that_is_shipped(policy: list[str]) -> None:
    assert f"`{policy[0]}`" in (ROOT / "docs/ima-policy.md").read_text("utf-8")


def sizes(path: Path) -> Iterator[tuple[str, int]]:
    """Name of what was measured and size in bytes of each record of a binary list (bank SHA-1)."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (name_bytes,) = struct.unpack_from("<I", data, at + 24)
        (data_bytes,) = struct.unpack_from("<I", data, at + 28 + name_bytes)
        fields = at + 32 + name_bytes
        (digest_bytes,) = struct.unpack_from("<I", data, fields)
        (event_bytes,) = struct.unpack_from("<I", data, fields + 4 + digest_bytes)
        event = data[fields + 8 + digest_bytes :][:event_bytes]
        yield event.rstrip(b"\0").decode(), fields + data_bytes - at
        at = fields + data_bytes


def test_the_cost_is_that_of_the_recorded_lists(corpus: Path) -> None:
    records = list(sizes(corpus / "lvm-6.1/binary_runtime_measurements"))
    device_mapper = [size for name, size in records if name.startswith("dm_")]
    loads = [size for name, size in records if name == "dm_table_load"]
    files = [size for name, size in records if name[0] == "/" or name == "boot_aggregate"]
    page = (ROOT / "docs/ima-policy.md").read_text("utf-8")
    said = [int(number) for number in re.findall(r"^\| (?:of|a) .* \| (\d+) \|$", page, re.MULTILINE)]
    assert said == [round(sum(each) / len(each)) for each in (device_mapper, loads, files)]
    assert f"{len(device_mapper)} records" in page
    assert f"{len(files)} of the {len(records)} records" in page
