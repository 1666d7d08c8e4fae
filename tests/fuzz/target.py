"""What must hold for any bytes whatsoever, taken for a measurement list.

Nothing but the project's own errors; the same steps wherever the bytes are cut; state that survives being
stored as JSON; and messages that are what they should be.  Used by the bounded tests beside it and by
``python -m tests.fuzz``.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence

from dmimad.core.baseline import Baseline, parse_baseline
from dmimad.core.commit import Commit, Stored
from dmimad.core.errors import BaselineError, ResumeError
from dmimad.core.finding import CODES
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.reader import ListReader
from dmimad.core.table import parse_targets
from dmimad.core.tracker import Step, Tracker

BASELINE = parse_baseline(
    'version = 1\n[[device]]\nname = "*a*"\nrequired = true\nhashes = []\n[[device]]\nname = "root"\n'
    f'hashes = ["sha256:{"ab" * 32}"]\n',
    "baseline",
)


def steps_of(pieces: Sequence[bytes]) -> tuple[list[Step], ListReader, Tracker]:
    """A list through reader and tracker."""
    reader, tracker = ListReader(banks=("sha1", "sha256", "sha512")), Tracker()
    records = [record for piece in pieces for record in reader.feed(piece)]
    records += reader.close()
    found = [tracker.apply(record) for record in records]
    return [step for step in found if step is not None], reader, tracker


def check_list(data: bytes, cuts: Sequence[int] = ()) -> None:
    """Any bytes as a list, whole and cut."""
    steps, reader, tracker = steps_of([data])
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    again, reader_again, _ = steps_of([data[start:stop] for start, stop in itertools.pairwise(places)])
    assert again == steps
    assert reader_again.position == reader.position
    assert str(reader_again.broken) == str(reader.broken)
    assert reader.position.offset <= len(data)
    keys = [device.key for device in tracker.devices]
    assert len(set(keys)) == len(keys)
    for step in steps:
        assert all(finding.code in CODES and "\n" not in finding.code for finding in step.findings)
        assert step.kind is None or step.device is not None or step.findings
        for slot in () if step.device is None else (step.device.active, step.device.inactive):
            if slot is not None:
                assert len(slot.hash) == 32
                parse_targets(slot.texts)


def check_monitor(data: bytes, cuts: Sequence[int] = ()) -> None:
    """The same through the monitor: stored and taken up again at every cut, without a difference."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    monitor = Monitor(Policy("host", hold_off_seconds=0.0), BASELINE, "boot")
    whole = Monitor(Policy("host", hold_off_seconds=0.0), BASELINE, "boot")
    disk = Disk()
    now = 1_000_000.0
    sent: list[str] = []
    for start, stop in itertools.pairwise(places):
        now += 1
        whole.feed(data[start:stop], now)
        monitor.feed(data[start:stop], now)
        sent += disk.store(monitor.commit())
        monitor.committed()
        monitor = resumed(disk, data[:stop])
    whole.caught_up(now + 1)
    monitor.caught_up(now + 1)
    sent += disk.store(monitor.commit())
    expected = [json.loads(message.payload)["id"] for message in whole.commit().messages]
    if not whole.broken:
        assert sorted(sent) == sorted(expected)
        assert monitor.retained() == whole.retained()
        assert monitor.firing() == whole.firing()
    assert len(set(sent)) == len(sent)


def resumed(disk: Disk, data: bytes) -> Monitor:
    """Another process goes on; what was read of an incomplete record is read again."""
    monitor = Monitor(Policy("host", hold_off_seconds=0.0), BASELINE, "boot")
    try:
        offset = monitor.resume(disk.stored())
        monitor.feed(data[offset:], 1_000_000.0)
    except ResumeError as error:  # a record without a digest of its own cannot be recognised
        raise AssertionError(str(error)) from error
    return monitor


class Disk:
    """What a store keeps, through JSON."""

    def __init__(self) -> None:
        self.checkpoint = "null"
        self.devices: dict[str, str] = {}
        self.alerts: dict[str, str] = {}
        self.facts: dict[tuple[str, bytes], None] = {}

    def store(self, commit: Commit) -> list[str]:
        """One transaction; returns the ids of the messages in it."""
        if commit.fresh:
            self.devices, self.facts = {}, {}
        self.checkpoint = json.dumps(commit.checkpoint)
        for kept, changed in ((self.devices, commit.devices), (self.alerts, commit.alerts)):
            for key, document in changed.items():
                kept.pop(key, None)
                if document is not None:
                    kept[key] = json.dumps(document)
        self.facts |= dict.fromkeys(commit.facts)
        return [json.loads(message.payload)["id"] for message in commit.messages]

    def stored(self) -> Stored:
        """What another process finds."""
        documents = [
            {key: json.loads(text) for key, text in sorted(kept.items())}
            for kept in (self.devices, self.alerts)
        ]
        return Stored(json.loads(self.checkpoint), documents[0], documents[1], list(self.facts))


def check_baseline(data: bytes) -> Baseline | None:
    """Any text as a baseline file: entries, or one error that says where."""
    try:
        return parse_baseline(data.decode("utf-8", "replace"), "file")
    except BaselineError as error:
        refused = str(error)
    assert refused.startswith("file")
    assert "\n" not in refused
    return None


# -- mutations -----------------------------------------------------------------------------


def mutated(data: bytes, other: bytes, choose: random.Random) -> bytes:
    """A list with a few things done to it that neither form of list expects."""
    for _ in range(choose.randint(1, 4)):
        if not data:
            return other
        at = choose.randrange(len(data))
        length = choose.choice((1, 1, 2, 4, 20, 200, 2000))
        what = choose.randrange(9)
        if what == 0:
            data = data[:at] + bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 :]
        elif what == 1:
            data = data[:at] + data[at + length :]
        elif what == 2:
            data = data[: at + length] + data[at:]
        elif what == 3:
            data = data[:at] + choose.randbytes(length) + data[at:]
        elif what == 4:
            data = data[:at] + other[choose.randrange(len(other) + 1) :][:length] + data[at:]
        elif what == 5:
            number = choose.choice((0, 1, 7, 0xFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF))
            data = data[:at] + number.to_bytes(4, choose.choice(("little", "big"))) + data[at + 4 :]
        elif what == 6:
            data = data[:at]
        elif what == 7:
            data = data[at:] + data[:at]
        else:
            word = choose.choice(WORDS)
            data = data[:at] + word + data[at + (len(word) if choose.random() < 0.5 else 0) :]
    return data


WORDS = (
    *(b"\n", b" ", b"\0", b";", b",", b"=", b"\\", b"dm_table_load", b"dm_device_rename", b"target_index=0,"),
    *(
        b"(null)",
        b"no_data;",
        b"num_targets=0;",
        b"ima-buf",
        b"ima",
        b"ima-ng",
        b"boot_aggregate\0",
        b"sha512:\0",
    ),
    *(b"active_table_hash=sha256:" + b"0" * 64, b"10 ", b"99 ", b"0" * 40, b"kernel_version\0", b"minor=1,"),
)
