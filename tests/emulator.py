"""A command on a terminal: a real pseudo-terminal, and an emulator that knows what is on its screen.

Source: pyte, a VT100 emulator.  It does not know the other screen (``?1049``): what was written tells that.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fcntl import ioctl
from pathlib import Path
from typing import Self

import pyte

DEADLINE_SECONDS = 60.0
ENTERED, LEFT = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"


class Emulated:
    """The command runs at once, as the leader of a session whose terminal this is."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int = 80,
        rows: int = 24,
        *,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, self._theirs = pty.openpty()
        self._set_size(columns, rows)
        self.modes_before = self.modes()
        unwanted = ("NO_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES")
        kept = {name: value for name, value in os.environ.items() if name not in unwanted}
        self.process = subprocess.Popen(
            command,
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            cwd=directory,
            env={**kept, "TERM": "xterm", "LC_ALL": "C.UTF-8", **(environ or {})},
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  # one system call, no lock
        )
        self.written = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._session():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def lines(self) -> list[str]:
        """What is on the screen, without what is empty at the right."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    def until(self, what: Callable[[], bool]) -> None:
        """Until it is so; it is asked after each piece that is written."""
        deadline = time.monotonic() + self._deadline_seconds
        while not what():
            assert time.monotonic() < deadline, f"did not come; on the screen:\n{self.text}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self._take()
            elif self.process.poll() is not None and not what():
                raise AssertionError(f"it has ended; on the screen:\n{self.text}")

    def until_shown(self, *texts: str) -> None:
        """Until all of these are on the screen, and all else that was drawn with them."""
        self.until(lambda: self._drawn() and all(text in self.text for text in texts))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """The kernel tells the command (SIGWINCH)."""
        self._screen.resize(rows, columns)
        self._set_size(columns, rows)

    def ended(self) -> int:
        """Until it ends; its exit status, as a shell has it."""
        deadline = time.monotonic() + self._deadline_seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end; on the screen:\n{self.text}"
            if select.select([self._ours], [], [], 0.02)[0]:
                self._take()
        while select.select([self._ours], [], [], 0)[0]:
            self._take()
        status = self.process.returncode
        return status if status >= 0 else 128 - status

    def stopped(self) -> bool:
        """Until it is stopped (SIGSTOP) or ended; whether it is stopped."""
        state = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        while select.select([self._ours], [], [], 0)[0]:
            self._take()
        return state is not None and state.si_status == signal.SIGSTOP

    def modes(self) -> list[object]:
        """Of the terminal (termios), as they are now."""
        return termios.tcgetattr(self._theirs)

    def _session(self) -> Iterator[int]:
        """All processes that were started on this terminal: they may outlive their shell."""
        for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]:
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(pid) == self.process.pid:
                    yield pid

    def _set_size(self, columns: int, rows: int) -> None:
        ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _drawn(self) -> bool:
        """Nothing is missing of what began at the upper left corner."""
        return self.written.rfind("\x1b[J") >= self.written.rfind("\x1b[H")

    def _take(self) -> None:
        piece = os.read(self._ours, 65536)
        self.written += piece.decode("utf-8", "replace")
        self._stream.feed(piece)


def _take_terminal() -> None:
    ioctl(0, termios.TIOCSCTTY, 0)
