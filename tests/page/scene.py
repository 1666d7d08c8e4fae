"""A host as it really was, at times that stay the same.

The list is that of ``tests/corpus/lvm-6.1``, in which somebody swaps a dm-verity image for a plain mapping;
what was live meanwhile is what dmsetup said.

It is the monitor itself that reads and judges; what its daemon would know beside is made up here.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime

from dmimad.core.baseline import Baseline, parse_baseline
from dmimad.core.baseline_text import capture
from dmimad.core.capture import read_configurations
from dmimad.core.monitor import Monitor, Policy
from dmimad.core.status import Surroundings
from tests.core.lists import binary_list, replayed
from tests.core.live import recorded_observation
from tests.core.recorded import actions, items
from tests.page.serving import Knowledge

LIST = "lvm-6.1"
VERSION = "1.0.0"
HEAD = b"dm_version=4.47.0;"
#: When everything was made, when it was approved, and when the attacker came.
MADE = datetime(2026, 11, 24, 6, 30, tzinfo=UTC).timestamp()
APPROVED = datetime(2026, 11, 24, 9, 5, tzinfo=UTC).timestamp()
ATTACKED = datetime(2026, 11, 30, 3, 12, 7, tzinfo=UTC).timestamp()
NOW = datetime(2026, 11, 30, 3, 14, 20, tzinfo=UTC).timestamp()
#: Records up to which the host is as it should be, and up to which the attacks have come.
GOOD_RECORDS, ATTACK_RECORDS = 578, 583


class Scene:
    """The monitor and its surroundings; `run` goes on to a place in the list."""

    def __init__(self) -> None:
        self.monitor = Monitor(Policy("web-1", 2.0), Baseline(), "boot-1")
        self.read = 0

    def run(self, records: int, begin: float, step: float) -> float:
        """Read on, look at the live tables after what was done; returns the time at the end."""
        now = begin
        for action in actions(LIST):
            if not self.read < action.after <= records:
                continue
            self.monitor.feed(binary_list(items(LIST)[self.read : action.after]), now)
            self.monitor.caught_up(now)
            self.read = action.after
            if not any(device.inactive for device in action.devices):  # of staged tables nobody has asked
                self.monitor.observed(recorded_observation(action, HEAD), (), now + 0.02)
            self.monitor.commit()
            now += step
            self.monitor.tick(now)
            self.monitor.commit()
        return now

    def approve(self, now: float) -> None:
        """As `dmimad baseline capture` writes it, but that the image is known by its name alone."""
        captured = read_configurations(self.monitor.configurations())
        text = re.sub(
            r'(?m)^(name = "image-ro"\n)uuid = .*\n', r"\1", capture(captured.devices, ["Captured."]).text
        )
        self.monitor.set_baseline(parse_baseline(text, "/etc/dmimad/baseline.d/host.toml"), now)
        self.monitor.commit()

    def surroundings(self) -> Surroundings:
        """Of a daemon that is well."""
        return Surroundings(
            version=VERSION,
            source="auto",
            source_up=True,
            lag=0,
            live_up=True,
            mqtt_connected=True,
            baseline_directory="/etc/dmimad/baseline.d",
        )


@functools.cache
def attacked() -> Scene:
    """The image was swapped and the data volume points elsewhere, two minutes ago."""
    scene = Scene()
    scene.run(GOOD_RECORDS, MADE, 95.0)
    scene.approve(APPROVED)
    scene.run(ATTACK_RECORDS, ATTACKED, 6.5)
    values = {"sha256": replayed(items(LIST)[: scene.read], "sha256")}
    scene.monitor.pcr_read(values, NOW - 5)
    scene.monitor.pcr_settled(NOW - 5, tpm=True)
    return scene


def knowledge() -> Knowledge:
    """It as the page is served of."""
    scene = attacked()
    around = scene.surroundings()
    made = Knowledge(dict(scene.monitor.status(NOW, around)), version=VERSION)
    for device in made.status["devices"]:
        detail = scene.monitor.detail(device["key"], NOW, around)
        assert detail is not None
        made.devices[device["key"]] = detail
    return made
