"""What a person is told while LVM, LUKS, dm-verity and dm-integrity are worked with, the end being approved.

The commands are those of the recorded lists ``tests/corpus/lvm-*``, one a minute; the whole list of alerts is
here, so that each of them can be asked whether a person would want it.  ``docs/alerts.md`` shows it too.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from dmimad.core.baseline import Baseline, parse_baseline
from dmimad.core.monitor import Monitor, Policy
from tests.core.lists import binary_record
from tests.core.live import recorded_observation
from tests.core.recorded import actions, items

POLICY = Policy("h", 2.0, storm_threshold=20, flap_threshold=4)
DOCS = Path(__file__).parents[2] / "docs" / "alerts.md"
#: dmsetup was not asked about staged tables, so the recorded observations cannot tell them.
UNTOLD = "table.untold"

#: The volumes of the end state, in the order they go, and in the order they come.
VOLUMES = (
    *("vg0-data", "vg0-hash", "vg0-image", "vg0-integ", "vg0-journal", "vg0-pool", "vg0-pool-tpool"),
    *("vg0-thinvol", "vg0-pool_tdata", "vg0-pool_tmeta"),
)
AGAIN = (
    *("vg0-image", "vg0-hash", "vg0-integ", "vg0-pool_tmeta", "vg0-pool_tdata", "vg0-pool-tpool"),
    *("vg0-pool", "vg0-thinvol", "vg0-data", "vg0-journal"),
)

#: Step -> alerts: severity, code, subject, ``+`` firing or ``-`` resolved.
WANTED = {
    "lvcreate root": ["critical drift.active vg0-data +"],
    "lvcreate log": ["warning device.renamed vg0-log +"],
    "lvextend": ["critical drift.active vg0-data -"],
    "snapshot": [
        "warning device.unexpected vg0-data-real +",
        "warning device.unexpected vg0-snap-cow +",
        "warning device.unexpected vg0-snap +",
        "critical drift.active vg0-data +",
    ],
    "merge": [
        "critical drift.active vg0-data -",
        "warning device.unexpected vg0-data-real -",
        "warning device.unexpected vg0-snap -",
        "warning device.unexpected vg0-snap-cow -",
    ],
    "rename lv": ["warning device.renamed vg0-log -"],
    "deactivate": ["warning device.removed vg0-journal +"],
    "reactivate": ["warning device.removed vg0-journal -"],
    "luksOpen": ["warning device.unexpected secret +"],
    "luksClose": ["warning device.unexpected secret -"],
    "luksOpen discards": ["warning device.unexpected secret +"],
    "verity open": ["warning device.unexpected image-ro +"],
    "integrity open": ["warning device.unexpected integ-open +"],
    "thin snap": ["warning device.unexpected vg0-thinsnap +"],
    "verity close": ["warning device.unexpected image-ro -"],
    "attack: swap verity for linear": ["warning device.unexpected image-ro +"],
    "attack: reload data elsewhere": ["warning drift.inactive vg0-data +"],
    "attack: resume": ["warning drift.inactive vg0-data -", "critical drift.active vg0-data +"],
    "attack undone: load": ["critical drift.active vg0-data -"],
    "close all": [
        "warning device.unexpected secret -",
        "warning device.unexpected integ-open -",
        "warning device.unexpected image-ro -",
        "warning device.unexpected vg0-thinsnap -",
        *(f"warning device.removed {name} +" for name in VOLUMES),
    ],
    "reactivate vg": [f"warning device.removed {name} -" for name in AGAIN],
}


def vdb(_: tuple[int, int]) -> tuple[str, ...]:
    """The one disk below everything."""
    return ("serial:vdb",)


def play(name: str, baseline: Baseline) -> tuple[Monitor, dict[str, list[str]]]:
    """The recorded commands, one a minute, with two looks at the live tables after each."""
    monitor = Monitor(POLICY, baseline, "boot", names=vdb)
    read, now = 0, 1000.0
    told: dict[str, list[str]] = {}
    head = b"dm_version=4.47.0;" if name.endswith("6.1") else b"dm_version=4.50.0;"
    for action in actions(name):
        now += 60.0
        for item in items(name)[read : action.after]:
            monitor.feed(binary_record(item), now)
        read = action.after
        seen = recorded_observation(action, head)
        for later in (0.0, 1.0, 3.0, 30.0):
            monitor.caught_up(now + later)
            monitor.observed(seen, (), now + later)
            monitor.tick(now + later)
        messages = [json.loads(message.payload) for message in monitor.commit().messages]
        monitor.committed()
        alerts = [_line(event) for event in messages if event["data"]["code"] != UNTOLD]
        if alerts:
            told[action.label] = alerts
    return monitor, told


def _line(event: dict[str, dict[str, str]]) -> str:
    data = event["data"]
    sign = "+" if data["status"] == "firing" else "-"
    return f"{data['severity']} {data['code']} {event['subject']} {sign}"


@functools.cache
def end_state(name: str) -> Baseline:
    """What is there after the last command, by name, uuid and fingerprint."""
    monitor, _ = play(name, Baseline())
    text = "version = 1\n"
    for payload in monitor.retained().values():
        device = json.loads(payload)
        text += f'[[device]]\nname = "{device["name"]}"\nuuid = "{device["uuid"]}"\n'
        text += f'fingerprints = ["{device["active"]["fingerprint"]}"]\n'
    return parse_baseline(text, "end.toml")


@pytest.mark.parametrize("name", ["lvm-6.1", "lvm-7.2"])
def test_only_what_a_person_would_want_to_be_told(name: str) -> None:
    assert len(end_state(name).entries) == 10
    monitor, told = play(name, end_state(name))
    assert told == WANTED
    assert monitor.firing() == {"info": 0, "warning": 0, "critical": 0}
    verdicts = [json.loads(payload)["verdict"] for payload in monitor.retained().values()]
    assert verdicts == ["approved"] * 10


@pytest.mark.parametrize("name", ["lvm-6.1", "lvm-7.2"])
def test_work_that_leads_back_is_silent_but_for_what_was_away(name: str) -> None:
    """`lvchange --refresh`, `cryptsetup refresh`, thin pools: dozens of states, and not one alert."""
    _, told = play(name, end_state(name))
    assert not {"mkfs", "luksFormat", "refresh", "resize", "pvmove-ish reload", "thin"} & told.keys()


def test_the_list_is_in_the_docs() -> None:
    text = DOCS.read_text()
    for alerts in WANTED.values():
        for line in alerts:
            severity, code, subject, _ = line.split()
            shown = f"`{code}` {subject}"
            all_of_them = f"`{code}` warning for each of the ten volumes" in text
            assert shown in text or (subject in VOLUMES and all_of_them)
            assert severity in text
