"""A host for tests of the monitor: the model kernel, the monitor that reads its list, and a disk.

The disk has the store's semantics without its database.  Whoever watches can look at the live tables and at a
TPM as well, and can be killed and started again at any moment.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any

import pytest

from dmimad.core.baseline import Baseline, parse_baseline
from dmimad.core.commit import Commit, Message, Stored
from dmimad.core.errors import ListGapError
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.observation import Observation
from tests.core.kernel import Kernel, linear
from tests.core.lists import binary_record, replayed
from tests.core.live import observation
from tests.core.replaying import replay

GOOD, BAD, OTHER = (linear(0),), (linear(8),), (linear(16),)
Told = list[tuple[str, str, str]]


class Disk:
    """What a store keeps: documents as JSON, facts as a set, messages in order."""

    def __init__(self) -> None:
        self.checkpoint: str | None = None
        self.devices: dict[str, str] = {}
        self.alerts: dict[str, str] = {}
        self.history: dict[str, str] = {}
        self.facts: dict[tuple[str, bytes], None] = {}
        self.messages: list[Message] = []

    def store(self, commit: Commit) -> None:
        if commit.fresh:
            self.devices, self.facts = {}, {}
        if commit.anew:
            self.history = {}
        self.checkpoint = encoded(commit.checkpoint)
        for kept, documents in (
            (self.devices, commit.devices),
            (self.alerts, commit.alerts),
            (self.history, commit.history),
        ):
            for key, document in documents.items():
                kept.pop(key, None)
                if document is not None:
                    kept[key] = encoded(document)
        self.facts |= dict.fromkeys(commit.facts)
        self.messages += commit.messages

    def copy(self) -> Disk:
        other = Disk()
        other.checkpoint = self.checkpoint
        other.devices, other.alerts, other.facts = dict(self.devices), dict(self.alerts), dict(self.facts)
        other.history, other.messages = dict(self.history), list(self.messages)
        return other

    def load(self) -> Stored:
        """In the order of the database, which is that of the keys."""
        return Stored(
            None if self.checkpoint is None else json.loads(self.checkpoint),
            {key: json.loads(self.devices[key]) for key in sorted(self.devices)},
            {key: json.loads(self.alerts[key]) for key in sorted(self.alerts)},
            tuple(sorted(self.facts)),
            history={key: json.loads(self.history[key]) for key in sorted(self.history)},
        )

    def holds(self) -> tuple[object, ...]:
        """All of it, to compare."""
        documents = [
            {key: json.loads(text) for key, text in kept.items()} for kept in (self.devices, self.alerts)
        ]
        checkpoint = json.loads(self.checkpoint or "{}")
        checkpoint.pop("unwatched_since", None)  # who was killed knows that nobody watched for a while
        return (*documents, set(self.facts), self.messages, checkpoint)


def encoded(document: object) -> str:
    """As it is stored."""
    return json.dumps(document, allow_nan=False)


def approved(**tables: tuple[Any, ...]) -> Baseline:
    """A baseline with one entry a device, which approves tables with the hashes they have on 254:0."""
    text = "version = 1\n"
    for name, each in tables.items():
        hashes = ", ".join(f'"{label(name, table)}"' for table in each)
        text += f'[[device]]\nname = "{name}"\nhashes = [{hashes}]\n'
    return parse_baseline(text, "b.toml")


def listed(*lines: str) -> Baseline:
    return parse_baseline("version = 1\n" + "".join(f"[[device]]\n{line}\n" for line in lines), "b.toml")


@functools.cache
def label(name: str, table: tuple[Any, ...], dialect: str = "ordered") -> str:
    """The hash of a table on the first device."""
    kernel = Kernel(dialect)
    kernel.create(name.encode(), table)
    (device,) = replay(b"".join(map(binary_record, kernel.items))).tracker.devices
    assert device.active is not None
    return device.active.label


class Host:
    """A kernel, the monitor that reads its list, and the disk the commits go to."""

    def __init__(
        self,
        baseline: Baseline | None = None,
        *,
        hold_off: float = 0.0,
        dialect: str = "ordered",
        boot: str = "boot",
    ) -> None:
        self.kernel = Kernel(dialect)
        self.baseline = baseline or Baseline()
        self.policy = Policy("h", hold_off)
        self.boot = boot
        self.disk = Disk()
        self.read = 0
        self.gone = 0
        self.monitor = Monitor(self.policy, self.baseline, boot)

    def look(self, now: float = 100.0) -> Told:
        """Read what is new, to the end, and commit."""
        self.feed(now)
        self.monitor.caught_up(now)
        return self.commit()

    def feed(self, now: float = 100.0) -> None:
        for item in self.kernel.items[self.read :]:
            self.monitor.feed(binary_record(item), now)
        self.read = len(self.kernel.items)

    def commit(self) -> Told:
        """Store what there is; returns the messages."""
        commit = self.monitor.commit()
        self.disk.store(commit)
        self.monitor.committed()
        return told(commit.messages)

    def tick(self, now: float) -> Told:
        self.monitor.tick(now)
        return self.commit()

    def last(self) -> dict[str, Any]:
        """The data of the last message."""
        data: dict[str, Any] = json.loads(self.disk.messages[-1].payload)["data"]
        return data

    def restart(self) -> int:
        """A new process on the same disk; returns how many bytes were to be read again."""
        self.monitor = Monitor(self.policy, self.baseline, self.boot)
        at = self.monitor.resume(self.disk.load())
        lengths = [len(binary_record(item)) for item in self.kernel.items[self.gone : self.read]]
        assert at == sum(lengths[:-1])
        self.read -= 1
        return at

    # -- the second witness ----------------------------------------------------------------

    def see(self, now: float = 100.0, *, active: Iterable[tuple[int, int]] = ()) -> tuple[bool, Told]:
        """Read the list, look at the live tables, read the list, take in, commit: unsettled?, messages."""
        self.feed(now)
        self.monitor.caught_up(now)
        return self.take(observation(self.kernel), now, active=active)

    def take(
        self, seen: Observation, now: float = 100.0, *, active: Iterable[tuple[int, int]] = ()
    ) -> tuple[bool, Told]:
        """Take an observation in and commit."""
        self.feed(now)
        self.monitor.caught_up(now)
        unsettled = self.monitor.observed(seen, active, now)
        return unsettled, self.commit()

    def settle(self, now: float = 100.0) -> Told:
        """See until nothing is in doubt, which takes two looks at most; returns the messages."""
        unsettled, found = self.see(now)
        if unsettled:
            unsettled, more = self.see(now)
            found += more
        assert not unsettled
        return found

    # -- the TPM ---------------------------------------------------------------------------

    def compare(
        self, now: float = 100.0, *, wrong: bool = False, tpm: bool = True, banks: Iterable[str] = ("sha256",)
    ) -> tuple[bool, Told]:
        """Compare with the PCR, which is right or ``wrong``; returns whether to try again, and messages."""
        values = {bank: replayed(self.kernel.items, bank) for bank in banks} if tpm else {}
        if wrong:
            values = {bank: bytes([value[0] ^ 1]) + value[1:] for bank, value in values.items()}
        found = self.look(now)
        self.monitor.pcr_read(values, now)
        found += self.look(now)
        retry = self.monitor.pcr_settled(now, tpm=bool(values))
        return retry, found + self.commit()

    def convict(self, now: float = 100.0) -> Told:
        """Compare with a wrong PCR until it is certain."""
        assert self.compare(now, wrong=True) == (True, [])
        assert self.compare(now, wrong=True) == (True, [])
        retry, found = self.compare(now, wrong=True)
        assert not retry
        return found

    # -- trimming --------------------------------------------------------------------------

    def trim(self, count: int) -> None:
        """The list begins ``count`` records later; the monitor is told to look for its place."""
        self.gone = count
        self.monitor.find_place()

    def search(self, now: float = 100.0) -> Told:
        """Read the list from its first byte."""
        self.read = self.gone
        return self.look(now)

    def lose(self, count: int, now: float = 100.0) -> None:
        """The list begins ``count`` records later, and the place is not in it."""
        self.trim(count)
        with pytest.raises(ListGapError):
            self.search(now)
        self.monitor.after_gap()
        self.read = self.gone


def told(messages: Iterable[Message]) -> Told:
    """Code, status and subject of messages."""
    events = [json.loads(message.payload) for message in messages]
    return [(event["data"]["code"], event["data"]["status"], event["subject"]) for event in events]
