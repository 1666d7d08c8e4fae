"""``dmimad doctor`` as its users meet it: lines, promised JSON, exit statuses, a real broker, few rights."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmimad import cli
from dmimad.commands import doctor as command
from dmimad.core.errors import AdapterError
from dmimad.core.observation import Observation
from dmimad.doctor.checks import Answer, Check, Status, first, verdict
from dmimad.doctor.examination import CHECKS
from dmimad.doctor.report import json_report, text_report
from dmimad.doctor.surroundings import look_at_broker
from dmimad.settings import MqttSettings
from tests.broker import Broker, free_port, subscribed_to
from tests.doctor.fake_host import FakeHost, device
from tests.other_user import public_path

__all__ = ["public_path"]  # a fixture

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs/doctor.md").read_text()
STATUSES = {"fine", "advice", "problem", "unknown"}
#: After the imports: the interpreter itself may be where only root can look.
BECOME_NOBODY = (
    "import os, encodings.idna, dmimad.commands.doctor, dmimad.cli; "
    "os.setgroups([]); os.setgid(65534); os.setuid(65534); "
)
#: As the program does, whether or not this command is among its commands already.
PROGRAM = (
    "import sys; from dmimad import cli; "
    "cli.COMMANDS['doctor'] = ('doctor', 'is this host able to be monitored'); sys.exit(cli.main())"
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line has the command."""
    monkeypatch.setitem(cli.COMMANDS, "doctor", ("doctor", command.SUMMARY))


def ids(tmp_path: Path) -> list[str]:
    directory = tmp_path / "other host"
    directory.mkdir()
    return list(FakeHost(directory).examine())


def check(status: Status, text: str = "text", remedy: str = "") -> Check:
    return Check("some.check", status, text, remedy)


# -- the documentation --------------------------------------------------------------------


def test_every_check_has_its_entry_and_every_entry_its_check(tmp_path: Path) -> None:
    entries = re.findall(r"^### (\S+)$", DOCUMENT, re.MULTILINE)
    assert entries == ids(tmp_path)
    assert len(entries) == len(CHECKS)


# -- the reports --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], Status.FINE),
        ([check(Status.FINE), check(Status.UNKNOWN)], Status.FINE),
        ([check(Status.FINE), check(Status.UNKNOWN, remedy="sudo")], Status.ADVICE),
        ([check(Status.ADVICE), check(Status.UNKNOWN)], Status.ADVICE),
        ([check(Status.ADVICE), check(Status.PROBLEM), check(Status.FINE)], Status.PROBLEM),
    ],
)
def test_verdicts(checks: list[Check], expected: Status) -> None:
    assert verdict(tuple(checks)) is expected


def test_lines_are_aligned_and_harmless() -> None:
    checks = (
        Check("a", Status.FINE, "good", "never shown"),
        Check("longer.id", Status.PROBLEM, "bad\n\x1b[31m name", "do\tthis"),
        Check("b", Status.UNKNOWN, "x" * 1000),
    )
    lines = "".join(text_report(checks, colour=False)).split("\n")
    assert lines[0] == "ok       a          good"
    assert lines[1] == "problem  longer.id  bad\\n\\x1b[31m name"
    assert lines[2] == "                    → do\\tthis"
    assert lines[3] == "unknown  b          " + "x" * 600 + "…"
    assert lines[4:] == [
        "",
        "Something is in the way of monitoring this host: 1 problem, 1 not to be seen.",
        "",
    ]
    coloured = "".join(text_report(checks, colour=True))
    assert "\x1b[1;31mproblem\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split("\n") == lines


def test_json_has_what_is_promised(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.devices = (device(b"\xff\n"),)
    document = json.loads(json_report("web-1", tuple(host.examine().values())))
    assert set(document) == {"version", "host", "verdict", "checks"}
    assert (document["version"], document["host"], document["verdict"]) == (1, "web-1", "advice")
    for entry in document["checks"]:
        assert set(entry) == {"id", "status", "summary", "remedy", "details"}
        assert entry["status"] in STATUSES
        assert entry["remedy"] or entry["status"] in ("fine", "unknown")
    [devices] = [entry for entry in document["checks"] if entry["id"] == "live.devices"]
    assert devices["details"]["unmeasured"] == ["\\xff\n"]


# -- the command --------------------------------------------------------------------------


def settings_file(tmp_path: Path, *, port: int = 0, **extra: str) -> Path:
    """Settings that touch nothing of the machine's own but its kernel."""
    state, baseline = tmp_path / "state", tmp_path / "baseline.d"
    baseline.mkdir(exist_ok=True)
    mqtt = f"port = {port}" if port else "enabled = false"
    file = tmp_path / "dmimad.toml"
    file.write_text(
        f'[host]\nid = "web-1"\n[state]\ndirectory = "{state}"\n[baseline]\ndirectory = "{baseline}"\n'
        f"[mqtt]\n{mqtt}\n[metrics]\nport = 0\n[page]\nport = 0\n"
        + "".join(f"[{section}]\n{text}\n" for section, text in extra.items())
    )
    return file


def run(*arguments: object, become: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", become + PROGRAM, "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )


def report(*arguments: object, become: str = "") -> tuple[int, dict[str, dict[str, Any]]]:
    done = run("--json", *arguments, become=become)
    assert done.stderr == ""
    return done.returncode, {entry["id"]: entry for entry in json.loads(done.stdout)["checks"]}


def test_this_machine_as_it_is(tmp_path: Path) -> None:
    """Whatever it is like: all checks, no traceback, and a status that goes with the verdict."""
    file = settings_file(tmp_path)
    done = run("--config", file)
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert [line.split()[1] for line in done.stdout.split("\n\n")[0].split("\n") if line[0] != " "] == ids(
        tmp_path
    )
    assert done.returncode == ("problem" in done.stdout.splitlines()[-1])
    assert not (tmp_path / "state" / "dmimad.db").exists()


def test_a_mirrored_list_and_a_broker(tmp_path: Path, mosquitto: str, corpus: Path) -> None:
    mirror = corpus / "systematic-7.2/ascii_runtime_measurements_sha256"
    with Broker(mosquitto, tmp_path) as broker:
        file = settings_file(tmp_path, port=broker.port, source=f'path = "{mirror}"', live="enabled = false")
        status, checks = report("--config", file)
    assert status == 0
    assert checks["ima.list"]["details"]["format"] == "ASCII"
    assert checks["ima.list"]["details"]["bank"] == "sha256"
    assert checks["mqtt.broker"]["status"] == "fine"
    assert checks["ima.dialect"]["details"]["dialect"] == "ordered"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_without_rights_it_says_what_it_could_not_see(public_path: Path) -> None:
    file = settings_file(public_path, source=f'path = "{public_path / "list"}"')
    file.chmod(0o644)
    (public_path / "list").write_bytes(b"")
    (public_path / "list").chmod(0o400)
    (public_path / "state").mkdir(mode=0o700)
    (public_path / "state/dmimad.db").write_bytes(b"")
    (public_path / "baseline.d/a.toml").write_text("version = 1")
    (public_path / "baseline.d/a.toml").chmod(0o600)
    status, checks = report("--config", file, become=BECOME_NOBODY)
    unseen = {id for id, entry in checks.items() if "sudo dmimad doctor" in entry["remedy"]}
    assert {
        "ima.list",
        "ima.policy",
        "live.devices",
        "state.directory",
        "state.database",
        "baseline",
    } <= unseen
    assert {checks[id]["status"] for id in unseen} == {"unknown"}
    assert status == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--config", "/nowhere/dmimad.toml"), "there is no such file"),
        (("--nonsense",), "unrecognized arguments"),
    ],
)
def test_unusable_arguments_are_status_2(arguments: tuple[str, ...], says: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The observer's interface as the command uses it, and progress on a terminal."""

    class Stand:
        def __init__(self, connect: object, *, log: object) -> None:
            assert connect == "/observer"

        async def observe(self) -> Observation:
            return Observation((4, 48, 0), (device(b"d"),))

        async def close(self) -> None:
            closed.append(True)

    closed: list[bool] = []
    monkeypatch.setattr(command, "connector", lambda setting: setting)
    monkeypatch.setattr(command, "LiveClient", Stand)
    file = settings_file(tmp_path, live='socket = "/observer"')
    cli.main(["doctor", "--json", "--config", str(file)])
    [live] = [e for e in json.loads(capsys.readouterr().out)["checks"] if e["id"] == "live.witness"]
    assert (live["status"], live["details"]["dm_version"]) == ("fine", "4.48.0")
    assert closed == [True]


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.1, 0.6, 0.7, 0.8])
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = command._Progress(True, lambda: next(times))
    progress.tell(10)
    progress.clear()
    assert screen.getvalue() == ""
    progress.tell(20)
    progress.clear()
    assert screen.getvalue() == "\r\x1b[Kreading the list: 20 records\r\x1b[K"
    command._Progress(False, lambda: 0.0).tell(5)


# -- the broker ---------------------------------------------------------------------------


def broker_settings(port: int, **values: Any) -> MqttSettings:
    return MqttSettings(port=port, **values)


def test_brokers_that_let_us_in_and_do_not(tmp_path: Path, mosquitto: str) -> None:
    password = tmp_path / "secret"
    password.write_text("right\n")
    password.chmod(0o600)
    with Broker(mosquitto, tmp_path, users={"web": "right"}) as broker:
        good = broker_settings(broker.port, username="web", password_file=str(password))
        for protocol in (5, 3):
            facts = look_at_broker(broker_settings(broker.port, protocol=protocol), 5.0)
            assert facts.trouble is not None
            assert "mqtt.username" in facts.trouble.remedy
        assert look_at_broker(good, 5.0).trouble is None
        password.write_text("wrong")
        refused = look_at_broker(good, 5.0).trouble
        assert refused is not None
        assert "uthori" in refused.what
        password.unlink()
        unreadable = look_at_broker(good, 5.0).trouble
        assert unreadable is not None
        assert "password_file" in unreadable.what
        password.write_text("right")
        password.chmod(0o600)
        broker.freeze()
        silent = look_at_broker(good, 1.0).trouble
        assert silent is not None
        assert "does not answer" in silent.what, silent
    nobody = look_at_broker(broker_settings(free_port()), 5.0).trouble
    assert nobody is not None
    assert "nothing listens there" in nobody.what


async def test_a_broker_is_left_as_it_was(tmp_path: Path, mosquitto: str) -> None:
    """No message, no last will, and the daemon's own connection stays."""
    with Broker(mosquitto, tmp_path) as broker:
        async with subscribed_to(broker) as subscriber:
            facts = await asyncio.to_thread(look_at_broker, broker_settings(broker.port), 5.0)
            assert facts.trouble is None
            assert subscriber.messages == []
    lines = "\n".join(broker.lines)  # all of them, now that it has ended
    assert "will" not in re.sub(r"No will message", "", lines).lower()
    assert re.search(r"Client dmimad-doctor-\d+ (\[\S+\] )?disconnected", lines)


def test_names_that_do_not_resolve_and_brokers_far_away(tmp_path: Path) -> None:
    trouble = look_at_broker(MqttSettings(host="no-such-host.invalid"), 5.0).trouble
    assert trouble is not None
    assert "mqtt.host" in trouble.remedy
    host = FakeHost(tmp_path)
    host.set("mqtt", enabled=True, host="127.0.0.1", port=free_port())
    assert host.examine()["mqtt.broker"].status is Status.PROBLEM


def test_the_first_answer_counts() -> None:
    def answers() -> Iterator[Answer]:
        yield Answer(Status.ADVICE, "text", "remedy")
        raise AdapterError("thought of", "too much")

    assert first("id", {}, answers()) == Check("id", Status.ADVICE, "text", "remedy")
