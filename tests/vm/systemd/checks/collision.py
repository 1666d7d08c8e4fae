"""Another host has the same id, and takes the connection away again and again."""

from __future__ import annotations

from tests.vm.systemd.broker import BROKER_NAME, BROKER_PORT
from tests.vm.systemd.host import HOST_ID, Host

TIMES = 12
"""The daemon takes the first few for accidents, and may not have seen the last one when the next comes."""
DEVICE = "twice"


def prepare(host: Host) -> None:
    host.running()


def taken_over_and_back(host: Host) -> None:
    """It says so, and comes back; what it had to tell arrives once, under its own numbers."""
    before, after, known = host.pid(), host.cursor(), len(host.subscriber.alerts())
    host.create(DEVICE)
    for _ in range(TIMES):
        host.until(lambda: _connected(host), "the daemon is connected")
        _take_over(host)
        if host.said("mqtt_host_id_taken", after):
            break
    else:
        raise AssertionError(f"taken over {TIMES} times, and the journal does not tell")
    status = host.show("StatusText")
    host.drift("device.unexpected", DEVICE, after=known)
    host.settled()
    host.until(lambda: host.subscriber.state() == "online", "it is online again")
    host.say(f"status line with another host of the same id: {status}")
    assert host.pid() == before
    host.numbers_are_whole(known)


def _connected(host: Host) -> bool:
    status = host.status()
    return status is not None and bool(status["mqtt_connected"])


def _take_over(host: Host) -> None:
    """Connect under the daemon's client id, as another daemon of that host id does, and leave."""
    files = host.broker.directory
    command = ["mosquitto_pub", "-h", BROKER_NAME, "-p", str(BROKER_PORT), "--cafile", f"{files}/ca.crt"]
    command += ["--cert", f"{files}/{HOST_ID}.crt", "--key", f"{files}/{HOST_ID}.key", "-V", "mqttv5"]
    command += ["-i", f"dmimad-{HOST_ID}", "-t", f"dmimad/v1/{HOST_ID}/device/other", "-n"]
    host.run(*command)


CHECKS = (taken_over_and_back,)
