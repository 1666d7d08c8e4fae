"""The units as systemd itself reads and judges them, each as it is and the daemon's with its drop-in.

They are tried under a real systemd in tests/vm; here only systemd-analyze is needed, and no service manager.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import find_program

UNITS = Path(__file__).parents[2] / "systemd"
DROP_IN = "dmimad.service.d/10-systemd-253.conf"
NAMES = ("dmimad.service", "dmimad-live.service", "dmimad-live.socket")
#: Tenths of what `systemd-analyze security` tells.
DAEMON_EXPOSURE, OBSERVER_EXPOSURE = 15, 11
#: What the drop-in has that older versions do not know, and pass over.
NEWER = re.compile(
    r"'(OpenFile|RestartSteps|RestartMaxDelaySec)' in section|service type, ignoring: notify-reload"
)

Settings = dict[str, list[str]]


@pytest.fixture(scope="module")
def analyze() -> str:
    return find_program("systemd-analyze", "systemd")


@pytest.fixture(scope="module")
def version(analyze: str) -> int:
    told = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.split()[1])


@pytest.fixture(params=["base", "with the drop-in"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory of units; the program is one that is there."""
    for name in (*NAMES, DROP_IN) if request.param != "base" else NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/bin/dmimad", str(shutil.which("true"))))
    return tmp_path


def run(analyze: str, installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:", "SYSTEMD_COLORS": "0"}
    command = [analyze, "--no-pager", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def settings(*names: str) -> Settings:
    """Of the units laid over one another; an empty value forgets the former ones."""
    found: Settings = defaultdict(list)
    for name in names:
        for line in (UNITS / name).read_text().splitlines():
            if line and line[0] not in "#[":
                key, _, value = line.partition("=")
                if value:
                    found[key].append(value)
                else:
                    found.pop(key, None)
    return dict(found)


def words(values: list[str]) -> list[str]:
    return " ".join(values).split()


def test_systemd_finds_nothing_wrong(analyze: str, version: int, installed: Path) -> None:
    told = run(analyze, installed, "verify", "--man=no", *NAMES)
    ours = [line for line in told.stderr.splitlines() if "dmimad" in line]
    wrong = [line for line in ours if version >= 254 or not NEWER.search(line)]
    assert wrong == []
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    ("name", "limit"), [("dmimad.service", DAEMON_EXPOSURE), ("dmimad-live.service", OBSERVER_EXPOSURE)]
)
def test_exposure(analyze: str, version: int, installed: Path, name: str, limit: int) -> None:
    if version < 250:
        pytest.skip("systemd-analyze security has no --offline= before version 250")
    told = run(analyze, installed, "security", "--offline=yes", f"--threshold={limit}", name)
    assert told.returncode == 0, told.stdout + told.stderr
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", told.stdout)
    assert exposure is not None
    assert float(exposure[1]) * 10 <= limit


def test_the_service_manager_watches_and_restarts_the_daemon() -> None:
    found = settings("dmimad.service")
    assert found["Type"] == ["notify"]
    assert found["WatchdogSec"] == ["30s"]
    assert found["Restart"] == ["on-failure"]
    assert found["StartLimitIntervalSec"] == ["0"], "it never gives up"
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    newer = settings("dmimad.service", DROP_IN)
    assert newer["Type"][-1] == "notify-reload"
    assert "ExecReload" not in newer, "or it would be sent SIGHUP twice"
    assert newer["RestartMaxDelaySec"] == ["5min"]


def test_the_daemon_has_the_rights_it_needs_and_no_others() -> None:
    base, newer = settings("dmimad.service"), settings("dmimad.service", DROP_IN)
    assert base["User"] == ["dmimad"]
    assert base["AmbientCapabilities"] == base["CapabilityBoundingSet"] == ["CAP_DAC_READ_SEARCH"]
    assert "AmbientCapabilities" not in newer
    assert (UNITS / DROP_IN).read_text().count("\nCapabilityBoundingSet=\n") == 1, "empty: none at all"
    ima = "/sys/kernel/security/integrity/ima"
    assert newer["OpenFile"] == [
        f"{ima}/binary_runtime_measurements:ima-list:read-only,graceful",
        f"{ima}/runtime_measurements_count:ima-count:read-only,graceful",
    ]
    families = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]
    assert words(base["RestrictAddressFamilies"]) == families


def test_what_must_stay_open_to_the_daemon() -> None:
    """Each of these would be tighter, and take something away; the unit says what."""
    found = settings("dmimad.service")
    for directive in ("ProcSubset", "PrivateUsers", "PrivateNetwork", "DynamicUser"):
        assert directive not in found


def test_where_the_daemon_writes() -> None:
    found = settings("dmimad.service")
    assert found["ProtectSystem"] == ["strict"]
    assert "ReadWritePaths" not in found
    assert (found["StateDirectory"], found["StateDirectoryMode"]) == (["dmimad"], ["0700"])
    assert (found["RuntimeDirectory"], found["RuntimeDirectoryMode"]) == (["dmimad"], ["0755"])
    assert found["ConfigurationDirectory"] == ["dmimad"]
    assert found["RuntimeDirectoryPreserve"] == ["yes"], "the observer's socket is in there"
    assert found["UMask"] == ["0077"]


def test_secrets_are_roots_and_passed_on() -> None:
    found = settings("dmimad.service")
    assert found["LoadCredential"] == ["secrets:/etc/dmimad/secrets"]
    assert found["SetCredential"] == ["secrets:none"], "without the directory it starts all the same"
    assert found["LimitCORE"] == ["0"]
    assert "d /etc/dmimad/secrets 0700 root root -" in rows("tmpfiles.d/dmimad.conf")


def test_only_the_daemon_reaches_the_observer() -> None:
    socket = settings("dmimad-live.socket")
    assert socket["ListenStream"] == ["/run/dmimad/live.sock"]
    assert (socket["SocketUser"], socket["SocketMode"]) == (["dmimad"], ["0600"])
    assert socket["Accept"] == ["no"]
    assert words(settings("dmimad-live.service")["ExecStart"])[1:] == ["observe", "--user", "dmimad"]
    assert settings("dmimad.service")["Wants"] == ["dmimad-live.socket"]


def test_the_observer_has_one_right_and_next_to_nothing_to_use_it_on() -> None:
    found = settings("dmimad-live.service")
    assert found["CapabilityBoundingSet"] == ["CAP_SYS_ADMIN"]
    assert found["PrivateNetwork"] == ["yes"]
    assert found["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert found["TemporaryFileSystem"] == ["/:ro"]
    assert found["ProtectSystem"] == ["yes"], "the stricter ones would mount the host's / over that"
    assert (found["DevicePolicy"], found["DeviceAllow"]) == (["closed"], ["/dev/mapper/control r"])
    shown = set(words([*found["BindReadOnlyPaths"], *found["BindPaths"]]))
    assert {
        path.lstrip("-") for path in shown if not path.startswith(("/usr", "-/bin", "-/lib", "-/sbin"))
    } == {
        "/etc/ld.so.cache",
        "/etc/nsswitch.conf",
        "/etc/passwd",
        "/etc/group",
        "/dev/mapper/control",
    }


def test_what_the_observer_may_call_makes_little_of_its_right() -> None:
    allowed = set(words(settings("dmimad-live.service")["SystemCallFilter"]))
    assert not {call for call in allowed if call.startswith(("@", "~"))}, "one by one"
    forbidden = (
        "mount umount2 bpf setns unshare clone clone3 fork ptrace quotactl pivot_root fsopen move_mount"
    )
    forbidden += " open_by_handle_at perf_event_open swapon sethostname unlink rename mkdir chmod chown kill"
    assert not allowed & set(forbidden.split())


@pytest.mark.parametrize("name", ["dmimad.service", "dmimad-live.service"])
@pytest.mark.parametrize(
    "directive",
    [
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateTmp",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ],
)
def test_hardening(name: str, directive: str) -> None:
    assert settings(name)[directive] == ["yes"]


@pytest.mark.parametrize("name", ["dmimad.service", "dmimad-live.service"])
def test_hardening_that_is_more_than_yes(name: str) -> None:
    found = settings(name)
    assert found["ProtectProc"] == ["invisible"]
    assert found["SystemCallArchitectures"] == ["native"]
    assert found["SystemCallErrorNumber"] == ["EPERM"]
    assert found["KeyringMode"] == ["private"]
    assert {"MemoryMax", "TasksMax"} <= found.keys()


def test_the_user_and_the_directories() -> None:
    assert rows("sysusers.d/dmimad.conf") == ['u dmimad - "dmimad daemon" /var/lib/dmimad /usr/sbin/nologin']
    assert "d /run/dmimad 0755 dmimad dmimad -" in rows("tmpfiles.d/dmimad.conf")
    assert "d /etc/dmimad/baseline.d 0755 root root -" in rows("tmpfiles.d/dmimad.conf")


def rows(name: str) -> list[str]:
    """Without comments, columns one space apart."""
    lines = (UNITS / name).read_text().splitlines()
    return [" ".join(line.split()) for line in lines if line and not line.startswith("#")]
