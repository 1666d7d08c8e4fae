"""The lists in ``tests/corpus``, which real kernels wrote, with what was done and what was true meanwhile.

See the corpus' README for the files.  Reading them is all that is done here; what the steps say about
which devices can be known is `tests.core.truth`'s.
"""

from __future__ import annotations

import functools
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import CORPUS
from tests.core.lists import Item, read_binary

#: Folder -> dialect, records, dm records.
LISTS = {
    "lvm-6.1": ("legacy", 612, 110),
    "lvm-7.2": ("ordered", 632, 110),
    "random-6.1": ("legacy", 122, 120),
    "random-6.12": ("legacy", 183, 131),
    "random-7.2": ("ordered", 184, 135),
    "systematic-6.1": ("legacy", 154, 152),
    "systematic-6.12": ("legacy", 207, 152),
    "systematic-7.2": ("ordered", 210, 157),
    "systematic-v1": ("v1", 154, 152),
}


@dataclass(frozen=True, slots=True)
class TrueDevice:
    """A device as dmsetup saw it after a step."""

    name: bytes
    uuid: bytes
    number: tuple[int, int]
    active: bool
    inactive: bool
    suspended: bool
    measure: str


@dataclass(frozen=True, slots=True)
class Action:
    """One step: what was done, how long the list was and what was true afterwards."""

    label: str
    command: str
    table: str | None
    status: int
    error: str
    after: int
    devices: tuple[TrueDevice, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """One printed form of a list."""

    ascii: bool
    bank: str
    path: Path

    def __str__(self) -> str:
        return f"{'ascii' if self.ascii else 'binary'}-{self.bank}"


def folder(name: str) -> Path:
    """Where a list is."""
    return CORPUS / name


@functools.cache
def forms(name: str) -> tuple[Form, ...]:
    """Every printed form of a list that was recorded."""
    return tuple(
        Form(form == "ascii", bank, path)
        for form in ("ascii", "binary")
        for bank, suffix in (("sha1", ""), ("sha256", "_sha256"))
        if (path := folder(name) / f"{form}_runtime_measurements{suffix}").exists()
    )


ALL_FORMS = [(name, form) for name in LISTS for form in forms(name)]


@functools.cache
def binary(name: str) -> bytes:
    """The binary list of the sha1 bank."""
    return (folder(name) / "binary_runtime_measurements").read_bytes()


@functools.cache
def items(name: str) -> tuple[Item, ...]:
    """The records, taken apart."""
    return tuple(read_binary(binary(name)))


@functools.cache
def pcr_values(name: str) -> dict[str, bytes]:
    """PCR 10 of the TPM's banks at the end."""
    meta = json.loads((folder(name) / "meta.json").read_text())
    return {bank: bytes.fromhex(value) for bank, value in meta["pcr10"].items()}


@functools.cache
def actions(name: str) -> tuple[Action, ...]:
    """What was done, in order."""
    with gzip.open(folder(name) / "steps.jsonl.gz", "rt", encoding="utf-8") as stream:
        return tuple(_action(json.loads(line)) for line in stream)


def _action(step: dict[str, Any]) -> Action:
    return Action(
        step["label"],
        step["cmd"],
        step["table"],
        step["rc"],
        step["err"],
        step["count_after"],
        tuple(_device(device) for device in step["devices"]),
    )


def _device(device: dict[str, str]) -> TrueDevice:
    major, minor = device["dev"].split(":")
    return TrueDevice(
        device["name"].encode("utf-8", "surrogateescape"),
        device["uuid"].encode("utf-8", "surrogateescape"),
        (int(major), int(minor)),
        device["attr"][0] == "L",
        device["attr"][1] == "I",
        device["attr"][2] == "s",
        device["measure"] if device["measure"].strip() else "",
    )
