"""Install the package, edit one file, start: online, and a drift arrives verified over TLS."""

from __future__ import annotations

import gzip
import json
import shutil
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.vm.systemd.broker import BROKER_NAME
from tests.vm.systemd.host import (
    BASELINES,
    HOST_ID,
    LIVE_SERVICE,
    LIVE_SOCKET,
    SECRETS,
    SERVICE,
    SETTINGS,
    STATE,
    Host,
)
from tests.vm.systemd.pages import Shell, commands_after

PACKAGE = "/packages/dmimad.deb"
DEVICE = "image-ro"
PAGE = "http://127.0.0.1:9838"
DEMO = "demo"
"""The device of docs/install.md."""
DOCUMENTATION = Path("/usr/share/doc/dmimad/docs")


def prepare(host: Host) -> None:
    """A device that is there before the package is."""
    host.create(DEVICE)


def package_installs(host: Host) -> None:
    """`dpkg -i`; the unit waits for its administrator, and the output says what to do."""
    text = host.run("dpkg", "-i", PACKAGE)
    host.say(f"dpkg -i:\n{text}")
    assert host.try_to("systemctl", "is-enabled", SERVICE)[1].strip() == "disabled"
    assert host.try_to("systemctl", "is-active", SERVICE)[1].strip() == "inactive"
    assert host.try_to("systemctl", "is-active", LIVE_SERVICE)[1].strip() == "inactive"
    for words in (str(SETTINGS), "systemctl", SERVICE.removesuffix(".service")):
        assert words in text, f"the output of dpkg -i does not name {words}:\n{text}"
    host.run("dmimad", "--version")


def places_have_their_owners(host: Host) -> None:
    """Only root writes settings, only root reads secrets, only the daemon's user sees the state."""
    host.run("id", "dmimad")
    expected = {SETTINGS.parent: "root 755", SETTINGS: "root 644", BASELINES: "root 755", SECRETS: "root 700"}
    found = {path: host.run("stat", "--format=%U %a", path).strip() for path in expected}
    assert found == expected


def example_broker_starts(host: Host) -> None:
    """mosquitto with the package's configuration and ACL, and with certificates of ours."""
    host.broker.set_up(HOST_ID)
    host.broker.start()
    assert host.subscriber.messages() == []


def starts_and_is_online(host: Host) -> None:
    """One file is edited and one folder filled; `systemctl start` returns, and subscribers see the host."""
    shutil.copy(host.broker.directory / "ca.crt", SETTINGS.parent)
    shutil.copy(host.broker.directory / f"{HOST_ID}.crt", SETTINGS.parent / "mqtt.crt")
    shutil.copy(host.broker.directory / f"{HOST_ID}.key", SECRETS / "mqtt.key")
    (SECRETS / "mqtt.key").chmod(0o600)
    host.run("dmimad", "keygen", SECRETS / "signing.pem")
    host.set("host", id=HOST_ID)
    host.set(
        "mqtt",
        host=BROKER_NAME,
        tls_ca_file="ca.crt",
        tls_cert_file="mqtt.crt",
        tls_key_file="secrets/mqtt.key",
    )
    host.set("alerts", signing_key_file="secrets/signing.pem")
    host.run("dmimad", "check-config")
    began = time.monotonic()
    host.run("systemctl", "start", SERVICE, seconds=120)
    active = time.monotonic() - began
    host.until(lambda: host.subscriber.state() == "online", "a subscriber is told `online`")
    online = time.monotonic() - began
    assert host.show("ActiveState") == "active"
    assert host.show("Type") in ("notify", "notify-reload")
    host.say(f"systemctl start: active after {active:.1f} s, online after {online:.1f} s (under emulation)")
    host.settled()


def online_is_retained(host: Host) -> None:
    """Who subscribes later sees it, too."""
    topic = f"dmimad/v1/{HOST_ID}/status"
    command = (
        "mosquitto_sub",
        *host.broker.client_options(),
        "-i",
        "late",
        "-C",
        "1",
        "-W",
        "60",
        "-F",
        "%r %p",
    )
    assert host.run(*command, "-t", topic).strip() == "1 online"


def other_hosts_topics_are_closed(host: Host) -> None:
    """The ACL: a host's certificate speaks for that host alone, and the console's for none."""
    before = len(host.subscriber.messages())
    files = host.broker.directory
    for name, topic in (("console", HOST_ID), (HOST_ID, "other")):
        command = ["mosquitto_pub", *host.broker.client_options()[:6], "--cert", f"{files}/{name}.crt"]
        command += ["--key", f"{files}/{name}.key", "-i", "liar", "-V", "mqttv5", "-q", "1"]
        _, text = host.try_to(*command, "-t", f"dmimad/v1/{topic}/alert/info", "-m", "{}")
        assert "Not authorized" in text, f"{name} publishes for {topic}: {text!r}"
    assert len(host.subscriber.messages()) == before


def status_line_is_useful(host: Host) -> None:
    """`systemctl status` says more than that it runs."""
    text = host.show("StatusText")
    host.say(f"status line: {text}")
    assert text in host.run("systemctl", "status", "--no-pager", "--full", "--lines=0", SERVICE)
    for words in ("1 device", "no alert firing", "broker connected"):
        assert words in text, text


def status_is_answered(host: Host) -> None:
    """`dmimad status` for root through the control socket."""
    status = host.status()
    assert status is not None
    assert status["host"] == HOST_ID
    assert status["list"]["source_up"]
    assert status["mqtt_connected"]
    assert status["store"]["problem"] == ""
    assert DEVICE in [device["name"] for device in status["devices"]]


def live_tables_are_seen(host: Host) -> None:
    """The observer was started by its socket, and what it says agrees with the list and the TPM."""
    assert host.show("ActiveState", LIVE_SOCKET) == "active"
    assert host.show("ActiveState", LIVE_SERVICE) == "active"
    status = host.status()
    assert status is not None
    assert status["witnesses"]["live"]["up"]
    assert status["pcr_verified"]
    (device,) = [device for device in status["devices"] if device["name"] == DEVICE]
    assert device["active"]["provenance"] == "both"


def drift_arrives_verified(host: Host) -> None:
    """Captured, approved, changed with dmsetup: `dmimad listen` shows the alert with a valid signature."""
    listener = host.listener
    host.run("dmimad", "baseline", "capture", "--output", BASELINES / "host.toml")
    host.run("systemctl", "reload", SERVICE)
    host.until(lambda: _verdict(host) == "approved", "the captured baseline is in force")
    began = time.monotonic()
    host.change(DEVICE)
    host.until(lambda: any(_is_drift(event) for event in listener.events()), "the drift at `dmimad listen`")
    (event,) = [event for event in listener.events() if _is_drift(event)]
    host.say(f"drift at `dmimad listen` {time.monotonic() - began:.1f} s after dmsetup began (hold-off 2 s)")
    assert event["host"] == HOST_ID
    assert event["severity"] == "critical"
    assert event["signature"]["trust"] == "valid"
    wrong = [line for line in listener.events() if line["type"] not in ("alert",)]
    assert not wrong, json.dumps(wrong)


def page_shows_it(host: Host) -> None:
    """A browser on the host has the page: it tells the drift, and may load nothing from elsewhere."""
    head, index = _fetched("/")
    assert head["Content-Security-Policy"].startswith("default-src 'none'"), head
    assert DEVICE in index, index
    assert json.loads(_fetched("/status.json")[1])["host"] == HOST_ID
    history = _history(host)
    staged, drifted = (
        next(change for change in history if change["slot"] == slot and change["drift"])
        for slot in ("inactive", "active")
    )
    assert (staged["event"], drifted["verdict"]) == ("table_load", "drift")
    assert drifted["hash"] == staged["hash"]
    assert drifted["event"] == "device_resume", "the list is read before the kernel is asked"
    assert drifted["record"] is not None
    assert not drifted["late"], "the daemon was there when it happened"
    host.until(lambda: _active(_history(host))[-1]["provenance"] == "both", "the live table is seen, too")


def _active(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [change for change in history if change["slot"] == "active"]


def history_outlives_the_process(host: Host) -> None:
    """After a restart the page has what had become of the device before."""
    before, process = _history(host), host.pid()
    host.run("systemctl", "restart", SERVICE, seconds=120)
    assert host.pid() != process
    host.settled()
    after = _history(host)
    assert after[: len(before)] == before
    assert len(before) >= 2, "approved, then drift"


def journal_has_fields(host: Host) -> None:
    """What happened can be asked for by field, not by words."""
    matches = ("DMIMAD_CODE=drift.active", f"DMIMAD_DEVICE={DEVICE}")
    host.run("journalctl", "--sync")
    text = host.run("journalctl", "--output=json", "--no-pager", "--unit", SERVICE, *matches)
    entries = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert entries, f"no entry with {matches}"
    entry = entries[0]
    assert entry.get("DMIMAD_SEVERITY") == "critical", entry
    assert entry.get("DMIMAD_STATUS") == "firing", entry
    assert entry.get("MESSAGE_ID"), entry
    assert int(entry["PRIORITY"]) <= 3, entry
    explained = host.run("journalctl", "--catalog", "--no-pager", "--unit", SERVICE, *matches)
    assert "Defined-By: dmimad" in explained, f"no explanation in the catalog:\n{explained}"


def private_key_is_nowhere_else(host: Host) -> None:
    """The secrets came as credentials: neither the state nor the journal nor any argument holds them."""
    secret = (SECRETS / "signing.pem").read_text(encoding="ascii").splitlines()[1].encode()
    for path in (*STATE.rglob("*"), Path(f"/proc/{host.pid()}/cmdline"), Path(f"/proc/{host.pid()}/environ")):
        assert path.is_dir() or secret not in path.read_bytes(), f"the key is in {path}"
    assert not host.said("PRIVATE KEY")


def reload_keeps_the_process(host: Host) -> None:
    """`systemctl reload` is done when the settings are in force, and nothing is restarted."""
    before = host.pid()
    host.set("alerts", hold_off_seconds=1.0)
    host.run("systemctl", "reload", SERVICE)
    host.settled()
    assert host.pid() == before


def wrong_settings_change_nothing(host: Host) -> None:
    """A reload of settings that are refused leaves the former in force, and is told."""
    before, good = host.pid(), SETTINGS.read_text(encoding="utf-8")
    try:
        SETTINGS.write_text(good + "\n[nonsense]\n", encoding="utf-8")
        host.try_to("systemctl", "reload", SERVICE)
        host.until(lambda: _accepted(host) is False, "the wrong settings are refused")
        assert "settings refused" in host.show("StatusText"), host.show("StatusText")
    finally:
        SETTINGS.write_text(good, encoding="utf-8")
        host.run("systemctl", "reload", SERVICE)
    host.until(lambda: _accepted(host) is True, "the good settings are in force again")
    assert host.pid() == before


def handbook_shows_an_alert(host: Host) -> None:
    """The commands below "To see one" in docs/install.md, as the package has the page, in one shell."""
    lines = commands_after("To see one", _page("install.md"))
    shell = Shell()
    try:
        for line in lines:
            status, text = shell.try_to(line)
            found = (
                1 if line == "dmimad status" else 0
            )  # it has something to find, and may be asked too early
            assert status in (0, found), f"{line}: exit status {status}:\n{text}"
            if line.startswith("dmsetup create"):
                host.until(lambda: _verdict(host, DEMO) != "", "the daemon knows the device")
        host.until(lambda: _verdict(host, DEMO) == "drift", "what was changed is in drift")
        host.until(lambda: _fires(host, "drift.active", DEMO), "`drift.active` fires after the hold-off")
        status, text = host.try_to("dmimad", "status")
        assert status == 1
        assert text.startswith("NOT AS APPROVED"), text
        assert f"CRITICAL  drift.active  {DEMO}" in text, text
        host.say(f"docs/install.md, to see one:\n{text}")
    finally:
        shell.run("rm -f /etc/dmimad/baseline.d/demo.toml", f"dmsetup remove --retry {DEMO}")
        shell.run("losetup -d $disk", "rm -f /var/tmp/demo.img")
        shell.close()
    host.until(lambda: not _fires(host, "drift.active", DEMO), "the alert is over")


def _fetched(target: str) -> tuple[Mapping[str, str], str]:
    """Header and body of what the daemon's page is asked for."""
    with urllib.request.urlopen(PAGE + target, timeout=60) as answer:
        return answer.headers, answer.read().decode("utf-8")


def _history(host: Host) -> list[dict[str, Any]]:
    """What the page's document has of the device."""
    status = host.status()
    assert status is not None
    (key,) = [device["key"] for device in status["devices"] if device["name"] == DEVICE]
    history: list[dict[str, Any]] = json.loads(_fetched(f"/device/{key}.json")[1])["history"]
    return history


def _page(name: str) -> str:
    """A page of the installed documentation."""
    for path in DOCUMENTATION.glob(f"{name}*"):
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    raise AssertionError(f"{DOCUMENTATION} has no {name}")


def _accepted(host: Host) -> object:
    return (host.status() or {"settings": {}})["settings"].get("accepted")


def _verdict(host: Host, name: str = DEVICE) -> str:
    status = host.status() or {"devices": []}
    return next((str(device["verdict"]) for device in status["devices"] if device["name"] == name), "")


def _fires(host: Host, code: str, device: str) -> bool:
    status = host.status() or {"alerts": []}
    return any((alert["code"], alert["device"]) == (code, device) for alert in status["alerts"])


def _is_drift(event: dict[str, object]) -> bool:
    return (event.get("code"), event.get("device")) == ("drift.active", DEVICE) and event.get(
        "status"
    ) == "firing"


CHECKS = (
    package_installs,
    places_have_their_owners,
    example_broker_starts,
    starts_and_is_online,
    online_is_retained,
    other_hosts_topics_are_closed,
    status_line_is_useful,
    status_is_answered,
    live_tables_are_seen,
    drift_arrives_verified,
    page_shows_it,
    journal_has_fields,
    private_key_is_nowhere_else,
    reload_keeps_the_process,
    wrong_settings_change_nothing,
    handbook_shows_an_alert,
    history_outlives_the_process,
)
