"""What daemon and observer may do: as the kernel shows it, and as a probe in their place finds it."""

from __future__ import annotations

import json
import pwd
import re
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

from tests.vm.systemd.broker import BROKER_ADDRESS, BROKER_PORT
from tests.vm.systemd.host import ELSEWHERE, LIVE_SERVICE, LIVE_SOCKET, SECRETS, SERVICE, STATE, WORK, Host

DAC_READ_SEARCH, SYS_ADMIN = 1 << 2, 1 << 21
SINCE_OPEN_FILE = 253
"""systemd's version from which on it opens the list for the daemon, which then needs no capability."""
EXPOSURE_AT_MOST = 1.5
OTHER_PORT = 8884
PROBE = Path("/usr/local/lib/vm-probe.py")
OTHER_FILES = (
    *(
        "/etc/shadow",
        "/root/private",
        "/etc/ssh/ssh_host_ed25519_key",
        "/var/lib/other/private",
        "/home/user/private",
    ),
    str(SECRETS / "signing.pem"),
)
CLOSED = (
    "/",
    "/etc",
    "/etc/dmimad",
    "/etc/systemd/system",
    "/usr/bin",
    "/var",
    "/var/lib",
    "/run",
    "/dev",
    "/boot",
    "/root",
)
LIVE_PATH = "/run/dmimad/live.sock"
_OBSERVE = """
import socket, sys, time
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(20)
connection.connect(sys.argv[1])
try:
    connection.sendall(bytes.fromhex(sys.argv[2]) * int(sys.argv[3]))
    connection.shutdown(socket.SHUT_WR)
except OSError:
    pass
answer = b""
try:
    while piece := connection.recv(65536):
        answer += piece
except OSError:
    pass
print(answer.hex())
"""


def prepare(host: Host) -> None:
    host.running()
    shutil.copy(Path(__file__).parents[1] / "probe.py", PROBE)
    for name in OTHER_FILES[1:-1]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("private\n", encoding="ascii")
        Path(name).chmod(0o600)


def daemon_is_not_root(host: Host) -> None:
    status = _proc_status(host.pid())
    user = pwd.getpwnam("dmimad")
    assert status["Uid"].split() == [str(user.pw_uid)] * 4
    assert status["Gid"].split() == [str(user.pw_gid)] * 4
    assert user.pw_uid != 0


def daemon_has_no_capability(host: Host) -> None:
    """systemd opens the list, or the daemon has done so and given up what it needed for that."""
    found = _capabilities(host)
    host.say(f"capabilities of the daemon under systemd {_systemd(host)}: {found}")
    assert (found["CapPrm"], found["CapEff"], found["CapAmb"]) == (0, 0, 0), found
    assert found["CapBnd"] == (0 if _systemd(host) >= SINCE_OPEN_FILE else DAC_READ_SEARCH), found
    status = _proc_status(host.pid())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def daemon_that_opens_the_list_again_keeps_one(host: Host) -> None:
    """Where others may trim the list, it is opened each time, and not by systemd, as the drop-in says."""
    masked = Path(f"/etc/systemd/system/{SERVICE}.d/10-systemd-253.conf")
    masked.parent.mkdir(exist_ok=True)
    masked.symlink_to("/dev/null")
    host.set("source", hold_open=False)
    try:
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "restart", SERVICE)
        host.settled()
        found = _capabilities(host)
    finally:
        host.set("source", hold_open=True)
        masked.unlink()
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "restart", SERVICE)
    host.settled()
    assert {found[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {DAC_READ_SEARCH}, found


def _capabilities(host: Host) -> dict[str, int]:
    status = _proc_status(host.pid())
    return {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def daemon_writes_only_its_directories(host: Host) -> None:
    found = _probe(host, SERVICE, write=[*CLOSED, str(STATE), "/run/dmimad", "/tmp"])["write"]
    assert {name: found.pop(name) for name in (str(STATE), "/run/dmimad")} == {
        str(STATE): "ok",
        "/run/dmimad": "ok",
    }
    found.pop("/tmp")  # its own, or none
    assert "ok" not in found.values(), found


def daemon_opens_no_other_files_of_root(host: Host) -> None:
    found = _probe(host, SERVICE, read=list(OTHER_FILES))["read"]
    if _systemd(host) < SINCE_OPEN_FILE:
        # The probe has the capability that the daemon gives up: any file, and one of its own secrets.
        del found["/var/lib/other/private"], found[str(SECRETS / "signing.pem")]
    assert "ok" not in found.values(), found


def daemon_can_do_nothing_else(host: Host) -> None:
    found = _probe(host, SERVICE)["act"]
    assert found.pop("internet socket") == "ok"
    found.pop("signal init")
    host.say(f"the daemon's sandbox: {found}")
    assert "ok" not in found.values(), found


def daemon_reaches_only_allowed_addresses(host: Host) -> None:
    """As the docs say: IPAddressDeny=any, and the broker allowed."""
    with socket.create_server((ELSEWHERE, OTHER_PORT)):
        addresses = [f"{BROKER_ADDRESS}:{BROKER_PORT}", f"{ELSEWHERE}:{OTHER_PORT}"]
        assert set(_probe(host, SERVICE, connect=addresses)["connect"].values()) == {"ok"}
        host.drop_in(
            "50-network", f"[Service]\nIPAddressDeny=any\nIPAddressAllow=localhost {BROKER_ADDRESS}\n"
        )
        try:
            found = _probe(host, SERVICE, connect=addresses)["connect"]
            host.start()
            host.settled()
        finally:
            host.drop_in("50-network", "")
    assert found[addresses[0]] == "ok"
    assert found[addresses[1]] != "ok", found


def observer_has_one_capability(host: Host) -> None:
    host.running()
    host.until(lambda: host.pid(LIVE_SERVICE), "the observer runs")
    status = _proc_status(host.pid(LIVE_SERVICE))
    found = {name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")}
    assert set(found.values()) == {SYS_ADMIN}, found
    assert int(status["CapAmb"], 16) in (0, SYS_ADMIN)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def observer_has_no_network_and_no_files(host: Host) -> None:
    found = _probe(host, LIVE_SERVICE, write=[*CLOSED, str(STATE), "/run/dmimad"], read=list(OTHER_FILES))
    host.say(f"the observer's sandbox: {found['act']}")
    assert "ok" not in found["write"].values(), found["write"]
    assert "ok" not in found["read"].values(), found["read"]
    acts = found["act"]
    assert acts.pop("device-mapper") == "ok"
    for name in ("become root", "signal init", "user namespace"):
        acts.pop(name)
    assert "ok" not in acts.values(), acts


def observer_refuses_other_users(host: Host) -> None:
    """By the socket's mode, and where that is opened, by who connects."""
    host.running()
    mode = stat.S_IMODE(Path(LIVE_PATH).stat().st_mode)
    assert not mode & 0o007, f"{LIVE_PATH} has mode {mode:o}"
    refused, text = _ask(host, "nobody", "646d6c76")
    assert refused != 0, text
    assert "Permission" in text
    try:
        Path(LIVE_PATH).chmod(0o666)
        status, text = _ask(host, "nobody", _observe_request())
    finally:
        Path(LIVE_PATH).chmod(mode)
    assert status == 0, text
    answer = bytes.fromhex(text.strip())
    assert b"may not ask" in answer, answer
    assert b"linear" not in answer, answer


def observer_survives_nonsense(host: Host) -> None:
    """Malformed and oversized requests of the user who may ask: an answer or none, and it goes on serving."""
    host.running()
    before = host.pid(LIVE_SERVICE)
    for request, times in (("00", 1), ("ff" * 12, 1), ("646d6c76ffff0001ffffffff", 1), ("41" * 64, 200_000)):
        status, text = _ask(host, "dmimad", request, times)
        assert status == 0, text
        assert b"linear" not in bytes.fromhex(text.strip()), text
    status, text = _ask(host, "dmimad", _observe_request())
    assert b"linear" in bytes.fromhex(text.strip()), text
    assert host.pid(LIVE_SERVICE) == before
    assert (host.status() or {})["witnesses"]["live"]["up"]


def units_are_little_exposed(host: Host) -> None:
    """`systemd-analyze security`, as everybody can check."""
    for unit in (SERVICE, LIVE_SERVICE):
        text = host.run("systemd-analyze", "security", "--no-pager", unit)
        (WORK / f"security-{unit}.txt").write_text(text, encoding="utf-8")
        match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
        assert match, text[-500:]
        host.say(f"systemd-analyze security {unit}: {match[1]}")
        assert unit != SERVICE or float(match[1]) <= EXPOSURE_AT_MOST, text


def _systemd(host: Host) -> int:
    return int(host.run("systemctl", "--version").split()[1])


def _proc_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _probe(host: Host, unit: str, **wanted: list[str]) -> dict[str, Any]:
    """What the probe found in the place of the unit's program."""
    host.stop()
    host.run("systemctl", "stop", unit)
    argument = json.dumps({"write": [], "read": [], "connect": [], **wanted}).replace('"', '\\"')
    lines = (
        "[Service]",
        "Type=oneshot",
        "Restart=no",
        "WatchdogSec=0",
        "ExecStart=",
        "StandardOutput=journal",
    )
    host.drop_in(
        "99-probe", "\n".join((*lines, f'ExecStart=/usr/bin/python3 -I {PROBE} "{argument}"', "")), unit
    )
    after = host.cursor()
    try:
        if unit == LIVE_SERVICE:
            host.run("systemctl", "start", LIVE_SOCKET)
        host.run("systemctl", "start", unit)
    finally:
        host.drop_in("99-probe", "", unit)
    found = [entry["MESSAGE"] for entry in host.journal(after, unit) if str(entry["MESSAGE"]).startswith("{")]
    assert found, "the probe said nothing"
    return dict(json.loads(found[0]))


def _ask(host: Host, user: str, request: str, times: int = 1) -> tuple[int, str]:
    """Send bytes to the observer's socket as that user; the exit status, and the answer in hex."""
    as_user = ("setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups")
    if user == "dmimad":
        as_user = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    return host.try_to(*as_user, "python3", "-c", _OBSERVE, LIVE_PATH, request, str(times))


def _observe_request() -> str:
    """A request of protocol version 1 to observe."""
    return (b"dmlv" + (1).to_bytes(2, "big") + (1).to_bytes(2, "big") + bytes(4)).hex()


CHECKS = (
    daemon_is_not_root,
    daemon_has_no_capability,
    daemon_that_opens_the_list_again_keeps_one,
    units_are_little_exposed,
    observer_has_one_capability,
    observer_refuses_other_users,
    observer_survives_nonsense,
    daemon_writes_only_its_directories,
    daemon_opens_no_other_files_of_root,
    daemon_can_do_nothing_else,
    daemon_reaches_only_allowed_addresses,
    observer_has_no_network_and_no_files,
)
