"""The second witness in tests: what a kernel holds live, recorded or the model's, and a watcher of both.

`Watcher` does what the daemon does around the core (feed, observe, stop and go on) without its shells.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence

from dmimad.core.checkpoint import device_document
from dmimad.core.device import Device
from dmimad.core.finding import Finding, Severity
from dmimad.core.fusion import Fused, Fusion
from dmimad.core.observation import LiveDevice, LiveTable, LiveTarget, Observation
from dmimad.core.reader import ListReader
from dmimad.core.tracker import Tracker
from tests.core.histories import NAMES, UUIDS
from tests.core.kernel import Kernel, Mapped, Table
from tests.core.lists import Item, binary_list
from tests.core.recorded import Action, TrueDevice
from tests.core.truth import load_texts, metadata

#: Observations after which everything must be settled if nothing happens meanwhile.
MAX_OBSERVATIONS = 3
#: What old kernels really do not measure.
HOLE = "target.unmeasured"
#: Of staged tables dmsetup was not asked.
UNTOLD = "table.untold"


# -- what is live --------------------------------------------------------------------------


def dm_version(head: bytes) -> tuple[int, int, int]:
    """``dm_version=4.47.0;`` -> the version in the ioctl header; the first form's records have none."""
    found = re.match(rb"dm_version=(\d+)\.(\d+)\.(\d+);", head)
    return (int(found[1]), int(found[2]), int(found[3])) if found else (4, 45, 0)


def recorded_observation(action: Action, head: bytes) -> Observation:
    """What dmsetup said after a step; of staged tables it did not say which."""
    return Observation(dm_version(head), tuple(_recorded(device) for device in action.devices))


def _recorded(device: TrueDevice) -> LiveDevice:
    lines = [line.split(" ", 3) for line in device.measure.split("\n") if line]
    targets = tuple(
        LiveTarget(int(begin), int(length), kind, text.encode("utf-8", "surrogateescape"))
        for begin, length, kind, text in lines
    )
    active = LiveTable(targets or None) if device.active else None
    staged = LiveTable(None) if device.inactive else None
    major, minor = device.number
    return LiveDevice(major, minor, device.name, device.uuid, device.suspended, False, 0, active, staged)


def live_table(table: Table | None) -> LiveTable | None:
    """A table of the model kernel as the ioctl tells it."""
    if table is None:
        return None
    targets, begin = [], 0
    for target in table:
        kind = re.match(rb"target_name=([^,;]*)", target.text)
        targets.append(LiveTarget(begin, target.sectors, kind[1].decode() if kind else "zero", target.text))
        begin += target.sectors
    return LiveTable(tuple(targets))


def live_device(device: Mapped, major: int = 254) -> LiveDevice:
    """A device of the model kernel."""
    return LiveDevice(
        major,
        device.minor,
        device.name,
        device.uuid,
        device.suspended,
        False,
        0,
        live_table(device.live),
        live_table(device.staged),
    )


def observation(kernel: Kernel) -> Observation:
    """Everything the model kernel holds now."""
    devices = (live_device(device, kernel.major) for device in kernel.devices.values())
    return Observation(dm_version(kernel.version), tuple(devices))


# -- who watches ---------------------------------------------------------------------------


class Watcher:
    """A tracker and a fusion, fed with a list and with observations.

    Attributes:
        step_findings: all that records led to.
        held: what has been wrong in some observation, by its key.
    """

    def __init__(self, tracker: Tracker | None = None) -> None:
        self.tracker = tracker or Tracker(keep_facts=True)
        self.fusion = Fusion(self.tracker)
        self.step_findings: list[Finding] = []
        self.held: dict[str, Finding] = {}
        self.read = 0
        self._reader = ListReader()
        self._facts: list[tuple[str, bytes]] = []

    def feed(self, items: Sequence[Item]) -> None:
        """Read what is new in a list."""
        for record in self._reader.feed(binary_list(items[self.read :])):
            step = self.tracker.apply(record)
            if step is None:
                continue
            if step.device is not None:
                self.fusion.touch(step.device)
            self.step_findings += step.findings
        self.read = len(items)

    def observe(self, seen: Observation, active: Iterable[tuple[int, int]] = ()) -> Fused:
        """Take an observation in."""
        fused = self.fusion.observe(seen, self.read, active)
        self.held |= fused.holding
        return fused

    def look(self, kernel: Kernel, active: Iterable[tuple[int, int]] = ()) -> Fused:
        """Observe, then read the list: how it is meant to be done."""
        seen = observation(kernel)
        self.feed(kernel.items)
        return self.observe(seen, active)

    def settle(self, look: Callable[[], Fused]) -> tuple[Fused, int]:
        """Look until nothing is in doubt; returns the last outcome and how many it took."""
        for count in range(1, MAX_OBSERVATIONS + 1):
            fused = look()
            if not fused.unsettled:
                return fused, count
        raise AssertionError(f"not settled after {MAX_OBSERVATIONS} observations")

    def restart(self) -> None:
        """Another process goes on from what was stored, as JSON."""
        self._facts += self.tracker.knowledge.take_facts()
        document = json.loads(json.dumps(self.tracker.document()))
        fused = json.loads(json.dumps(self.fusion.document()))
        devices = {
            device.key: json.loads(json.dumps(device_document(device)))
            for device in sorted(self.tracker.devices, key=lambda device: device.key)
        }
        self.tracker = Tracker(keep_facts=True)
        self.tracker.restore(document, devices, sorted(self._facts))
        self.fusion = Fusion(self.tracker)
        self.fusion.restore(fused)

    @property
    def devices(self) -> dict[str, Device]:
        """The devices by key."""
        return {device.key: device for device in self.tracker.devices}

    @property
    def alarms(self) -> list[str]:
        """What was found above info, but for the real hole, and for what the recorded steps do not tell."""
        return [
            f"{finding.severity} {finding.code} {finding.device}: {finding.message}"
            for finding in (*self.step_findings, *self.held.values())
            if finding.severity is not Severity.INFO and finding.code not in (HOLE, UNTOLD)
        ]


def wrong(watcher: Watcher, kernel: Kernel, *, whole: bool = True) -> list[str]:
    """Where the tracked devices are not the model kernel's, one line each.

    Of a table that was loaded under two of the names its device had, nobody can tell which load it is of;
    and of one whose load is not in the list (which is not ``whole`` then), what it was.
    """
    tracked, by_name = watcher.devices, watcher.tracker.registry.by_name
    found = []
    for device in kernel.devices.values():
        key = f"{kernel.major}:{device.minor}"
        ours = tracked.pop(key, None)
        if ours is None:
            found.append(f"{device.name!r} ({key}) is missing")
            continue
        have = (ours.major, ours.minor, ours.name, ours.uuid)
        if have != (kernel.major, device.minor, device.name, device.uuid):
            found.append(f"{key} is {have!r}")
        if by_name.get(device.name) is not ours:
            found.append(f"{device.name!r} ({key}) is not found by its name")
        for slot, table, true, digest in (
            ("active", ours.active, device.live, device.running),
            ("inactive", ours.inactive, device.staged, device.loaded),
        ):
            if (true is None) != (table is None):
                found.append(f"{key}: {slot} is {table}, not {true}")
            if true is None or table is None or not whole:
                continue
            if table.hash != digest and table.hash not in hashes(kernel, device, true):
                found.append(f"{key}: {slot} is {table.label}")
            elif table.hash not in watcher.tracker.knowledge.loaded and len(table.texts) < 2:
                found.append(f"{key}: {slot} is {table.label}, which is unknown")
    found += [f"{device.name!r} ({key}) does not exist" for key, device in tracked.items()]
    return found + [f"{name!r} is still found" for name in by_name.keys() - kernel.devices.keys()]


def hashes(kernel: Kernel, device: Mapped, table: Table) -> set[bytes]:
    """The hashes of a table under all names of histories."""
    known = set()
    for name, uuid in itertools.product(NAMES, UUIDS):
        head = kernel.version + metadata((name, uuid), (kernel.major, device.minor), len(table))
        begins = itertools.accumulate((target.sectors for target in table), initial=0)
        targets = [(begin, target.sectors, target.text) for begin, target in zip(begins, table, strict=False)]
        known.add(hashlib.sha256(b"".join(load_texts(head, targets, ordered=kernel.ordered)[0])).digest())
    return known
