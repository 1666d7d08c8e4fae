"""`dmimad status --watch` on a terminal: what is on the screen, keys, sizes, and all as before at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmimad.commands.terminal import names_of
from tests.emulator import ENTERED, LEFT, Emulated
from tests.status.documents import DRIFT, HOSTILE, alert, device, document
from tests.status.serving import DEADLINE_SECONDS, Serving

MANY = document(devices=[device(f"253:{n}", f"n{n:03}") for n in range(200)])
IMPATIENT = """
import sys
from dmimad import cli
from dmimad.commands import status_watch
status_watch.RENEW_SECONDS, status_watch.PATIENCE_SECONDS = 0.2, 0.5
sys.exit(cli.main())
"""


def watching(serving: Serving, **environ: str) -> Emulated:
    command = [sys.executable, "-m", "dmimad.cli", "status", "--watch", "--socket", str(serving.path)]
    return Emulated(command, environ=environ)


def test_a_page_of_eighty_by_twentyfour(serving: Serving) -> None:
    with watching(serving) as terminal:
        terminal.until_shown("q quits")
        assert terminal.written.startswith(f"{ENTERED}\x1b[H")
        head, *body, foot = terminal.lines
        assert head.startswith("AS APPROVED  web-1   ")
        assert body[:4] == [
            "no alert fires; 1 device: 1 approved",
            "",
            "DEVICE    NUMBER  TABLES          WITNESS  VERDICT   SINCE",
            body[3],
        ]
        assert body[3].startswith("image-ro  253:5   verity f3b63d8  both     approved  ")
        assert foot == "q quits"
        assert "\x1b[32mapproved\x1b[0m" in terminal.written


def test_what_changes_is_marked_and_comes_first(serving: Serving) -> None:
    with watching(serving) as terminal:
        terminal.until_shown("AS APPROVED")
        serving.document = document(
            firing={"critical": 1}, devices=[device("253:1", "a"), DRIFT], alerts=[alert(message=HOSTILE)]
        )
        terminal.until_shown("NOT AS APPROVED", "1 alert fires (1 critical)")
        marked = [line for line in terminal.lines if line.startswith("> ")]
        assert any("device image-ro (253:5): approved, verity f3b63d8 -> drift" in line for line in marked)
        assert any("CRITICAL drift.active: " in line for line in marked)
        places = [
            terminal.text.index(text) for text in ("CRITICAL  drift", "\n> ", "\nimage-ro  253:5", "\na ")
        ]
        assert places == sorted(places)
        assert "\u202e" not in terminal.written


@pytest.mark.parametrize(
    ("end", "status"),
    [("q", 0), ("\x03", 130), (signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130)],
)
def test_the_terminal_is_as_it_was(serving: Serving, end: str | signal.Signals, status: int) -> None:
    with watching(serving) as terminal:
        terminal.until_shown("AS APPROVED")
        assert terminal.modes() != terminal.modes_before
        if isinstance(end, str):
            terminal.type(end)
        else:
            terminal.process.send_signal(end)
        assert terminal.ended() == status
        assert terminal.written.endswith(LEFT)
        assert terminal.modes() == terminal.modes_before


def test_the_terminal_is_as_it_was_after_a_bug() -> None:
    program = "import sys\nfrom dmimad.commands.terminal import Terminal\nwith Terminal(sys.stdout): 1 / 0\n"
    with Emulated([sys.executable, "-c", program]) as terminal:
        assert terminal.ended() == 1
        assert terminal.modes() == terminal.modes_before
        assert terminal.written.startswith(ENTERED + LEFT + "Traceback")


def test_it_can_be_stopped_and_goes_on(serving: Serving) -> None:
    with watching(serving) as terminal:
        terminal.until_shown("AS APPROVED")
        terminal.process.send_signal(signal.SIGTSTP)
        assert terminal.stopped()
        assert terminal.modes() == terminal.modes_before
        assert terminal.written.endswith(LEFT)
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(lambda: terminal.written.count(ENTERED) == 2)
        terminal.type("q")
        assert terminal.ended() == 0
        assert terminal.modes() == terminal.modes_before


def test_it_follows_the_size_of_the_window(serving: Serving) -> None:
    with watching(serving) as terminal:
        terminal.until_shown("WITNESS")
        terminal.resize(40, 8)
        terminal.until(lambda: "DEVICE    TABLES          VERDICT" in terminal.lines)
        assert terminal.lines[0] == "AS APPROVED  web-1"
        assert terminal.lines[-1].startswith("q quits; ↑↓ PgUp PgDn: 0 lines above, ")
        terminal.resize(24, 6)
        terminal.until(
            lambda: terminal.lines[0].rstrip() == "AS APPROVED  web-1" and terminal.text.count("q quits") == 1
        )
        assert terminal.lines[1].startswith("no alert fires; 1 devic")
        assert len(terminal.lines) == 6
        terminal.resize(120, 40)
        terminal.until(lambda: terminal.lines[-1] == "q quits")


def test_of_many_devices_one_sees_how_many_more_there_are_and_scrolls(serving: Serving) -> None:
    serving.document = MANY
    with watching(serving) as terminal:
        terminal.until_shown("n000 ", "0 lines above, 188 below")
        for keys, shown, foot in [
            ("j", "n018 ", "1 lines above, 187 below"),
            ("\x1b[B\x1b[B", "n020 ", "3 lines above, 185 below"),
            ("k", "n019 ", "2 lines above, 186 below"),
            ("\x1b[6~", "n039 ", "22 lines above, 166 below"),
            ("\x1b[5~", "n019 ", "2 lines above, 186 below"),
            ("G", "daemon      dmimad 1.0", "188 lines above, 0 below"),
            ("g", "n000 ", "0 lines above, 188 below"),
        ]:
            terminal.type(keys)
            terminal.until_shown(foot)
            assert shown in terminal.text
            assert terminal.lines[1] == "no alert fires; 200 devices, all approved"


def test_where_nobody_can_type_it_says_what_to_do(serving: Serving) -> None:
    serving.document = MANY
    program = f'exec "$0" -m dmimad.cli status --watch --socket "{serving.path}" </dev/null'
    with Emulated(["sh", "-c", program, sys.executable]) as terminal:
        terminal.until_shown("(188 more lines; make the window larger)")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == 130


def test_it_outlives_the_daemon(serving: Serving) -> None:
    with watching(serving) as terminal:
        terminal.until_shown("AS APPROVED")
        serving.stop()
        terminal.until_shown("NO ANSWER", "asking again", "image-ro  253:5")
        assert "AS APPROVED" not in terminal.text
        again = Serving(serving.path)
        try:
            terminal.until_shown("AS APPROVED", "no alert fires")
        finally:
            again.stop()


def test_it_notices_a_daemon_that_hangs(serving: Serving) -> None:
    command = [sys.executable, "-c", IMPATIENT, "status", "--watch", "--socket", str(serving.path)]
    with Emulated(command) as terminal:
        terminal.until_shown("AS APPROVED")
        with serving.hanging():
            terminal.until_shown("NO ANSWER", "no answer within 0.5 seconds")
        terminal.until_shown("AS APPROVED")


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False)],
)
def test_colours_are_not_for_everybody(serving: Serving, environ: dict[str, str], coloured: bool) -> None:
    with watching(serving, **environ) as terminal:
        terminal.until_shown("AS APPROVED")
        assert ("\x1b[32mapproved\x1b[0m" in terminal.written) is coloured


def test_a_terminal_that_knows_lines_alone_gets_lines(serving: Serving) -> None:
    with watching(serving, TERM="dumb") as terminal:
        terminal.until_shown("watching web-1: 1 devices, 0 alerts firing")
        serving.document = document(mqtt_connected=False)
        terminal.until_shown("broker not connected")
        assert "\x1b" not in terminal.written


def test_a_screen_that_knows_ascii_alone(serving: Serving) -> None:
    serving.document = document(devices=[device(f"253:{n}", "é" * 90) for n in range(40)])
    with watching(serving, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii") as terminal:
        terminal.until_shown("q quits; arrows PgUp PgDn: 0 lines above, ")
        assert terminal.written.isascii()
        assert max(map(len, terminal.lines)) <= 80


def test_that_nobody_answers_at_first_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dmimad.cli", "status", "--watch", "--socket", str(tmp_path / "none")]
    with Emulated(command) as terminal:
        assert terminal.ended() == 2
        assert terminal.written.startswith(f"dmimad: {tmp_path}/none: there is no control socket; ")


def test_a_long_page_ends_with_what_matters(serving: Serving) -> None:
    serving.document = MANY
    with Emulated([sys.executable, "-m", "dmimad.cli", "status", "--socket", str(serving.path)]) as terminal:
        assert terminal.ended() == 0
        written = terminal.written.splitlines()
        assert written[-2:] == written[:2]
    done = subprocess.run(
        [sys.executable, "-m", "dmimad.cli", "status", "--socket", str(serving.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    assert done.stdout.count("AS APPROVED") == 1


def test_keys_by_their_names() -> None:
    typed = b"x\x1b[A\x1bOBq\x1b[5~ \x1b[9;5u\xff\x1b"
    assert list(names_of(typed)) == ["up", "down", "quit", "page up", "page down"]
