"""`dmimad status` and `dmimad maintenance`: exit status, the lines about changes, arguments, pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmimad.cli import main
from dmimad.commands.plain_text import local_time
from dmimad.commands.status_changes import changes, summary
from dmimad.commands.status_document import trouble
from tests.status.documents import DRIFT, HOSTILE, MAINTENANCE, VERITY, alert, at, device, document
from tests.status.serving import DEADLINE_SECONDS, Serving


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, False),
        ({"firing": {"critical": 0, "warning": 0, "info": 3}}, False),
        ({"firing": {"critical": 0, "warning": 1, "info": 0}}, True),
        ({"firing": {"critical": 1, "warning": 0, "info": 0}}, True),
        ({"devices": [DRIFT]}, True),
        ({"devices": [device(verdict="unexpected")]}, False),
    ],
)
def test_what_trouble_is(changed: dict[str, Any], expected: bool) -> None:
    assert trouble(document(**changed)) is expected


# -- changes -------------------------------------------------------------------------------


def told(**changed: object) -> list[str]:
    before = document(maintenance=[MAINTENANCE], alerts=[alert()])
    lines = list(changes(before, {**before, **changed}))
    time = local_time(at(200), "%H:%M:%S")
    assert all(line.startswith(f"{time} ") for line in lines)
    return [line.removeprefix(f"{time} ") for line in lines]


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, []),
        ({"list": {"source_up": True, "position": 9}, "outbox": {"pending": 9}}, []),
        (
            {"devices": [DRIFT]},
            [f"device image-ro (253:5): approved, {VERITY} -> drift, {VERITY} + linear 6671ae7 suspended"],
        ),
        ({"devices": [device(), device("253:6", "b")]}, [f"device b (253:6): new: approved, {VERITY}"]),
        ({"devices": []}, ["device image-ro (253:5): gone"]),
        ({"alerts": []}, ["resolved drift.active: image-ro (253:5) runs a table that is not approved"]),
        (
            {"alerts": [alert(), alert("warning", code="device.removed", message="b was removed")]},
            ["WARNING device.removed: b was removed"],
        ),
        ({"maintenance": []}, ["maintenance vg0-* is over [id 1f]"]),
        ({"list": {"source_up": False}}, ["list cannot be read"]),
        ({"list": {"source_up": True, "gap": True}}, ["list is read; records may be lost"]),
        ({"witnesses": {}}, ["live tables are not looked at"]),
        ({"pcr_verified": False}, ["TPM PCR 10 does NOT agree with the list"]),
        ({"mqtt_connected": False}, ["broker not connected"]),
        ({"baseline": {"entries": 3, "accepted": False}}, ["baseline 3 entries; a change was refused"]),
    ],
)  # fmt: skip
def test_what_changes_is_a_line(changed: dict[str, Any], lines: list[str]) -> None:
    assert told(**changed) == lines


def test_the_line_before_the_changes() -> None:
    made = document(devices_left_out=2, alerts=[alert()], alerts_left_out=1)
    assert summary(made).endswith(" watching web-1: 3 devices, 2 alerts firing")


# -- arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize("time", ["", "30", "m", "-3m", "0s", "3w", "1.5h", "٣m", "9999999999d", "30 m"])
def test_times_that_are_none(time: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["maintenance", "start", f"--for={time}", "--device", "a", "--reason", "b"])
    assert status == 2
    assert f"{time!r} is no time; write it as 90s, 30m, 2h or 1d" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--config", "a", "--socket", "b"],
        ["maintenance"],
        ["maintenance", "start", "--for", "30m", "--device", "a"],
        ["maintenance", "end"],
        ["maintenance", "end", "1f", "--all"],
    ],
)
def test_arguments_that_do_not_do(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_where_the_socket_is_comes_from_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dmimad.toml"
    file.write_text('[control]\nsocket = "here.sock"\n')
    for arguments in (["status"], ["maintenance", "list"]):
        assert main([*arguments, "--config", str(file)]) == 2
        assert capsys.readouterr().err.startswith(
            f"dmimad: {tmp_path}/here.sock: there is no control socket; "
        )
    file.write_text('[control]\nsocket = ""\n')
    assert main(["status", "--config", str(file)]) == 2
    assert f"{file}: control.socket is empty" in capsys.readouterr().err


# -- programs ------------------------------------------------------------------------------


def run(serving: Serving, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dmimad.cli", *arguments, "--socket", str(serving.path)],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_piped_output_is_plain_and_of_eighty_columns(serving: Serving) -> None:
    serving.document = document(devices=[device(name=HOSTILE * 9), DRIFT], alerts=[alert(device=HOSTILE)])
    done = run(serving, "status", COLUMNS="")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.replace("\n", "").isprintable()
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        ([], {}, False),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {"CLICOLOR_FORCE": "1"}, False),
        ([], {"CLICOLOR_FORCE": "1"}, True),
        ([], {"CLICOLOR_FORCE": "0"}, False),
        ([], {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_where_there_is_no_terminal(
    serving: Serving, arguments: list[str], environ: dict[str, str], expected: bool
) -> None:
    done = run(serving, "status", *arguments, **{"NO_COLOR": "", "CLICOLOR_FORCE": "", **environ})
    assert done.returncode == 0
    assert ("\x1b[32mapproved" in done.stdout, "\x1b" in done.stdout) == (expected, expected)


def test_output_that_knows_ascii_alone(serving: Serving) -> None:
    serving.document = document(devices=[device(name="n" * 100)])
    done = run(serving, "status", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "nnn~nnn" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_reader_that_goes_is_no_error(serving: Serving) -> None:
    program = [sys.executable, "-m", "dmimad.cli", "status", "--watch", "--socket", str(serving.path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"watching web-1" in process.stdout.readline()
        process.stdout.close()
        serving.document = document(mqtt_connected=False)
        assert process.wait(DEADLINE_SECONDS) == 2
        assert process.stderr.read() == b""


def test_what_is_asked_for_a_maintenance(serving: Serving) -> None:
    done = run(serving, "maintenance", "start", "--for", "2h", "--device", "vg0-*", "--reason", "update")
    assert done.stdout.startswith(f"in force: vg0-* until {local_time(at(320))}")
    (request,) = serving.requests
    assert (request.device, request.seconds, request.reason) == ("vg0-*", 7200.0, "update")
